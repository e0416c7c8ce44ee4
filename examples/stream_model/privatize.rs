//! `privatize`: a gradient goes up, the gradient with its noise comes down, and the noise never leaves the
//! server.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use noised::session::{KeyOrigin, Noise, Source};
use noised::{SessionSpec, Tree, analysis};
use noised_client::{Client, CreateOptions, Error, Session, WhenFull};
use noised_tests::trees;

use crate::job::{Job, STDDEV};
use crate::report::{self, Timer};

const STEPS: u64 = 4;

/// The step whose state is kept, and that is gone back to: a training job would keep it with its checkpoint.
const KEPT: u64 = 2;

/// How far the size of the noise may be from what is expected, in standard deviations of its estimate.
const ALLOWED: f64 = 10.0;

/// Takes some steps and checks the size of their noise; goes back, and checks what can be asked again.
pub(crate) async fn run(job: &Job, client: &Client) -> anyhow::Result<()> {
    // A key that nobody but this session ever has.
    let noise = Noise { stddev: STDDEV, key: KeyOrigin::Fresh };
    let source = Source::Privatize { noise, answer_dtype: None };
    let spec = SessionSpec { source, ..SessionSpec::new(job.matrix.clone(), job.tree.clone()) };
    let mut session = client.create_session(&spec, CreateOptions::default()).await?;
    report::begin(
        &format!(
            "privatize: g_t goes up, and g_t + (A z)_t comes down.\n{}, {} bytes of memory",
            session.name(),
            session.info().memory_bytes
        ),
        "size of the noise, expected",
    );
    let row_norms_squared = analysis::row_norms_squared(&job.matrix, STEPS, || false)?.values;
    let mut answers = Vec::new();
    for (step, row_norm_squared) in (0..).zip(row_norms_squared) {
        if step == KEPT {
            session.keep_state(step, WhenFull::Refuse).await?;
        }
        let gradient = gradient(&job.tree, step);
        let timer = Timer::start();
        let answer = session.privatize(step, gradient.clone()).await?;
        let timed = timer.stop(gradient.len() + answer.len());

        let found = root_mean_square(&job.tree, &gradient, &answer);
        let expected = STDDEV * row_norm_squared.sqrt();
        // The mean of n squares of normals is off from their variance by a factor of about 1 +- sqrt(2/n).
        let deviation = (2.0 / job.tree.lanes() as f64).sqrt();
        let off = ((found / expected).powi(2) - 1.0).abs() / deviation;
        ensure!(off <= ALLOWED, "the noise of step {step} has size {found}, not {expected}");
        timed.print(step, &format!("{found:.5}, {expected:.5}"));
        answers.push(answer);
    }
    check_going_back(job, &mut session, &answers).await?;
    client.delete_session(session.name()).await?;
    Ok(())
}

/// From the state that is kept, the same gradients give the same bytes, and another gradient gives nothing.
async fn check_going_back(job: &Job, session: &mut Session, answers: &[Bytes]) -> anyhow::Result<()> {
    session.rewind(KEPT, false, |_, _| ()).await?;
    ensure!(session.next_step() == KEPT, "the session went back to step {}", session.next_step());
    match session.privatize(KEPT, gradient(&job.tree, STEPS)).await {
        Err(refused @ Error::Diverged { .. }) => {
            println!("Back at step {KEPT}, another gradient: {refused}.");
        }
        Err(other) => bail!("another gradient is refused with: {other}"),
        Ok(_) => bail!("one noise was put under two gradients"),
    }
    for (step, released) in (KEPT..).zip(&answers[KEPT as usize..]) {
        let again = session.privatize(step, gradient(&job.tree, step)).await;
        let again = again.with_context(|| format!("step {step} is not answered again"))?;
        ensure!(again == *released, "step {step} is answered with other bytes than before");
    }
    println!("The same gradients of steps {KEPT} to {}: the same bytes as before.", STEPS - 1);
    Ok(())
}

/// What stands for a step's clipped gradient.
fn gradient(tree: &Tree, step: u64) -> Bytes {
    trees::payload(tree, step).into()
}

/// The size of a lane's noise: what an answer has beside the gradient.
fn root_mean_square(tree: &Tree, gradient: &[u8], answer: &[u8]) -> f64 {
    let gradient = trees::lanes(tree, gradient);
    let answer = trees::lanes(tree, answer);
    let squares = gradient.iter().zip(&answer).map(|(gradient, answer)| (answer - gradient).powi(2));
    (squares.sum::<f64>() / gradient.len() as f64).sqrt()
}
