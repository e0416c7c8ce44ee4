//! Noise for a real model's tree of tensors, drawn by a server and streamed over gRPC, checked from the
//! outside.
//!
//! ```sh
//! cargo run --release --example stream_model
//! cargo run --release --example stream_model -- --tree model.safetensors --steps 5
//! ```
//!
//! | part | what is checked |
//! |---|---|
//! | [`gaussian`] | `(A z)_t` is the dense matrix times the normals of the same key; a noise is drawn once |
//! | [`sharded`] | the same noise from two servers that hold half of the tree each, bit for bit |
//! | [`privatize`] | the size of the noise; after going back, the same gradient gives the same bytes, another none |
//! | [`input`] | `(A x)_t` of a client's own input is the dense matrix times it |
#![allow(clippy::print_stdout, reason = "the report is what this is for")]

mod check;
mod gaussian;
mod input;
mod job;
mod privatize;
mod report;
mod server;
mod sharded;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use noised::matrix::strategy;
use noised::noise::MasterKey;
use noised_client::tree_file;

use crate::job::{Job, STDDEV};
use crate::server::Server;

/// Streams a model's noise from a server over gRPC, and checks it.
#[derive(Debug, Parser)]
struct Arguments {
    /// The tree: a .safetensors file, whose header alone is read, or a JSON of leaves [default:
    /// all-MiniLM-L6-v2]
    #[arg(long)]
    tree: Option<PathBuf>,
    /// Steps to fetch.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Buffers of the BLT.
    #[arg(long, default_value_t = 4)]
    buffers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { tree, steps, buffers } = Arguments::parse();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/all-MiniLM-L6-v2.json");
    let path = tree.unwrap_or(shipped);
    let tree =
        tree_file::read(&path, &[]).with_context(|| format!("cannot read the tree {}", path.display()))?.tree;
    let matrix = strategy::blt_from_rational_approximation(buffers)?.inverse();

    let name = path.file_name().unwrap_or_default().display();
    println!("{name}: {} leaves, {} lanes", tree.leaves().len(), tree.lanes());
    println!("A: inverse of a BLT with {buffers} buffers; z: normals of standard deviation {STDDEV}");
    let job = Job { tree, matrix, steps };

    // What servers share that are to draw the same noise. `noised serve` reads it from a file.
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("the operating system gives no random bytes")?;
    let master_key = MasterKey::from_bytes(secret);

    let server = Server::start(&master_key).await?;
    let digests = gaussian::run(&job, server.client(), &master_key).await?;
    let halves = [Server::start(&master_key).await?, Server::start(&master_key).await?];
    sharded::run(&job, &halves, &digests).await?;
    for half in halves {
        half.stop().await?;
    }
    privatize::run(&job, server.client()).await?;
    input::run(&job, server.client()).await?;
    server.stop().await?;
    println!("\nAll checks passed.");
    Ok(())
}
