//! The wire format of noised.
//!
//! | room | what is in it |
//! |---|---|
//! | [`v1`] | what is generated from `proto/noised/v1/*.proto`, whose comments are its documentation |
//! | [`codec`] | how messages are read: counted before they are decoded |
//! | `convert` | wire to domain and back: `TryFrom` and `From`, every field destructured |
//! | [`carry`] | messages with a payload, to and from the frames of a connection without a copy |
//! | [`name`] | names of sessions |
//! | [`access`] | roles, rights, and the names of callers and tenants |
//! | [`token`] | tokens, and the hashes that servers keep of them |
//! | [`parts`] | messages that are too long for one, in parts |
//! | [`error`] | what keeps the service from answering a call |
//! | [`status`] | the one table from errors to gRPC statuses, and the way back |

pub mod access;
pub mod carry;
pub mod codec;
mod convert;
pub mod error;
pub mod name;
pub mod parts;
pub mod status;
pub mod token;

pub use convert::{
    AskedSession, CalibrationQuestion, DesignQuestion, ErrorsQuestion, RecommendQuestion,
    SensitivityQuestion, SessionStatus, asked_session, named_matrix, noise_state, precision, question_matrix,
    required_matrix, session_spec, session_spec_to_wire, session_summary_to_wire, session_to_wire,
    way_from_wire,
};
pub use error::ServiceError;
pub use status::ErrorReport;

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

impl std::fmt::Debug for v1::CreateSessionRequest {
    /// Without the key and the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            session_id,
            session,
            resume,
            noise_key,
            start_noise_over,
            view,
            must_exist,
            request_id,
            resumed_noise,
        } = self;
        let given = !noise_key.is_empty();
        f.debug_struct("CreateSessionRequest")
            .field("session_id", session_id)
            .field("session", session)
            .field("resume", resume)
            .field("noise_key_given", &given)
            .field("start_noise_over", start_noise_over)
            .field("view", view)
            .field("must_exist", must_exist)
            .field("request_id", request_id)
            .field("resumed_at", &resumed_noise.as_ref().map(|resumed| resumed.step))
            .finish()
    }
}

/// The descriptors of [`v1`], for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("noised.v1");
