//! Sessions in this process: the same engine and the same rules as on a server, without a server and a
//! network.
//!
//! A [`LocalHost`] stands where a [`Client`](crate::Client) with its server would, and a [`LocalSession`]
//! where a [`Session`](crate::Session) would. Nothing here waits for anything but the computation, so nothing
//! is `async`.
//!
//! | room | what is in it |
//! |---|---|
//! | [`LocalHost`] | the sessions by name, and the master key |
//! | [`LocalSession`] | a handle: one step at a time |
//! | `engine` | the state of a session, both of its halves put to work in turn |
//! | `shared` | what the handles of one session share |
//! | `noises` | which noises were drawn |
//! | `copy` | answers into the caller's memory |

mod copy;
mod engine;
mod host;
mod noises;
mod session;
mod shared;

pub use copy::copy_large;
pub use host::LocalHost;
pub use session::LocalSession;
