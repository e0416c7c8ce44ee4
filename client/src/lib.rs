//! A client of noised.
//!
//! ```no_run
//! # async fn example(spec: noised::SessionSpec, gradient: bytes::Bytes) -> noised_client::Result<()> {
//! use noised_client::{Client, CreateOptions};
//!
//! let client = Client::connect("http://127.0.0.1:7467").await?;
//! // A run that is started again sets `resume` and `must_exist` as well: new noise must not begin without a word.
//! let options = CreateOptions { id: "run-17".into(), ..CreateOptions::default() };
//! let mut session = client.create_session(&spec, options).await?;
//! let step = session.next_step();
//! let correlated = session.multiply_next(step, gradient).await?;
//! # Ok(()) }
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`Client`], [`ClientBuilder`], `channel` | where the server is, and the connection to it |
//! | [`Target`], [`Targets`] | one server, or several that share a store, as a text |
//! | `fleet`, `way` | which of several servers has a session, and which is asked next where one fails |
//! | [`Credential`], `link` | the token that calls carry |
//! | [`Tls`] | whose certificates of servers are taken, and which one is shown |
//! | `greeting` | a server that accepts a connection has to say something soon |
//! | `create`, [`CreateOptions`], [`GivenKey`] | how a session is made, and a key of noise that the client gives |
//! | [`Session`] | a session's handle: one step at a time |
//! | [`SessionInfo`] | what a server tells of a session |
//! | [`ResumedNoise`] | going on with the noise of a session that is gone |
//! | `rewind`, [`WhenFull`] | going back, and states that are kept for it |
//! | [`ShardedSession`] | a session in shards on several servers, as one |
//! | `local`: [`LocalHost`], [`LocalSession`] | the same sessions in this process, without a server |
//! | [`StepStream`] | many steps on one stream, the next on its way while the last one's answer still comes |
//! | `carried` | calls whose payloads are not copied |
//! | `binding` | what a stream knows of its session |
//! | `check` | sizes and steps that a caller gives |
//! | `pieces` | the leaves of a step where they lie, sent without being put together first |
//! | `asked` | which steps of drawn noise a handle asked for itself: a replay of another is an error |
//! | `window` | what such a stream may send and must receive, without a network |
//! | [`RetryPolicy`], `retry` | when a call is tried again |
//! | [`Analysis`] | questions about a matrix that need no session |
//! | [`tree_file`] | trees from `.safetensors` and JSON files |
//! | [`text_file`] | texts as editors write them |
//! | [`Error`] | what can go wrong |
//!
//! A step may be sent again after any fault of the network: a session takes each step once, and answers a
//! repetition with the same bytes. So every call here that is cut off is tried again, as its [`RetryPolicy`]
//! has it.

mod analysis;
mod asked;
mod binding;
mod carried;
mod channel;
mod check;
mod client;
mod create;
mod error;
mod fleet;
mod greeting;
mod info;
mod key;
mod link;
mod local;
mod pieces;
mod resume;
mod retry;
mod rewind;
mod session;
mod sharded;
mod stream;
mod targets;
pub mod text_file;
mod tls;
pub mod tree_file;
mod way;
mod window;

pub use analysis::{Analysis, Rows};
pub use channel::ClientBuilder;
pub use client::{Client, CreateOptions};
pub use error::{Error, Result};
pub use info::SessionInfo;
pub use key::GivenKey;
pub use link::Credential;
pub use local::{LocalHost, LocalSession, copy_large};
pub use noised::session::WhenFull;
pub use resume::ResumedNoise;
pub use retry::RetryPolicy;
pub use session::Session;
pub use sharded::ShardedSession;
pub use stream::StepStream;
pub use targets::{Target, Targets};
pub use tls::Tls;
pub use window::Answer;
