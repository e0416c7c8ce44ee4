//! Descriptions that break a rule, each with the field that an error has to name and a part of the rule.

use noised::limits::{MAX_BANDS, MAX_DENSE_N, MAX_FACTORS, MAX_HORIZON, MAX_NESTING};
use noised::limits::{MAX_LANES, MAX_LEAVES, MAX_PATH_BYTES, MAX_RANK};
use noised::{DType, Leaf, MatrixSpec};

use crate::specs::{blt, product, toeplitz};

/// A description that breaks a rule.
#[derive(Clone, Debug)]
pub struct Bad<T> {
    /// The description.
    pub what: T,
    /// The path of the field at fault.
    pub field: String,
    /// A part of the rule.
    pub rule: &'static str,
}

fn bad<T>(what: T, field: impl Into<String>, rule: &'static str) -> Bad<T> {
    Bad { what, field: field.into(), rule }
}

fn diagonal(diag: &[f64]) -> MatrixSpec {
    MatrixSpec::Diagonal { diag: diag.to_vec() }
}

fn momentum(momentum: f64, learning_rates: &[f64]) -> MatrixSpec {
    MatrixSpec::MomentumSgd { momentum, learning_rates: Some(learning_rates.to_vec()) }
}

fn normalized(coef: &[f64], n: u64) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef: coef.to_vec(), column_normalize_for_n: Some(n) }
}

fn banded(params: &[&[f64]]) -> MatrixSpec {
    MatrixSpec::ColumnNormalizedBanded { params: params.iter().map(|row| row.to_vec()).collect() }
}

fn dense(rows: &[&[f64]]) -> MatrixSpec {
    MatrixSpec::Dense { rows: rows.iter().map(|row| row.to_vec()).collect() }
}

fn scaled(row_scale: Option<&[f64]>, col_scale: Option<&[f64]>) -> MatrixSpec {
    MatrixSpec::PrefixSum
        .scale_rows_and_columns(row_scale.map(<[f64]>::to_vec), col_scale.map(<[f64]>::to_vec))
}

/// Matrices that break a rule of their kind, small enough to be sent.
pub fn matrices() -> Vec<Bad<MatrixSpec>> {
    let mut all = lists();
    all.extend(numbers());
    all.extend(zero_diagonals());
    all.extend(sizes());
    all
}

/// The optional lists that are given and empty. On the wire an empty list is one that is not given.
pub fn empty_optional_lists() -> Vec<Bad<MatrixSpec>> {
    vec![
        bad(momentum(0.9, &[]), "matrix.learning_rates", "must not be empty"),
        bad(scaled(Some(&[]), None), "matrix.row_scale", "must not be empty"),
        bad(scaled(None, Some(&[])), "matrix.col_scale", "must not be empty"),
    ]
}

/// Empty lists and lists of the wrong length.
fn lists() -> Vec<Bad<MatrixSpec>> {
    let empty = "must not be empty";
    vec![
        bad(diagonal(&[]), "matrix.diag", empty),
        bad(toeplitz(&[]), "matrix.coef", empty),
        bad(blt(&[], &[]), "matrix.buf_decay", empty),
        bad(blt(&[], &[0.5]), "matrix.buf_decay", empty),
        bad(blt(&[0.5], &[]), "matrix.output_scale", empty),
        bad(blt(&[0.5], &[0.1, 0.2]), "matrix.output_scale", "as long as buf_decay"),
        bad(blt(&[0.5, 0.4], &[0.1]), "matrix.output_scale", "as long as buf_decay"),
        bad(banded(&[]), "matrix.params", empty),
        bad(banded(&[&[]]), "matrix.params[0]", empty),
        bad(banded(&[&[1.0, 0.5], &[1.0]]), "matrix.params[1]", "must have 2 entries"),
        bad(banded(&[&[1.0, 0.5], &[1.0, 0.5, 0.25]]), "matrix.params[1]", "must have 2 entries"),
        bad(banded(&[&[1.0, 0.5], &[]]), "matrix.params[1]", empty),
        bad(banded(&[&[1.0, 0.5]]), "matrix.params[0]", "more bands (2) than rows (1)"),
        bad(dense(&[]), "matrix.rows", empty),
        bad(dense(&[&[]]), "matrix.rows[0]", empty),
        bad(dense(&[&[1.0], &[]]), "matrix.rows[1]", empty),
        bad(dense(&[&[1.0], &[1.0]]), "matrix.rows[1]", "must have 2 entries"),
        bad(dense(&[&[1.0, 0.0], &[1.0, 1.0], &[1.0, 1.0, 1.0]]), "matrix.rows[0]", "must have 1 entries"),
        bad(dense(&[&[1.0], &[1.0, 1.0, 0.0]]), "matrix.rows[1]", "at most 2 entries"),
        bad(dense(&[&[1.0, 0.0], &[1.0, 1.0, 0.0]]), "matrix.rows[1]", "at most 2 entries"),
        bad(dense(&[&[1.0, 0.5], &[1.0, 1.0]]), "matrix.rows[0][1]", "lower triangular"),
        bad(dense(&[&[1.0, 0.0, -1e-300], &[1.0, 1.0], &[1.0; 3]]), "matrix.rows[0][2]", "lower triangular"),
        bad(product([]), "matrix.factors", empty),
        bad(normalized(&[1.0, 0.5], 1), "matrix.column_normalize_for_n", "at least the number of bands"),
        bad(normalized(&[1.0], 0), "matrix.column_normalize_for_n", "at least the number of bands"),
    ]
}

/// Numbers that no kind takes in that place.
fn numbers() -> Vec<Bad<MatrixSpec>> {
    let mut all = Vec::new();
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let finite = "must be finite";
        all.extend([
            bad(diagonal(&[x]), "matrix.diag[0]", finite),
            bad(diagonal(&[1.0, 2.0, x]), "matrix.diag[2]", finite),
            bad(momentum(x, &[1.0]), "matrix.momentum", "in [0, 1]"),
            bad(momentum(0.5, &[1.0, x]), "matrix.learning_rates[1]", finite),
            bad(toeplitz(&[1.0, x]), "matrix.coef[1]", finite),
            bad(normalized(&[x, 1.0], 2), "matrix.coef[0]", finite),
            bad(blt(&[x], &[0.5]), "matrix.buf_decay[0]", finite),
            bad(blt(&[0.5, 0.5], &[0.5, x]), "matrix.output_scale[1]", finite),
            bad(banded(&[&[1.0, 0.5], &[1.0, x]]), "matrix.params[1][1]", finite),
            bad(dense(&[&[1.0], &[x, 1.0]]), "matrix.rows[1][0]", finite),
            bad(dense(&[&[1.0, x], &[1.0, 1.0]]), "matrix.rows[0][1]", finite),
            bad(scaled(Some(&[x]), None), "matrix.row_scale[0]", finite),
            bad(scaled(None, Some(&[1.0, x])), "matrix.col_scale[1]", finite),
        ]);
    }
    for (x, field) in
        [(-0.1, "matrix.momentum"), (1.0 + f64::EPSILON, "matrix.momentum"), (2.0, "matrix.momentum")]
    {
        all.push(bad(momentum(x, &[1.0]), field, "in [0, 1]"));
    }
    for x in [-1.0, -f64::MIN_POSITIVE] {
        all.push(bad(momentum(0.5, &[x]), "matrix.learning_rates[0]", "must not be negative"));
        all.push(bad(momentum(0.5, &[1.0, 0.1, x]), "matrix.learning_rates[2]", "must not be negative"));
    }
    for x in [0.0, -0.0] {
        let rule = "must not be zero";
        all.push(bad(momentum(0.5, &[x, 1.0]).inverse(), "matrix.matrix.learning_rates[0]", rule));
        all.push(bad(momentum(0.5, &[1.0, x]).inverse(), "matrix.matrix.learning_rates[1]", rule));
    }
    for x in [1.0 + f64::EPSILON, -1.0 - f64::EPSILON, 2.0, -1e300] {
        all.push(bad(blt(&[0.5, x], &[0.1, 0.1]), "matrix.buf_decay[1]", "in [-1, 1]"));
    }
    all.extend([
        bad(normalized(&[0.0, 1.0], 2), "matrix.coef[0]", "the last column would be zero"),
        bad(banded(&[&[1.0, 1.0], &[0.0, 1.0]]), "matrix.params[1]", "the column has no norm"),
        bad(banded(&[&[0.0, 0.0], &[1.0, 1.0]]), "matrix.params[0]", "the column has no norm"),
        bad(diagonal(&[5e-324]).inverse(), "matrix", "not finite"),
        bad(momentum(0.5, &[1e-310]).inverse(), "matrix", "not finite"),
        bad(toeplitz(&[1e-200, 1e200]).inverse(), "matrix", "not finite"),
        bad(normalized(&[1.5e308, 1.5e308], 2), "matrix", "not finite"),
        bad(banded(&[&[1.5e308, 1.5e308], &[1.0, 1.0]]), "matrix", "not finite"),
        bad(dense(&[&[1.0], &[1e200, 1e-200]]).inverse(), "matrix", "not finite"),
        bad(scaled(Some(&[5e-324]), None).inverse(), "matrix", "not finite"),
    ]);
    all
}

/// A matrix around another, and the path to the one within.
pub type Around = (fn(MatrixSpec) -> MatrixSpec, &'static str);

/// A zero on the diagonal of every kind that can have one, under an inverse at any depth.
fn zero_diagonals() -> Vec<Bad<MatrixSpec>> {
    let around: [Around; 8] = [
        (MatrixSpec::inverse, "matrix"),
        (|m| m.inverse().inverse(), "matrix.matrix"),
        (|m| product([MatrixSpec::PrefixSum, m]).inverse(), "matrix.factors[1]"),
        (|m| product([MatrixSpec::PrefixSum, m.inverse()]), "factors[1].matrix"),
        (|m| m.scale_rows_and_columns(Some(vec![2.0]), None).inverse(), "matrix.matrix"),
        (|m| m.inverse().scale_rows_and_columns(Some(vec![0.0]), None), "matrix.matrix"),
        (|m| product([product([m.inverse()])]).inverse(), "matrix.factors[0].factors[0].matrix"),
        (
            |m| {
                product([m.scale_rows_and_columns(None, Some(vec![2.0])), MatrixSpec::Identity])
                    .inverse()
                    .inverse()
            },
            "matrix.matrix.factors[0].matrix",
        ),
    ];
    let zero = [
        (diagonal(&[0.0]), "diag[0]"),
        (diagonal(&[1.0, -0.0, 2.0]), "diag[1]"),
        (toeplitz(&[0.0, 1.0]), "coef[0]"),
        (banded(&[&[1.0, 1.0], &[1.0, 0.5], &[0.0, 1.0]]), "params[2][0]"),
        (dense(&[&[1.0], &[1.0, 0.0]]), "rows[1][1]"),
        (scaled(Some(&[1.0, 0.0]), None), "row_scale[1]"),
        (scaled(None, Some(&[0.0, 1.0])), "col_scale[0]"),
    ];
    let mut all = Vec::new();
    for (wrap, path) in around {
        for (matrix, field) in zero.clone() {
            all.push(bad(wrap(matrix), format!("matrix.{path}.{field}"), "must not be zero"));
        }
    }
    all
}

/// Too much of anything.
fn sizes() -> Vec<Bad<MatrixSpec>> {
    let ones = |n| vec![1.0; n];
    let nested = |depth: usize, wrap: fn(MatrixSpec) -> MatrixSpec| {
        (0..depth).fold(MatrixSpec::PrefixSum, |m, _| wrap(m))
    };
    let path = |field: &str| format!("matrix{}", field.repeat(MAX_NESTING + 1));
    let wide = product(vec![MatrixSpec::Identity; MAX_FACTORS]);
    vec![
        bad(toeplitz(&ones(MAX_BANDS + 1)), "matrix.coef", "at most 1024 entries"),
        bad(blt(&vec![0.5; MAX_BANDS + 1], &ones(1)), "matrix.buf_decay", "at most 1024 entries"),
        bad(blt(&[0.5], &ones(MAX_BANDS + 1)), "matrix.output_scale", "at most 1024 entries"),
        bad(banded(&[&ones(MAX_BANDS + 1)]), "matrix.params[0]", "at most 1024 entries"),
        bad(
            MatrixSpec::Dense { rows: vec![vec![1.0]; MAX_DENSE_N + 1] },
            "matrix.rows",
            "at most 2048 entries",
        ),
        bad(product(vec![MatrixSpec::Identity; MAX_FACTORS + 1]), "matrix.factors", "at most 64 entries"),
        bad(nested(MAX_NESTING + 1, MatrixSpec::inverse), path(".matrix"), "nest at most 16 deep"),
        bad(nested(MAX_NESTING + 1, |m| product([m])), path(".factors[0]"), "nest at most 16 deep"),
        bad(
            nested(MAX_NESTING + 1, |m| m.scale_rows_and_columns(None, None)),
            path(".matrix"),
            "nest at most 16 deep",
        ),
        bad(
            product([wide.clone(), wide.clone(), wide.clone(), wide]),
            "matrix.factors[3].factors[59]",
            "at most 256 matrices",
        ),
        bad(
            product([
                toeplitz(&ones(MAX_BANDS)),
                toeplitz(&ones(MAX_BANDS)),
                toeplitz(&ones(MAX_BANDS)),
                toeplitz(&ones(MAX_BANDS)).inverse(),
                momentum(0.5, &[1.0]),
                toeplitz(&ones(4)),
            ]),
            "matrix.factors[5]",
            "at most 4096 planes",
        ),
        bad(normalized(&[1.0], MAX_HORIZON + 1), "matrix.column_normalize_for_n", "at most"),
        bad(normalized(&[1.0], u64::MAX), "matrix.column_normalize_for_n", "at most"),
    ]
}

/// Leaves that do not make a tree.
pub fn trees() -> Vec<Bad<Vec<Leaf>>> {
    let leaf = |path: &str, shape: &[u64]| Leaf::new(path, DType::F32, shape);
    let lanes = "at most 1099511627776 lanes";
    let half = MAX_LANES / 2;
    let many = (0..=MAX_LEAVES).map(|i| leaf(&i.to_string(), &[1])).collect();
    vec![
        bad(vec![], "tree.leaves", "must not be empty"),
        bad(many, "tree.leaves", "at most 65536 leaves"),
        bad(vec![leaf("", &[1])], "tree.leaves[0].path", "must not be empty"),
        bad(vec![leaf("a", &[1]), leaf("", &[1])], "tree.leaves[1].path", "must not be empty"),
        bad(vec![leaf(&"x".repeat(MAX_PATH_BYTES + 1), &[1])], "tree.leaves[0].path", "at most 1024 bytes"),
        bad(
            vec![leaf(&"é".repeat(MAX_PATH_BYTES / 2 + 1), &[1])],
            "tree.leaves[0].path",
            "at most 1024 bytes",
        ),
        bad(vec![leaf("a", &[1]), leaf("b", &[1]), leaf("a", &[2])], "tree.leaves[2].path", "appears twice"),
        bad(vec![leaf("a", &[1; MAX_RANK + 1])], "tree.leaves[0].shape", "at most 32 axes"),
        bad(vec![leaf("a", &[MAX_LANES + 1])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[u64::MAX])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[1 << 32, 1 << 32])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[1 << 63, 2])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[u64::MAX, u64::MAX])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[2; MAX_RANK]), leaf("b", &[0, 1 << 41])], "tree.leaves[1].shape", lanes),
        bad(vec![leaf("b", &[1 << 62, 1 << 62, 0])], "tree.leaves[0].shape", lanes),
        bad(vec![leaf("a", &[half]), leaf("b", &[half]), leaf("c", &[])], "tree.leaves[2].shape", lanes),
        bad(vec![leaf("a", &[0])], "tree.leaves", "at least one lane"),
        bad(vec![leaf("a", &[3, 0]), leaf("b", &[0])], "tree.leaves", "at least one lane"),
    ]
}
