//! What outlives a process: objects in a store, sealed, and a journal of them that can be fenced.
//!
//! | room | what is in it |
//! |---|---|
//! | `store` | [`Store`]: objects by name, whichever back end keeps them |
//! | `backend` | what every back end does, and its answers |
//! | `blocking` | work that would hold an async thread up |
//! | `cloud` | objects in S3, Google Cloud Storage or Azure (features `s3`, `gcs`, `azure`) |
//! | `memory` | objects in the memory of this process |
//! | `directory` | objects as files of a directory |
//! | `name` | which names objects have |
//! | `error` | [`StoreError`]: what goes wrong with a store |
//! | `seal` | [`SealKey`]: authenticated encryption of one object |
//! | `sealed` | [`SealedStore`]: a store whose objects are sealed |
//! | `faults` | a store that fails by a seeded plan, for tests (feature `faults`) |
//! | [`record`] | several payloads in one object |
//! | [`journal`] | one append-only log for each life of a server, and its fencing |

mod backend;
mod blocking;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod cloud;
mod directory;
mod error;
#[cfg(feature = "faults")]
pub mod faults;
pub mod journal;
mod memory;
mod name;
pub mod record;
mod seal;
mod sealed;
mod store;

pub use backend::{Created, Listed};
pub use error::StoreError;
pub use journal::{Journal, JournalError, JournalId, JournalStats, Past, fence, inspect, retire};
pub use name::{MAX_NAME_BYTES, MAX_SEGMENT_BYTES};
pub use seal::{SEAL_BYTES, SealKey};
pub use sealed::SealedStore;
pub use store::Store;
