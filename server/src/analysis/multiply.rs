//! Multiply: a matrix times an array.

use ndarray::Array2;
use noised::Error;
use noised::analysis::multiply;
use noised_proto::{ServiceError, v1};

use super::{AnalysisService, required};

impl AnalysisService {
    pub(super) async fn product(
        &self,
        request: v1::MultiplyRequest,
    ) -> Result<v1::MultiplyResponse, ServiceError> {
        let v1::MultiplyRequest { matrix, x } = request;
        let product = self.run(move |cancelled| {
            let x = array(x)?.into_dyn();
            multiply(&required(matrix)?, x.view(), cancelled)
        });
        let product = product.await?;
        let rows =
            product.outer_iter().map(|row| v1::Row { values: row.iter().copied().collect() }).collect();
        Ok(v1::MultiplyResponse { rows })
    }
}

fn array(rows: Vec<v1::Row>) -> Result<Array2<f64>, Error> {
    let lanes = rows.first().map_or(0, |row| row.values.len());
    if let Some(i) = rows.iter().position(|row| row.values.len() != lanes) {
        let rule = format!("must have {lanes} entries as the first row has, found {}", rows[i].values.len());
        return Err(Error::invalid(format!("x[{i}]"), rule));
    }
    let shape = (rows.len(), lanes);
    let values = rows.into_iter().flat_map(|v1::Row { values }| values).collect();
    Array2::from_shape_vec(shape, values).map_err(|e| Error::invalid("x", e))
}
