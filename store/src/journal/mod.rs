//! One append-only log for each life of a server, which anybody may fence.
//!
//! A journal is objects `journals/{id}/{number}`, numbered from 0 without a gap and created only where they
//! are absent. Its owner writes one object after the other, each with all payloads that waited ([`Journal`]).
//! Whoever creates the owner's next number first has fenced the owner: its next write finds the number taken,
//! and it stops for ever ([`fence`]).
//!
//! Old payloads are folded: the owner commits a marker with the number below which nothing is needed any
//! more, writes that number to the object `folded`, and only then deletes. So a fence that was created too
//! late, at a number that the owner had used and deleted, is known by `folded` being above it, and its maker
//! goes on to the owner's real end. The last number is never deleted, and nothing deletes a fence that holds.
//!
//! | room | what is in it |
//! |---|---|
//! | `id` | [`JournalId`], and the names of a journal's objects |
//! | `entry` | what one object of a journal says |
//! | `queue` | payloads that wait for their object |
//! | `writer` | [`Journal`]: the owner's side |
//! | `fencing` | [`fence`], [`inspect`] and [`retire`]: everybody else's side |

mod entry;
mod fencing;
mod id;
mod queue;
mod writer;

pub use fencing::{Past, fence, inspect, retire};
pub use id::JournalId;
pub use queue::JournalError;
pub use writer::{Journal, JournalStats, MAX_PAYLOAD_BYTES};
