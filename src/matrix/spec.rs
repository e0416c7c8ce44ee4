//! [`MatrixSpec`]: what a matrix is, as data.

use serde::{Deserialize, Deserializer, Serialize};

use super::json;
use crate::error::Result;

/// A lower-triangular linear map that can be applied one step at a time, described.
///
/// Infinite unless its kind says otherwise. As JSON it is an object with a `kind` tag in snake case and the
/// fields below: `{"kind": "toeplitz", "coef": [1.0, 0.5]}`. A `MatrixSpec` made by hand may break the rules
/// of its kind; whatever takes one calls [`MatrixSpec::validate`] first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MatrixSpec {
    /// `y = x`.
    Identity,
    /// The lower triangle of ones: `s += x; y = s`.
    PrefixSum,
    /// `y_t = d_t x_t`; the last entry repeats for ever.
    Diagonal {
        /// The diagonal, `d`.
        diag: Vec<f64>,
    },
    /// SGD with momentum as a map from gradients to (minus) the model's displacement:
    /// `m = momentum*m + x; r += lr_t*m; y = r`. The last learning rate repeats for ever.
    MomentumSgd {
        /// The momentum, in `[0, 1]`.
        momentum: f64,
        /// The learning rates, none negative, and none zero under `inverse`; all ones where there is no list.
        #[serde(skip_serializing_if = "Option::is_none")]
        learning_rates: Option<Vec<f64>>,
    },
    /// The banded Toeplitz matrix with first column `coef`: `y_t = sum_j c_j x_{t-j}`.
    Toeplitz {
        /// The first column, `c`; zero below its end.
        coef: Vec<f64>,
        /// Where given, the matrix is the leading `n x n` block with every column divided by its L2 norm, and
        /// ends there.
        #[serde(skip_serializing_if = "Option::is_none")]
        column_normalize_for_n: Option<u64>,
    },
    /// A buffered linear Toeplitz matrix (BLT): `y = x + sum_k w_k s_k; s_k = theta_k s_k + x` (arXiv
    /// 2408.08868, Algorithm 2). Its first column is `1, sum w_k, sum w_k theta_k, sum w_k theta_k^2, ...`.
    BufferedToeplitz {
        /// The decay of each buffer, `theta`, in `[-1, 1]`.
        buf_decay: Vec<f64>,
        /// The weight of each buffer in the output, `w`.
        output_scale: Vec<f64>,
    },
    /// An `n x n` matrix with `b` bands and columns of L2 norm 1: column `j` is `params[j]` written downward
    /// from the diagonal, cut at row `n`, and divided by its norm (jax_privacy's `ColumnNormalizedBanded`).
    ///
    /// ```text
    /// params = [a b c]     C = [a        ]   before columns are normalised
    ///          [d e f]         [b d      ]
    ///          [g h i]         [c e g    ]
    ///          [j k -]         [  f h j  ]
    ///          [m - -]         [    i k m]
    /// ```
    ColumnNormalizedBanded {
        /// `n` rows of `b` numbers.
        params: Vec<Vec<f64>>,
    },
    /// An `n x n` lower-triangular matrix, written out. It ends at its `n`.
    Dense {
        /// Row `i` has `i + 1` entries, or `n` of which those right of the diagonal are zero.
        rows: Vec<Vec<f64>>,
    },
    /// The matrix product of the factors in the order written; the right-most is applied first.
    Product {
        /// The factors, at least one.
        factors: Vec<MatrixSpec>,
    },
    /// `diag(row_scale) * matrix * diag(col_scale)`. The last entry of a scale repeats for ever.
    Scaled {
        /// The matrix to scale.
        matrix: Box<MatrixSpec>,
        /// A multiplier for each row.
        #[serde(skip_serializing_if = "Option::is_none")]
        row_scale: Option<Vec<f64>>,
        /// A multiplier for each column.
        #[serde(skip_serializing_if = "Option::is_none")]
        col_scale: Option<Vec<f64>>,
    },
    /// The inverse, streaming. The matrix must have no zero on its diagonal.
    Inverse {
        /// The matrix to invert.
        matrix: Box<MatrixSpec>,
    },
}

impl MatrixSpec {
    /// The inverse of this matrix, as a description.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self::Inverse { matrix: Box::new(self) }
    }

    /// `diag(row_scale) * self * diag(col_scale)`.
    #[must_use]
    pub fn scale_rows_and_columns(self, row_scale: Option<Vec<f64>>, col_scale: Option<Vec<f64>>) -> Self {
        Self::Scaled { matrix: Box::new(self), row_scale, col_scale }
    }

    /// Reads a matrix from JSON text, and validates it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) names the field (`matrix.factors[1].coef`) and the rule it
    /// breaks.
    pub fn from_json(text: &str) -> Result<Self> {
        let spec = json::parse(text)?;
        spec.validate()?;
        Ok(spec)
    }

    /// The same for a question about `n` steps: see [`MatrixSpec::validate_for`].
    ///
    /// # Errors
    /// As [`MatrixSpec::from_json`].
    pub fn from_json_for(text: &str, n: u64) -> Result<Self> {
        let spec = json::parse(text)?;
        spec.validate_for(n)?;
        Ok(spec)
    }

    /// This matrix as a JSON object. Numbers print so that they read back as the same `f64`.
    pub fn to_json(&self) -> String {
        // Serializing fails only for a map with keys that are not strings, or a writer that fails.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Bytes that this description takes beside its own.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let list = |list: &Vec<f64>| size_of_val(list.as_slice()) as u64;
        let optional = |values: &Option<Vec<f64>>| values.as_ref().map_or(0, list);
        let rows = |rows: &[Vec<f64>]| size_of_val(rows) as u64 + rows.iter().map(list).sum::<u64>();
        let matrix = |matrix: &Self| size_of_val(matrix) as u64 + matrix.heap_bytes();
        match self {
            Self::Identity | Self::PrefixSum => 0,
            Self::Diagonal { diag } => list(diag),
            Self::MomentumSgd { momentum: _, learning_rates } => optional(learning_rates),
            Self::Toeplitz { coef, column_normalize_for_n: _ } => list(coef),
            Self::BufferedToeplitz { buf_decay, output_scale } => list(buf_decay) + list(output_scale),
            Self::ColumnNormalizedBanded { params } => rows(params),
            Self::Dense { rows: written } => rows(written),
            Self::Product { factors } => factors.iter().map(matrix).sum(),
            Self::Scaled { matrix: inner, row_scale, col_scale } => {
                matrix(inner) + optional(row_scale) + optional(col_scale)
            }
            Self::Inverse { matrix: inner } => matrix(inner),
        }
    }

    /// The `kind` tag.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::PrefixSum => "prefix_sum",
            Self::Diagonal { .. } => "diagonal",
            Self::MomentumSgd { .. } => "momentum_sgd",
            Self::Toeplitz { .. } => "toeplitz",
            Self::BufferedToeplitz { .. } => "buffered_toeplitz",
            Self::ColumnNormalizedBanded { .. } => "column_normalized_banded",
            Self::Dense { .. } => "dense",
            Self::Product { .. } => "product",
            Self::Scaled { .. } => "scaled",
            Self::Inverse { .. } => "inverse",
        }
    }
}

impl<'de> Deserialize<'de> for MatrixSpec {
    /// Reads the shape; the rules of each kind are [`MatrixSpec::validate`]'s.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = crate::json::deserialize(deserializer, "matrix")?;
        json::from_value(value, "matrix", 0).map_err(serde::de::Error::custom)
    }
}
