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

/// The time that a client gives a call, as the header `grpc-timeout` has it: the transport keeps it only until a stream
/// begins.
pub(super) fn deadline<T>(request: &tonic::Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = digits.len() <= 8 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
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

    #[test]
    fn deadlines_are_read_as_the_protocol_has_them() {
        let of = |text: &'static str| {
            let mut request = tonic::Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            deadline(&request)
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!((of("7u"), of("7n")), (Some(Duration::from_micros(7)), Some(Duration::from_nanos(7))));
        for text in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1 S"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(deadline(&tonic::Request::new(())), None);
    }
}
