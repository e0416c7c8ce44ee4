//! [`v1::Matrix`] and [`MatrixSpec`].

use noised::limits::{MAX_FACTORS, MAX_NESTING};
use noised::{Error, MatrixSpec, Result};

use super::{at_most, fitted, non_empty};
use crate::v1;
use crate::v1::matrix::Kind;

impl From<&MatrixSpec> for v1::Matrix {
    fn from(spec: &MatrixSpec) -> Self {
        let kind = match spec {
            MatrixSpec::Identity => Kind::Identity(v1::Identity {}),
            MatrixSpec::PrefixSum => Kind::PrefixSum(v1::PrefixSum {}),
            MatrixSpec::Diagonal { diag } => Kind::Diagonal(v1::Diagonal { diag: diag.clone() }),
            MatrixSpec::MomentumSgd { momentum, learning_rates } => Kind::MomentumSgd(v1::MomentumSgd {
                momentum: *momentum,
                learning_rates: learning_rates.clone().unwrap_or_default(),
            }),
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => Kind::Toeplitz(v1::Toeplitz {
                coef: coef.clone(),
                column_normalize_for_n: *column_normalize_for_n,
            }),
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => {
                Kind::BufferedToeplitz(v1::BufferedToeplitz {
                    buf_decay: buf_decay.clone(),
                    output_scale: output_scale.clone(),
                })
            }
            MatrixSpec::ColumnNormalizedBanded { params } => {
                Kind::ColumnNormalizedBanded(v1::ColumnNormalizedBanded { params: rows_to_wire(params) })
            }
            MatrixSpec::Dense { rows } => Kind::Dense(v1::Dense { rows: rows_to_wire(rows) }),
            MatrixSpec::Product { factors } => {
                Kind::Product(v1::Product { factors: factors.iter().map(Into::into).collect() })
            }
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => Kind::Scaled(Box::new(v1::Scaled {
                matrix: Some(Box::new(matrix.as_ref().into())),
                row_scale: row_scale.clone().unwrap_or_default(),
                col_scale: col_scale.clone().unwrap_or_default(),
            })),
            MatrixSpec::Inverse { matrix } => {
                Kind::Inverse(Box::new(v1::Inverse { matrix: Some(Box::new(matrix.as_ref().into())) }))
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Matrix> for MatrixSpec {
    type Error = Error;

    /// Reads the shape and validates it.
    fn try_from(matrix: v1::Matrix) -> Result<Self> {
        let spec = read(matrix, "matrix", 0)?;
        spec.validate()?;
        Ok(spec)
    }
}

/// Reads the matrix of a request that must have one.
///
/// # Errors
/// [`Error::Invalid`] names the field and the rule it breaks.
pub fn required_matrix(matrix: Option<v1::Matrix>) -> Result<MatrixSpec> {
    matrix.ok_or_else(|| Error::invalid("matrix", "is missing"))?.try_into()
}

/// Reads the matrix of a question about `n` steps ([`MatrixSpec::validate_for`]) that must have one.
///
/// # Errors
/// As those of [`required_matrix`].
pub fn question_matrix(matrix: Option<v1::Matrix>, n: u64) -> Result<MatrixSpec> {
    let spec = read(matrix.ok_or_else(|| Error::invalid("matrix", "is missing"))?, "matrix", 0)?;
    spec.validate_for(n)?;
    Ok(spec)
}

/// Reads the matrix of a field of another name, where there is one.
///
/// # Errors
/// As those of [`required_matrix`], under that name.
pub fn named_matrix(matrix: Option<v1::Matrix>, name: &str) -> Result<Option<MatrixSpec>> {
    matrix.map(MatrixSpec::try_from).transpose().map_err(|error| error.about_matrix(name))
}

fn read(matrix: v1::Matrix, path: &str, depth: usize) -> Result<MatrixSpec> {
    if depth > MAX_NESTING {
        return Err(Error::invalid(path, format!("matrices nest at most {MAX_NESTING} deep")));
    }
    let v1::Matrix { kind } = matrix;
    let kind = kind.ok_or_else(|| Error::invalid(path, "must have a kind"))?;
    Ok(match kind {
        Kind::Identity(v1::Identity {}) => MatrixSpec::Identity,
        Kind::PrefixSum(v1::PrefixSum {}) => MatrixSpec::PrefixSum,
        Kind::Diagonal(v1::Diagonal { diag }) => MatrixSpec::Diagonal { diag: fitted(diag) },
        Kind::MomentumSgd(v1::MomentumSgd { momentum, learning_rates }) => {
            MatrixSpec::MomentumSgd { momentum, learning_rates: non_empty(learning_rates) }
        }
        Kind::Toeplitz(v1::Toeplitz { coef, column_normalize_for_n }) => {
            MatrixSpec::Toeplitz { coef: fitted(coef), column_normalize_for_n }
        }
        Kind::BufferedToeplitz(v1::BufferedToeplitz { buf_decay, output_scale }) => {
            MatrixSpec::BufferedToeplitz { buf_decay: fitted(buf_decay), output_scale: fitted(output_scale) }
        }
        Kind::ColumnNormalizedBanded(v1::ColumnNormalizedBanded { params }) => {
            MatrixSpec::ColumnNormalizedBanded { params: rows_from_wire(params) }
        }
        Kind::Dense(v1::Dense { rows }) => MatrixSpec::Dense { rows: rows_from_wire(rows) },
        Kind::Product(v1::Product { factors }) => {
            at_most(factors.len(), MAX_FACTORS, &format!("{path}.factors"), "entries")?;
            let factor = |(i, factor)| read(factor, &format!("{path}.factors[{i}]"), depth + 1);
            MatrixSpec::Product {
                factors: fitted(factors.into_iter().enumerate().map(factor).collect::<Result<_>>()?),
            }
        }
        Kind::Scaled(scaled) => {
            let v1::Scaled { matrix, row_scale, col_scale } = *scaled;
            MatrixSpec::Scaled {
                matrix: inner(matrix, path, depth)?,
                row_scale: non_empty(row_scale),
                col_scale: non_empty(col_scale),
            }
        }
        Kind::Inverse(inverse) => {
            let v1::Inverse { matrix } = *inverse;
            MatrixSpec::Inverse { matrix: inner(matrix, path, depth)? }
        }
    })
}

fn inner(matrix: Option<Box<v1::Matrix>>, path: &str, depth: usize) -> Result<Box<MatrixSpec>> {
    let path = format!("{path}.matrix");
    let matrix = matrix.ok_or_else(|| Error::invalid(&path, "is missing"))?;
    read(*matrix, &path, depth + 1).map(Box::new)
}

fn rows_to_wire(rows: &[Vec<f64>]) -> Vec<v1::Row> {
    rows.iter().map(|values| v1::Row { values: values.clone() }).collect()
}

fn rows_from_wire(rows: Vec<v1::Row>) -> Vec<Vec<f64>> {
    fitted(rows.into_iter().map(|v1::Row { values }| fitted(values)).collect())
}
