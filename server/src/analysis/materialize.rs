//! Materialize: the leading block of a matrix, row by row.

use noised::Error;
use noised::analysis::Rows;
use noised_proto::{ServiceError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{AnalysisService, Run, required};

/// Entries of the rows that go into one message: 256 KiB of them.
const ENTRIES: usize = 32 * 1024;

/// Messages that wait to be written.
const QUEUE: usize = 2;

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
        let (answers, queue) = mpsc::channel(QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(error) = service.send_rows(&run, rows, &answers).await {
                // Where the client is gone, nobody is left to tell.
                let _ = answers.send(Err(error.into())).await;
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
            if count == 0 || answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
            first_row += count;
        }
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
