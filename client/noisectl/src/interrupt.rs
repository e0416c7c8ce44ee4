//! Ctrl-C and SIGTERM: noted once, so that a command can say what was done and clean up; a second one ends at
//! once.

use std::fmt::Display;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// What the shell adds to a signal's number for the exit status of a program that it ended.
const SIGNAL_STATUS: u8 = 128;

/// Whether the user, or the program that started this one, wants it to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(watch::Receiver<Option<u8>>);

impl Interrupt {
    /// Listens on a thread of its own: commands that compute in this process do not come back to the runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |e: &dyn Display| Failure::failed("cannot wait for signals", e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| failed(&e))?;
        let of = |kind| {
            let _inside = runtime.enter();
            signal(kind)
        };
        let interrupt = of(SignalKind::interrupt()).map_err(|e| failed(&e))?;
        let terminate = of(SignalKind::terminate()).map_err(|e| failed(&e))?;
        let (sender, receiver) = watch::channel(None);
        let listen = move || runtime.block_on(listen(interrupt, terminate, &sender));
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(|e| failed(&e))?;
        Ok(Self(receiver))
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for it.
    pub(crate) async fn raised(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(Option::is_some).await.is_err() {
            // Without a listener no signal comes.
            std::future::pending::<()>().await;
        }
    }

    /// Does the work unless it is interrupted.
    pub(crate) async fn stop<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.raised() => Err(self.failure("the answer is not complete, and no file is written")),
        }
    }

    /// How a command ends that was interrupted; `state` says what was done and what was not.
    pub(crate) fn failure(&self, state: impl Display) -> Failure {
        let status = SIGNAL_STATUS + self.0.borrow().unwrap_or_default();
        Failure::Interrupted { message: format!("interrupted: {state}"), status }
    }

    /// The reason of a failure: work that is called off after a signal was interrupted by the signal.
    pub(crate) fn explain(&self, failure: Failure, state: impl Display) -> Failure {
        match failure {
            Failure::Cancelled if self.is_raised() => self.failure(state),
            other => other,
        }
    }
}

async fn listen(
    mut interrupt: tokio::signal::unix::Signal,
    mut terminate: tokio::signal::unix::Signal,
    sender: &watch::Sender<Option<u8>>,
) {
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
        if sender.send_replace(Some(number)).is_some() {
            std::process::exit(i32::from(SIGNAL_STATUS + number));
        }
    }
}
