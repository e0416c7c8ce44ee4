//! Materialize: the leading block of a matrix, row by row.

use noised::Error;
use noised::analysis::Rows;
use noised_proto::{ServiceError, question_matrix, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::streams::{NUMBERS, PATIENCE, send};
use super::{AnalysisService, QUEUE, Run};

type Answer = Result<v1::MaterializeResponse, Status>;

impl AnalysisService {
    pub(super) async fn rows(
        &self,
        request: v1::MaterializeRequest,
    ) -> Result<ReceiverStream<Answer>, ServiceError> {
        let v1::MaterializeRequest { matrix, n } = request;
        let run = self.begin()?;
        let rows = self
            .compute
            .run(move || question_matrix(matrix, n).and_then(|matrix| Rows::new(&matrix, n)))
            .await??;
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

    /// A message at a time is computed on the compute threads, and waits here for a client that is slow to
    /// read.
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
            let batch = batch?;
            let count = batch.len() as u64;
            let answer = v1::MaterializeResponse { first_row, rows: batch };
            if count == 0 || !send(answers, answer, &run.cancelled, PATIENCE).await? {
                return Ok(());
            }
            first_row += count;
        }
    }
}

fn take(rows: &mut Rows) -> Result<Vec<v1::Row>, Error> {
    let mut batch = Vec::new();
    let mut entries = 0;
    while entries < NUMBERS
        && let Some(values) = rows.next_finite_row()?
    {
        entries += values.len();
        batch.push(v1::Row { values });
    }
    Ok(batch)
}
