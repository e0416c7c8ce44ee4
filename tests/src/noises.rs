//! Noise that a server draws: descriptions of it, and what it has to be.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use noised::noise::NoiseKey;
use noised::session::{KeyOrigin, Noise, NoiseOptions, NoiseSession, NoiseState, Source};
use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_proto::v1::sessions_client::SessionsClient;
use noised_proto::v1::{self, StreamMultiplyNextRequest, StreamMultiplyNextResponse};
use noised_proto::{ErrorReport, session_spec_to_wire};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::wire::{create_request, exchange, frame};
use crate::{trees, wire};

/// A key that is given.
pub const KEY: [u8; 32] =
    *b"\x9a\xf3\x01\xe7qX7vK2mZ8wR4tN6p\xc4\x80\x11\x5d\xee\x2b\x76\x90\xd8\x3c\xa1\x0f";

/// What the keys of a `noise_id` are derived from.
pub const MASTER_KEY: [u8; 32] =
    *b"\xc1\x5b\xb2\x04J5hB9sLc3DyG0fUe\x91\x7e\xf8\x3a\x66\xd0\x05\xcb\x1c\xe2\x8f\x47";

/// Not a power of two.
pub const STDDEV: f64 = 1.7;

/// Writes a master key to a file that its owner alone may read, as a server wants it.
pub fn write_master_key(file: &Path, content: impl AsRef<[u8]>) {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(file);
    file.unwrap().write_all(content.as_ref()).unwrap();
}

/// The digits of a key.
pub fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What shows that a text or a message has a key, or a good part of it, in it: as bytes, as digits of either
/// case, as a list of numbers, and as Rust writes bytes.
pub fn traces_of(key: &[u8; 32]) -> Vec<Vec<u8>> {
    let of_part = |start: usize| {
        let part = &key[start..start + 8];
        let hex = &hex(key)[2 * start..2 * start + 16];
        let list = part.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let escaped = part.escape_ascii().to_string();
        [part.to_vec(), hex.as_bytes().to_vec(), hex.to_uppercase().into(), list.into(), escaped.into()]
    };
    [0, 4, 12, 24].into_iter().flat_map(of_part).collect()
}

/// A noise from a given key.
pub fn given() -> Noise {
    Noise { stddev: STDDEV, key: KeyOrigin::Given }
}

/// A noise from the master key.
pub fn derived(noise_id: &str) -> Noise {
    Noise { stddev: STDDEV, key: KeyOrigin::Derived { noise_id: noise_id.to_owned() } }
}

/// `(A z)_t`.
pub fn gaussian(noise: Noise, matrix: MatrixSpec, tree: Tree) -> SessionSpec {
    SessionSpec { source: Source::Gaussian(noise), ..SessionSpec::new(matrix, tree) }
}

/// `g_t + (A z)_t`.
pub fn privatize(noise: Noise, matrix: MatrixSpec, tree: Tree, answer_dtype: Option<DType>) -> SessionSpec {
    let source = Source::Privatize { noise, answer_dtype };
    SessionSpec { source, ..SessionSpec::new(matrix, tree) }
}

/// A session's first steps as the library draws them in this process: one after the other, with nothing
/// ahead.
pub fn drawn(spec: &SessionSpec, key: NoiseKey, steps: u64) -> Vec<Bytes> {
    let options = NoiseOptions { lookahead: 0, state: NoiseState::Kept };
    let (mut session, mut drawer) = NoiseSession::new(spec.clone().resolve().unwrap(), key, options).unwrap();
    let step = |step| {
        let mut chunks = drawer.answer(&mut session, |session| session.fetch(step, 0)).unwrap();
        chunks.swap_remove(0).bytes
    };
    (0..steps).map(step).collect()
}

/// The same of the key [`KEY`].
pub fn drawn_of_given(spec: &SessionSpec, steps: u64) -> Vec<Bytes> {
    drawn(spec, NoiseKey::from_bytes(KEY), steps)
}

/// Sums of gradients and noise, all of f32.
pub fn sums(gradients: &[Bytes], noise: &[Bytes]) -> Vec<Bytes> {
    let sum = |(gradient, noise): (&Bytes, &Bytes)| {
        let pairs = f32s(gradient).into_iter().zip(f32s(noise));
        pairs.flat_map(|(g, z)| (g + z).to_le_bytes()).collect()
    };
    gradients.iter().zip(noise).map(sum).collect()
}

/// A payload's numbers.
pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Gradients.
pub fn gradients(tree: &Tree, steps: u64) -> Vec<Bytes> {
    (0..steps).map(|step| trees::payload(tree, step).into()).collect()
}

/// Asks for a session, with the key [`KEY`] where its source wants one.
pub fn request(id: &str, spec: &SessionSpec) -> v1::CreateSessionRequest {
    let given = spec.source.noise().is_some_and(|noise| noise.key == KeyOrigin::Given);
    let noise_key = if given { KEY.to_vec() } else { Vec::new() };
    v1::CreateSessionRequest { noise_key, ..create_request(id, spec) }
}

/// The same with what it is not bound to.
pub fn request_with(
    id: &str,
    spec: &SessionSpec,
    lookahead: u32,
    state: v1::NoiseState,
) -> v1::CreateSessionRequest {
    let session = session_spec_to_wire(spec);
    let session = Some(v1::Session { lookahead: Some(lookahead), noise_state: state.into(), ..session });
    v1::CreateSessionRequest { session, ..request(id, spec) }
}

/// Makes a session, and tells its name.
pub async fn create(client: &mut SessionsClient<Channel>, request: v1::CreateSessionRequest) -> String {
    client.create_session(request).await.unwrap().into_inner().name
}

/// Asks for a step from byte `offset` on.
pub fn ask(name: &str, step: u64, offset: usize) -> StreamMultiplyNextRequest {
    frame(name, step, offset, Bytes::new())
}

/// A step in one message.
pub async fn fetch(
    client: &mut SessionsClient<Channel>,
    name: &str,
    step: u64,
) -> Result<v1::MultiplyNextResponse, Status> {
    wire::unary(client, name, step, Bytes::new()).await
}

/// Steps over one stream, which must end well.
pub async fn stream(
    client: &mut SessionsClient<Channel>,
    frames: Vec<StreamMultiplyNextRequest>,
) -> Vec<StreamMultiplyNextResponse> {
    let (answers, status) = exchange(client, frames).await;
    assert!(status.is_none(), "{status:?}");
    answers
}

/// The bytes of one step from byte `from` on, put together.
pub fn join(step: u64, from: usize, answers: &[StreamMultiplyNextResponse]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!((answer.step, answer.offset), (step, (from + bytes.len()) as u64));
        assert!(!answer.payload.is_empty());
        assert_eq!(answer.step_end, i + 1 == answers.len());
        bytes.extend_from_slice(&answer.payload);
    }
    bytes
}

/// Checks that answers are a whole step.
pub fn check(step: u64, expected: &[u8], replay: bool, answers: &[StreamMultiplyNextResponse]) {
    assert!(join(step, 0, answers) == expected, "step {step}");
    assert!(answers.iter().all(|answer| answer.replay == replay), "step {step}");
}

/// Takes a session back, and gives all that was told of it.
pub async fn rewind(
    client: &mut SessionsClient<Channel>,
    name: &str,
    step: u64,
    allow_divergence: bool,
) -> Result<Vec<v1::RewindSessionResponse>, Status> {
    let request = v1::RewindSessionRequest { name: name.to_owned(), step, allow_divergence };
    let mut told = client.rewind_session(request).await?.into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = told.message().await? {
        answers.push(answer);
    }
    Ok(answers)
}

/// Keeps the state of a step.
pub async fn keep(
    client: &mut SessionsClient<Channel>,
    name: &str,
    step: u64,
    when_full: v1::WhenFull,
) -> Result<v1::Session, Status> {
    let request = v1::KeepStateRequest { name: name.to_owned(), step, when_full: when_full.into() };
    client.keep_state(request).await.map(tonic::Response::into_inner)
}

/// Checks what a refusal is, and gives all that it says.
pub fn assert_refused(status: &Status, code: Code, reason: &str) -> ErrorReport {
    let report = wire::report(status, code);
    assert_eq!(report.reason, reason, "{status:?}");
    report
}
