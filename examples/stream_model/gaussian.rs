//! `gaussian`: the server draws `z`, and `(A z)_t` is fetched. Nothing but the step's number goes up.

use anyhow::{bail, ensure};
use noised::noise::{MasterKey, NoiseKey, standard_normals};
use noised::session::{KeyOrigin, Noise, Source};
use noised::{Precision, SessionSpec};
use noised_client::{Client, CreateOptions, Error};

use crate::check::Check;
use crate::job::{Job, STDDEV};
use crate::report::{self, Timer};

/// The public name of the noise. With the master key and what the session is made for, it gives the key.
const NOISE_ID: &str = "stream_model";

/// A session of the whole tree whose noise has a name.
pub(crate) fn spec(job: &Job) -> SessionSpec {
    let key = KeyOrigin::Derived { noise_id: NOISE_ID.to_owned() };
    let source = Source::Gaussian(Noise { stddev: STDDEV, key });
    SessionSpec { source, ..SessionSpec::new(job.matrix.clone(), job.tree.clone()) }
}

/// Fetches and checks every step; gives a digest of each.
pub(crate) async fn run(
    job: &Job,
    client: &Client,
    master_key: &MasterKey,
) -> anyhow::Result<Vec<blake3::Hash>> {
    let spec = spec(job);
    let mut session = client.create_session(&spec, CreateOptions::default()).await?;
    report::begin(
        &format!(
            "gaussian: the server draws z, and (A z)_t is fetched. It draws ahead while a step is checked.\n\
             {}, {} bytes of memory",
            session.name(),
            session.info().memory_bytes
        ),
        "largest rel. error",
    );

    // Who has the master key has the noise: what a worker never gets, and what this check needs.
    let key = master_key.derive(NOISE_ID, &spec.clone().resolve()?.noise_fingerprint());
    let mut check = Check::new(&spec, job.steps)?;
    let mut noise = vec![0; session.step_bytes()];
    let mut digests = Vec::new();
    for step in 0..job.steps {
        let timer = Timer::start();
        session.fetch_into(step, &mut noise).await?;
        let timed = timer.stop(noise.len());
        let z = |lane| STDDEV * normal(&key, spec.precision, step, lane);
        let error = check.next(z, &noise)?;
        timed.print(step, &format!("{error:>18.2e}"));
        digests.push(blake3::hash(&noise));
    }
    client.delete_session(session.name()).await?;
    println!("{} lanes a step are the dense matrix times the normals of the derived key.", check.lanes());
    check_is_drawn_once(client, &spec).await?;
    Ok(digests)
}

/// `z_step[lane]` as a session of that precision draws it, before it is scaled.
///
/// A session scales the radius before it turns it, so its numbers may be off from these by a rounding or two.
fn normal(key: &NoiseKey, precision: Precision, step: u64, lane: u64) -> f64 {
    match precision {
        Precision::F32 => {
            let mut z = [0.0_f32];
            standard_normals(key, step, lane, &mut z);
            z[0].into()
        }
        Precision::F64 => {
            let mut z = [0.0_f64];
            standard_normals(key, step, lane, &mut z);
            z[0]
        }
    }
}

/// The session is gone, and the server remembers that the noise was drawn.
async fn check_is_drawn_once(client: &Client, spec: &SessionSpec) -> anyhow::Result<()> {
    match client.create_session(spec, CreateOptions::default()).await {
        Err(refused @ Error::NoiseUsed { .. }) => println!("Begun once more, it is refused: {refused}."),
        Err(other) => bail!("a noise that was drawn before is refused with: {other}"),
        Ok(_) => ensure!(false, "a noise that was drawn before begins again"),
    }
    Ok(())
}
