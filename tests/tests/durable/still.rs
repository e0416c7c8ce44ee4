//! A server that stands still for longer than its lease, and goes on after others have taken its sessions.

use noised_client::Error;

use super::house::PATIENCE;
use super::members::Fleet;
use super::{Undisturbed, create, input, sources, spec, take};

const LANES: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stood_still_releases_nothing_else() {
    let fleet = Fleet::new(2, &["--snapshot-every", "1"]);
    for source in sources() {
        let spec = spec(&source, LANES);
        let mut undisturbed = Undisturbed::new(&spec);
        let mut session = create(&fleet.client(), source.kind(), &spec).await;
        for step in 0..3 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        }
        let owner = fleet.owner_of(session.name()).await;
        let name = session.name().to_owned();
        // Handles that speak with this server alone: one has a step on its way when the server stands still.
        let mut on_its_way = fleet.client_of(owner).open_session(&name).await.unwrap();
        let mut after = fleet.client_of(owner).open_session(&name).await.unwrap();
        fleet.signal(owner, "STOP");
        let (other, draws) = (input(&spec, 77), other_is_the_same(&spec));
        let pending = tokio::spawn(async move {
            let taken = match draws {
                true => on_its_way.fetch(3).await,
                false => on_its_way.multiply_next(3, other).await,
            };
            taken.map_err(|error| error.to_string())
        });
        // Whoever goes on gets the bits of a run that nobody disturbed.
        let mut elsewhere = fleet.client().open_session(&name).await.unwrap();
        assert_eq!(fleet.at(&elsewhere.info().owner), 1 - owner, "{}", source.kind());
        for step in 3..5 {
            assert!(take(&mut elsewhere, step).await.unwrap() == undisturbed.answer(step));
        }
        fleet.signal(owner, "CONT");
        let taken = tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap();
        assert!(
            taken.as_ref().is_err() || (draws && taken == Ok(undisturbed.answer(3))),
            "{}: a step was released with other bits",
            source.kind()
        );
        // It learns that the session is elsewhere, and says where.
        loop {
            let told = match draws {
                true => after.fetch(5).await,
                false => after.multiply_next(5, input(&spec, 77)).await,
            };
            match told {
                Err(Error::Elsewhere { owner: told, .. }) => {
                    assert_eq!(fleet.at(&told), 1 - owner);
                    break;
                }
                Err(_) => {}
                Ok(_) => panic!("{}: step 5 was released by a server without the session", source.kind()),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        for step in 5..8 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        }
    }
}

/// Whether the server draws all, so that a step has no other bits.
fn other_is_the_same(spec: &noised::SessionSpec) -> bool {
    matches!(spec.source, noised::session::Source::Gaussian(_))
}
