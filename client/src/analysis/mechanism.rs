//! What a mechanism adds and what it protects: row norms, errors, sensitivities, calibration.

use noised::accounting::{Account, Question};
use noised::analysis::{
    Calibration, Given, Mechanism, Participation, QueryErrors, RowNorms, Sensitivity, Way,
};
use noised::{MatrixSpec, Precision};
use noised_proto::v1::compute_errors_request::Mechanism as WireMechanism;
use noised_proto::{CalibrationQuestion, v1, way_from_wire};
use tonic::{Response, Status, Streaming};

use super::{Analysis, check};
use crate::error::{Error, Result};

impl Analysis {
    /// The squared L2 norm of each of the first `n` rows, and how they were found.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn row_norms_squared(&self, matrix: &MatrixSpec, n: u64) -> Result<RowNorms> {
        matrix.validate_for(n)?;
        let request = v1::RowNormsSquaredRequest { matrix: Some(matrix.into()), n };
        let answers = self.ask(&request, |mut client, request| async move {
            collect(client.row_norms_squared(request).await?).await
        });
        let (mut values, mut way) = (Vec::new(), None);
        for v1::RowNormsSquaredResponse { row_norms_squared, first_row, way: told } in answers.await? {
            check(first_row == values.len() as u64, "the row after the last")?;
            way = way.or(Some(told));
            values.extend(row_norms_squared);
        }
        check(values.len() as u64 == n, "as many norms as there are rows")?;
        Ok(RowNorms { values, way: known(way)? })
    }

    /// The errors of the first `n` queries of `workload`, the prefix sum where there is none, at noise of
    /// variance 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn query_errors(
        &self,
        mechanism: Mechanism<'_>,
        workload: Option<&MatrixSpec>,
        n: u64,
    ) -> Result<QueryErrors> {
        self.query_errors_in(mechanism, workload, n, Precision::F64).await
    }

    /// The same where a session of a precision runs the noising matrix: with the numbers of its recurrences
    /// rounded to it.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn query_errors_in(
        &self,
        mechanism: Mechanism<'_>,
        workload: Option<&MatrixSpec>,
        n: u64,
        precision: Precision,
    ) -> Result<QueryErrors> {
        let mechanism = match mechanism {
            Mechanism::Strategy(matrix) => WireMechanism::Strategy(matrix.into()),
            Mechanism::NoisingMatrix(matrix) => WireMechanism::NoisingMatrix(matrix.into()),
        };
        let workload = workload.map(Into::into);
        let request = v1::ComputeErrorsRequest {
            workload,
            mechanism: Some(mechanism),
            n,
            summary_only: false,
            precision: v1::Precision::from(precision).into(),
        };
        let answers = self.ask(&request, |mut client, request| async move {
            collect(client.compute_errors(request).await?).await
        });
        let (mut per_query, mut way) = (Vec::new(), None);
        for v1::ComputeErrorsResponse { summary, first_query, per_query: some } in answers.await? {
            check(first_query == per_query.len() as u64, "the query after the last")?;
            way = way.or(summary.map(|summary| summary.way));
            per_query.extend(some);
        }
        check(per_query.len() as u64 == n, "as many errors as there are queries")?;
        Ok(QueryErrors { per_query, way: known(way)? })
    }

    /// The sensitivity of the leading `n x n` block of a strategy, whose numbers are not rounded.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn sensitivity(
        &self,
        strategy: &MatrixSpec,
        n: u64,
        participation: Participation,
    ) -> Result<Sensitivity> {
        Ok(self.sensitivity_in(strategy, n, participation, Some(Precision::F64)).await?.0)
    }

    /// The sensitivity of the strategy that a session of a precision realises, and the precision whose it is:
    /// see [`noised::analysis::sensitivity_in`]. Where no precision is given it is safe for sessions of
    /// either.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn sensitivity_in(
        &self,
        strategy: &MatrixSpec,
        n: u64,
        participation: Participation,
        precision: Option<Precision>,
    ) -> Result<(Sensitivity, Precision)> {
        let participation = Some(participation.into());
        let precision = precision.map_or(v1::Precision::Unspecified, v1::Precision::from).into();
        let request =
            v1::ComputeSensitivityRequest { strategy: Some(strategy.into()), n, participation, precision };
        let answer = self
            .ask(&request, |mut client, request| async move { client.compute_sensitivity(request).await });
        let unexpected = |e: noised::Error| Error::Protocol { message: e.to_string() };
        let answer = answer.await?;
        let of = noised_proto::precision(answer.precision).map_err(unexpected)?;
        // A server of before rounds nothing.
        Ok((answer.try_into().map_err(unexpected)?, of.unwrap_or(Precision::F64)))
    }

    /// The noise that a target takes at an L2 sensitivity, and what else it gives. `delta` is what epsilon is
    /// told for where the target has none of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn calibrate(&self, given: Given, sensitivity: f64, delta: Option<f64>) -> Result<Calibration> {
        let request: v1::CalibrateNoiseRequest = CalibrationQuestion { given, sensitivity, delta }.into();
        let answer =
            self.ask(&request, |mut client, request| async move { client.calibrate_noise(request).await });
        Ok(answer.await?.into())
    }

    /// What a training run guarantees, or the noise that a guarantee takes.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection.
    pub async fn privacy(&self, question: Question) -> Result<Account> {
        let request: v1::ComputePrivacyRequest = question.into();
        let answer =
            self.ask(&request, |mut client, request| async move { client.compute_privacy(request).await });
        answer.await?.try_into().map_err(|e: noised::Error| Error::Protocol { message: e.to_string() })
    }
}

/// Every message of a stream. One that is cut off is asked for again as a whole.
async fn collect<T>(answers: Response<Streaming<T>>) -> std::result::Result<Response<Vec<T>>, Status> {
    let mut answers = answers.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(Response::new(all))
}

fn known(way: Option<i32>) -> Result<Way> {
    way_from_wire(way.unwrap_or_default()).map_err(|e| Error::Protocol { message: e.to_string() })
}
