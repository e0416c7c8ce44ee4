//! Servers that are killed at any moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use noised_client::Session;

use super::house::{House, PATIENCE};
use super::{Undisturbed, create, sources, spec, take};

/// Kills for each source and size, unless `NOISED_KILLS` says how many.
const KILLS: u64 = 6;

/// Lanes of a session whose steps are one message, and of one whose steps take many frames; and how long a
/// server lives at most, in milliseconds: some steps long.
const SIZES: [(u64, u64); 2] = [(3_000, 200), (700_000, 1_000)];

fn kills() -> u64 {
    std::env::var("NOISED_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Kills and starts a server again and again, at moments that are drawn, until it is told to end.
fn kill_until(house: &House, most_ms: u64, killed: &AtomicU64, done: &AtomicBool, seed: u64) {
    let mut state = seed;
    while !done.load(Ordering::Acquire) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % most_ms));
        house.kill();
        house.start();
        killed.fetch_add(1, Ordering::AcqRel);
    }
}

/// Takes steps until there were enough kills, and looks at every answer.
async fn steps_under(house: &House, mut session: Session, killed: &AtomicU64) -> u64 {
    let spec = session.spec().clone();
    let mut undisturbed = Undisturbed::new(&spec);
    let most = kills();
    let mut step = 0;
    while killed.load(Ordering::Acquire) < most {
        let found = take(&mut session, step).await.unwrap();
        assert!(found == undisturbed.answer(step), "step {step} of {}", spec.source.kind());
        step += 1;
    }
    // Whoever comes back to it by its name finds it as well.
    let mut again = house.client().open_session(session.name()).await.unwrap();
    let found = take(&mut again, step).await.unwrap();
    assert!(found == undisturbed.answer(step));
    step
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn training_goes_on_over_kills() {
    let seed = std::env::var("NOISED_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    for (lanes, most_ms) in SIZES {
        for source in sources() {
            // The journal is folded all the time, so servers are killed in the middle of that as well.
            let house = House::new(&["--snapshot-every", "1", "--journal-objects", "3"]);
            let (spec, done, killed) = (spec(&source, lanes), AtomicBool::new(false), AtomicU64::new(0));
            let session = create(&house.client(), "training", &spec).await;
            let steps = std::thread::scope(|scope| {
                let killing = scope.spawn(|| kill_until(&house, most_ms, &killed, &done, seed));
                let under = tokio::time::timeout(10 * PATIENCE, steps_under(&house, session, &killed));
                let steps = tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(async {
                        // However it ends, the other thread has to.
                        let ended = futures_catch(under).await;
                        done.store(true, Ordering::Release);
                        ended
                    })
                });
                killing.join().unwrap();
                steps
            });
            let steps = steps.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).expect("this hangs");
            eprintln!(
                "{} of {lanes} lanes: {steps} steps over {} kills, seed {seed}",
                source.kind(),
                killed.load(Ordering::Acquire)
            );
        }
    }
}

/// What a future gives, or the panic in which it ended.
async fn futures_catch<T>(future: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(value)) => std::task::Poll::Ready(Ok(value)),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    })
    .await
}
