//! Values of jax_privacy (see `golden/README.md`) and of the papers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use noised::matrix::strategy;
use noised::noise::{NoiseKey, standard_normals};
use noised::{DenseMatrix, Error, MatrixSpec, StreamingMatrix, analysis};
use serde_json::Value;

fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Within a few roundings of the largest number around.
fn assert_close(found: &[f64], expected: &[f64], within: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let unit = expected.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= within * unit, "{what}: entry {i} is {a}, not {b}");
    }
}

#[test]
fn matrices_have_the_rows_and_norms_of_jax_privacy() {
    let cases = cases(include_str!("../golden/matrices.json"));
    assert!(cases.len() >= 40);
    for case in cases {
        let what = case["name"].as_str().unwrap();
        let matrix = MatrixSpec::from_json(&case["matrix"].to_string()).unwrap();
        let n = case["n"].as_u64().unwrap();
        let rows: Vec<Vec<f64>> = case["rows"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(rows.len() as u64, n);

        let dense = DenseMatrix::new(&matrix, n as usize).unwrap();
        let streamed: Vec<Vec<f64>> = analysis::Rows::new(&matrix, n).unwrap().collect();
        let written = StreamingMatrix::new(matrix.clone()).unwrap().materialize(n as usize).unwrap();
        for (i, row) in rows.iter().enumerate() {
            assert_close(dense.row(i), row, 1e-14, what);
            assert_close(&streamed[i], row, 1e-14, what);
            let mut whole = row.clone();
            whole.resize(n as usize, 0.0);
            assert_close(&written.row(i).to_vec(), &whole, 1e-14, what);
        }
        let norms = analysis::row_norms_squared(&matrix, n, || false).unwrap().values;
        assert_close(&norms, &numbers(&case["row_norms_squared"]), 1e-14, what);
    }
}

fn coef(spec: &MatrixSpec) -> &[f64] {
    match spec {
        MatrixSpec::Toeplitz { coef, column_normalize_for_n: None } => coef,
        MatrixSpec::Inverse { matrix } => coef(matrix),
        other => panic!("not Toeplitz: {other:?}"),
    }
}

#[test]
fn strategies_have_the_parameters_of_jax_privacy() {
    let mut seen = Vec::new();
    for case in cases(include_str!("../golden/strategies.json")) {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let name = case["strategy"].as_str().unwrap();
        match name {
            "optimal_max_error" => {
                let found = strategy::optimal_max_error(size("n")).unwrap();
                assert_close(coef(&found), &numbers(&case["coef"]), 1e-15, name);
            }
            "banded_inverse_square_root" => {
                let found = strategy::banded_inverse_square_root(size("bands"), None).unwrap();
                assert!(matches!(found, MatrixSpec::Inverse { .. }));
                assert_close(coef(&found), &numbers(&case["noising_coef"]), 1e-15, name);
            }
            "blt_from_rational_approximation" => {
                let found = strategy::blt_from_rational_approximation(size("num_buffers")).unwrap();
                let coefs = numbers(&case["toeplitz_coefs"]);
                let dense = DenseMatrix::new(&found, coefs.len()).unwrap();
                let column: Vec<f64> = (0..coefs.len()).map(|i| dense.row(i)[0]).collect();
                assert_close(&column, &coefs, 1e-12, name);
                let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = found else {
                    panic!("not a BLT")
                };
                assert_close(&buf_decay, &numbers(&case["buf_decay"]), 1e-10, name);
                assert_close(&output_scale, &numbers(&case["output_scale"]), 1e-10, name);
            }
            "column_normalized_banded" => {
                let found = strategy::column_normalized_banded(size("n"), size("bands")).unwrap();
                let MatrixSpec::ColumnNormalizedBanded { params } = found else { panic!("not banded") };
                let expected: Vec<Vec<f64>> =
                    case["params"].as_array().unwrap().iter().map(numbers).collect();
                assert_eq!(params.len(), expected.len());
                for (row, expected) in params.iter().zip(&expected) {
                    assert_close(row, expected, 1e-15, name);
                }
            }
            other => panic!("an unknown strategy: {other}"),
        }
        seen.push(name.to_owned());
    }
    seen.dedup();
    assert!(seen.len() >= 4);
}

/// arXiv 2202.11205, and the square root's definition.
#[test]
fn the_square_root_of_the_prefix_sum() {
    let root = strategy::optimal_max_error(64).unwrap();
    assert_close(&coef(&root)[..6], &[1.0, 0.5, 0.375, 0.3125, 35.0 / 128.0, 63.0 / 256.0], 0.0, "exact");
    assert_eq!(strategy::banded_square_root(64, None).unwrap(), root);
    let squared = StreamingMatrix::new(root).unwrap();
    let squared = (&squared * &squared).materialize(64).unwrap();
    for ((i, j), entry) in squared.indexed_iter() {
        let expected = if j <= i { 1.0 } else { 0.0 };
        assert!((entry - expected).abs() < 1e-13, "{i}, {j}: {entry}");
    }
    // A workload of one's own: the square of 1, 1/2, 1/4 is 1, 1, 3/4, 1/4, 1/16.
    let workload = [4.0, 4.0, 3.0, 1.0, 0.25];
    let root = strategy::banded_square_root(5, Some(&workload)).unwrap();
    assert_close(coef(&root), &[2.0, 1.0, 0.5, 0.0, 0.0], 1e-15, "a workload");
    let inverse = strategy::banded_inverse_square_root(3, Some(&workload)).unwrap();
    assert_close(coef(&inverse), &[0.5, -0.25, 0.0], 1e-15, "its inverse");
}

/// arXiv 2601.22334: unit columns, and noise that takes a multiple of the last step's away.
#[test]
fn lambda_cgd_has_unit_columns_and_one_plane() {
    for (lambda, n) in [(0.0, 3), (0.5, 1), (0.5, 8), (0.95, 40)] {
        let strategy = strategy::lambda_cgd(lambda, n).unwrap();
        let dense = DenseMatrix::new(&strategy, n).unwrap();
        for j in 0..n {
            let norm: f64 = (j..n).map(|i| dense.row(i)[j].powi(2)).sum();
            assert!((norm - 1.0).abs() < 1e-13, "column {j} of {n}: {norm}");
        }
        let noising = strategy.inverse();
        assert_eq!(noised::Plan::new(&noising).unwrap().planes(), 1);
        let dense = DenseMatrix::new(&noising, n).unwrap();
        for i in 1..n {
            assert!((dense.row(i)[i - 1] + lambda * dense.row(i)[i]).abs() < 1e-13);
            assert!(dense.row(i)[..i - 1].iter().all(|entry| entry.abs() < 1e-13));
        }
    }
}

/// arXiv 2404.16706: the more buffers, the nearer to the optimal coefficients.
#[test]
fn a_blt_comes_nearer_to_the_optimum_with_every_pair_of_buffers() {
    let n = 500;
    let optimal = strategy::optimal_max_error(n).unwrap();
    let mut last = f64::INFINITY;
    for buffers in [2, 4, 6, 8, 12, 16, 24] {
        let blt = strategy::blt_from_rational_approximation(buffers).unwrap();
        let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = &blt else { panic!("not a BLT") };
        assert_eq!((buf_decay.len(), output_scale.len()), (buffers, buffers));
        assert!(buf_decay.windows(2).all(|pair| pair[0] > pair[1]));
        let dense = DenseMatrix::new(&blt, n).unwrap();
        let off = (0..n).map(|i| (dense.row(i)[0] - coef(&optimal)[i]).abs()).fold(0.0, f64::max);
        assert!(off < last || off < 1e-6, "{buffers} buffers are off by {off}, fewer by {last}");
        last = off;
    }
}

#[test]
fn strategies_name_the_argument_at_fault() {
    let field = |result: noised::Result<MatrixSpec>| match result {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("not about an argument: {other:?}"),
    };
    for n in [0, 1025, usize::MAX] {
        assert_eq!(field(strategy::optimal_max_error(n)), "n");
        assert_eq!(field(strategy::banded_square_root(n, None)), "bands");
        assert_eq!(field(strategy::banded_inverse_square_root(n, None)), "bands");
        assert_eq!(field(strategy::column_normalized_banded(2000, n)), "bands");
    }
    for workload in [&[][..], &[0.0], &[-1.0, 1.0]] {
        assert_eq!(field(strategy::banded_square_root(2, Some(workload))), "workload[0]");
        assert_eq!(field(strategy::banded_inverse_square_root(2, Some(workload))), "workload[0]");
    }
    assert_eq!(field(strategy::banded_square_root(2, Some(&[1.0, f64::NAN]))), "workload[1]");
    for n in [0, (1 << 24) + 1] {
        assert_eq!(field(strategy::lambda_cgd(0.5, n)), "n");
        assert_eq!(field(strategy::column_normalized_banded(n, 1)), "n");
    }
    assert_eq!(field(strategy::column_normalized_banded(3, 4)), "n");
    for lambda in [1.0, -0.1, f64::NAN, f64::INFINITY] {
        assert_eq!(field(strategy::lambda_cgd(lambda, 3)), "lambda");
    }
    for buffers in [0, 25, usize::MAX] {
        assert_eq!(field(strategy::blt_from_rational_approximation(buffers)), "num_buffers");
    }
}

/// The generator, computed in 50 digits by other means.
#[test]
fn normals_are_those_of_their_construction() {
    let file: Value = serde_json::from_str(include_str!("../golden/noise.json")).unwrap();
    let key = NoiseKey::from_hex("key", file["key"].as_str().unwrap()).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let (step, first) = (case["step"].as_u64().unwrap(), case["first_lane"].as_u64().unwrap());
        let what = format!("step {step} from lane {first} on");
        let expected = numbers(&case["f32"]);
        let mut found = vec![0.0_f32; expected.len()];
        standard_normals(&key, step, first, &mut found);
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        assert_close(&found, &expected, 4e-7, &what);
        let expected = numbers(&case["f64"]);
        let mut found = vec![0.0_f64; expected.len()];
        standard_normals(&key, step, first, &mut found);
        assert_close(&found, &expected, 2e-15, &what);
    }
}
