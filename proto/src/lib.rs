//! The wire format of noised.
//!
//! | room | what is in it |
//! |---|---|
//! | [`v1`] | what is generated from `proto/noised/v1/*.proto`, whose comments are its documentation |
//! | [`codec`] | how messages are read: counted before they are decoded |
//! | `convert` | wire to domain and back: `TryFrom` and `From`, every field destructured |
//! | [`name`] | names of sessions |
//! | [`error`] | the one table from errors to gRPC statuses, and the way back |

pub mod carry;
pub mod codec;
mod convert;
pub mod error;
pub mod name;

pub use convert::{
    SessionStatus, precision, required_matrix, session_spec, session_spec_to_wire, session_summary_to_wire,
    session_to_wire,
};
pub use error::{ErrorReport, ServiceError};

/// The generated messages, clients and servers.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::rest_pat_in_fully_bound_structs,
    clippy::semicolon_if_nothing_returned,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("noised.v1");
}

/// The descriptors of [`v1`], for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("noised.v1");
