//! Materialize: the leading block of a matrix, row by row.

use std::time::Duration;

use noised::Error;
use noised::analysis::Rows;
use noised_proto::{ServiceError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{AnalysisService, Run, required};

/// Entries of the rows that go into one message: 256 KiB of them.
const ENTRIES: usize = 32 * 1024;

/// Messages that wait to be written.
const QUEUE: usize = 2;

/// How long a client may take to read one message before its place among the analyses is given to another.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = Result<v1::MaterializeResponse, Status>;

impl AnalysisService {
    pub(super) async fn rows(
        &self,
        request: v1::MaterializeRequest,
    ) -> Result<ReceiverStream<Answer>, ServiceError> {
        let v1::MaterializeRequest { matrix, n } = request;
        let run = self.begin()?;
        let rows =
            self.compute.run(move || required(matrix).and_then(|matrix| Rows::new(&matrix, n))).await??;
        let (answers, queue) = mpsc::channel(QUEUE + 1);
        let service = self.clone();
        tokio::spawn(async move {
            // Room for an error is kept from the beginning: telling one never waits for the client.
            let Ok(last) = answers.reserve().await else { return };
            if let Err(error) = service.send_rows(&run, rows, &answers).await {
                last.send(Err(error.into()));
            }
        });
        Ok(ReceiverStream::new(queue))
    }

    /// A message at a time is computed on the compute threads, and waits here for a client that is slow to read.
    async fn send_rows(
        &self,
        run: &Run,
        mut rows: Rows,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), ServiceError> {
        let mut first_row = 0;
        loop {
            if run.cancelled.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            let (batch, rest) = self.compute.run(move || (take(&mut rows), rows)).await?;
            rows = rest;
            let count = batch.len() as u64;
            let answer = v1::MaterializeResponse { first_row, rows: batch };
            if count == 0 || !send(answers, answer, &run.cancelled, PATIENCE).await? {
                return Ok(());
            }
            first_row += count;
        }
    }
}

/// Sends a message to a client that reads; `false` where it is gone.
async fn send(
    answers: &mpsc::Sender<Answer>,
    answer: v1::MaterializeResponse,
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

fn take(rows: &mut Rows) -> Vec<v1::Row> {
    let mut batch = Vec::new();
    let mut entries = 0;
    while entries < ENTRIES
        && let Some(values) = rows.next_row()
    {
        entries += values.len();
        batch.push(v1::Row { values });
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_waited_for_without_end() {
        let (answers, mut queue) = mpsc::channel(1);
        let message = v1::MaterializeResponse::default;
        let go_on = CancellationToken::new();
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(1 << 20));
        assert_eq!(send(&answers, message(), &go_on, long).await, Ok(true));
        assert_eq!(send(&answers, message(), &go_on, short).await, Err(Error::Cancelled.into()));
        let cut = CancellationToken::new();
        cut.cancel();
        assert_eq!(send(&answers, message(), &cut, long).await, Err(Error::Cancelled.into()));
        queue.recv().await.unwrap().unwrap();
        drop(queue);
        assert_eq!(send(&answers, message(), &go_on, long).await, Ok(false));
    }
}
