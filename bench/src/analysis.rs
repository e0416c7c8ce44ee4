//! Error analysis and strategy design, beside jax_privacy's.
//!
//! `lanes` of the report is `n` here.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use noised::analysis::{Participation, row_norms_squared};
use noised::design::{Design, Family, Objective, Problem, Verdict, optimize};
use noised::{MatrixSpec, matrix::strategy};
use serde_json::Value;

use crate::cases::Case;
use crate::python::{Peer, Worker};
use crate::report::{Row, Unit, milliseconds};

/// The settings whose optima are compared; the same that the tests check.
const SETTINGS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/analysis.json"));

/// Settings of the short table: one of each family and objective, small and large.
const SHORT: [&str; 12] = [
    "banded Toeplitz, 16 bands, max",
    "banded Toeplitz, 64 bands, mean",
    "banded Toeplitz, 256 bands, mean",
    "BLT, 1 buffers, max",
    "BLT, 3 buffers, mean",
    "BLT, 3 buffers, max",
    "BLT, 4 buffers, max",
    "BLT, 5 buffers, max",
    "BLT, 2 buffers, mean, 8 participations",
    "BLT, 4 buffers, max, 8 participations",
    "column-normalised banded, 8 bands, mean",
    "dense, mean, 4 epochs",
];

/// Sizes of the short table.
const SHORT_N: [u64; 6] = [64, 256, 1_000, 10_000, 100_000, 1_000_000];

fn decoder(strategy: MatrixSpec) -> MatrixSpec {
    MatrixSpec::Product { factors: vec![MatrixSpec::PrefixSum, strategy.inverse()] }
}

fn blt(buffers: usize) -> anyhow::Result<MatrixSpec> {
    Ok(decoder(strategy::blt_from_rational_approximation(buffers)?))
}

fn toeplitz(bands: usize) -> anyhow::Result<MatrixSpec> {
    Ok(decoder(strategy::banded_square_root(bands, None)?))
}

fn column_normalized(n: usize) -> anyhow::Result<MatrixSpec> {
    Ok(decoder(strategy::column_normalized_banded(n, 8)?))
}

fn timed(matrix: &MatrixSpec, n: usize) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let norms = row_norms_squared(matrix, n as u64, || false)?;
    let taken = start.elapsed();
    anyhow::ensure!(norms.values.len() == n, "some norms are missing");
    Ok(taken)
}

/// Row norms of decoders, beside jax_privacy's, jitted and compiled before.
pub(crate) fn row_norms(python: Option<&Path>, rounds: usize) -> anyhow::Result<Vec<Row>> {
    const N: usize = 10_000;
    let Some(python) = python else {
        return Ok(Vec::new());
    };
    let cases = [
        ("prefix sum x Toeplitz inverse, 8 bands", toeplitz(8)?),
        ("prefix sum x BLT inverse, 4 buffers", blt(4)?),
        ("prefix sum x column-normalised banded inverse, 8 bands", column_normalized(N)?),
    ];
    let mut rows = Vec::new();
    for (name, matrix) in cases {
        let case = Case { name: format!("row norms, {name}, in f64"), matrix };
        let mut peers = Vec::new();
        for peer in [Peer::JaxRowNorms, Peer::JaxRowNormsF64] {
            let mut worker = Worker::start(python, peer)?;
            worker.set_up(&case, N)?;
            peers.push((peer, worker, Vec::new()));
        }
        let mut ours = Vec::new();
        for round in 0..=rounds {
            let times = (0..9).map(|_| timed(&case.matrix, N)).collect::<anyhow::Result<Vec<_>>>()?;
            for (_, worker, samples) in &mut peers {
                let taken = milliseconds(&worker.steps(3)?);
                if round > 0 {
                    samples.push(taken);
                }
            }
            if round > 0 {
                ours.push(milliseconds(&times));
            }
        }
        for (peer, _, samples) in peers {
            rows.push(Row::new(&*case.name, N, Unit::Milliseconds, &ours, (peer.name(), &samples)));
        }
    }
    Ok(rows)
}

/// Row norms at sizes that are out of the peers' reach, beside the time that they may take.
pub(crate) fn large_row_norms(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let scale = |period: usize| (0..1_000).map(|i| 1.0 + (i % period) as f64 / 10.0).collect();
    let scaled = MatrixSpec::Scaled {
        matrix: Box::new(toeplitz(8)?),
        row_scale: Some(scale(7)),
        col_scale: Some(scale(11)),
    };
    let cases = [
        ("prefix sum x Toeplitz inverse, 8 bands", toeplitz(8)?, 10_000_000, 1_000.0),
        ("prefix sum x BLT inverse, 4 buffers", blt(4)?, 10_000_000, 1_000.0),
        ("scaled prefix sum x Toeplitz inverse, 8 bands", scaled, 1_000_000, 2_000.0),
        (
            "prefix sum x column-normalised banded inverse, 8 bands",
            column_normalized(100_000)?,
            100_000,
            10_000.0,
        ),
    ];
    let mut rows = Vec::new();
    for (name, matrix, n, asked) in cases {
        let times = (0..rounds).map(|_| Ok(milliseconds(&[timed(&matrix, n)?])));
        let times = times.collect::<anyhow::Result<Vec<_>>>()?;
        let peer = ("the time it may take", &*vec![asked; rounds]);
        rows.push(Row::new(format!("row norms, {name}, in f64"), n, Unit::Milliseconds, &times, peer));
    }
    Ok(rows)
}

/// A setting whose optimum is compared.
struct Setting {
    name: String,
    family: Family,
    problem: Problem,
    /// As the peer reads it.
    value: Value,
}

impl Setting {
    fn new(value: Value) -> anyhow::Result<Self> {
        let number = |key: &str| value[key].as_u64();
        let bands = number("bands").unwrap_or_default() as usize;
        let buffers = number("buffers").map(|buffers| buffers as usize);
        let (family, mut name) = match value["family"].as_str().context("a setting without a family")? {
            "banded_toeplitz" => {
                (Family::BandedToeplitz { bands }, format!("banded Toeplitz, {bands} bands"))
            }
            "buffered_toeplitz" => {
                let name = format!("BLT, {} buffers", buffers.unwrap_or_default());
                (Family::BufferedToeplitz { buffers }, name)
            }
            "column_normalized_banded" => {
                (Family::ColumnNormalizedBanded { bands }, format!("column-normalised banded, {bands} bands"))
            }
            "dense" => (Family::Dense, "dense".to_owned()),
            other => anyhow::bail!("an unknown family: {other}"),
        };
        let objective = match value["objective"].as_str() {
            Some("max") => Objective::Max,
            _ => Objective::Mean,
        };
        name += if objective == Objective::Max { ", max" } else { ", mean" };
        let (min_sep, most) = (number("min_sep"), number("max_participations"));
        let participation = match number("epochs") {
            Some(epochs) => {
                name += &format!(", {epochs} epochs");
                Participation::FixedEpochs { epochs }
            }
            None => Participation::from_limits(min_sep, most),
        };
        match (most, min_sep) {
            (Some(most), _) => name += &format!(", {most} participations"),
            (None, Some(min_sep)) => name += &format!(", {min_sep} apart"),
            (None, None) => {}
        }
        let n = number("n").context("a setting without n")?;
        let problem = Problem { n, participation, objective, workload: None };
        Ok(Self { name, family, problem, value })
    }

    fn is_short(&self) -> bool {
        SHORT.contains(&&*self.name) && SHORT_N.contains(&self.problem.n)
    }

    fn optimize(&self) -> anyhow::Result<(Duration, Design)> {
        let start = Instant::now();
        let design = optimize(&self.family, &self.problem, &mut |_| Verdict::Continue)?;
        Ok((start.elapsed(), design))
    }
}

fn settings() -> anyhow::Result<Vec<Setting>> {
    let file: Value = serde_json::from_str(SETTINGS)?;
    let losses = file["losses"].as_array().context("no losses")?;
    losses.iter().map(|setting| Setting::new(setting.clone())).collect()
}

/// Every optimiser's time and loss, beside jax_privacy's, compiling included.
#[allow(clippy::print_stderr, reason = "progress, and a peer that is left out is told of")]
pub(crate) fn optimizers(python: Option<&Path>, full: bool, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let Some(python) = python else {
        return Ok(Vec::new());
    };
    let mut worker = Worker::start(python, Peer::JaxOptimizer)?;
    // Whatever the peer does once in a process is not counted.
    let smallest = Setting::new(serde_json::json!({
        "family": "banded_toeplitz", "n": 8, "bands": 2, "objective": "mean"
    }))?;
    worker.optimize(&smallest.value)?;
    let mut rows = Vec::new();
    for setting in settings()?.into_iter().filter(|setting| full || setting.is_short()) {
        eprintln!("{}, n = {}", setting.name, setting.problem.n);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut our_losses, mut their_losses) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (taken, design) = setting.optimize()?;
            match worker.optimize(&setting.value) {
                Ok((their_time, their_loss)) => {
                    theirs.push(milliseconds(&[their_time]));
                    their_losses.push(their_loss);
                }
                Err(error) => {
                    eprintln!("  without jax_privacy: {error}");
                    break;
                }
            }
            ours.push(milliseconds(&[taken]));
            our_losses.push(worker.loss(&setting.value, &design.strategy).unwrap_or(design.loss));
        }
        if ours.is_empty() {
            continue;
        }
        let (n, peer) = (setting.problem.n as usize, Peer::JaxOptimizer.name());
        let name = format!("optimise, {}", setting.name);
        rows.push(Row::new(&*name, n, Unit::Milliseconds, &ours, (peer, &theirs)));
        let name = format!("its loss, {}", setting.name);
        rows.push(Row::new(&*name, n, Unit::Loss, &our_losses, (peer, &their_losses)));
    }
    Ok(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_short_table_names_settings_that_there_are() {
        let settings = settings().unwrap();
        for name in SHORT {
            assert!(settings.iter().any(|setting| setting.name == name && setting.is_short()), "{name}");
        }
        for setting in &settings {
            assert!(setting.problem.n > 0 && setting.value["loss"].as_f64().unwrap() > 0.0);
        }
    }
}
