//! The noises that are remembered, in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use super::record::{Event, NoiseName, Record};

/// About the memory that one remembered noise takes, in bytes: an entry of the map, and the map's own room.
pub(crate) const NOISE_BYTES: u64 = 192;

/// The lanes of a noise. The name of the noise is a hash here, for names take several times the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    noise: [u8; 16],
    start: u64,
    end: u64,
}

impl Key {
    pub(super) fn new(noise: &NoiseName, lanes: &Range<u64>) -> Self {
        let NoiseName { tenant, noise_id, fingerprint } = noise;
        let mut hash = blake3::Hasher::new();
        // A fingerprint has one length, and a tenant's name goes with its own: no two names make one text.
        hash.update(fingerprint.as_bytes());
        hash.update(&(tenant.len() as u64).to_le_bytes()).update(tenant.as_bytes());
        hash.update(noise_id.as_bytes());
        let mut noise = [0; 16];
        hash.finalize_xof().fill(&mut noise);
        Self { noise, start: lanes.start, end: lanes.end }
    }
}

/// What became of some lanes of a noise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Use {
    /// The session that draws them now.
    session: Option<Box<str>>,
    /// The last session that began to draw them, where a record says so.
    last: Option<Box<str>>,
    /// When it began, in the order of all beginnings.
    begun: u64,
    /// The first step that was not released, as far as is known.
    next_step: u64,
    /// Whether a server ended in the middle of it, so that nobody knows how far it came.
    unknown: bool,
    started_over: bool,
}

/// What a session that wants some lanes of a noise finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Prior {
    /// They were never drawn.
    Unused,
    /// A session draws them, or some of them.
    InUse { session: String },
    /// They were drawn, or some of them; up to which step, where that is known.
    Used { next_step: Option<u64> },
}

/// Lanes of a noise that were drawn.
#[derive(Clone, Debug)]
pub(crate) struct RememberedUse {
    pub(crate) lanes: Range<u64>,
    /// The last session that began to draw them, where it may go on.
    pub(crate) session: Option<String>,
    /// The first step that was not released, as far as is known.
    pub(crate) next_step: u64,
    pub(crate) unknown: bool,
    pub(crate) started_over: bool,
}

/// Which lanes of which noises were drawn, and are.
#[derive(Debug, Default)]
pub(super) struct Uses {
    uses: BTreeMap<Key, Use>,
    /// Beginnings so far.
    begun: u64,
}

impl Uses {
    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.uses.contains_key(key)
    }

    /// What is known of the noise for lanes that overlap with these.
    pub(super) fn prior(&self, noise: &NoiseName, lanes: &Range<u64>) -> Prior {
        let key = Key::new(noise, lanes);
        // All that begin before these lanes end: a noise has few sets of lanes.
        let before = Key { start: 0, end: 0, ..key }..Key { start: lanes.end, end: 0, ..key };
        let mut prior = Prior::Unused;
        for (_, other) in self.uses.range(before).filter(|(other, _)| lanes.start < other.end) {
            if let Some(session) = &other.session {
                return Prior::InUse { session: session.to_string() };
            }
            let so_far = match prior {
                Prior::Used { next_step } => next_step,
                Prior::Unused | Prior::InUse { .. } => Some(0),
            };
            let known = so_far.filter(|_| !other.unknown).map(|so_far| so_far.max(other.next_step));
            prior = Prior::Used { next_step: known };
        }
        prior
    }

    /// One use for the same lanes: a noise that was started over is remembered for the furthest that it ever
    /// came.
    pub(super) fn begin(&mut self, noise: &NoiseName, lanes: &Range<u64>, session: &str, started_over: bool) {
        self.begun += 1;
        let found = self.uses.entry(Key::new(noise, lanes)).or_default();
        found.begun = self.begun;
        // One that did not end before the same is begun again is one of a server that did not come to that.
        found.unknown |= found.session.is_some();
        found.session = Some(session.into());
        found.last = found.session.clone().filter(|session| !session.is_empty());
        found.started_over |= started_over;
    }

    /// Ends a use. An end whose beginning is not known counts for itself.
    pub(super) fn end(&mut self, noise: &NoiseName, lanes: &Range<u64>, next_step: u64, started_over: bool) {
        let key = Key::new(noise, lanes);
        let ended = self.uses.entry(key).or_default();
        ended.session = None;
        ended.next_step = ended.next_step.max(next_step);
        ended.started_over |= started_over;
        // A noise of which nothing was released may be begun by anybody.
        if ended.next_step == 0 && !ended.unknown {
            self.uses.remove(&key);
        }
    }

    /// Takes a record of a file.
    pub(super) fn apply(&mut self, record: &Record) {
        let Record { noise, lanes, event, started_over } = record;
        match event {
            Event::Begun { session, unix_seconds: _ } => self.begin(noise, lanes, session, *started_over),
            Event::Drawn { next_step } => self.end(noise, lanes, *next_step, *started_over),
        }
    }

    /// Ends what was being drawn when a file's server ended.
    pub(super) fn end_unknown(&mut self) {
        for left in self.uses.values_mut() {
            left.unknown |= left.session.take().is_some();
        }
    }

    /// When lanes of a noise were last begun, in the order of all beginnings.
    pub(super) fn begun(&self, key: &Key) -> u64 {
        self.uses.get(key).map_or(0, |known| known.begun)
    }

    /// What is known of lanes of a noise that nobody draws now, with its place among all beginnings.
    pub(super) fn remembered(&self, noise: &NoiseName, lanes: &Range<u64>) -> Option<(u64, RememberedUse)> {
        let Use { session: _, last, begun, next_step, unknown, started_over } =
            self.uses.get(&Key::new(noise, lanes))?;
        let used = RememberedUse {
            lanes: lanes.clone(),
            session: last.as_deref().map(str::to_owned),
            next_step: *next_step,
            unknown: *unknown,
            started_over: *started_over,
        };
        Some((*begun, used))
    }

    /// The records that say all that is known of some lanes of a noise; none where nothing is.
    pub(super) fn records(&self, noise: &NoiseName, lanes: &Range<u64>) -> Vec<Record> {
        let Some(known) = self.uses.get(&Key::new(noise, lanes)) else { return Vec::new() };
        let Use { session, last, begun: _, next_step, unknown, started_over } = known;
        let record =
            |event| Record { noise: noise.clone(), lanes: lanes.clone(), event, started_over: *started_over };
        let begun = |session: &str| record(Event::Begun { session: session.to_owned(), unix_seconds: 0 });
        let mut records = Vec::new();
        if *next_step > 0 {
            // Who began it may come back to it.
            records.extend(last.iter().filter(|_| !unknown && session.is_none()).map(|last| begun(last)));
            records.push(record(Event::Drawn { next_step: *next_step }));
        }
        // A beginning without an end is how a file says that nobody knows.
        if *unknown {
            records.push(begun(last.as_deref().unwrap_or_default()));
        }
        records.extend(session.iter().map(|session| begun(session)));
        records
    }
}
