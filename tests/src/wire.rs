//! Sessions driven over gRPC by hand, message by message.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use noised::{MatrixSpec, Session, SessionSpec, Tree};
use noised_proto::v1::sessions_client::SessionsClient;
use noised_proto::v1::{self, StreamMultiplyNextRequest, StreamMultiplyNextResponse};
use noised_proto::{ErrorReport, session_spec_to_wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::{drive, trees};

/// What a session has to do: the bytes of its first steps, and the answers of a straight run in this process.
#[derive(Clone, Debug)]
pub struct Job {
    /// What the session is for.
    pub spec: SessionSpec,
    /// The input of each step.
    pub payloads: Vec<Bytes>,
    /// The output of each step.
    pub answers: Vec<Bytes>,
    /// Where tiles start, and where the last one ends.
    pub bounds: Vec<usize>,
}

impl Job {
    /// A session's first `steps` steps of [`trees::payload`].
    pub fn new(matrix: MatrixSpec, tree: Tree, steps: u64) -> Self {
        Self::of(SessionSpec::new(matrix, tree), steps)
    }

    /// The same for a description; it must be of the whole tree.
    pub fn of(spec: SessionSpec, steps: u64) -> Self {
        let mut session = Session::new(spec.clone().resolve().unwrap());
        let payloads: Vec<Bytes> = (0..steps).map(|t| trees::payload(&spec.tree, t).into()).collect();
        let answer = |(t, payload): (usize, &Bytes)| {
            drive::step(&mut session, t as u64, payload, &[usize::MAX / 2]).into()
        };
        let answers = payloads.iter().enumerate().map(answer).collect();
        let bounds = drive::tile_bounds(session.resolved().layout());
        Self { spec, payloads, answers, bounds }
    }

    /// Makes the session on a server.
    pub async fn create(&self, client: &mut SessionsClient<Channel>, id: &str) -> String {
        let request = create_request(id, &self.spec);
        client.create_session(request).await.unwrap().into_inner().name
    }

    /// Frames of a step from byte `from` on, of the sizes given, which go round.
    pub fn frames(
        &self,
        name: &str,
        step: u64,
        from: usize,
        sizes: &[usize],
    ) -> Vec<StreamMultiplyNextRequest> {
        let payload = &self.payloads[step as usize];
        let mut frames = Vec::new();
        let mut at = from;
        for size in sizes.iter().cycle() {
            if at == payload.len() {
                break;
            }
            let end = payload.len().min(at + size);
            frames.push(frame(name, step, at, payload.slice(at..end)));
            at = end;
        }
        frames
    }

    /// Sends a whole step as one message and checks the answer.
    pub async fn unary(&self, client: &mut SessionsClient<Channel>, name: &str, step: u64, replay: bool) {
        let response = unary(client, name, step, self.payloads[step as usize].clone()).await.unwrap();
        assert_eq!((response.step, response.replay), (step, replay));
        assert!(response.payload == self.answers[step as usize], "step {step}");
    }

    /// Checks that answers are those of `step` from byte `from` to its end, or to `to`.
    pub fn check(&self, step: u64, range: std::ops::Range<usize>, answers: &[StreamMultiplyNextResponse]) {
        let mut at = range.start;
        for answer in answers {
            assert_eq!((answer.step, answer.offset), (step, at as u64));
            assert!(!answer.payload.is_empty());
            let end = at + answer.payload.len();
            assert!(answer.payload == self.answers[step as usize][at..end], "step {step} from byte {at}");
            assert_eq!(answer.step_end, end == *self.bounds.last().unwrap());
            at = end;
        }
        assert_eq!(at, range.end);
    }

    /// Bytes of one step.
    pub fn total(&self) -> usize {
        *self.bounds.last().unwrap()
    }
}

/// A frame.
pub fn frame(name: &str, step: u64, offset: usize, payload: Bytes) -> StreamMultiplyNextRequest {
    StreamMultiplyNextRequest {
        name: name.to_owned(),
        step,
        offset: offset as u64,
        payload,
        fingerprint: Default::default(),
    }
}

/// Asks for a session that is new.
pub fn create_request(id: &str, spec: &SessionSpec) -> v1::CreateSessionRequest {
    v1::CreateSessionRequest {
        session_id: id.to_owned(),
        session: Some(session_spec_to_wire(spec)),
        resume: false,
        ..v1::CreateSessionRequest::default()
    }
}

/// One whole step in a message.
pub async fn unary(
    client: &mut SessionsClient<Channel>,
    name: &str,
    step: u64,
    payload: Bytes,
) -> Result<v1::MultiplyNextResponse, Status> {
    let request =
        v1::MultiplyNextRequest { name: name.to_owned(), step, payload, fingerprint: Default::default() };
    client.multiply_next(request).await.map(tonic::Response::into_inner)
}

/// A session and how it stands.
pub async fn get(client: &mut SessionsClient<Channel>, name: &str) -> Result<v1::Session, Status> {
    view(client, name, v1::SessionView::Unspecified).await
}

/// As much of a session as a view shows.
pub async fn view(
    client: &mut SessionsClient<Channel>,
    name: &str,
    view: v1::SessionView,
) -> Result<v1::Session, Status> {
    let request = v1::GetSessionRequest { name: name.to_owned(), view: view.into(), ..Default::default() };
    client.get_session(request).await.map(tonic::Response::into_inner)
}

/// The step and the byte that a session goes on from.
pub async fn position(client: &mut SessionsClient<Channel>, name: &str) -> (u64, usize) {
    let session = get(client, name).await.unwrap();
    (session.next_step, session.next_offset as usize)
}

/// Every session's name, in pages of this size.
pub async fn list(client: &mut SessionsClient<Channel>, page_size: i32) -> Vec<String> {
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSessionsRequest { page_size, page_token };
        let page = client.list_sessions(request).await.unwrap().into_inner();
        if page_size > 0 {
            assert!(page.sessions.len() <= page_size as usize);
        }
        names.extend(page.sessions.into_iter().map(|session| session.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

/// Ends a session.
pub async fn delete(client: &mut SessionsClient<Channel>, name: &str) -> Result<(), Status> {
    let request = v1::DeleteSessionRequest { name: name.to_owned() };
    client.delete_session(request).await.map(|_| ())
}

/// Sends frames, ends the stream, and takes all that comes, up to an error.
pub async fn exchange(
    client: &mut SessionsClient<Channel>,
    frames: Vec<StreamMultiplyNextRequest>,
) -> (Vec<StreamMultiplyNextResponse>, Option<Status>) {
    let mut stream = StepStream::open(client);
    frames.into_iter().for_each(|frame| stream.send(frame));
    stream.requests = None;
    let mut answers = Vec::new();
    loop {
        match stream.next().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, None),
            Err(status) => return (answers, Some(status)),
        }
    }
}

/// A stream of steps, frame by frame. Dropping it cuts it.
#[derive(Debug)]
pub struct StepStream {
    /// Takes frames; `None` once the stream is ended.
    pub requests: Option<mpsc::UnboundedSender<StreamMultiplyNextRequest>>,
    call: Option<tokio::task::JoinHandle<Result<Streaming<StreamMultiplyNextResponse>, Status>>>,
    answers: Option<Streaming<StreamMultiplyNextResponse>>,
}

impl StepStream {
    /// Opens a stream; the server may wait for the first frame.
    pub fn open(client: &SessionsClient<Channel>) -> Self {
        let mut client = client.clone();
        let (requests, queued) = mpsc::unbounded_channel();
        let call = tokio::spawn(async move {
            let queued = UnboundedReceiverStream::new(queued);
            client.stream_multiply_next(queued).await.map(tonic::Response::into_inner)
        });
        Self { requests: Some(requests), call: Some(call), answers: None }
    }

    /// Sends a frame, unless the server has ended the stream.
    pub fn send(&mut self, frame: StreamMultiplyNextRequest) {
        // Its answers tell why it takes no more.
        let _ended = self.requests.as_ref().unwrap().send(frame);
    }

    /// The next answer.
    pub async fn next(&mut self) -> Result<Option<StreamMultiplyNextResponse>, Status> {
        if let Some(call) = self.call.take() {
            self.answers = Some(call.await.unwrap()?);
        }
        match &mut self.answers {
            Some(answers) => answers.message().await,
            None => Ok(None),
        }
    }

    /// Answers until they cover `bytes` bytes.
    pub async fn take(&mut self, bytes: usize) -> Vec<StreamMultiplyNextResponse> {
        let (mut answers, mut taken) = (Vec::new(), 0);
        while taken < bytes {
            let answer = self.next().await.unwrap().expect("the stream has ended");
            taken += answer.payload.len();
            answers.push(answer);
        }
        answers
    }
}

impl Drop for StepStream {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.abort();
        }
    }
}

/// Now, in seconds since 1970-01-01 UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What a status says; its code must be this.
pub fn report(status: &Status, code: Code) -> ErrorReport {
    assert_eq!(status.code(), code, "{status:?}");
    let report = ErrorReport::from_status(status);
    assert!(!report.reason.is_empty(), "no ErrorInfo of this service: {status:?}");
    report
}

/// Checks that a status names a field and a rule.
pub fn assert_invalid(status: &Status, field: &str, rule: &str) {
    let report = report(status, Code::InvalidArgument);
    let named = report.field_violations.iter().any(|(found, told)| found == field && told.contains(rule));
    assert!(named, "{:?} instead of `{field}: {rule}`", report.field_violations);
}

/// Checks that a status tells the step that the session expects.
pub fn assert_expects(status: &Status, reason: &str, expected: u64) {
    let report = report(status, Code::FailedPrecondition);
    assert_eq!((report.reason.as_str(), report.expected_step()), (reason, Some(expected)), "{status:?}");
}
