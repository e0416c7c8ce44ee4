//! Answers that come as a stream: who takes them, and who gives up.

use std::time::Duration;

use noised::Error;
use noised_proto::ServiceError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How long a client may take to read one message before its place among the analyses is given to another.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that go into one message: 256 KiB of them.
pub(super) const NUMBERS: usize = 32 * 1024;

/// Sends a message to a client that reads; `false` where it is gone.
pub(super) async fn send<T>(
    answers: &mpsc::Sender<Result<T, Status>>,
    answer: T,
    cancelled: &CancellationToken,
    patience: Duration,
) -> Result<bool, ServiceError> {
    tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(Error::Cancelled.into()),
        sent = answers.send(Ok(answer)) => Ok(sent.is_ok()),
        () = tokio::time::sleep(patience) => Err(Error::Cancelled.into()),
    }
}

/// The time that a client gives a call. The gate keeps it only until a stream begins.
pub(super) fn deadline<T>(request: &tonic::Request<T>) -> Option<Duration> {
    crate::gate::deadline(request.metadata().as_ref())
}

/// Ends when a deadline has passed; never where there is none.
pub(super) async fn passed(deadline: Option<Duration>) {
    match deadline {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_waited_for_without_end() {
        let (answers, mut queue) = mpsc::channel(1);
        let go_on = CancellationToken::new();
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(1 << 20));
        assert_eq!(send(&answers, 1, &go_on, long).await, Ok(true));
        assert_eq!(send(&answers, 2, &go_on, short).await, Err(Error::Cancelled.into()));
        let cut = CancellationToken::new();
        cut.cancel();
        assert_eq!(send(&answers, 3, &cut, long).await, Err(Error::Cancelled.into()));
        queue.recv().await.unwrap().unwrap();
        drop(queue);
        assert_eq!(send(&answers, 4, &go_on, long).await, Ok(false));
    }
}
