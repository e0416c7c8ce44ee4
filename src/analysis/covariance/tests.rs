//! The gradient of row norms against differences, and each scan against the others.

use super::*;
use crate::analysis::row_norms_squared;
use crate::analysis::tests::{all, scattered};
use crate::error::Error;
use crate::matrix::MatrixSpec;

/// Every parameter, in one order for all descriptions of a shape.
fn parameters(spec: &mut MatrixSpec) -> Vec<&mut f64> {
    match spec {
        MatrixSpec::Identity | MatrixSpec::PrefixSum => Vec::new(),
        MatrixSpec::Diagonal { diag } => diag.iter_mut().collect(),
        MatrixSpec::MomentumSgd { momentum, learning_rates } => {
            [momentum].into_iter().chain(learning_rates.iter_mut().flatten()).collect()
        }
        MatrixSpec::Toeplitz { coef, .. } => coef.iter_mut().collect(),
        MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => {
            buf_decay.iter_mut().chain(output_scale).collect()
        }
        MatrixSpec::ColumnNormalizedBanded { params: rows } | MatrixSpec::Dense { rows } => {
            rows.iter_mut().flatten().collect()
        }
        MatrixSpec::Product { factors } => factors.iter_mut().flat_map(parameters).collect(),
        MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
            let scales = row_scale.iter_mut().flatten().chain(col_scale.iter_mut().flatten());
            parameters(matrix).into_iter().chain(scales).collect()
        }
        MatrixSpec::Inverse { matrix } => parameters(matrix),
    }
}

#[test]
fn the_gradient_is_that_of_central_differences() {
    let n = 11;
    let weights: Vec<f64> = (0..n).map(|t| 0.5 + scattered(t)).collect();
    let loss = |matrix: &MatrixSpec| -> f64 {
        let norms = row_norms_squared(matrix, n as u64, || false).unwrap().values;
        norms.iter().zip(&weights).map(|(norm, weight)| norm * weight).sum()
    };
    for matrix in all(n) {
        let found =
            row_norms_squared_gradient(&matrix, n as u64, &weights, Scan::StoreAll, || false).unwrap();
        let expected = row_norms_squared(&matrix, n as u64, || false).unwrap().values;
        for (found, expected) in found.row_norms_squared.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-11 * expected, "{matrix:?}");
        }
        let mut gradient = found.gradient;
        assert_eq!(gradient.kind(), matrix.kind());
        let gradient: Vec<f64> = parameters(&mut gradient).into_iter().map(|value| *value).collect();
        let scale = gradient.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
        let mut moved = matrix.clone();
        for (i, found) in gradient.iter().enumerate() {
            let at = *parameters(&mut moved)[i];
            let width = 1e-5;
            *parameters(&mut moved)[i] = at + width;
            // Right of the diagonal of a dense matrix there are no parameters, and none of them is written
            // out here.
            let above = loss(&moved);
            *parameters(&mut moved)[i] = at - width;
            let below = loss(&moved);
            *parameters(&mut moved)[i] = at;
            let difference = (above - below) / (2.0 * width);
            assert!((found - difference).abs() <= 2e-7 * scale, "{i}: {found}, not {difference}: {matrix:?}");
        }
    }
}

#[test]
fn no_bit_depends_on_the_scan() {
    let n = 23;
    let weights: Vec<f64> = (0..n).map(scattered).collect();
    for matrix in all(n) {
        let run = |scan| row_norms_squared_gradient(&matrix, n as u64, &weights, scan, || false).unwrap();
        let expected = run(Scan::StoreAll);
        for checkpoints in [1, 2, 3, 5, 22, 23, 1000] {
            assert_eq!(run(Scan::Checkpointed { checkpoints }), expected, "{checkpoints}: {matrix:?}");
        }
    }
}

#[test]
fn a_scan_that_cannot_be_run_is_refused() {
    let run = |n: u64, weights: &[f64], scan, stop: bool| {
        let matrix = MatrixSpec::PrefixSum;
        match row_norms_squared_gradient(&matrix, n, weights, scan, || stop) {
            Err(Error::Invalid { field, .. }) => field,
            Err(Error::Cancelled) => "cancelled".to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run(0, &[], Scan::StoreAll, false), "n");
    assert_eq!(run(3, &[1.0; 2], Scan::StoreAll, false), "weights");
    assert_eq!(run(3, &[1.0; 3], Scan::Checkpointed { checkpoints: 0 }, false), "scan");
    assert_eq!(run(1 << 24, &vec![1.0; 1 << 24], Scan::StoreAll, false), "scan");
    assert_eq!(run(3, &[1.0; 3], Scan::StoreAll, true), "cancelled");
}
