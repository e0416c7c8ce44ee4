//! One session stepped from a thread and a connection of its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use noised_client::{ClientBuilder, Session};
use tokio::sync::{Barrier, watch};

use crate::failure::Failure;

/// Latencies are told to a thousandth.
const DIGITS: u8 = 3;

/// How steps are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The next step goes up while the last one's answer comes down.
    Stream,
    /// One call after the other.
    Unary,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Unary => "unary",
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Steps(u64),
    Duration(Duration),
}

/// What a worker does with its session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) mode: Mode,
    /// Steps that are not counted.
    pub(super) warm_up: u64,
    pub(super) goal: Goal,
    /// The rows of the matrix, where it ends.
    pub(super) horizon: Option<u64>,
}

impl Course {
    /// Whether another step is to be sent after `sent` ones.
    fn goes_on(&self, sent: u64, started: Instant) -> bool {
        let row = self.warm_up + sent;
        let wanted = match self.goal {
            Goal::Steps(steps) => sent < steps,
            // One is measured in any case.
            Goal::Duration(duration) => sent == 0 || started.elapsed() < duration,
        };
        wanted && self.horizon.is_none_or(|rows| row < rows)
    }
}

/// What a worker found.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) steps: u64,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    /// Nanoseconds.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    /// Nothing so far.
    pub(super) fn new() -> Result<Self, Failure> {
        let latency = Histogram::new(DIGITS).map_err(|e| Failure::failed("latencies", e))?;
        let now = Instant::now();
        Ok(Self { steps: 0, started: now, ended: now, latency })
    }

    /// The steps of another.
    pub(super) fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.steps += other.steps;
        self.latency.add(&other.latency).map_err(|e| Failure::failed("latencies", e))
    }

    /// A step that was handed over at `sent` is answered.
    fn note_answer(&mut self, sent: Instant) -> Result<(), Failure> {
        self.ended = Instant::now();
        self.steps += 1;
        let nanoseconds = u64::try_from((self.ended - sent).as_nanos()).unwrap_or(u64::MAX);
        self.latency.record(nanoseconds).map_err(|e| Failure::failed("latencies", e))
    }
}

/// A session and what its thread needs.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) client: ClientBuilder,
    pub(super) session: String,
    /// Every step's payload.
    pub(super) input: Bytes,
    pub(super) course: Course,
    /// Where all wait for each other after the warm-up.
    pub(super) start: Arc<Barrier>,
}

impl Worker {
    /// Does all of it on this thread, unless it is stopped: then the other end of `stopped` is gone.
    pub(super) fn run(self, mut stopped: watch::Receiver<()>) -> Result<Tally, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| Failure::failed("cannot start", e))?.block_on(async {
            tokio::select! {
                tally = self.step() => tally,
                _ = stopped.changed() => Err(Failure::failed("a worker", "it was stopped")),
            }
        })
    }

    async fn step(&self) -> Result<Tally, Failure> {
        let session = self.client.clone().connect().await?.open_session(&self.session).await?;
        match self.course.mode {
            Mode::Stream => self.stream(session).await,
            Mode::Unary => self.call(session).await,
        }
    }

    async fn call(&self, mut session: Session) -> Result<Tally, Failure> {
        for step in 0..self.course.warm_up {
            session.multiply_next(step, self.input.clone()).await?;
        }
        let mut tally = self.start().await?;
        while self.course.goes_on(tally.steps, tally.started) {
            let step = session.next_step();
            let sent = Instant::now();
            let answer = session.multiply_next(step, self.input.clone()).await?;
            tally.note_answer(sent)?;
            self.check_size(answer.len())?;
        }
        Ok(tally)
    }

    /// The warm-up goes over the stream that is measured, so that opening it is no part of any latency.
    async fn stream(&self, session: Session) -> Result<Tally, Failure> {
        let mut stream = session.stream();
        let warm_up = (0..self.course.warm_up).map(|_| Ok::<_, Failure>(self.input.clone()));
        stream.run(tokio_stream::iter(warm_up), |_| Ok(())).await?;
        let mut tally = self.start().await?;
        let started = tally.started;
        // When the steps were handed over whose answers are not complete.
        let sent = RefCell::new(VecDeque::new());
        let mut count = 0;
        let inputs = std::iter::from_fn(|| {
            let goes_on = self.course.goes_on(count, started);
            goes_on.then(|| {
                count += 1;
                sent.borrow_mut().push_back(Instant::now());
                Ok(self.input.clone())
            })
        });
        let mut received = 0;
        let taken = stream.run(tokio_stream::iter(inputs), |answer| {
            received += answer.payload.len();
            if answer.step_end {
                let early = || Failure::failed("a worker", "an answer to no step");
                tally.note_answer(sent.borrow_mut().pop_front().ok_or_else(early)?)?;
                self.check_size(std::mem::take(&mut received))?;
            }
            Ok::<(), Failure>(())
        });
        taken.await?;
        Ok(tally)
    }

    /// Waits until every session is warm.
    async fn start(&self) -> Result<Tally, Failure> {
        self.start.wait().await;
        Tally::new()
    }

    fn check_size(&self, answered: usize) -> Result<(), Failure> {
        let expected = self.input.len();
        if answered == expected {
            return Ok(());
        }
        Err(Failure::failed("a step", format_args!("{answered} bytes in answer to {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(goal: Goal, horizon: Option<u64>) -> Course {
        Course { mode: Mode::Unary, warm_up: 3, goal, horizon }
    }

    #[test]
    fn a_course_ends_where_it_is_to() {
        let now = Instant::now();
        let sent = |course: Course| (0..100).take_while(|&sent| course.goes_on(sent, now)).count();
        assert_eq!(sent(course(Goal::Steps(7), None)), 7);
        assert_eq!(sent(course(Goal::Steps(7), Some(8))), 5);
        assert_eq!(sent(course(Goal::Duration(Duration::ZERO), None)), 1);
        assert_eq!(sent(course(Goal::Duration(Duration::from_secs(3600)), None)), 100);
        assert_eq!(sent(course(Goal::Duration(Duration::from_secs(3600)), Some(8))), 5);
    }

    #[test]
    fn latencies_are_kept_and_added() {
        let mut all = Tally::new().unwrap();
        for ms in [5, 50, 500] {
            let mut tally = Tally::new().unwrap();
            tally.note_answer(tally.started - Duration::from_millis(ms)).unwrap();
            all.add(&tally).unwrap();
        }
        assert_eq!((all.steps, all.latency.len()), (3, 3));
        // The clock goes on meanwhile.
        let median = all.latency.value_at_quantile(0.5) as f64 / 1e6;
        assert!(median >= 49.9 && all.latency.max() as f64 / 1e6 >= 499.5, "{median}");
    }
}
