//! What a stream knows of its session.

use bytes::Bytes;
use noised::session::ResolvedSpec;
use noised_proto::v1;

use crate::asked::Asked;
use crate::check;
use crate::error::Result;
use crate::info::SessionInfo;
use crate::window::Traffic;

/// What a stream needs to know of its session.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) traffic: Traffic,
    pub(crate) asked: Asked,
}

impl Binding {
    pub(crate) fn new(info: &SessionInfo, resolved: &ResolvedSpec) -> Self {
        Self {
            name: info.name.clone(),
            fingerprint: info.fingerprint.to_vec(),
            traffic: Traffic::of(resolved),
            asked: Asked::new(&resolved.spec().source, info),
        }
    }

    pub(crate) fn check_payload(&self, len: usize) -> Result<()> {
        check::length("payload", self.traffic.input_bytes(), len)
    }

    /// A chunk. Only the first message of a stream has to say what session it is for.
    pub(crate) fn request(
        &self,
        step: u64,
        offset: u64,
        payload: Bytes,
        opened: &mut bool,
    ) -> v1::StreamMultiplyNextRequest {
        let first = !std::mem::replace(opened, true);
        let name = if first { self.name.clone() } else { String::new() };
        let fingerprint = if first { self.fingerprint.clone() } else { Vec::new() };
        v1::StreamMultiplyNextRequest { name, step, offset, payload, fingerprint }
    }
}
