//! Which noises were drawn: the noise of a `noise_id` is not begun again from step 0 without somebody saying so.
//!
//! The server remembers for as long as it runs; with a file, for longer. A line of the file says that a session began to
//! draw a noise, and is on the disk before the first step is; another says how far it came. A noise whose end is not in
//! the file was being drawn when the server ended without a drain, and counts as used up to a step that nobody knows.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use noised::session::Fingerprint;
use noised_proto::ServiceError;
use serde::{Deserialize, Serialize};

/// Between two tries to have the file.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Noises that are remembered. One more is refused, rather than one forgotten.
const MAX_NOISES: usize = 1 << 20;

/// The noises that were drawn, and those that are.
#[derive(Debug)]
pub(crate) struct Ledger {
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    of_noise: HashMap<NoiseName, Vec<Use>>,
    count: usize,
    file: Option<File>,
}

/// The name of a noise, and what all shards of it are bound to: the same name with something else is another noise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct NoiseName {
    noise_id: String,
    fingerprint: String,
}

/// Lanes of a noise that were drawn, or are.
#[derive(Debug)]
struct Use {
    lanes: Range<u64>,
    /// The session that draws them now.
    session: Option<String>,
    /// The first step that was not released, as far as is known.
    next_step: u64,
    /// Whether a server ended in the middle of it, so that nobody knows how far it came.
    unknown: bool,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(flatten)]
    noise: NoiseName,
    lanes: (u64, u64),
    /// Not there where the noise begins to be drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_step: Option<u64>,
}

/// The right to draw some lanes of a noise.
#[derive(Debug)]
pub(crate) struct Claim {
    ledger: Arc<Ledger>,
    noise: NoiseName,
    lanes: Range<u64>,
    /// Whether it was drawn before.
    pub(crate) started_over: bool,
    released_steps: u64,
}

impl Ledger {
    /// A ledger that goes on with what is in a file, where there is one. Another server that has it is waited for as long as
    /// that: two of them would not know of one another's noises.
    ///
    /// This reads a file and may sleep: call it on a thread that may block.
    pub(crate) fn open(path: Option<&Path>, patience: Duration) -> anyhow::Result<Arc<Self>> {
        let mut uses = Uses::default();
        if let Some(path) = path {
            let what = || format!("noise_ledger: {}", path.display());
            let mut options = OpenOptions::new();
            let file = options.read(true).append(true).create(true).open(path).with_context(what)?;
            lock(&file, patience).with_context(what)?;
            // That the file is there has to be on the disk as well.
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))
                .and_then(|it| it.sync_all())
                .with_context(what)?;
            uses.read(&file).with_context(what)?;
            uses.file = Some(file);
            // What comes next begins a line, also behind one that was cut off.
            uses.end_line().with_context(what)?;
        }
        Ok(Arc::new(Self { uses: Mutex::new(uses) }))
    }

    /// Begins to draw lanes of a noise from step 0.
    pub(crate) fn claim(
        self: &Arc<Self>,
        noise_id: &str,
        fingerprint: Fingerprint,
        lanes: Range<u64>,
        session: &str,
        start_over: bool,
    ) -> Result<Claim, ServiceError> {
        let noise = NoiseName { noise_id: noise_id.to_owned(), fingerprint: fingerprint.to_string() };
        let mut uses = self.uses();
        let overlapping = |other: &&mut Use| other.lanes.start < lanes.end && lanes.start < other.lanes.end;
        let mut started_over = false;
        let mut used_up_to = Some(0);
        for other in uses.of_noise.get_mut(&noise).into_iter().flatten().filter(overlapping) {
            if let Some(session) = &other.session {
                let (noise_id, session) = (noise_id.to_owned(), session.clone());
                return Err(ServiceError::NoiseInUse { noise_id, session });
            }
            let known = |so_far: &u64| (!other.unknown).then_some(other.next_step.max(*so_far));
            used_up_to = used_up_to.as_ref().and_then(known);
            started_over = true;
        }
        if started_over && !start_over {
            return Err(ServiceError::NoiseUsed { noise_id: noise_id.to_owned(), next_step: used_up_to });
        }
        if uses.count >= MAX_NOISES {
            return Err(ServiceError::NoiseQuota { limit: MAX_NOISES });
        }
        uses.write(&Line { noise: noise.clone(), lanes: (lanes.start, lanes.end), next_step: None })
            .map_err(|error| {
                tracing::error!(%error, "the noise ledger cannot be written");
                ServiceError::Internal
            })?;
        uses.begin(&noise, &lanes, session.to_owned());
        Ok(Claim { ledger: Arc::clone(self), noise, lanes, started_over, released_steps: 0 })
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        // Each call leaves it whole.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(file: &File, patience: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) if start.elapsed() < patience => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => anyhow::bail!("another server has it"),
        }
    }
}

impl Claim {
    /// Ends the drawing, of which so many steps were released.
    pub(crate) fn end(mut self, released_steps: u64) {
        self.released_steps = released_steps;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Self { ledger, noise, lanes, started_over: _, released_steps } = self;
        let mut uses = ledger.uses();
        uses.end(noise, lanes, *released_steps);
        let lanes = (lanes.start, lanes.end);
        let line = Line { noise: noise.clone(), lanes, next_step: Some(*released_steps) };
        if let Err(error) = uses.write(&line) {
            // The noise counts as used all the same: only how far is lost.
            tracing::error!(%error, "the noise ledger cannot be written");
        }
    }
}

impl Uses {
    /// One use for the same lanes: a noise that was started over is remembered for the furthest that it ever came.
    fn begin(&mut self, noise: &NoiseName, lanes: &Range<u64>, session: String) {
        let of_noise = self.of_noise.entry(noise.clone()).or_default();
        match of_noise.iter_mut().find(|old| old.lanes == *lanes) {
            Some(old) => {
                // One that did not end before the same is begun again is one of a server that did not come to that.
                old.unknown |= old.session.is_some();
                old.session = Some(session);
            }
            None => {
                let session = Some(session);
                of_noise.push(Use { lanes: lanes.clone(), session, next_step: 0, unknown: false });
                self.count += 1;
            }
        }
    }

    fn end(&mut self, noise: &NoiseName, lanes: &Range<u64>, released_steps: u64) {
        let Some(of_noise) = self.of_noise.get_mut(noise) else { return };
        if let Some(ended) = of_noise.iter_mut().find(|ended| ended.lanes == *lanes) {
            ended.session = None;
            ended.next_step = ended.next_step.max(released_steps);
        }
        // A noise of which nothing was released may be begun by anybody.
        let before = of_noise.len();
        of_noise.retain(|one| one.session.is_some() || one.next_step > 0 || one.unknown);
        self.count -= before - of_noise.len();
        if of_noise.is_empty() {
            self.of_noise.remove(noise);
        }
    }

    fn read(&mut self, file: &File) -> anyhow::Result<()> {
        for (number, line) in (1..).zip(BufReader::new(file).lines()) {
            let line = line?;
            let parsed = serde_json::from_str(&line);
            let Line { noise, lanes, next_step } = match parsed {
                Ok(line) => line,
                // A line that was being written when the machine stopped: what it would have told had not happened yet.
                Err(error) if error.is_eof() => continue,
                Err(error) => return Err(error).with_context(|| format!("line {number}")),
            };
            let lanes = lanes.0..lanes.1;
            match next_step {
                None => self.begin(&noise, &lanes, String::new()),
                Some(released) => self.end(&noise, &lanes, released),
            }
        }
        for left in self.of_noise.values_mut().flatten() {
            left.unknown |= left.session.take().is_some();
        }
        Ok(())
    }

    fn end_line(&mut self) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last != [b'\n'] { file.write_all(b"\n") } else { Ok(()) }
    }

    /// On the disk when this returns.
    fn write(&mut self, line: &Line) -> std::io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        // What was written in part before must not swallow this line.
        self.end_line()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use noised::{DType, MatrixSpec, SessionSpec, Tree};

    use super::*;

    fn fingerprint(lanes: u64) -> Fingerprint {
        let tree = Tree::flat(lanes, DType::F32).unwrap();
        SessionSpec::new(MatrixSpec::PrefixSum, tree).resolve().unwrap().fingerprint()
    }

    fn claim(
        ledger: &Arc<Ledger>,
        lanes: Range<u64>,
        session: &str,
        start_over: bool,
    ) -> Result<Claim, ServiceError> {
        ledger.claim("run", fingerprint(5), lanes, session, start_over)
    }

    fn used(next_step: impl Into<Option<u64>>) -> ServiceError {
        let next_step = next_step.into();
        ServiceError::NoiseUsed { noise_id: "run".into(), next_step }
    }

    #[test]
    fn a_noise_is_drawn_by_one_session_at_a_time_and_begun_again_on_demand() {
        let ledger = Ledger::open(None, Duration::ZERO).unwrap();
        let first = claim(&ledger, 0..5, "sessions/a", false).unwrap();
        assert!(!first.started_over);
        for start_over in [false, true] {
            assert_eq!(
                claim(&ledger, 4..9, "sessions/b", start_over).unwrap_err(),
                ServiceError::NoiseInUse { noise_id: "run".into(), session: "sessions/a".into() }
            );
        }
        // Another shard, another name, and the same name for something else.
        let shard = claim(&ledger, 5..9, "sessions/b", false).unwrap();
        ledger.claim("other", fingerprint(5), 0..5, "sessions/c", false).unwrap();
        ledger.claim("run", fingerprint(6), 0..5, "sessions/d", false).unwrap();
        first.end(3);
        shard.end(0);
        assert_eq!(claim(&ledger, 0..5, "sessions/e", false).unwrap_err(), used(3));
        claim(&ledger, 5..9, "sessions/e", false).unwrap().end(0);
        let again = claim(&ledger, 0..5, "sessions/e", true).unwrap();
        assert!(again.started_over);
        again.end(1);
        assert_eq!(claim(&ledger, 0..5, "sessions/e", false).unwrap_err(), used(3));
    }

    #[test]
    fn a_file_remembers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ledger = Ledger::open(Some(file.path()), Duration::ZERO).unwrap();
        claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
        claim(&ledger, 5..6, "sessions/a", false).unwrap().end(0);
        let _drawn_when_the_server_was_killed = claim(&ledger, 6..9, "sessions/b", false).unwrap();
        assert!(Ledger::open(Some(file.path()), Duration::ZERO).is_err(), "two servers have one file");
        // What a server that is killed now leaves.
        let left = || {
            let left = tempfile::NamedTempFile::new().unwrap();
            std::fs::copy(file.path(), left.path()).unwrap();
            left
        };
        let left = left();
        let open = || Ledger::open(Some(left.path()), Duration::ZERO).unwrap();
        let mut ledger = open();
        assert_eq!(claim(&ledger, 0..5, "sessions/a", false).unwrap_err(), used(7));
        claim(&ledger, 5..6, "sessions/a", false).unwrap().end(0);
        assert_eq!(claim(&ledger, 6..9, "sessions/a", false).unwrap_err(), used(None));
        // What nobody knows is not learned from what comes after it.
        for released in [0, 2] {
            claim(&ledger, 6..9, "sessions/a", true).unwrap().end(released);
            assert_eq!(claim(&ledger, 6..9, "sessions/a", false).unwrap_err(), used(None));
            drop(ledger);
            ledger = open();
            assert_eq!(claim(&ledger, 6..9, "sessions/a", false).unwrap_err(), used(None));
        }
    }

    #[test]
    fn a_line_cut_off_is_passed_over_and_a_wrong_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ledger = Ledger::open(Some(file.path()), Duration::ZERO).unwrap();
        claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
        drop(ledger);
        let mut text = std::fs::read_to_string(file.path()).unwrap();
        text.push_str("{\"noise_id\":\"x\",\"finger");
        std::fs::write(file.path(), &text).unwrap();
        for _ in 0..2 {
            let ledger = Ledger::open(Some(file.path()), Duration::ZERO).unwrap();
            assert_eq!(claim(&ledger, 0..5, "sessions/a", false).unwrap_err(), used(7));
            claim(&ledger, 0..5, "sessions/a", true).unwrap().end(1);
        }
        std::fs::write(file.path(), "[1]\n").unwrap();
        let error = Ledger::open(Some(file.path()), Duration::ZERO).unwrap_err();
        assert!(format!("{error:#}").contains("line 1"), "{error:#}");
    }
}
