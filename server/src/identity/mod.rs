//! Who makes a call: what the caller may do, whose sessions it has, and where the call comes from.
//!
//! | room | what is in it |
//! |---|---|
//! | `caller` | [`Caller`]: who makes a call, for whoever serves the call |
//! | `who` | [`Identity`]: a caller that the tokens file names |
//! | `tokens` | [`Tokens`]: the tokens file, and who has which token or certificate |
//! | `names` | [`TlsPeer`]: the names in a client's certificate |
//! | `methods` | which role may call which method |
//! | `door` | [`Door`]: finds out who calls, and refuses whoever may not |
//! | `quota` | what a tenant may have: sessions, memory, calls in a second |
//! | `tenant`, `session_key` | tenants, and what a session is found by |
//! | `peer` | where a call comes from |

mod caller;
mod door;
mod methods;
mod names;
mod peer;
mod quota;
mod session_key;
mod tenant;
mod tokens;
mod who;

pub(crate) use caller::Caller;
pub(crate) use door::Door;
pub(crate) use names::TlsPeer;
pub(crate) use peer::Peer;
pub(crate) use quota::Quota;
pub(crate) use session_key::SessionKey;
pub(crate) use tenant::Tenant;
pub(crate) use tokens::Tokens;
pub(crate) use who::Identity;
