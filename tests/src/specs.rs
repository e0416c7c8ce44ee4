//! Matrices to test with.

use noised::MatrixSpec;
use noised::matrix::strategy;
use proptest::prelude::*;

/// Rows of the matrices here that end.
pub const ROWS: usize = 33;

/// The banded Toeplitz matrix of a first column.
pub fn toeplitz(coef: &[f64]) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef: coef.to_vec(), column_normalize_for_n: None }
}

/// A BLT.
pub fn blt(buf_decay: &[f64], output_scale: &[f64]) -> MatrixSpec {
    MatrixSpec::BufferedToeplitz { buf_decay: buf_decay.to_vec(), output_scale: output_scale.to_vec() }
}

/// A product.
pub fn product(factors: impl Into<Vec<MatrixSpec>>) -> MatrixSpec {
    MatrixSpec::Product { factors: factors.into() }
}

/// Prefix sums of noise correlated by a BLT: what a session typically streams.
pub fn noising() -> MatrixSpec {
    product([MatrixSpec::PrefixSum, blt(&[0.9, 0.5], &[0.1, 0.2]).inverse()])
}

/// One of every kind, all with a diagonal without zeros.
pub fn kinds() -> Vec<MatrixSpec> {
    let dense = (0..ROWS).map(|i| {
        (0..=i).map(|j| if i == j { 1.5 } else { ((i * 7 + j * 3) % 11) as f64 / 40.0 - 0.1 }).collect()
    });
    vec![
        MatrixSpec::Identity,
        MatrixSpec::PrefixSum,
        MatrixSpec::Diagonal { diag: vec![2.0, -0.5, 1.25] },
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None },
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, 0.5, 0.25]) },
        toeplitz(&[2.0]),
        toeplitz(&[1.0, -0.5]),
        toeplitz(&[1.0, 0.5, 0.375, 0.3125, 0.2, -0.1, 0.05]),
        MatrixSpec::Toeplitz {
            coef: vec![1.0, 0.5, 0.375, 0.3125],
            column_normalize_for_n: Some(ROWS as u64),
        },
        blt(&[0.9], &[0.2]),
        blt(&[0.99, 0.8, 0.5, -0.25, 0.1], &[0.05, 0.1, 0.2, 0.02, 0.15]),
        strategy::column_normalized_banded(ROWS, 5).unwrap(),
        strategy::column_normalized_banded(ROWS, 1).unwrap(),
        MatrixSpec::Dense { rows: dense.collect() },
    ]
}

/// Every kind, the inverse of every kind, and nestings of them.
pub fn nested() -> Vec<MatrixSpec> {
    let kinds = kinds();
    let mut all = kinds.clone();
    all.extend(kinds.iter().map(|kind| kind.clone().inverse()));
    let scales = (Some(vec![0.5, 2.0, -1.0]), Some(vec![1.5, 1.0]));
    for kind in &kinds {
        let scaled = kind.clone().scale_rows_and_columns(scales.0.clone(), scales.1.clone());
        all.push(scaled.clone());
        all.push(scaled.inverse());
        all.push(product([MatrixSpec::PrefixSum, kind.clone().inverse()]));
    }
    let deep = product([
        blt(&[0.9, 0.5], &[0.1, 0.2]).inverse(),
        toeplitz(&[1.0, 0.25]).scale_rows_and_columns(None, Some(vec![2.0])),
        product([MatrixSpec::PrefixSum, toeplitz(&[1.0, -0.9]).inverse()]).inverse(),
    ]);
    all.push(deep.clone());
    all.push(deep.clone().inverse());
    all.push(deep.inverse().inverse());
    all.push(strategy::lambda_cgd(0.7, ROWS).unwrap().inverse());
    all.push(strategy::blt_from_rational_approximation(4).unwrap().inverse());
    all.push(strategy::banded_inverse_square_root(6, None).unwrap());
    all
}

/// Random matrices, of well-conditioned parameters, nested up to four deep, that have at least [`ROWS`] rows.
pub fn arbitrary() -> impl Strategy<Value = MatrixSpec> {
    let small = || -0.3..0.3_f64;
    let scale = || prop::collection::vec(prop_oneof![0.5..2.0_f64, -2.0..-0.5_f64], 1..4);
    let leaf = prop_oneof![
        Just(MatrixSpec::Identity),
        Just(MatrixSpec::PrefixSum),
        scale().prop_map(|diag| MatrixSpec::Diagonal { diag }),
        (0.0..0.95_f64, prop::option::of(prop::collection::vec(0.5..2.0_f64, 1..4)))
            .prop_map(|(momentum, learning_rates)| MatrixSpec::MomentumSgd { momentum, learning_rates }),
        (prop::collection::vec(small(), 0..12), prop::option::of(Just(ROWS as u64))).prop_map(
            |(rest, column_normalize_for_n)| {
                let rest = rest.into_iter().enumerate().map(|(k, c)| c / (k + 1) as f64);
                MatrixSpec::Toeplitz { coef: [1.0].into_iter().chain(rest).collect(), column_normalize_for_n }
            }
        ),
        prop::collection::vec((-0.9..0.95_f64, small()), 1..10).prop_map(|buffers| {
            let count = buffers.len() as f64;
            let (buf_decay, output_scale) = buffers.into_iter().map(|(theta, w)| (theta, w / count)).unzip();
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale }
        }),
        (1_usize..7).prop_map(|bands| strategy::column_normalized_banded(ROWS, bands).unwrap()),
        prop::collection::vec(small(), ROWS * ROWS).prop_map(|entries| {
            let entry = |i, j| if i == j { 1.0 } else { entries[i * ROWS + j] / (i - j) as f64 };
            MatrixSpec::Dense { rows: (0..ROWS).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect() }
        }),
    ];
    leaf.prop_recursive(3, 6, 3, move |inner| {
        prop_oneof![
            inner.clone().prop_map(MatrixSpec::inverse),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|factors| MatrixSpec::Product { factors }),
            (inner, prop::option::of(scale()), prop::option::of(scale()))
                .prop_map(|(matrix, row, col)| matrix.scale_rows_and_columns(row, col)),
        ]
    })
}
