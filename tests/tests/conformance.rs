//! Every kind of matrix, nested, on trees of every shape and format, however it is cut and wherever it runs:
//! the same as the dense matrix written from its definition, and the same bits as the scalar reference.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use noised::kernel::Backend;
use noised::limits::TILE_LANES;
use noised::tree::TreeValues;
use noised::{DType, DenseMatrix, MatrixSpec, Plan, Precision, StreamingMatrix, Tree};
use noised_tests::{drive, specs, trees};
use proptest::prelude::*;

const SIZES: [usize; 4] = [1, 2, 7, 33];

fn steps(matrix: &MatrixSpec, n: usize) -> usize {
    Plan::new(matrix).unwrap().horizon().map_or(n, |rows| n.min(rows as usize))
}

/// All answers of `n` steps, each cut into frames of the sizes given.
fn run(
    matrix: &MatrixSpec,
    tree: &Tree,
    precision: Precision,
    backend: Backend,
    n: usize,
    sizes: &[usize],
) -> Vec<Vec<u8>> {
    let mut session = drive::session(matrix, tree, precision, backend);
    (0..n as u64).map(|t| drive::step(&mut session, t, &trees::payload(tree, t), sizes)).collect()
}

/// Compares every lane of every step with the dense matrix. The unit of error is the rounding of the largest
/// sum that the matrix has had to form in that lane so far.
fn check_against_dense(matrix: &MatrixSpec, tree: &Tree, precision: Precision, answers: &[Vec<u8>]) {
    let dense = DenseMatrix::new(matrix, answers.len()).unwrap();
    let state_roundoff = trees::roundoff(if precision == Precision::F32 { DType::F32 } else { DType::F64 });
    let inputs: Vec<Vec<f64>> =
        (0..answers.len()).map(|t| trees::lanes(tree, &trees::payload(tree, t as u64))).collect();
    let outputs: Vec<Vec<f64>> = answers.iter().map(|answer| trees::lanes(tree, answer)).collect();
    for (lane, format) in trees::formats(tree).into_iter().enumerate() {
        let x: Vec<f64> = inputs.iter().map(|step| step[lane]).collect();
        let mut magnitude = 0.0_f64;
        for (t, output) in outputs.iter().enumerate() {
            magnitude = magnitude.max(dense.apply_row_magnitude(t, &x));
            let expected = dense.apply_row(t, &x);
            let allowed = 2.0 * trees::roundoff(format) * expected.abs()
                + 64.0 * state_roundoff * magnitude
                + if format == DType::F16 { 2f64.powi(-25) } else { 0.0 };
            let error = (output[lane] - expected).abs();
            assert!(
                error <= allowed,
                "{} lane {lane} step {t}: {} instead of {expected}, off by {error:e}, allowed {allowed:e}",
                matrix.to_json(),
                output[lane]
            );
        }
    }
}

#[test]
fn every_matrix_is_its_dense_form() {
    let tree = trees::of_shapes(DType::F32, &[&[3], &[], &[2, 2]]);
    for matrix in specs::nested() {
        for n in SIZES.map(|n| steps(&matrix, n)) {
            for precision in [Precision::F32, Precision::F64] {
                let answers = run(&matrix, &tree, precision, Backend::best(), n, &[usize::MAX / 2]);
                check_against_dense(&matrix, &tree, precision, &answers);
            }
        }
    }
}

#[test]
fn every_tree_and_format_is_served() {
    let matrices = [
        specs::product([MatrixSpec::PrefixSum, specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse()]),
        specs::toeplitz(&[1.0, 0.5, 0.375]).inverse(),
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.1]) },
    ];
    let mut all: Vec<Tree> = DType::ALL.into_iter().flat_map(trees::odd).collect();
    all.push(trees::mixed());
    for matrix in &matrices {
        for tree in &all {
            for precision in [Precision::F32, Precision::F64] {
                let answers = run(matrix, tree, precision, Backend::best(), 7, &[4096]);
                check_against_dense(matrix, tree, precision, &answers);
            }
        }
    }
}

#[test]
fn every_backend_gives_the_bits_of_the_reference() {
    let tree = trees::of_shapes(DType::F32, &[&[1024], &[100]]);
    for matrix in specs::nested() {
        let n = steps(&matrix, 9);
        for precision in [Precision::F32, Precision::F64] {
            let expected = run(&matrix, &tree, precision, Backend::REFERENCE, n, &[usize::MAX / 2]);
            for backend in Backend::available() {
                let found = run(&matrix, &tree, precision, backend, n, &[usize::MAX / 2]);
                assert!(found == expected, "{backend} {precision} {}", matrix.to_json());
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    // Enough tiles that a step is split between threads.
    let tree = trees::of_shapes(DType::F32, &[&[300_000], &[7, 123]]);
    let matrix = specs::product([MatrixSpec::PrefixSum, specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse()]);
    let on_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&matrix, &tree, Precision::F32, Backend::best(), 3, &[usize::MAX / 2]))
    };
    let expected = on_threads(1);
    assert!(on_threads(2) == expected);
    assert!(on_threads(5) == expected);
    check_against_dense(&matrix, &tree, Precision::F32, &expected);
}

/// A program's own memory, in place, of every length: within a tile, whole tiles, one more lane, and enough
/// for several threads, called from within a pool and from outside.
#[test]
fn steps_in_place_have_the_bits_of_a_session() {
    let rates = Some(vec![1.0, 0.25]);
    let mut matrices = specs::nested();
    matrices.extend([
        MatrixSpec::PrefixSum,
        MatrixSpec::PrefixSum.inverse(),
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: rates.clone() },
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: rates }.inverse(),
        specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse(),
    ]);
    let pools =
        [1, 2, 5].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for (lanes, dtype) in [
        (1, DType::F32),
        (TILE_LANES, DType::F32),
        (TILE_LANES + 1, DType::F32),
        (3 * TILE_LANES + 16, DType::F32),
        (2 * TILE_LANES + 16, DType::F64),
        (2 * TILE_LANES + 16, DType::Bf16),
    ] {
        let tree = Tree::flat(lanes as u64, dtype).unwrap();
        for matrix in &matrices {
            let n = steps(matrix, 5);
            let precision = tree.default_precision();
            let expected = run(matrix, &tree, precision, Backend::REFERENCE, n, &[usize::MAX / 2]);
            assert!(in_place(matrix, &tree, n) == expected, "{lanes} lanes of {dtype}, {}", matrix.to_json());
        }
    }
    // Steps that are split between threads, and one that is not.
    let tree = Tree::flat(400_000, DType::F32).unwrap();
    for matrix in [specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse(), MatrixSpec::PrefixSum, specs::noising()] {
        let expected = run(&matrix, &tree, Precision::F32, Backend::REFERENCE, 4, &[usize::MAX / 2]);
        assert!(in_place(&matrix, &tree, 4) == expected, "{}", matrix.to_json());
        for pool in &pools {
            assert!(pool.install(|| in_place(&matrix, &tree, 4)) == expected, "{}", matrix.to_json());
        }
    }
}

/// The answers of `n` steps in place.
fn in_place(matrix: &MatrixSpec, tree: &Tree, n: usize) -> Vec<Vec<u8>> {
    let matrix = StreamingMatrix::new(matrix.clone()).unwrap();
    let mut state = matrix.init_multiply(tree, tree.default_precision()).unwrap();
    let mut step = |t| {
        let mut values = TreeValues::from_bytes(tree.clone(), trees::payload(tree, t)).unwrap();
        matrix.multiply_next_in_place(&mut values, &mut state).unwrap();
        values.as_bytes().to_vec()
    };
    (0..n as u64).map(&mut step).collect()
}

/// Where a ring is long, tiles take turns at reading all of it. Tiles with the same input have the same
/// output at every step all the same, and it is that of the dense matrix.
#[test]
fn whose_turn_it_is_does_not_change_bits() {
    const TILES: usize = 7;
    let coef: Vec<f64> =
        (0..32).map(|i| 0.8 / f64::from(i + 1).powf(1.5) + f64::from(u8::from(i == 0))).collect();
    let tree = Tree::flat((TILES * TILE_LANES) as u64, DType::F32).unwrap();
    let of_tile = Tree::flat(TILE_LANES as u64, DType::F32).unwrap();
    for bands in [2, 4, 5, 6, 8, 12, 16, 32] {
        let n = 3 * bands + 1;
        let mut matrices = vec![specs::toeplitz(&coef[..bands]), specs::toeplitz(&coef[..bands]).inverse()];
        matrices.push(noised::matrix::strategy::column_normalized_banded(n, bands).unwrap().inverse());
        for matrix in matrices {
            let straight = run(&matrix, &of_tile, Precision::F32, Backend::REFERENCE, n, &[usize::MAX / 2]);
            check_against_dense(&matrix, &of_tile, Precision::F32, &straight);
            for backend in Backend::available() {
                let mut session = drive::session(&matrix, &tree, Precision::F32, backend);
                for (t, expected) in straight.iter().enumerate() {
                    let payload = trees::payload(&of_tile, t as u64).repeat(TILES);
                    let answer = drive::step(&mut session, t as u64, &payload, &[usize::MAX / 2]);
                    for (tile, found) in answer.chunks(expected.len()).enumerate() {
                        assert!(found == expected, "{bands} bands, {backend}, step {t}, tile {tile}");
                    }
                }
            }
        }
    }
}

#[test]
fn two_shards_are_the_whole() {
    let tree = trees::mixed();
    let matrix = specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse();
    let whole = run(&matrix, &tree, Precision::F32, Backend::best(), 4, &[usize::MAX / 2]);
    for count in [2, 3, 7] {
        let mut together = vec![Vec::new(); whole.len()];
        for index in 0..count {
            let shard = noised::Shard::new(index, count);
            let spec = noised::SessionSpec {
                shard,
                precision: Precision::F32,
                ..noised::SessionSpec::new(matrix.clone(), tree.clone())
            };
            let mut session = noised::Session::new(spec.resolve().unwrap());
            let held = session.resolved().layout().byte_len();
            for (t, answer) in together.iter_mut().enumerate() {
                let payload = trees::payload(&tree, t as u64);
                let start = answer.len();
                answer.extend(drive::step(&mut session, t as u64, &payload[start..start + held], &[1000]));
            }
        }
        assert!(together == whole, "{count} shards");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random matrices, cut into frames of random sizes, on every backend.
    #[test]
    fn cutting_does_not_change_bits(
        matrix in specs::arbitrary(),
        sizes in prop::collection::vec(1_usize..6000, 1..6),
        mixed: bool,
        f64_state: bool,
    ) {
        let tree = if mixed { trees::mixed() } else { trees::of_shapes(DType::F32, &[&[11, 95], &[1030]]) };
        let precision = if f64_state { Precision::F64 } else { Precision::F32 };
        let expected = run(&matrix, &tree, precision, Backend::REFERENCE, 5, &[usize::MAX / 2]);
        for backend in Backend::available() {
            prop_assert_eq!(&run(&matrix, &tree, precision, backend, 5, &sizes), &expected);
        }
    }

    /// Random matrices are their dense forms.
    #[test]
    fn random_matrices_are_their_dense_forms(matrix in specs::arbitrary()) {
        let tree = trees::of_shapes(DType::F64, &[&[2]]);
        let answers = run(&matrix, &tree, Precision::F64, Backend::best(), specs::ROWS, &[usize::MAX / 2]);
        let dense = DenseMatrix::new(&matrix, specs::ROWS).unwrap();
        let x: Vec<f64> = (0..specs::ROWS).map(|t| trees::lanes(&tree, &trees::payload(&tree, t as u64))[0]).collect();
        // Nested inverses of random matrices may be far from well conditioned: both forms lose the same
        // digits, so the unit is the largest number either has met.
        let largest = (0..specs::ROWS).map(|t| dense.apply_row_magnitude(t, &x)).fold(1.0, f64::max);
        for (t, answer) in answers.iter().enumerate() {
            let (found, expected) = (trees::lanes(&tree, answer)[0], dense.apply_row(t, &x));
            prop_assert!((found - expected).abs() <= 1e-9 * largest, "step {t}: {found} instead of {expected}");
        }
    }
}
