//! `input`: the client's own numbers `x_t` go up, and `(A x)_t` comes down.

use bytes::Bytes;
use noised::SessionSpec;
use noised_client::{Client, CreateOptions};
use noised_tests::trees;

use crate::check::Check;
use crate::job::Job;
use crate::report::{self, Timer};

const STEPS: u64 = 3;

/// Sends some steps and checks their answers.
pub(crate) async fn run(job: &Job, client: &Client) -> anyhow::Result<()> {
    let spec = SessionSpec::new(job.matrix.clone(), job.tree.clone());
    let mut session = client.create_session(&spec, CreateOptions::default()).await?;
    report::begin("input: the client's own x_t goes up, and (A x)_t comes down.", "largest rel. error");
    let mut check = Check::new(&spec, STEPS)?;
    for step in 0..STEPS {
        let payload = Bytes::from(trees::payload(&job.tree, step));
        let timer = Timer::start();
        let answer = session.multiply_next(step, payload.clone()).await?;
        let timed = timer.stop(payload.len() + answer.len());
        let error = check.next(|lane| trees::lane(&job.tree, &payload, lane).0, &answer)?;
        timed.print(step, &format!("{error:>18.2e}"));
    }
    client.delete_session(session.name()).await?;
    println!("{} lanes a step are the dense matrix times what was sent.", check.lanes());
    Ok(())
}
