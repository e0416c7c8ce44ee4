//! Norms of rows and columns, each way against the matrix written out and against each other way.

use super::scaled::Scaled;
use super::*;
use crate::error::Error;
use crate::matrix::{DenseMatrix, MatrixSpec, Plan, strategy};

pub(super) fn toeplitz(coef: &[f64]) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef: coef.to_vec(), column_normalize_for_n: None }
}

pub(super) fn product(factors: &[MatrixSpec]) -> MatrixSpec {
    MatrixSpec::Product { factors: factors.to_vec() }
}

pub(super) fn blt(buf_decay: &[f64], output_scale: &[f64]) -> MatrixSpec {
    MatrixSpec::BufferedToeplitz { buf_decay: buf_decay.to_vec(), output_scale: output_scale.to_vec() }
}

/// A number in `[0, 1)` that looks random.
pub(super) fn scattered(i: usize) -> f64 {
    (i as f64 * 0.618_033_988_75 + (i * i) as f64 * 0.127).fract()
}

/// One of every kind, with at least `n` rows.
pub(super) fn kinds(n: usize) -> Vec<MatrixSpec> {
    let rates = (0..n / 2 + 1).map(|i| 0.2 + scattered(i)).collect();
    let params = |j: usize| {
        (0..4).map(move |k| if k == 0 { 1.0 + scattered(j) } else { 0.5 * scattered(5 * j + k) - 0.2 })
    };
    let entry = |i: usize, j: usize| if i == j { 1.5 } else { 0.1 * scattered(i * 7 + j) - 0.04 };
    vec![
        MatrixSpec::PrefixSum,
        MatrixSpec::Diagonal { diag: vec![2.0, -0.5, 1.25] },
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None },
        MatrixSpec::MomentumSgd { momentum: 0.7, learning_rates: Some(rates) },
        toeplitz(&[2.0]),
        toeplitz(&[1.0, 0.5, 0.375, 0.3125, 0.2, -0.1, 0.05, 0.02, 0.01, 0.03, -0.02]),
        MatrixSpec::Toeplitz { coef: vec![1.0, 0.5, 0.375], column_normalize_for_n: Some(n as u64) },
        blt(&[0.99, 0.8, -0.25], &[0.05, 0.1, 0.15]),
        MatrixSpec::ColumnNormalizedBanded { params: (0..n).map(|j| params(j).collect()).collect() },
        MatrixSpec::Dense { rows: (0..n).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect() },
    ]
}

/// Every kind, forwards and inverted, by itself, under a workload, between scales, and in products.
pub(super) fn all(n: usize) -> Vec<MatrixSpec> {
    let kinds = kinds(n);
    let scale = |seed: usize| (0..n / 3 + 1).map(|i| 0.1 + scattered(i + seed)).collect::<Vec<f64>>();
    let mut all = vec![MatrixSpec::Identity];
    for kind in &kinds {
        for matrix in [kind.clone(), kind.clone().inverse()] {
            all.push(product(&[MatrixSpec::PrefixSum, matrix.clone()]));
            all.push(product(&[kinds[3].clone(), matrix.clone()]));
            all.push(matrix.clone().scale_rows_and_columns(Some(scale(1)), Some(scale(2))));
            all.push(product(&[
                matrix.clone().scale_rows_and_columns(None, Some(scale(3))),
                kinds[7].clone(),
            ]));
            all.push(matrix);
        }
    }
    let deep = product(&[kinds[8].clone(), kinds[3].clone().inverse(), kinds[7].clone()]);
    all.extend([deep.clone().inverse(), deep, strategy::lambda_cgd(0.7, n).unwrap().inverse()]);
    all
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &dyn std::fmt::Debug) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let what: String = format!("{what:?}").chars().take(200).collect();
        assert!(
            (found - expected).abs() <= tolerance * expected.abs(),
            "{i}: {found} not {expected}: {what}"
        );
    }
}

fn dense_norms(matrix: &MatrixSpec, n: usize) -> (Vec<f64>, Vec<f64>) {
    let dense = DenseMatrix::new(matrix, n).unwrap();
    let rows = (0..n).map(|i| dense.row(i).iter().map(|x| x * x).sum()).collect();
    let columns = (0..n).map(|j| (j..n).map(|i| dense.row(i)[j].powi(2)).sum()).collect();
    (rows, columns)
}

#[test]
fn norms_are_those_of_the_matrix_written_out() {
    for n in [1, 2, 7, 90] {
        for matrix in all(n.max(11)) {
            let (rows, columns) = dense_norms(&matrix, n);
            let found = row_norms_squared(&matrix, n as u64, || false).unwrap();
            assert_close(&found.values, &rows, 1e-11, &(found.way, &matrix));
            let found = column_norms_squared(&matrix, n as u64, || false).unwrap();
            assert_close(&found, &columns, 1e-11, &matrix);
        }
    }
}

#[test]
fn every_way_that_can_be_taken_gives_the_same_norms() {
    let n = 150;
    for matrix in all(n) {
        let (rows, columns) = dense_norms(&matrix, n);
        let plan = Plan::new(&matrix).unwrap();
        let by_rows = blocks::norms(&plan, n, &|| false).unwrap();
        assert_close(&by_rows.rows, &rows, 1e-11, &matrix);
        assert_close(&by_rows.columns, &columns, 1e-11, &matrix);
        let found = covariance::row_norms(&plan, n, &|| false).unwrap();
        assert_close(&found.values, &rows, 1e-15 * found.cancelled.max(1e4), &(found.cancelled, &matrix));
        let found = covariance::column_norms(&plan, n, &|| false).unwrap();
        assert_close(&found.values, &columns, 1e-15 * found.cancelled.max(1e4), &(found.cancelled, &matrix));
        if let Some(scaled) = Scaled::of(&plan) {
            assert_close(&scaled.row_norms(n, 0, &|| false).unwrap().unwrap(), &rows, 1e-11, &matrix);
            assert_close(&scaled.column_norms(n, 0, &|| false).unwrap().unwrap(), &columns, 1e-11, &matrix);
        }
        if let Some(column) = toeplitz_coefs(&matrix, n as u64).unwrap() {
            let dense = DenseMatrix::new(&matrix, n).unwrap();
            let expected: Vec<f64> = (0..n).map(|i| dense.row(i)[0]).collect();
            let scale = expected.iter().map(|x| x.abs()).fold(0.0, f64::max);
            assert!(column.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-13 * scale), "{matrix:?}");
        }
    }
}

#[test]
fn many_blocks_of_columns_make_the_rows_of_one_matrix() {
    let n = 2500;
    let matrix = strategy::column_normalized_banded(n, 5).unwrap().inverse();
    let plan = Plan::new(&matrix).unwrap();
    let by_rows = blocks::norms(&plan, n, &|| false).unwrap();
    assert_close(&covariance::row_norms(&plan, n, &|| false).unwrap().values, &by_rows.rows, 1e-11, &0);
    assert_close(&covariance::column_norms(&plan, n, &|| false).unwrap().values, &by_rows.columns, 1e-11, &0);
}

#[test]
fn a_long_scaled_toeplitz_matrix_has_the_norms_of_its_covariances() {
    // Long enough for Fourier transforms.
    let n = 50_000;
    let schedule: Vec<f64> = (0..n).map(|i| 0.5 + scattered(i)).collect();
    let inner = product(&[MatrixSpec::PrefixSum, blt(&[0.99, 0.5], &[0.1, 0.2]).inverse()]);
    let matrix = inner.scale_rows_and_columns(Some(schedule.clone()), Some(schedule));
    let plan = Plan::new(&matrix).unwrap();
    let found = row_norms_squared(&matrix, n as u64, || false).unwrap();
    assert_eq!(found.way, Way::ScaledToeplitz);
    assert_close(&found.values, &covariance::row_norms(&plan, n, &|| false).unwrap().values, 1e-9, &"rows");
    let found = column_norms_squared(&matrix, n as u64, || false).unwrap();
    assert_close(&found, &covariance::column_norms(&plan, n, &|| false).unwrap().values, 1e-9, &"columns");
}

#[test]
fn small_norms_keep_their_digits_where_a_fourier_transform_would_lose_them() {
    let n = 40_000;
    let schedule: Vec<f64> = (0..n).map(|i| 1e-9 + f64::from(i)).collect();
    let matrix = MatrixSpec::PrefixSum.scale_rows_and_columns(None, Some(schedule));
    let found = row_norms_squared(&matrix, n as u64, || false).unwrap();
    assert_eq!(found.way, Way::Covariance);
    assert_close(&found.values[..2], &[1e-18, 1e-18 + (1e-9 + 1.0_f64).powi(2)], 1e-12, &"first rows");
}

/// Many bands under a warm-up so low that a Fourier transform would lose its digits: the plain sum is the
/// cheapest way.
#[test]
fn a_plain_sum_is_taken_where_it_is_the_cheapest() {
    let (n, bands) = (10_000, 1024);
    let coef: Vec<f64> = (0..bands).map(|k| 1.0 / f64::from(k + 1).sqrt()).collect();
    let warm_up: Vec<f64> = (0..n).map(|i| (1e-2_f64).max((i as f64 / 8000.0).powi(2)).min(1.0)).collect();
    for (rows, columns) in [(None, Some(warm_up.clone())), (Some(warm_up), None)] {
        let matrix = toeplitz(&coef).scale_rows_and_columns(rows.clone(), columns.clone());
        let found = row_norms_squared(&matrix, n as u64, || false).unwrap();
        assert_eq!(found.way, Way::ScaledToeplitz);
        let at = |scale: &Option<Vec<f64>>, i: usize| scale.as_ref().map_or(1.0, |scale| scale[i]);
        let norm = |i: usize| {
            let of = |back: usize| (at(&rows, i) * coef[back] * at(&columns, i - back)).powi(2);
            (0..coef.len().min(i + 1)).map(of).sum::<f64>()
        };
        let chosen = [0, 1, 500, 5000, n - 1];
        assert_close(&chosen.map(|i| found.values[i]), &chosen.map(norm), 1e-12, &"rows");
        let found = column_norms_squared(&matrix, n as u64, || false).unwrap();
        let norm = |j: usize| {
            let of = |down: usize| (at(&rows, j + down) * coef[down] * at(&columns, j)).powi(2);
            (0..coef.len().min(n - j)).map(of).sum::<f64>()
        };
        assert_close(&chosen.map(|i| found[i]), &chosen.map(norm), 1e-12, &"columns");
    }
}

/// What overflows, and what is less than f64 holds, is refused by one rule.
#[test]
fn what_is_no_number_of_f64_is_refused() {
    let grows = toeplitz(&[1.0, 1e200]).inverse();
    let schedule = MatrixSpec::Diagonal { diag: vec![1.0, 2.0] };
    for matrix in [grows.clone(), product(&[schedule, grows]), toeplitz(&[1.0, -3.0]).inverse()] {
        let n = 1000;
        let refused = |found: crate::Result<()>| match found {
            Err(Error::Invalid { field, rule }) => field == "n" && rule.contains("not finite in f64"),
            _ => false,
        };
        assert!(refused(row_norms_squared(&matrix, n, || false).map(drop)), "{matrix:?}");
        assert!(refused(column_norms_squared(&matrix, n, || false).map(drop)), "{matrix:?}");
        let mut rows = super::Rows::new(&matrix, n).unwrap();
        let found = loop {
            match rows.next_finite_row() {
                Ok(Some(row)) => assert!(row.iter().all(|entry| entry.is_finite())),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(refused(found), "{matrix:?}");
        let error = query_errors(Mechanism::NoisingMatrix(&matrix), None, n, &|| false);
        assert!(refused(error.map(drop)), "{matrix:?}");
        let ones = ndarray::ArrayD::from_elem(vec![n as usize, 2], 1.0);
        assert!(matches!(
            multiply(&matrix, ones.view(), || false),
            Err(Error::Invalid { field, rule }) if field == "x" && rule.contains("not finite")
        ));
    }
    for small in
        [toeplitz(&[1e-170]), toeplitz(&[1e-160, 1e-170]), MatrixSpec::Diagonal { diag: vec![1.0, 1e-165] }]
    {
        for found in [
            row_norms_squared(&small, 3, || false).map(|found| found.values),
            column_norms_squared(&small, 3, || false),
        ] {
            assert!(
                matches!(&found, Err(Error::Invalid { field, rule }) if field == "n" && rule.contains("less than f64 holds")),
                "{small:?}: {found:?}"
            );
        }
    }
    assert_eq!(column_norms_squared(&toeplitz(&[0.0]), 2, || false), Ok(vec![0.0, 0.0]));
}

#[test]
fn factors_that_cancel_are_left_to_the_rows() {
    // Grows as 1.5^t, and is taken back.
    let grows = toeplitz(&[1.0, -1.5]).inverse();
    let matrix = product(&[toeplitz(&[1.0, -1.5]), MatrixSpec::Diagonal { diag: vec![2.0, 1.0] }, grows]);
    let found = row_norms_squared(&matrix, 60, || false).unwrap();
    assert_eq!(found.way, Way::Rows);
    let overflows =
        product(&[MatrixSpec::Diagonal { diag: vec![2.0, 1.0] }, toeplitz(&[1.0, -2.0]).inverse()]);
    let field = |result: crate::Result<RowNorms>| match result {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        field(row_norms_squared(&product(&[MatrixSpec::PrefixSum, overflows]), 70_000, || false)),
        "n"
    );
}

#[test]
fn rounding_that_a_form_does_not_forget_is_noticed() {
    // The last columns are 10^6 times as long as the first, and what they round remains.
    let n = 1500;
    let rates = (0..n).map(|i| 1e-3 + (1.0 - i as f64 / n as f64).powi(3)).collect();
    let momentum = MatrixSpec::MomentumSgd { momentum: 0.95, learning_rates: Some(rates) };
    let matrix = product(&[momentum.inverse(), MatrixSpec::PrefixSum]);
    let plan = Plan::new(&matrix).unwrap();
    let expected = blocks::norms(&plan, n, &|| false).unwrap().columns;
    let form = covariance::column_norms(&plan, n, &|| false).unwrap();
    let errors = form.values.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b);
    assert!(errors.fold(0.0, f64::max) > 1e-11 && form.error > 1e-11, "{}", form.error);
    assert_close(&column_norms_squared(&matrix, n as u64, || false).unwrap(), &expected, 1e-11, &0);
}

#[test]
fn the_way_that_is_taken_is_told() {
    let way = |matrix: &MatrixSpec| row_norms_squared(matrix, 200, || false).unwrap().way;
    let kinds = kinds(200);
    assert_eq!(way(&product(&[MatrixSpec::PrefixSum, kinds[7].clone().inverse()])), Way::Toeplitz);
    assert_eq!(way(&product(&[MatrixSpec::PrefixSum, kinds[6].clone()])), Way::ScaledToeplitz);
    assert_eq!(way(&product(&[MatrixSpec::PrefixSum, kinds[8].clone().inverse()])), Way::Covariance);
    assert_eq!(Way::ScaledToeplitz.to_string(), "scaled_toeplitz");
}

#[test]
fn every_way_stops_when_it_is_asked_to() {
    for matrix in all(40) {
        assert_eq!(row_norms_squared(&matrix, 40, || true), Err(Error::Cancelled), "{matrix:?}");
        assert_eq!(column_norms_squared(&matrix, 40, || true), Err(Error::Cancelled), "{matrix:?}");
    }
}

/// As many coefficients as steps, which is more than a session runs.
#[test]
fn a_question_takes_a_coefficient_a_step() {
    let n = 3000_i32;
    let coef: Vec<f64> = (0..n)
        .scan(1.0, |c, k| Some(std::mem::replace(c, *c * f64::from(2 * k + 1) / f64::from(2 * k + 2))))
        .collect();
    let root = toeplitz(&coef);
    let steps = coef.len() as u64;
    // The square root of the prefix sum has the same error and sensitivity (arXiv 2202.11205).
    let squared: f64 = coef.iter().map(|c| c * c).sum();
    let errors = query_errors(Mechanism::Strategy(&root), None, steps, &|| false).unwrap();
    assert!((errors.max() / squared - 1.0).abs() < 1e-9, "{} {squared}", errors.max());
    let found = sensitivity(&root, steps, Participation::Single, &|| false).unwrap();
    assert!((found.squared / squared - 1.0).abs() < 1e-12 && found.exact);
    let min_sep = Participation::MinSep { min_sep: 1000, max_participations: None };
    assert!(sensitivity(&root, steps, min_sep, &|| false).unwrap().exact);
    assert!(row_norms_squared(&root.clone().inverse(), steps, || false).is_ok());
    // With fewer steps than coefficients, and in a session, there are too many.
    for refused in [
        row_norms_squared(&root, steps - 1, || false).map(drop),
        sensitivity(&root, 5, Participation::Single, &|| false).map(drop),
        root.validate(),
        describe(&root, None, None).map(drop),
        Plan::new(&root).map(drop),
    ] {
        assert!(matches!(refused, Err(Error::Invalid { field, .. }) if field == "matrix.coef"));
    }
}
