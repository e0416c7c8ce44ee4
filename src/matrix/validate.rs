//! The rules of every kind of matrix, each told with the path of the field that breaks it.

use super::spec::MatrixSpec;
use crate::error::{Error, Result};
use crate::limits::{
    MAX_BANDS, MAX_DENSE_N, MAX_FACTORS, MAX_HORIZON, MAX_NESTING, MAX_NODES, MAX_PLANES, MAX_QUESTION_COEFS,
    MAX_SCHEDULE,
};

impl MatrixSpec {
    /// Checks every rule of every matrix in this description.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field, with `matrix` as the root of its path, and the rule that it
    /// breaks.
    pub fn validate(&self) -> Result<()> {
        let mut walk = Walk { nodes: 0, planes: 0, most_coefs: MAX_BANDS, most_planes: MAX_PLANES };
        walk.matrix(self, "matrix", 0, false)
    }

    /// The same for a question about `n` steps, which a matrix need not run for: a Toeplitz matrix may have
    /// as many coefficients as there are steps, and at most [`MAX_QUESTION_COEFS`].
    ///
    /// # Errors
    /// As [`MatrixSpec::validate`].
    pub fn validate_for(&self, n: u64) -> Result<()> {
        let most_coefs = usize::try_from(n).unwrap_or(usize::MAX).clamp(MAX_BANDS, MAX_QUESTION_COEFS);
        let most_planes = MAX_PLANES.max(MAX_PLANES / MAX_BANDS * most_coefs);
        Walk { nodes: 0, planes: 0, most_coefs, most_planes }.matrix(self, "matrix", 0, false)
    }
}

/// What is counted over a whole description.
struct Walk {
    nodes: usize,
    planes: usize,
    /// Coefficients that a Toeplitz matrix may have whose columns are as they are.
    most_coefs: usize,
    most_planes: usize,
}

impl Walk {
    /// Checks the matrix at `path`. Anywhere under an `inverse`, `inverted` asks for a diagonal without
    /// zeros: the inverse of an inverse is the matrix itself only where the inner inverse exists.
    fn matrix(&mut self, spec: &MatrixSpec, path: &str, depth: usize, inverted: bool) -> Result<()> {
        let at = |name: &str| format!("{path}.{name}");
        self.nodes += 1;
        if depth > MAX_NESTING {
            return Err(Error::invalid(path, format!("matrices nest at most {MAX_NESTING} deep")));
        }
        if self.nodes > MAX_NODES {
            return Err(Error::invalid(path, format!("a description holds at most {MAX_NODES} matrices")));
        }
        match spec {
            MatrixSpec::Identity => {}
            MatrixSpec::PrefixSum => self.planes += 1,
            MatrixSpec::Diagonal { diag } => schedule(diag, &at("diag"), inverted)?,
            MatrixSpec::MomentumSgd { momentum, learning_rates } => {
                if !(0.0..=1.0).contains(momentum) {
                    return Err(Error::invalid(
                        at("momentum"),
                        format!("must be in [0, 1], found {momentum}"),
                    ));
                }
                if let Some(rates) = learning_rates {
                    schedule(rates, &at("learning_rates"), inverted)?;
                    if let Some(i) = rates.iter().position(|&rate| rate < 0.0) {
                        let found = rates[i];
                        return Err(Error::invalid(
                            format!("{}[{i}]", at("learning_rates")),
                            format!("must not be negative, found {found}"),
                        ));
                    }
                }
                self.planes += 2;
            }
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => {
                let normalized = column_normalize_for_n.is_some();
                finite_list(coef, &at("coef"), if normalized { MAX_BANDS } else { self.most_coefs })?;
                if inverted {
                    non_zero(coef[0], &format!("{}[0]", at("coef")))?;
                }
                if let Some(n) = *column_normalize_for_n {
                    normalizable(coef, n, path)?;
                }
                self.planes += coef.len() - 1;
            }
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => {
                finite_list(buf_decay, &at("buf_decay"), MAX_BANDS)?;
                if let Some(i) = buf_decay.iter().position(|decay| decay.abs() > 1.0) {
                    let found = buf_decay[i];
                    let field = format!("{}[{i}]", at("buf_decay"));
                    return Err(Error::invalid(field, format!("must be in [-1, 1], found {found}")));
                }
                finite_list(output_scale, &at("output_scale"), MAX_BANDS)?;
                if output_scale.len() != buf_decay.len() {
                    let (found, expected) = (output_scale.len(), buf_decay.len());
                    return Err(Error::invalid(
                        at("output_scale"),
                        format!("must be as long as buf_decay, which has {expected} entries; found {found}"),
                    ));
                }
                self.planes += buf_decay.len();
            }
            MatrixSpec::ColumnNormalizedBanded { params } => {
                banded(params, &at("params"), inverted)?;
                self.planes += params[0].len() - 1;
            }
            MatrixSpec::Dense { rows } => {
                dense(rows, &at("rows"), inverted)?;
                self.planes += rows.len() - 1;
            }
            MatrixSpec::Product { factors } => {
                list(factors, &at("factors"), MAX_FACTORS)?;
                for (i, factor) in factors.iter().enumerate() {
                    self.matrix(factor, &format!("{path}.factors[{i}]"), depth + 1, inverted)?;
                }
            }
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
                for (name, scale) in [("row_scale", row_scale), ("col_scale", col_scale)] {
                    if let Some(scale) = scale {
                        schedule(scale, &at(name), inverted)?;
                    }
                }
                self.matrix(matrix, &at("matrix"), depth + 1, inverted)?;
            }
            MatrixSpec::Inverse { matrix } => self.matrix(matrix, &at("matrix"), depth + 1, true)?,
        }
        if self.planes > self.most_planes {
            let most = self.most_planes;
            return Err(Error::invalid(
                path,
                format!("a matrix holds at most {most} planes of state a lane"),
            ));
        }
        Ok(())
    }
}

fn list<T>(items: &[T], path: &str, most: usize) -> Result<()> {
    if items.is_empty() {
        return Err(Error::invalid(path, "must not be empty"));
    }
    if items.len() > most {
        return Err(Error::invalid(path, format!("at most {most} entries, found {}", items.len())));
    }
    Ok(())
}

fn finite_list(values: &[f64], path: &str, most: usize) -> Result<()> {
    list(values, path, most)?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(i) => {
            Err(Error::invalid(format!("{path}[{i}]"), format!("must be finite, found {}", values[i])))
        }
        None => Ok(()),
    }
}

/// A list whose last entry repeats for ever, without zeros where it is inverted.
fn schedule(values: &[f64], path: &str, inverted: bool) -> Result<()> {
    finite_list(values, path, MAX_SCHEDULE)?;
    if inverted {
        for (i, &value) in values.iter().enumerate() {
            non_zero(value, &format!("{path}[{i}]"))?;
        }
    }
    Ok(())
}

fn non_zero(value: f64, path: &str) -> Result<()> {
    if value == 0.0 {
        return Err(Error::invalid(
            path,
            "must not be zero: it is on the diagonal of a matrix under `inverse`",
        ));
    }
    Ok(())
}

/// Every column of the leading `n x n` block can be divided by its norm.
fn normalizable(coef: &[f64], n: u64, path: &str) -> Result<()> {
    let field = format!("{path}.column_normalize_for_n");
    if n > MAX_HORIZON {
        return Err(Error::invalid(field, format!("at most {MAX_HORIZON}")));
    }
    if n < coef.len() as u64 {
        return Err(Error::invalid(
            field,
            format!("must be at least the number of bands, {}; found {n}", coef.len()),
        ));
    }
    // The last column holds the first coefficient alone.
    if coef[0] == 0.0 {
        return Err(Error::invalid(
            format!("{path}.coef[0]"),
            "must not be zero where columns are normalised: the last column would be zero",
        ));
    }
    Ok(())
}

fn banded(params: &[Vec<f64>], path: &str, inverted: bool) -> Result<()> {
    list(params, path, MAX_SCHEDULE)?;
    let (n, bands) = (params.len(), params[0].len());
    for (j, row) in params.iter().enumerate() {
        let at = format!("{path}[{j}]");
        finite_list(row, &at, MAX_BANDS)?;
        if row.len() != bands {
            let found = row.len();
            return Err(Error::invalid(
                at,
                format!("must have {bands} entries as the first row has, found {found}"),
            ));
        }
        if inverted {
            non_zero(row[0], &format!("{at}[0]"))?;
        }
        if row[..bands.min(n - j)].iter().all(|&value| value == 0.0) {
            return Err(Error::invalid(at, "must not be all zero within the matrix: the column has no norm"));
        }
    }
    if bands > n {
        return Err(Error::invalid(format!("{path}[0]"), format!("more bands ({bands}) than rows ({n})")));
    }
    Ok(())
}

fn dense(rows: &[Vec<f64>], path: &str, inverted: bool) -> Result<()> {
    list(rows, path, MAX_DENSE_N)?;
    let n = rows.len();
    for (i, row) in rows.iter().enumerate() {
        let at = format!("{path}[{i}]");
        finite_list(row, &at, n)?;
        if row.len() != i + 1 && row.len() != n {
            let found = row.len();
            let rule = format!(
                "must have {} entries (to the diagonal) or {n} (the whole row), found {found}",
                i + 1
            );
            return Err(Error::invalid(at, rule));
        }
        if let Some(j) = row[i + 1..].iter().position(|&value| value != 0.0) {
            return Err(Error::invalid(
                format!("{at}[{}]", i + 1 + j),
                "must be zero: the matrix is lower triangular",
            ));
        }
        if inverted {
            non_zero(row[i], &format!("{at}[{i}]"))?;
        }
    }
    Ok(())
}
