//! Questions about matrices that need no session.

mod design;
mod mechanism;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use noised::analysis::{Description, Growth, TreeDescription};
use noised::{MatrixSpec, Precision, Shard, Tree};
use noised_proto::v1;
use noised_proto::v1::analysis_client::AnalysisClient;
use tonic::{Response, Status, Streaming};

use crate::error::{Error, Result};
use crate::fleet::{Fleet, Server};
use crate::link::Link;
use crate::way::{Way, asking};

/// The analysis calls of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Analysis {
    fleet: Arc<Fleet>,
}

impl Analysis {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }

    fn way(&self) -> Way {
        Way::new(&self.fleet, self.fleet.any(), self.fleet.settings().retry)
    }

    /// Asks the server that answered last, or any.
    async fn ask<R: Clone, T, F>(&self, request: &R, call: impl Fn(AnalysisClient<Link>, R) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let call = |server: Arc<Server>, request| call(server.analysis(), request);
        asking(self.way(), request, call).await
    }

    /// The leading `n x n` block of a matrix, row by row.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn materialize(&self, matrix: &MatrixSpec, n: u64) -> Result<Rows> {
        matrix.validate_for(n)?;
        let request = v1::MaterializeRequest { matrix: Some(matrix.into()), n };
        let answers =
            self.ask(&request, |mut client, request| async move { client.materialize(request).await });
        Ok(Rows { answers: answers.await?, n, next: 0, rows: VecDeque::new() })
    }

    /// `A x` for rows of lanes, one row a step.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn multiply(&self, matrix: &MatrixSpec, x: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        matrix.validate()?;
        let x = x.iter().map(|values| v1::Row { values: values.clone() });
        let request = v1::MultiplyRequest { matrix: Some(matrix.into()), x: x.collect() };
        let answer = self.ask(&request, |mut client, request| async move { client.multiply(request).await });
        let v1::MultiplyResponse { rows } = answer.await?;
        let shape = |rows: &[v1::Row]| rows.iter().map(|row| row.values.len()).collect::<Vec<_>>();
        check(shape(&rows) == shape(&request.x), "a product of the shape of x")?;
        Ok(rows.into_iter().map(|v1::Row { values }| values).collect())
    }

    /// What a session on a matrix would hold and move, for a shard of a tree where one is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn describe(
        &self,
        matrix: &MatrixSpec,
        tree: Option<(&Tree, Shard)>,
        precision: Option<Precision>,
    ) -> Result<Description> {
        matrix.validate()?;
        let request = v1::DescribeRequest {
            matrix: Some(matrix.into()),
            tree: tree.map(|(tree, _)| tree.into()),
            shard: tree.map(|(_, shard)| shard.into()),
            precision: precision.map_or(v1::Precision::Unspecified, v1::Precision::from).into(),
        };
        let answer = self.ask(&request, |mut client, request| async move { client.describe(request).await });
        decode_description(answer.await?)
    }
}

fn decode_description(answer: v1::DescribeResponse) -> Result<Description> {
    let precision = match answer.precision() {
        v1::Precision::F32 => Precision::F32,
        v1::Precision::F64 => Precision::F64,
        v1::Precision::Unspecified => return Err(Error::Protocol { message: "it has no precision".into() }),
    };
    let v1::DescribeResponse {
        planes,
        planes_read,
        planes_written,
        toeplitz,
        horizon,
        precision: _,
        lanes,
        step_bytes,
        state_bytes,
        memory_bytes,
        moved_bytes_per_step,
        growth,
    } = answer;
    let v1::Growth { steps, relative_error, sound_steps, overflows } = growth.unwrap_or_default();
    let tree = match (lanes, step_bytes, state_bytes, memory_bytes, moved_bytes_per_step) {
        (
            Some(lanes),
            Some(step_bytes),
            Some(state_bytes),
            Some(memory_bytes),
            Some(moved_bytes_per_step),
        ) => Some(TreeDescription { lanes, step_bytes, state_bytes, memory_bytes, moved_bytes_per_step }),
        _ => None,
    };
    Ok(Description {
        planes: planes as usize,
        planes_read: planes_read as usize,
        planes_written: planes_written as usize,
        toeplitz,
        horizon,
        precision,
        growth: Growth { steps, relative_error, sound_steps, overflows },
        tree,
    })
}

/// The rows of a matrix, as they come.
#[derive(Debug)]
pub struct Rows {
    answers: Streaming<v1::MaterializeResponse>,
    n: u64,
    next: u64,
    rows: VecDeque<v1::Row>,
}

impl Rows {
    /// The next row, with its entries up to the diagonal, or `None` after the last.
    ///
    /// # Errors
    /// The faults of a connection. The rows that came are good; the others have to be asked for from the
    /// start.
    pub async fn next_row(&mut self) -> Result<Option<Vec<f64>>> {
        if self.next == self.n {
            return Ok(None);
        }
        while self.rows.is_empty() {
            let answer = self.answers.message().await?;
            let ended = || Error::Transport { message: "the rows ended early".into() };
            let v1::MaterializeResponse { first_row, rows } = answer.ok_or_else(ended)?;
            check(first_row == self.next, "the row after the last")?;
            self.rows = rows.into();
        }
        let row = self.rows.pop_front().map(|v1::Row { values }| values).unwrap_or_default();
        self.next += 1;
        check(row.len() as u64 == self.next, "a row up to its diagonal")?;
        Ok(Some(row))
    }
}

fn check(holds: bool, expected: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Protocol { message: format!("it is not {expected}") }) }
}
