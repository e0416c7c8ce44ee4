//! What a session on a matrix would hold and move.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use noised::analysis::{TreeDescription, describe};
use noised::matrix::strategy;
use noised::{DType, Leaf, MatrixSpec, Precision, SessionSpec, Shard, Tree};
use noised_tests::specs::{self, blt, product, toeplitz};
use noised_tests::trees;

#[test]
fn every_kind_tells_its_planes_its_end_and_whether_it_is_toeplitz() {
    let normalized = MatrixSpec::Toeplitz { coef: vec![1.0, 0.5, 0.25], column_normalize_for_n: Some(40) };
    let momentum = |rates: Option<Vec<f64>>| MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: rates };
    let diagonal = |diag: &[f64]| MatrixSpec::Diagonal { diag: diag.to_vec() };
    let dense = |n: usize| MatrixSpec::Dense { rows: (1..=n).map(|i| vec![1.0; i]).collect() };
    let blt3 = blt(&[0.9, 0.5, 0.1], &[0.1, 0.2, 0.3]);
    let chain =
        product([MatrixSpec::PrefixSum, blt3.clone().inverse(), toeplitz(&[1.0, 0.5]), diagonal(&[2.0])]);
    // Planes; those that a step reads and writes; Toeplitz; horizon.
    let cases = [
        (MatrixSpec::Identity, 0, (0, 0), true, None),
        (MatrixSpec::PrefixSum, 1, (1, 1), true, None),
        (diagonal(&[2.0]), 0, (0, 0), true, None),
        (diagonal(&[2.0, 2.0]), 0, (0, 0), true, None),
        (diagonal(&[2.0, 1.0]), 0, (0, 0), false, None),
        (momentum(None), 2, (2, 2), true, None),
        (momentum(Some(vec![0.5, 0.5])), 2, (2, 2), true, None),
        (momentum(Some(vec![0.5, 0.25])), 2, (2, 2), false, None),
        (toeplitz(&[3.0]), 0, (0, 0), true, None),
        (toeplitz(&[1.0, 0.5, 0.25]), 2, (2, 1), true, None),
        (normalized, 2, (2, 1), false, Some(40)),
        (MatrixSpec::Toeplitz { coef: vec![2.0], column_normalize_for_n: Some(5) }, 0, (0, 0), true, Some(5)),
        (blt3.clone(), 3, (3, 3), true, None),
        (strategy::column_normalized_banded(12, 4).unwrap(), 3, (3, 1), false, Some(12)),
        // A ring of which a third is read at a time: the sums of three steps begin with one sweep.
        (dense(7), 6, (4, 2), false, Some(7)),
        (toeplitz(&[1.0; 32]), 31, (9, 2), true, None),
        (chain, 1 + 3 + 1, (5, 5), true, None),
        (product([dense(7), strategy::column_normalized_banded(5, 2).unwrap()]), 7, (5, 3), false, Some(5)),
        (blt3.scale_rows_and_columns(Some(vec![1.0, 2.0]), None), 3, (3, 3), false, None),
    ];
    for (matrix, planes, moved, toeplitz, horizon) in cases {
        // An inverse holds and moves what its matrix does.
        for matrix in [matrix.clone(), matrix.clone().inverse(), matrix.inverse().inverse()] {
            let found = describe(&matrix, None, None).unwrap();
            let what = matrix.to_json();
            assert_eq!(found.planes, planes, "{what}");
            assert_eq!((found.planes_read, found.planes_written), moved, "{what}");
            assert_eq!(found.toeplitz, toeplitz, "{what}");
            assert_eq!(found.horizon, horizon, "{what}");
            assert_eq!((found.precision, found.tree), (Precision::F32, None), "{what}");
        }
    }
}

#[test]
fn a_matrix_that_says_it_is_toeplitz_is_one() {
    for matrix in specs::nested() {
        if describe(&matrix, None, None).unwrap().toeplitz {
            let n = 12;
            let dense = noised::DenseMatrix::new(&matrix, n).unwrap();
            for i in 1..n {
                for j in 1..=i {
                    let (here, before) = (dense.row(i)[j], dense.row(i - 1)[j - 1]);
                    assert!((here - before).abs() <= 1e-12 * here.abs().max(1.0), "{}", matrix.to_json());
                }
            }
        }
    }
}

#[test]
fn bytes_are_those_of_the_session() {
    let tree = trees::mixed();
    let (lanes, bytes) = (700_u64 + 65 + 901 + 3 + 1 + 400, 700 * 4 + 65 * 2 + 901 * 8 + 3 * 2 + 2 + 400 * 4);
    let matrix = product([MatrixSpec::PrefixSum, toeplitz(&[1.0, 0.5, 0.25]).inverse()]);
    let resolved = SessionSpec::new(matrix.clone(), tree.clone()).resolve().unwrap();
    let description_bytes = resolved.cost().description_bytes;
    assert!((100..4000).contains(&description_bytes));
    for (precision, size) in [(None, 8), (Some(Precision::F64), 8), (Some(Precision::F32), 4)] {
        let found = describe(&matrix, Some((&tree, Shard::WHOLE)), precision).unwrap();
        let state_bytes = 3 * lanes.next_multiple_of(16) * size;
        let expected = TreeDescription {
            lanes,
            step_bytes: bytes,
            state_bytes,
            memory_bytes: state_bytes + bytes + 3 * 8 + description_bytes,
            // Three planes are read and two written; the step comes in and goes out.
            moved_bytes_per_step: (3 + 2) * lanes * size + 2 * bytes,
        };
        assert_eq!(found.tree, Some(expected));
        assert_eq!(found.precision, precision.unwrap_or(Precision::F64));
    }
    for index in 0..3 {
        let shard = Shard::new(index, 3);
        let spec = SessionSpec { shard, ..SessionSpec::new(matrix.clone(), tree.clone()) };
        let resolved = spec.resolve().unwrap();
        let found = describe(&matrix, Some((&tree, shard)), None).unwrap().tree.unwrap();
        assert_eq!(found.lanes, resolved.layout().lanes() as u64);
        assert_eq!(found.step_bytes, resolved.layout().byte_len() as u64);
        assert_eq!(found.memory_bytes, resolved.cost().total());
    }
    let large = trees::of_shapes(DType::F32, &[&[1 << 20, 1 << 20]]);
    let found = describe(&toeplitz(&vec![1.0; 1024]), Some((&large, Shard::WHOLE)), None).unwrap();
    assert_eq!(found.tree.unwrap().state_bytes, 1023 << 42);
}

#[test]
fn long_descriptions_are_memory() {
    let tree = trees::of_shapes(DType::F32, &[&[3]]);
    let cost = |matrix: MatrixSpec| {
        let cost = SessionSpec::new(matrix, tree.clone()).resolve().unwrap().cost();
        assert!(
            cost.total() >= cost.state_bytes + cost.output_bytes + cost.digest_bytes + cost.description_bytes
        );
        cost.description_bytes
    };
    let ones = |n: usize| vec![1.0; n];
    let numbers = 4096;
    let long = [
        MatrixSpec::Diagonal { diag: ones(numbers) },
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(ones(numbers)) },
        product(vec![toeplitz(&ones(1024)); 4]),
        product(vec![blt(&vec![0.5; 1024], &ones(1024)); 2]),
        MatrixSpec::ColumnNormalizedBanded { params: vec![ones(4); numbers / 4] },
        MatrixSpec::Dense { rows: (1..=91).map(ones).collect() },
        MatrixSpec::PrefixSum.scale_rows_and_columns(Some(ones(numbers / 2)), Some(ones(numbers / 2))),
    ];
    let least = cost(MatrixSpec::Identity);
    for matrix in long {
        for matrix in [matrix.clone(), matrix.clone().inverse(), product([MatrixSpec::Identity, matrix])] {
            let bytes = cost(matrix.clone()) - least;
            assert!(bytes >= 8 * numbers as u64, "{}: {bytes}", matrix.kind());
        }
    }
    // The norms of columns are kept as well, one for each.
    let normalized = MatrixSpec::ColumnNormalizedBanded { params: vec![ones(1); numbers] };
    assert!(cost(normalized) - least >= (numbers * 2 * (24 + 8) + numbers * 8) as u64);
    let normalized = MatrixSpec::Toeplitz { coef: ones(1024), column_normalize_for_n: Some(2000) };
    assert!(cost(normalized) - least >= 3 * 1024 * 8);
    let many: Vec<Vec<u64>> = (0..2000).map(|_| vec![1]).collect();
    let shapes: Vec<&[u64]> = many.iter().map(Vec::as_slice).collect();
    let many = SessionSpec::new(MatrixSpec::Identity, trees::of_shapes(DType::F32, &shapes));
    assert!(many.resolve().unwrap().cost().description_bytes > 2000 * 50);
    // So are the runs of lanes of one format, where formats alternate.
    let leaf = |i: usize| {
        let dtype = if i.is_multiple_of(2) { DType::F32 } else { DType::F64 };
        Leaf::new(i.to_string(), dtype, [1])
    };
    let bytes = |leaves: Vec<Leaf>| {
        let tree = Tree::new(leaves).unwrap();
        SessionSpec::new(MatrixSpec::Identity, tree).resolve().unwrap().cost().description_bytes
    };
    let alike = (0..2000).map(|i| Leaf { dtype: DType::F32, ..leaf(i) }).collect();
    assert!(bytes((0..2000).map(leaf).collect()) >= bytes(alike) + 1999 * 17);
}
