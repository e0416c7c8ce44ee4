//! The noised server.
//!
//! | room | what is in it |
//! |---|---|
//! | [`config`] | flags, environment and file, made into one checked [`Config`] |
//! | [`listen`] | where to listen: TCP or a Unix socket |
//! | `serve` | [`run`]: the services put together, and the drain |
//! | `lifecycle` | what tells handlers that the server is about to stop |
//! | `connections` | connections: taken up to a bound, and ended when nobody uses them |
//! | [`TlsFiles`], `tls` | the server's certificate, and those of clients |
//! | `reread` | what is read from files, and again when they change |
//! | `gate` | what every call goes through first: the bound on its metadata, and its deadline |
//! | `intake` | bounds on the bytes of requests that are under way, and on how slowly they come |
//! | `entry`, `drawing` | a session's two halves behind their locks; what is drawn ahead of its client |
//! | `durable` | sessions in a store, which outlive their server |
//! | `keys`, `ledger` | the keys of noises, and which of them were drawn before |
//! | `given_key` | keys that clients give, taken out of requests before those are decoded |
//! | [`secrets`] | where the master key comes from, and what keeps secrets within the process |
//! | `identity` | who makes a call and what the caller may do; the key of a session |
//! | `audit` | the audit log: who did what to sessions and noises |
//! | [`state`] | `noised state`: looks at a store, and cleans it |
//! | `registry` | the sessions by tenant and name, and the memory promised to them |
//! | `last_use` | when a session was last used |
//! | `compute` | the threads that multiply, and how an async task waits for them |
//! | `sessions` | the service Sessions, one operation a file |
//! | `analysis` | the service Analysis, one operation a file |

mod analysis;
mod audit;
mod compute;
pub mod config;
mod connections;
mod drawing;
mod durable;
mod entry;
mod gate;
mod given_key;
mod identity;
mod intake;
mod keys;
mod last_use;
mod ledger;
mod lifecycle;
pub mod listen;
mod registry;
mod reread;
pub mod secrets;
mod serve;
mod sessions;
pub mod state;
mod tls;

pub use config::Config;
pub use listen::{ListenAddr, Listener};
pub use serve::{Memories, run, run_with};
pub use tls::TlsFiles;
