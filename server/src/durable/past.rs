//! What a store knows of a session: the acts that it was told of, one after the other.

use noised::limits::MAX_REWINDS_KEPT;
use noised::session::{GradientDigest, Recovered, Rewind, Source, Standing};
use serde::{Deserialize, Serialize};

use super::digits::digest;

/// What of a source matters to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredSource {
    Input,
    Gaussian,
    Privatize,
}

impl StoredSource {
    pub(crate) fn of(source: &Source) -> Self {
        match source {
            Source::Input => Self::Input,
            Source::Gaussian(_) => Self::Gaussian,
            Source::Privatize { .. } => Self::Privatize,
        }
    }
}

/// An act of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Act {
    /// A step of `privatize` was released under the gradient of this digest.
    Released { step: u64, digest: String },
    /// A session of `gaussian` has come to this step.
    CameTo { step: u64 },
    /// The state of a session of `input` before this step is stored.
    Stored(Snapshot),
    /// The state of what draws is stored.
    Drawn(Snapshot),
    /// The session went back.
    Rewound {
        from_step: u64,
        to_step: u64,
        /// The step that was asked for; where going back was called off, the session went less far.
        asked: u64,
        unix_seconds: u64,
        allow_divergence: bool,
    },
}

/// A stored state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshot {
    /// What its objects are named by.
    pub(crate) id: String,
    /// The step that comes next on it.
    pub(crate) step: u64,
    /// Objects that it lies in.
    pub(crate) parts: u32,
}

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Past {
    /// Acts that this is made of.
    acts: u64,
    /// As in [`Recovered`].
    next_step: u64,
    /// Whether a server gave the session up and told where it stands.
    handed_over: bool,
    released_steps: u64,
    rewinds: Vec<RewindRecord>,
    rewind_count: u64,
    #[serde(with = "super::digits")]
    digests: Vec<Option<GradientDigest>>,
    /// Of `input`.
    snapshot: Option<Snapshot>,
    /// Of what draws.
    #[serde(default)]
    drawn: Option<Snapshot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewindRecord {
    from_step: u64,
    to_step: u64,
    unix_seconds: u64,
    allow_divergence: bool,
}

impl Past {
    /// Takes acts, the first of which is the `first`th of the session. Those that it has taken already are
    /// left out. `false` where an act is missing before them, or one does not read.
    #[must_use]
    pub(crate) fn take(&mut self, first: u64, acts: Vec<Act>) -> bool {
        let Some(known) = self.acts.checked_sub(first) else { return false };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        acts.into_iter().skip(known).all(|act| self.take_next(act))
    }

    /// That of a session that has ended, of which so many steps were released; and perhaps more, unless that
    /// `is_known`.
    pub(crate) fn ended(released_steps: u64, is_known: bool) -> Self {
        Self { next_step: released_steps, released_steps, handed_over: is_known, ..Self::default() }
    }

    /// The same of a session that ends as the store has it.
    pub(crate) fn end(&self, source: StoredSource) -> Self {
        let Recovered { released_steps, may_be_further, .. } = self.recovered(source);
        Self::ended(released_steps, !may_be_further)
    }

    /// Of a session that has ended: steps that were released, and whether there are no more.
    pub(crate) fn ended_at(&self) -> (u64, bool) {
        (self.released_steps, self.handed_over)
    }

    /// That of a session whose steps before this one were released by another, which is gone.
    pub(crate) fn at(step: u64) -> Self {
        Self { next_step: step, released_steps: step, ..Self::default() }
    }

    /// Acts that it has taken.
    pub(crate) fn acts(&self) -> u64 {
        self.acts
    }

    fn take_next(&mut self, act: Act) -> bool {
        self.acts += 1;
        self.handed_over = false;
        match act {
            Act::Released { step, digest: digits } => {
                let Some(digest) = digest(&digits) else { return false };
                let index = step as usize;
                if index >= self.digests.len() {
                    self.digests.resize(index + 1, None);
                }
                self.digests[index].get_or_insert(digest);
                self.come_to(step + 1);
            }
            Act::CameTo { step } => self.come_to(step),
            Act::Stored(snapshot) => {
                self.come_to(snapshot.step);
                self.snapshot = Some(snapshot);
            }
            // Going back leaves it as it is: it is of its step, however the session comes there.
            Act::Drawn(state) => self.drawn = Some(state),
            Act::Rewound { from_step, to_step, asked, unix_seconds, allow_divergence } => {
                let rewind = RewindRecord { from_step, to_step, unix_seconds, allow_divergence };
                if allow_divergence {
                    let from = usize::try_from(to_step.max(asked)).unwrap_or(usize::MAX);
                    let from = from.min(self.digests.len());
                    self.digests[from..].fill(None);
                }
                // The steps before the one that was left were released, stored or not.
                self.released_steps = self.released_steps.max(from_step);
                self.next_step = to_step;
                // Of what comes after the step nothing holds any more.
                self.snapshot = self.snapshot.take().filter(|snapshot| snapshot.step <= to_step);
                if self.rewinds.len() == MAX_REWINDS_KEPT {
                    self.rewinds.remove(0);
                }
                self.rewinds.push(rewind);
                self.rewind_count += 1;
            }
        }
        true
    }

    /// Notes that a server has the session, so that others do not know how far it comes.
    pub(crate) fn taken(mut self) -> Self {
        self.handed_over = false;
        self
    }

    fn come_to(&mut self, step: u64) {
        self.next_step = step;
        self.released_steps = self.released_steps.max(step);
    }

    /// Notes where the session stands that is given up. A server that did not come to take a step knows no
    /// better than before how far the session came.
    pub(crate) fn hand_over(&mut self, standing: &Standing) {
        self.next_step = standing.next_step;
        self.released_steps = self.released_steps.max(standing.released_steps);
        self.handed_over = !standing.may_be_further;
    }

    /// Where the state of a session of `input` lies.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Where the state of what draws lies, of whatever step.
    pub(crate) fn drawn(&self) -> Option<&Snapshot> {
        self.drawn.as_ref()
    }

    /// Where the state lies that a session of this source goes on from. What draws cannot go back, and the
    /// last step may be asked for again.
    pub(crate) fn state(&self, source: StoredSource) -> Option<&Snapshot> {
        match source {
            StoredSource::Input => self.snapshot(),
            StoredSource::Gaussian | StoredSource::Privatize => {
                self.drawn().filter(|state| state.step < self.next_step)
            }
        }
    }

    /// What a session goes on from.
    pub(crate) fn recovered(&self, source: StoredSource) -> Recovered {
        let Self {
            acts: _,
            next_step,
            handed_over,
            released_steps,
            rewinds,
            rewind_count,
            digests,
            snapshot,
            drawn: _,
        } = self;
        // The state of the client's input is the only copy: what came after it is lost.
        let stored_step = snapshot.as_ref().map_or(0, |snapshot| snapshot.step);
        let rewind = |rewind: &RewindRecord| {
            let RewindRecord { from_step, to_step, unix_seconds, allow_divergence } = *rewind;
            Rewind { from_step, to_step, unix_seconds, allow_divergence }
        };
        Recovered {
            next_step: if source == StoredSource::Input { stored_step } else { *next_step },
            may_be_further: source == StoredSource::Gaussian && !handed_over,
            released_steps: *released_steps,
            rewinds: rewinds.iter().map(rewind).collect(),
            rewind_count: *rewind_count,
            digests: digests.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::digits::digits;
    use super::*;

    fn released(step: u64, byte: u8) -> Act {
        Act::Released { step, digest: digits(&[byte; 16]) }
    }

    fn rewound(from_step: u64, to_step: u64, allow_divergence: bool) -> Act {
        Act::Rewound { from_step, to_step, asked: to_step, unix_seconds: 1, allow_divergence }
    }

    #[test]
    fn acts_add_up_and_count_once() {
        let mut past = Past::default();
        let acts = [released(0, 1), released(1, 2), released(2, 3), rewound(3, 1, false)];
        for (first, acts) in [(0, &acts[..2]), (1, &acts[1..2]), (0, &acts[..]), (2, &acts[2..])] {
            assert!(past.take(first, acts.to_vec()));
        }
        assert_eq!(past.acts(), 4);
        // One that is missing is noticed, and what is written reads.
        assert!(!past.clone().take(5, vec![released(5, 1)]));
        assert!(!past.clone().take(4, vec![Act::Released { step: 4, digest: "x".into() }]));
        let written = serde_json::to_string(&past).unwrap();
        assert_eq!(serde_json::from_str::<Past>(&written).unwrap(), past);
        let found = past.recovered(StoredSource::Privatize);
        assert_eq!((found.next_step, found.released_steps, found.rewind_count), (1, 3, 1));
        assert_eq!(found.digests, [Some([1; 16]), Some([2; 16]), Some([3; 16])]);
        // What was released stays so, unless it may diverge.
        let _ = past.take_next(released(1, 9));
        assert_eq!(past.recovered(StoredSource::Privatize).digests[1], Some([2; 16]));
        let _ = past.take_next(rewound(2, 1, true));
        let _ = past.take_next(released(1, 9));
        let found = past.recovered(StoredSource::Privatize);
        assert_eq!(found.digests, [Some([1; 16]), Some([9; 16]), None]);
    }

    #[test]
    fn states_of_later_steps_are_gone_after_going_back() {
        let mut past = Past::default();
        let snapshot = |step| Act::Stored(Snapshot { id: "a".into(), step, parts: 1 });
        let _ = past.take_next(snapshot(5));
        let _ = past.take_next(rewound(7, 6, false));
        assert_eq!(past.recovered(StoredSource::Input).next_step, 5);
        let _ = past.take_next(rewound(6, 0, false));
        assert_eq!((past.snapshot(), past.recovered(StoredSource::Input).next_step), (None, 0));
        assert_eq!(past.recovered(StoredSource::Input).released_steps, 7);
    }

    #[test]
    fn a_state_of_what_draws_is_of_use_to_later_steps() {
        let mut past = Past::default();
        let state = |past: &Past| past.state(StoredSource::Gaussian).map(|state| state.step);
        let _ = past.take_next(Act::CameTo { step: 6 });
        let _ = past.take_next(Act::Drawn(Snapshot { id: "a".into(), step: 5, parts: 1 }));
        assert_eq!(state(&past), Some(5));
        let _ = past.take_next(rewound(6, 5, false));
        // Step 4 may be asked for again.
        assert_eq!(state(&past), None);
        let _ = past.take_next(Act::CameTo { step: 7 });
        assert_eq!((state(&past), past.recovered(StoredSource::Gaussian).next_step), (Some(5), 7));
    }

    #[test]
    fn only_who_gave_a_session_up_knows_how_far_its_noise_came() {
        let mut past = Past::default();
        let _ = past.take_next(Act::CameTo { step: 4 });
        assert!(past.recovered(StoredSource::Gaussian).may_be_further);
        past.hand_over(&Standing { next_step: 6, released_steps: 8, ..Standing::default() });
        let found = past.recovered(StoredSource::Gaussian);
        assert_eq!((found.next_step, found.released_steps, found.may_be_further), (6, 8, false));
        let _ = past.take_next(Act::CameTo { step: 7 });
        assert!(past.recovered(StoredSource::Gaussian).may_be_further);
        // A server that gave it up without a step does not know either.
        past.hand_over(&Standing { next_step: 7, may_be_further: true, ..Standing::default() });
        assert!(past.recovered(StoredSource::Gaussian).may_be_further);
        assert_eq!(past.end(StoredSource::Gaussian).ended_at(), (8, false));
    }
}
