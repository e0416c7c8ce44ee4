//! A real model's tree of tensors through a StreamingMatrix session over gRPC, step by step, checked against the same
//! matrix computed densely.
//!
//! ```sh
//! cargo run --release --example stream_model
//! cargo run --release --example stream_model -- --tree model.safetensors --steps 5
//! ```
#![allow(clippy::print_stdout, reason = "the table is what this is for")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use noised::matrix::strategy;
use noised::{DType, DenseMatrix, SessionSpec, Tree};
use noised_client::{Client, CreateOptions, tree_file};
use noised_server::config::Options;
use noised_server::{Config, ListenAddr, Listener};
use noised_tests::trees;
use tokio::sync::oneshot;

/// Streams a model's tree through a session over gRPC and checks it against the dense matrix.
#[derive(Debug, Parser)]
struct Arguments {
    /// The tree: a .safetensors file, whose header alone is read, or a JSON of leaves [default: all-MiniLM-L6-v2]
    #[arg(long)]
    tree: Option<PathBuf>,
    /// Steps to stream.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: u64,
    /// Buffers of the BLT.
    #[arg(long, default_value_t = 4)]
    buffers: usize,
}

/// Lanes that are checked, spread over the tree.
const CHECKED: u64 = 10_000;

/// The largest error that rounding explains, in units of the roundoff of the arithmetic and the size of what cancels.
const ALLOWED: f64 = 64.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { tree, steps, buffers } = Arguments::parse();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/all-MiniLM-L6-v2.json");
    let path = tree.unwrap_or(shipped);
    let tree =
        tree_file::read(&path).with_context(|| format!("cannot read the tree {}", path.display()))?.tree;
    let noising = strategy::blt_from_rational_approximation(buffers)?.inverse();

    // A server in this process, on a free port.
    let listener = Listener::bind(&"127.0.0.1:0".parse::<ListenAddr>().map_err(anyhow::Error::msg)?).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(noised_server::run(listener, Config::new(Options::default())?, async {
        let _ = stopped.await;
    }));

    let client = Client::connect(&address.to_string()).await?;
    let spec = SessionSpec::new(noising, tree.clone());
    let mut session = client.create_session(&spec, CreateOptions::default()).await?;
    let name = path.file_name().unwrap_or_default().display();
    println!("{name}: {} leaves, {} lanes", tree.leaves().len(), tree.lanes());
    println!(
        "{}: inverse of a BLT with {buffers} buffers, {} bytes of memory\n",
        session.name(),
        session.info().memory_bytes
    );
    println!("{:>4}  {:>12}  {:>9}  {:>6}  {:>18}", "step", "bytes", "ms", "GB/s", "largest rel. error");

    let mut check = Check::new(&spec, steps)?;
    for step in 0..steps {
        let payload = Bytes::from(trees::payload(&tree, step));
        check.sent(&payload);
        let bytes = payload.len();
        let begun = Instant::now();
        let answer = session.multiply_next(step, payload).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let error = check.answered(&answer)?;
        println!(
            "{step:>4}  {bytes:>12}  {:>9.2}  {:>6.2}  {error:>18.2e}",
            seconds * 1e3,
            2.0 * bytes as f64 / seconds / 1e9
        );
    }
    client.delete_session(session.name()).await?;
    drop((session, client));
    let _ = stop.send(());
    server.await??;
    println!("\n{} lanes a step agree with the dense matrix.", check.lanes.len());
    Ok(())
}

/// Some lanes of every step, and the dense matrix that they are compared with.
struct Check {
    tree: Tree,
    dense: DenseMatrix,
    lanes: Vec<u64>,
    inputs: Vec<Vec<f64>>,
    steps: usize,
}

impl Check {
    fn new(spec: &SessionSpec, steps: u64) -> anyhow::Result<Self> {
        let tree = spec.tree.clone();
        let stride = (tree.lanes() / CHECKED).max(1);
        let lanes: Vec<u64> = (0..tree.lanes()).step_by(stride as usize).chain([tree.lanes() - 1]).collect();
        let inputs = vec![Vec::new(); lanes.len()];
        Ok(Self { dense: DenseMatrix::new(&spec.matrix, steps as usize)?, tree, lanes, inputs, steps: 0 })
    }

    fn sent(&mut self, payload: &[u8]) {
        for (input, &lane) in self.inputs.iter_mut().zip(&self.lanes) {
            input.push(trees::lane(&self.tree, payload, lane).0);
        }
    }

    /// The largest error of the step, relative to the size of what cancels in it.
    fn answered(&mut self, answer: &[u8]) -> anyhow::Result<f64> {
        let mut largest = 0.0_f64;
        for (input, &lane) in self.inputs.iter().zip(&self.lanes) {
            let (found, dtype) = trees::lane(&self.tree, answer, lane);
            let (expected, size) = (
                self.dense.apply_row(self.steps, input),
                self.dense.apply_row_magnitude(self.steps, input).max(f64::MIN_POSITIVE),
            );
            let error = (found - expected).abs() / size;
            let roundoff = trees::roundoff(dtype).max(trees::roundoff(DType::F32));
            ensure!(
                error <= ALLOWED * roundoff,
                "lane {lane} of step {}: {found} instead of {expected}",
                self.steps
            );
            largest = largest.max(error);
        }
        self.steps += 1;
        Ok(largest)
    }
}
