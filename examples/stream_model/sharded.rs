//! The same noise in shards, on servers that share nothing but the master key.

use anyhow::ensure;
use noised::ShardCut;
use noised_client::{Client, CreateOptions, ShardedSession};

use crate::gaussian;
use crate::job::Job;
use crate::report::{self, Timer};
use crate::server::Server;

/// Fetches every step from two servers and compares it with the digest of what one server gave.
pub(crate) async fn run(job: &Job, servers: &[Server; 2], digests: &[blake3::Hash]) -> anyhow::Result<()> {
    let clients: Vec<Client> = servers.iter().map(|server| server.client().clone()).collect();
    let options = CreateOptions::default();
    let mut session =
        ShardedSession::create(&clients, &gaussian::spec(job), options, ShardCut::Lanes).await?;
    let lanes: Vec<String> = session.shards().iter().map(|shard| shard.info().lanes.to_string()).collect();
    report::begin(
        &format!(
            "gaussian, in shards: two servers with the same master key hold {} lanes.",
            lanes.join(" and ")
        ),
        "bits",
    );
    let mut noise = vec![0; session.step_bytes()];
    for (step, digest) in (0..).zip(digests) {
        let timer = Timer::start();
        session.fetch_into(step, &mut noise).await?;
        let timed = timer.stop(noise.len());
        ensure!(blake3::hash(&noise) == *digest, "step {step} of the shards is not that of the whole");
        timed.print(step, "the same");
    }
    session.delete().await?;
    Ok(())
}
