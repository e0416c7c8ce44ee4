//! One setting that is measured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use noised::DType;
use noised::session::ResolvedSpec;
use noised_client::{ClientBuilder, CreateOptions};
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use super::worker::{Course, Mode, Tally, Worker};
use crate::args::ServerArg;
use crate::failure::Failure;
use crate::output::count;
use crate::temporary::Temporary;

/// The client's default, and the space in a message beside its payload.
const MESSAGE_BYTES: usize = 64 << 20;
const MESSAGE_OVERHEAD: usize = 1 << 10;

/// One setting that is measured.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) lanes: u64,
    pub(super) dtype: DType,
    pub(super) sessions: u16,
    pub(super) chunk_bytes: usize,
    pub(super) course: Course,
    pub(super) resolved: ResolvedSpec,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) case: Case,
    /// Of all sessions.
    pub(super) steps: u64,
    /// From the first session's first step to the last one's last answer.
    pub(super) seconds: f64,
    /// Nanoseconds.
    pub(super) latency: Histogram<u64>,
}

impl Measured {
    pub(super) fn steps_per_second(&self) -> f64 {
        self.steps as f64 / self.seconds
    }

    pub(super) fn lanes_per_second(&self) -> f64 {
        self.steps_per_second() * self.case.lanes as f64
    }

    /// Payload one way.
    pub(super) fn gigabytes_per_second(&self) -> f64 {
        self.steps_per_second() * self.case.step_bytes() as f64 / 1e9
    }
}

impl Case {
    pub(super) fn step_bytes(&self) -> usize {
        self.resolved.layout().byte_len()
    }

    /// What sets it apart from the other cases, for people.
    pub(super) fn title(&self) -> String {
        format!("{} lanes, {}", count(self.lanes as f64), self.course.mode.name())
    }

    /// What it has in common with them, for people.
    pub(super) fn settings(&self) -> String {
        let plural = if self.sessions == 1 { "" } else { "s" };
        let precision = self.resolved.spec().precision;
        format!("{} session{plural}, lanes of {}, state of {precision}", self.sessions, self.dtype)
    }

    /// Makes the sessions, and steps them from as many threads. Who drops the future stops these.
    pub(super) async fn measure(
        self,
        server: &ServerArg,
        sessions: &mut Temporary,
    ) -> Result<Measured, Failure> {
        let client = self.client(server)?;
        let mut names = Vec::new();
        for _ in 0..self.sessions {
            let session = sessions.create("bench", self.resolved.spec(), CreateOptions::default()).await?;
            names.push(session.name().to_owned());
        }
        // Only now, when the server has not found the size to be too much.
        let input = random_input(self.dtype, self.step_bytes());
        let start = Arc::new(Barrier::new(names.len()));
        let (stop, stopped) = watch::channel(());
        let mut workers = JoinSet::new();
        for session in names {
            let (client, input, start) = (client.clone(), input.clone(), start.clone());
            let worker = Worker { client, session, input, course: self.course, start };
            let stopped = stopped.clone();
            workers.spawn_blocking(move || worker.run(stopped));
        }
        let mut tallies = Vec::new();
        while let Some(ended) = workers.join_next().await {
            tallies.push(ended.map_err(|e| Failure::failed("a worker", e))??);
        }
        drop(stop);
        self.sum(tallies)
    }

    fn client(&self, server: &ServerArg) -> Result<ClientBuilder, Failure> {
        let client = server.builder()?.chunk_bytes(self.chunk_bytes);
        Ok(match self.course.mode {
            Mode::Stream => client.unary_bytes(0),
            // Whether one message may be so large is the server's to say.
            Mode::Unary => client
                .unary_bytes(self.step_bytes())
                .message_bytes(MESSAGE_BYTES.max(self.step_bytes().saturating_add(MESSAGE_OVERHEAD))),
        })
    }

    fn sum(self, tallies: Vec<Tally>) -> Result<Measured, Failure> {
        let started = tallies.iter().map(|tally| tally.started).min();
        let ended = tallies.iter().map(|tally| tally.ended).max();
        let mut all = Tally::new()?;
        for tally in &tallies {
            all.add(tally)?;
        }
        let seconds = started.zip(ended).map_or(Duration::ZERO, |(started, ended)| ended - started);
        let seconds = seconds.as_secs_f64().max(1e-9);
        Ok(Measured { case: self, steps: all.steps, seconds, latency: all.latency })
    }
}

/// Numbers of random sign and mantissa, and magnitude 1 to 2: nothing compresses them, and no sum of them
/// runs into infinities or denormals, which processors may be slow at.
fn random_input(dtype: DType, len: usize) -> Bytes {
    // The exponent of 1, and the bits of the sign and the mantissa.
    let (one, free): (u64, u64) = match dtype {
        DType::F32 => (0x3f80_0000, 0x807f_ffff),
        DType::F64 => (0x3ff0_0000_0000_0000, 0x800f_ffff_ffff_ffff),
        DType::Bf16 => (0x3f80, 0x807f),
        DType::F16 => (0x3c00, 0x83ff),
    };
    let mut random = fastrand::Rng::new();
    let mut bytes = vec![0; len];
    for lane in bytes.chunks_exact_mut(dtype.size()) {
        let bits = (random.u64(..) & free) | one;
        lane.copy_from_slice(&bits.to_le_bytes()[..dtype.size()]);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_of_magnitude_one_to_two() {
        let f32s = random_input(DType::F32, 4000);
        let f32s = f32s.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
        let f64s = random_input(DType::F64, 8000);
        let f64s = f64s.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
        let bf16s = random_input(DType::Bf16, 2000);
        let bf16s = bf16s.as_chunks::<2>().0.iter().map(|b| f64::from(half::bf16::from_le_bytes(*b)));
        let f16s = random_input(DType::F16, 2000);
        let f16s = f16s.as_chunks::<2>().0.iter().map(|b| f64::from(half::f16::from_le_bytes(*b)));
        let values: Vec<f64> = f32s.chain(f64s).chain(bf16s).chain(f16s).collect();
        assert_eq!(values.len(), 4000);
        assert!(values.iter().all(|value| (1.0..2.0).contains(&value.abs())));
        assert!(values.iter().any(|value| *value < 0.0) && values.iter().any(|value| *value > 0.0));
    }
}
