//! Going back: states that are kept, rewinds, and another look at a session.

use std::sync::Arc;

use noised::session::WhenFull;
use noised_proto::v1;

use crate::client::{Client, full_name};
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::info::SessionInfo;
use crate::retry::RetryPolicy;
use crate::session::Session;
use crate::way::asking;
use crate::window::Position;

impl Client {
    /// Keeps the state of the step that a session expects, so that a rewind comes back to it at once. Where
    /// the server draws all of the input it may be the step before, until the next step is asked for or the
    /// session goes back: a client that fetches one step ahead keeps the state of the step that it is at.
    ///
    /// # Errors
    /// [`Error::WrongStep`] where it is neither of these, or the step is applied in part;
    /// [`Error::ResourceExhausted`]; [`Error::NotFound`]; the faults of a connection.
    pub async fn keep_state(&self, name: &str, step: u64, when_full: WhenFull) -> Result<SessionInfo> {
        self.keep(name, step, when_full).await.map(|(info, _)| info)
    }

    /// The same, with what goes on with the noise at that step; empty where nothing does.
    async fn keep(&self, name: &str, step: u64, when_full: WhenFull) -> Result<(SessionInfo, Vec<u8>)> {
        let when_full = match when_full {
            WhenFull::Refuse => v1::WhenFull::Refuse,
            WhenFull::ReleaseOldest => v1::WhenFull::ReleaseOldest,
        };
        let when_full = when_full.into();
        let request = v1::KeepStateRequest { name: full_name(name), step, when_full };
        let way = self.way(&request.name);
        let session = asking(way, &request, |server: Arc<Server>, request| async move {
            server.sessions().keep_state(request).await
        });
        let mut session = session.await?;
        let resume_token = std::mem::take(&mut session.resume_token);
        Ok((session.try_into()?, resume_token))
    }

    /// Has a session go back to `step`. `on_progress` gets the steps whose state has been computed again, and
    /// how many have to be.
    ///
    /// Dropping the future cancels the rewind, and so does a fault of the connection once it has begun: the
    /// session is then at the step that it had come to, from where a rewind also goes forward. Only what
    /// failed before the server answered at all is tried again.
    ///
    /// # Errors
    /// [`Error::PastReleased`] where the step was never released; [`Error::NotKept`] where a session of the
    /// client's input keeps no state of it; [`Error::NotFound`]; the faults of a connection.
    pub async fn rewind_session(
        &self,
        name: &str,
        step: u64,
        allow_divergence: bool,
        mut on_progress: impl FnMut(u64, u64),
    ) -> Result<SessionInfo> {
        let request = v1::RewindSessionRequest { name: full_name(name), step, allow_divergence };
        let mut way = self.way(&request.name);
        let (mut answers, mut answer) = loop {
            let begun = match way.server().await {
                Ok(server) => begin_rewind(&server, request.clone()).await,
                Err(error) => Err(error),
            };
            match begun {
                Ok(begun) => break begun,
                Err(error) => way.failed(error).await?,
            }
        };
        way.succeeded();
        loop {
            let v1::RewindSessionResponse { steps_done, steps_total, session } = answer;
            on_progress(steps_done, steps_total);
            if let Some(session) = session {
                return session.try_into();
            }
            answer = answers.message().await?.ok_or_else(ended)?;
        }
    }
}

/// Asks for a rewind, and waits for the first answer.
async fn begin_rewind(
    server: &Server,
    request: v1::RewindSessionRequest,
) -> Result<(tonic::Streaming<v1::RewindSessionResponse>, v1::RewindSessionResponse)> {
    let mut answers = server.sessions().rewind_session(request).await?.into_inner();
    let first = answers.message().await?.ok_or_else(ended)?;
    Ok((answers, first))
}

fn ended() -> Error {
    Error::Transport { message: "the server ended the rewind early".into() }
}

impl Session {
    /// Keeps the state of the step that the session expects, so that [`rewind`](Self::rewind) comes back to
    /// it at once; or, where the server draws all of the input, of the step before: see
    /// [`Client::keep_state`]. Done again for a step that is kept, it changes nothing.
    ///
    /// # Errors
    /// Those of [`Client::keep_state`].
    pub async fn keep_state(&mut self, step: u64, when_full: WhenFull) -> Result<()> {
        let (info, resume_token) = self.client().keep(self.name(), step, when_full).await?;
        self.resume_token = resume_token;
        self.note(info)
    }

    /// Goes back to `step`, so that it and those after it are asked for again: what a training job does that
    /// starts again from an older checkpoint. `on_progress` gets the steps whose state has been computed
    /// again, and how many have to be.
    ///
    /// Noise that the server draws comes again bit for bit. Where the source is `privatize`, a step that was
    /// released gives the same bytes for the same gradient and is refused for another, unless
    /// `allow_divergence` says that one noise under two gradients is accounted for elsewhere.
    ///
    /// Dropping the future cancels the rewind, and so does a fault of the connection once it has begun: see
    /// [`Client::rewind_session`]. The handle then asks where the session stands: at once where the call
    /// failed, and else before it takes a step. [`refresh`](Self::refresh) does that as well.
    ///
    /// # Errors
    /// Those of [`Client::rewind_session`].
    pub async fn rewind(
        &mut self,
        step: u64,
        allow_divergence: bool,
        on_progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        // First, since this future may be dropped: nothing that is under way is of any use after it.
        self.go_to(Position::start_of(self.next_step()));
        self.is_unsettled = true;
        let client = self.client();
        match client.rewind_session(self.name(), step, allow_divergence, on_progress).await {
            Ok(info) => self.stand_as(info),
            Err(error) => {
                // Once is enough: whoever takes a step is told of what is wrong, and asks again.
                let _of_asking = self.ask_where(RetryPolicy::NEVER).await;
                Err(error)
            }
        }
    }

    /// Asks where the session stands, where a rewind broke off.
    ///
    /// # Errors
    /// Those of [`refresh`](Self::refresh).
    pub async fn settle(&mut self) -> Result<()> {
        match self.is_unsettled {
            true => self.ask_where(self.client().settings().retry).await,
            false => Ok(()),
        }
    }

    async fn ask_where(&mut self, retry: RetryPolicy) -> Result<()> {
        let info = self.client().look_at(self.name(), true, retry).await?;
        self.stand_as(info)
    }

    /// Stands where a session that went back stands.
    fn stand_as(&mut self, info: SessionInfo) -> Result<()> {
        self.note(info)?;
        self.take_up();
        self.go_to(Position::start_of(self.info().next_step));
        self.is_unsettled = false;
        Ok(())
    }

    /// Asks again where the session stands, and goes on from there: [`next_step`](Self::next_step) is what
    /// the server expects, or the step before where part of that was handed out and the rest is still to
    /// come.
    ///
    /// # Errors
    /// Those of [`Client::get_session`], and [`Error::FingerprintMismatch`] where another session has the
    /// name now.
    pub async fn refresh(&mut self) -> Result<()> {
        let info = self.client().look_at(self.name(), true, self.client().settings().retry).await?;
        self.note(info)?;
        self.take_up();
        self.is_unsettled = false;
        let Position { step, offset } = self.position();
        let expected = self.info().next_step;
        let in_the_middle = offset > 0 && (expected == step || expected == step + 1);
        if !in_the_middle && expected != step {
            self.go_to(Position::start_of(expected));
        }
        Ok(())
    }
}
