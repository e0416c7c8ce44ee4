//! Servers that come and go at random under several trainings.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use noised_client::Client;

use super::house::PATIENCE;
use super::members::Fleet;
use super::{Undisturbed, create, sources, spec, take};

/// Acts on servers, unless `NOISED_KILLS` says how many.
const ACTS: u64 = 12;

const SERVERS: usize = 3;

fn acts() -> u64 {
    std::env::var("NOISED_KILLS").map_or(ACTS, |acts| acts.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Kills servers, asks them to end, has them stand still, and starts them again. One serves at any time.
fn disturb(fleet: &Fleet, seed: u64, done: &AtomicBool, acted: &AtomicU64) {
    let mut random = Random(seed);
    while !done.load(Ordering::Acquire) {
        let member = usize::try_from(random.below(SERVERS as u64)).unwrap();
        let act = random.below(3);
        let pause = |random: &mut Random| std::thread::sleep(Duration::from_millis(50 + random.below(1_000)));
        match act {
            0 => fleet.kill(member),
            1 => fleet.drain(member),
            _ => fleet.signal(member, "STOP"),
        }
        // Longer or shorter than a lease.
        pause(&mut random);
        pause(&mut random);
        pause(&mut random);
        match act {
            0 | 1 => fleet.start(member),
            _ => fleet.signal(member, "CONT"),
        }
        pause(&mut random);
        acted.fetch_add(1, Ordering::AcqRel);
    }
}

/// Takes steps until there were enough acts, and looks at every answer.
async fn train(client: Client, id: String, spec: noised::SessionSpec, done: &AtomicU64) -> u64 {
    let mut undisturbed = Undisturbed::new(&spec);
    let mut session = create(&client, &id, &spec).await;
    let (mut step, most) = (0, acts());
    while done.load(Ordering::Acquire) < most {
        let found =
            take(&mut session, step).await.unwrap_or_else(|error| panic!("{id}: step {step}: {error}"));
        assert!(found == undisturbed.answer(step), "step {step} of {id}");
        step += 1;
    }
    step
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trainings_go_on_while_servers_come_and_go() {
    let seed = std::env::var("NOISED_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    eprintln!("seed {seed}");
    let fleet = Fleet::new(SERVERS, &["--snapshot-every", "1", "--journal-objects", "20"]);
    let (done, acted) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&fleet, seed, &done, &acted));
        let trained = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut trainings = Vec::new();
                for (source, lanes) in
                    sources().into_iter().flat_map(|source| [(source.clone(), 3_000), (source, 500_000)])
                {
                    let id = format!("{}-{lanes}", source.kind());
                    trainings.push(train(fleet.client(), id, spec(&source, lanes), &acted));
                }
                let all = futures_util::future::join_all(trainings);
                let all = std::panic::AssertUnwindSafe(tokio::time::timeout(10 * PATIENCE, all));
                let ended = futures_util::FutureExt::catch_unwind(all).await;
                // However it ends, the other thread has to.
                done.store(true, Ordering::Release);
                ended
            })
        });
        disturbing.join().unwrap();
        let steps = trained.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).expect("this hangs");
        eprintln!("{steps:?} steps over {} acts, seed {seed}", acted.load(Ordering::Acquire));
    });
}
