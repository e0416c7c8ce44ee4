//! Payloads that wait for their object.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::entry::Entry;
use crate::error::StoreError;

/// Why a commit gave no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Somebody fenced the journal: nothing can be committed any more. The payload may be there: who fenced
    /// the journal knows.
    #[error("the journal was fenced: another server has taken over")]
    Fenced,
    /// The payload was not written, and will not be.
    #[error(transparent)]
    Store(StoreError),
    /// Whether the payload is durable is unknown. The journal keeps it, and writes it before anything that is
    /// committed later; so it is durable once a later commit is.
    #[error("not known to be durable yet: {0}")]
    Pending(StoreError),
}

impl JournalError {
    /// Whether the same commit may succeed later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Fenced => false,
            Self::Store(error) => error.is_unavailable(),
            Self::Pending(_) => true,
        }
    }
}

/// The number that a payload got.
pub(super) type Outcome = Result<u64, JournalError>;

/// Who waits to hear. One that does not wait any more is no matter.
pub(super) type Waiter = oneshot::Sender<Outcome>;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    Payload(Bytes),
    Fold(u64),
}

/// What waits, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(Work, Waiter)>,
}

/// An entry that is to be written, and who waits for it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) entry: Entry,
    pub(super) payloads: u64,
    pub(super) waiters: Vec<Waiter>,
}

impl Queue {
    pub(super) fn push(&mut self, work: Work, waiter: Waiter) {
        self.waiting.push_back((work, waiter));
    }

    /// The next entry: payloads up to a bound of bytes together, and at least one; a fold by itself. `number`
    /// is the entry's.
    pub(super) fn next(&mut self, number: u64, max_bytes: usize, max_payloads: usize) -> Option<Group> {
        let (mut payloads, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((work, waiter)) = self.waiting.pop_front() {
            match work {
                Work::Fold(below) if payloads.is_empty() && below <= number => {
                    return Some(Group { entry: Entry::Fold(below), payloads: 0, waiters: vec![waiter] });
                }
                Work::Fold(below) if payloads.is_empty() => {
                    let rule = format!("must not be above the next number, {number}");
                    let error = StoreError::invalid("fold", rule, below.to_string());
                    let _ = waiter.send(Err(JournalError::Store(error)));
                }
                Work::Payload(payload)
                    if payloads.is_empty()
                        || (bytes + payload.len() <= max_bytes && payloads.len() < max_payloads) =>
                {
                    bytes += payload.len();
                    payloads.push(payload);
                    waiters.push(waiter);
                }
                work @ (Work::Fold(_) | Work::Payload(_)) => {
                    self.waiting.push_front((work, waiter));
                    break;
                }
            }
        }
        let count = payloads.len() as u64;
        (count > 0).then(|| Group { entry: Entry::Batch(payloads), payloads: count, waiters })
    }

    /// Tells everybody who waits that nothing of theirs was written.
    pub(super) fn refuse(&mut self, error: &JournalError) {
        for (_, waiter) in self.waiting.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
    }
}
