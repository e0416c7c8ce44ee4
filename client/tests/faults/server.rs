//! A server: the protocol over the core's sessions and nothing more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use noised::noise::NoiseKey;
use noised::session::{Assembler, NoiseDrawer, NoiseSession, OutputChunk, ResolvedSpec, Source, WhenFull};
use noised_proto::v1::sessions_server::{Sessions, SessionsServer};
use noised_proto::{ServiceError, session_spec, session_spec_to_wire, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const NAME: &str = "sessions/test";
pub(crate) const KEY: [u8; 32] = [7; 32];
/// The most that a message of the server carries of a step that went up in none.
const MESSAGE_BYTES: usize = 60_000;

/// One session, as a service.
#[derive(Clone, Default)]
pub(crate) struct OneSession {
    held: Arc<Mutex<Option<Held>>>,
    /// What was asked for, in order.
    pub(crate) creations: Arc<Mutex<Vec<v1::CreateSessionRequest>>>,
    /// Errors that the next calls meet.
    pub(crate) refusals: Arc<Mutex<VecDeque<ServiceError>>>,
}

/// A session of the client's input, or one that draws.
pub(crate) enum Held {
    Input(noised::Session),
    Drawn(NoiseSession, NoiseDrawer),
}

impl Held {
    pub(crate) fn new(resolved: ResolvedSpec) -> Self {
        if resolved.spec().source == Source::Input {
            return Self::Input(noised::Session::new(resolved));
        }
        let options = resolved.noise_options(Some(1), None);
        let (session, drawer) = NoiseSession::new(resolved, NoiseKey::from_bytes(KEY), options).unwrap();
        Self::Drawn(session, drawer)
    }

    fn resolved(&self) -> &Arc<ResolvedSpec> {
        match self {
            Self::Input(session) => session.resolved(),
            Self::Drawn(session, _) => session.resolved(),
        }
    }

    fn next(&self) -> (u64, usize) {
        match self {
            Self::Input(session) => (session.next_step(), session.next_offset()),
            Self::Drawn(session, _) => (session.next_step(), session.next_offset()),
        }
    }

    fn released_steps(&self) -> u64 {
        match self {
            Self::Input(session) => session.released_steps(),
            Self::Drawn(session, _) => session.released_steps(),
        }
    }

    /// One request, of a payload or, of a gaussian source, of none.
    pub(crate) fn take(
        &mut self,
        step: u64,
        offset: usize,
        payload: &[u8],
    ) -> noised::Result<Vec<OutputChunk>> {
        let (session, drawer) = match self {
            Self::Input(session) => return session.apply(step, offset, payload),
            Self::Drawn(session, drawer) => (session, drawer),
        };
        drawer.answer(session, |session| match payload {
            [] => session.fetch(step, offset),
            gradient => session.apply(step, offset, vec![Bytes::copy_from_slice(gradient)]),
        })
    }

    fn rewind(&mut self, step: u64, allow_divergence: bool) -> noised::Result<()> {
        let Self::Drawn(session, drawer) = self else {
            return Err(noised::Error::NotKept { requested: step });
        };
        let rewind = session.begin_rewind(step, drawer)?;
        while rewind.steps_left(drawer) > 0 {
            drawer.pass_over(step);
        }
        session.finish_rewind(rewind, drawer, 17, allow_divergence);
        Ok(())
    }
}

impl OneSession {
    fn refuse(&self) -> Result<(), Status> {
        self.refusals.lock().unwrap().pop_front().map_or(Ok(()), |error| Err(error.into()))
    }

    fn describe(&self, resumed: bool) -> Result<Response<v1::Session>, Status> {
        let held = self.held.lock().unwrap();
        let session = held.as_ref().ok_or_else(|| ServiceError::SessionNotFound { name: NAME.into() })?;
        let resolved = session.resolved();
        let (next_step, next_offset) = session.next();
        Ok(Response::new(v1::Session {
            name: NAME.into(),
            fingerprint: resolved.fingerprint().as_bytes().to_vec(),
            next_step,
            next_offset: next_offset as u64,
            released_steps: session.released_steps(),
            lanes: resolved.layout().lanes() as u64,
            step_bytes: resolved.layout().byte_len() as u64,
            resumed,
            ..session_spec_to_wire(resolved.spec())
        }))
    }

    fn apply(
        &self,
        step: u64,
        offset: usize,
        payload: &[u8],
    ) -> Result<Vec<v1::StreamMultiplyNextResponse>, Status> {
        let mut held = self.held.lock().unwrap();
        let session = held.as_mut().unwrap();
        let total = session.resolved().layout().byte_len();
        let chunks = session.take(step, offset, payload).map_err(ServiceError::from)?;
        let most = if payload.is_empty() { MESSAGE_BYTES } else { total };
        let mut answers = Vec::new();
        for OutputChunk { mut offset, mut bytes, replay } in chunks {
            while !bytes.is_empty() {
                let payload = bytes.split_to(bytes.len().min(most));
                let end = offset + payload.len();
                let offset = std::mem::replace(&mut offset, end) as u64;
                answers.push(v1::StreamMultiplyNextResponse {
                    step,
                    offset,
                    payload,
                    replay,
                    step_end: end == total,
                });
            }
        }
        Ok(answers)
    }
}

#[tonic::async_trait]
impl Sessions for OneSession {
    type StreamMultiplyNextStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamMultiplyNextResponse, Status>> + Send>>;

    type RewindSessionStream = Pin<Box<dyn Stream<Item = Result<v1::RewindSessionResponse, Status>> + Send>>;

    async fn keep_state(
        &self,
        request: Request<v1::KeepStateRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let v1::KeepStateRequest { name: _, step, when_full } = request.into_inner();
        assert_eq!(when_full, v1::WhenFull::Refuse as i32);
        if let Some(Held::Drawn(session, drawer)) = &mut *self.held.lock().unwrap() {
            session.keep_state(step, drawer, WhenFull::Refuse, 1).map_err(ServiceError::from)?;
        }
        self.describe(false)
    }

    async fn rewind_session(
        &self,
        request: Request<v1::RewindSessionRequest>,
    ) -> Result<Response<Self::RewindSessionStream>, Status> {
        self.refuse()?;
        let v1::RewindSessionRequest { name: _, step, allow_divergence } = request.into_inner();
        let rewound = self.held.lock().unwrap().as_mut().unwrap().rewind(step, allow_divergence);
        rewound.map_err(ServiceError::from)?;
        let progress = v1::RewindSessionResponse { steps_done: 1, steps_total: 2, session: None };
        let session = Some(self.describe(false)?.into_inner());
        let last = v1::RewindSessionResponse { steps_done: 2, steps_total: 2, session };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(progress), Ok(last)]))))
    }

    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        self.refuse()?;
        let request = request.into_inner();
        self.creations.lock().unwrap().push(request.clone());
        let resolved = session_spec(request.session.unwrap()).unwrap().resolve().unwrap();
        let resumed = {
            let mut held = self.held.lock().unwrap();
            let resumed = held.is_some();
            match &*held {
                Some(_) if !request.resume => {
                    return Err(ServiceError::SessionExists { name: NAME.into() }.into());
                }
                Some(session) => session.resolved().check_same(&resolved).map_err(ServiceError::from)?,
                None => *held = Some(Held::new(resolved)),
            }
            resumed
        };
        self.describe(resumed)
    }

    async fn get_session(&self, _: Request<v1::GetSessionRequest>) -> Result<Response<v1::Session>, Status> {
        self.refuse()?;
        self.describe(false)
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        Err(Status::unimplemented("one session needs no list"))
    }

    async fn delete_session(&self, _: Request<v1::DeleteSessionRequest>) -> Result<Response<()>, Status> {
        *self.held.lock().unwrap() = None;
        Ok(Response::new(()))
    }

    async fn multiply_next(
        &self,
        request: Request<v1::MultiplyNextRequest>,
    ) -> Result<Response<v1::MultiplyNextResponse>, Status> {
        self.refuse()?;
        let v1::MultiplyNextRequest { name: _, step, payload, fingerprint: _ } = request.into_inner();
        let answers = self.apply(step, 0, &payload)?;
        let replay = answers.iter().all(|answer| answer.replay);
        let payload = answers.iter().flat_map(|answer| answer.payload.to_vec()).collect();
        Ok(Response::new(v1::MultiplyNextResponse { step, payload, replay }))
    }

    async fn stream_multiply_next(
        &self,
        request: Request<Streaming<v1::StreamMultiplyNextRequest>>,
    ) -> Result<Response<Self::StreamMultiplyNextStream>, Status> {
        self.refuse()?;
        let mut chunks = request.into_inner();
        // As a server does that looks the session up first.
        let mut next = chunks.message().await?;
        assert_eq!(next.as_ref().unwrap().name, NAME);
        assert_eq!(next.as_ref().unwrap().fingerprint.len(), 32);
        let resolved = self.held.lock().unwrap().as_ref().unwrap().resolved().clone();
        let mut assembler = Assembler::new(resolved.input_layout().clone());
        let (answers, queued) = mpsc::channel(1);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(chunk) = next {
                let taken = match resolved.input_bytes() {
                    0 => Some(this.apply(chunk.step, chunk.offset as usize, &[])),
                    _ => {
                        let run = assembler.push(chunk.step, chunk.offset, vec![chunk.payload]).unwrap();
                        run.map(|run| this.apply(run.step, run.offset, &run.pieces.concat()))
                    }
                };
                if let Some(result) = taken {
                    let messages =
                        result.map_or_else(|e| vec![Err(e)], |ok| ok.into_iter().map(Ok).collect());
                    for message in messages {
                        let failed = message.is_err();
                        if answers.send(message).await.is_err() || failed {
                            return;
                        }
                    }
                }
                next = chunks.message().await.ok().flatten();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queued))))
    }
}

pub(crate) async fn serve(service: OneSession) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder().add_service(SessionsServer::new(service));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}
