//! Every rule of a description, broken: the error names the field and the rule. And what the rules allow at
//! their edges.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use noised::limits::{
    MAX_BANDS, MAX_DENSE_N, MAX_FACTORS, MAX_HORIZON, MAX_LANES, MAX_LEAVES, MAX_NESTING, MAX_PATH_BYTES,
    MAX_RANK, MAX_SCHEDULE,
};
use noised::session::ResolvedSpec;
use noised::{DType, Error, Leaf, MatrixSpec, Plan, Precision, SessionSpec, Shard, Tree};
use noised_tests::bad::{self, Bad};
use noised_tests::specs::{self, blt, product, toeplitz};

fn flat(lanes: u64) -> Tree {
    Tree::flat(lanes, DType::F32).unwrap()
}

fn session(matrix: &MatrixSpec, precision: Precision) -> noised::Result<ResolvedSpec> {
    SessionSpec { precision, ..SessionSpec::new(matrix.clone(), flat(3)) }.resolve()
}

fn check<T>(result: noised::Result<T>, field: &str, rule: &str, what: &dyn std::fmt::Debug) {
    match result {
        Err(Error::Invalid { field: found, rule: told }) => {
            let what: String = format!("{what:?}").chars().take(300).collect();
            assert!(
                found == field && told.contains(rule),
                "`{found}: {told}` instead of `{field}: {rule}`: {what}"
            );
        }
        Err(other) => panic!("not about `{field}`: {other}"),
        Ok(_) => panic!("`{field}: {rule}` was not noticed: {what:?}"),
    }
}

#[test]
fn a_matrix_that_breaks_a_rule_is_refused_wherever_it_is_used() {
    for Bad { what, field, rule } in bad::matrices().into_iter().chain(bad::empty_optional_lists()) {
        check(session(&what, Precision::F64), &field, rule, &what);
        check(session(&what, Precision::F32), &field, rule, &what);
        check(noised::analysis::Rows::new(&what, 1), &field, rule, &what);
        check(noised::analysis::row_norms_squared(&what, 1, || false), &field, rule, &what);
        let x = ndarray::arr2(&[[1.0]]).into_dyn();
        check(noised::analysis::multiply(&what, x.view(), || false), &field, rule, &what);
        let tree = flat(3);
        check(noised::analysis::describe(&what, Some((&tree, Shard::WHOLE)), None), &field, rule, &what);
        // A quotient that overflows is found when a recurrence is asked for; all else from the description
        // alone.
        if rule == "not finite" {
            what.validate().unwrap();
        } else {
            check(what.validate(), &field, rule, &what);
            check(noised::StreamingMatrix::new(what.clone()), &field, rule, &what);
            check(noised::DenseMatrix::new(&what, 1), &field, rule, &what);
        }
    }
}

#[test]
fn a_bad_matrix_is_found_inside_any_other() {
    let inside: [bad::Around; 5] = [
        (MatrixSpec::inverse, "matrix.matrix"),
        (|m| m.scale_rows_and_columns(None, Some(vec![1.0])), "matrix.matrix"),
        (|m| product([MatrixSpec::Identity, m]), "matrix.factors[1]"),
        (|m| product([m, MatrixSpec::PrefixSum]).inverse(), "matrix.matrix.factors[0]"),
        (|m| product([MatrixSpec::Identity, m.inverse().inverse()]), "matrix.factors[1].matrix.matrix"),
    ];
    let bads = [
        (toeplitz(&[]), "coef", "must not be empty"),
        (toeplitz(&[1.0, f64::NAN]), "coef[1]", "must be finite"),
        (MatrixSpec::Diagonal { diag: vec![f64::INFINITY] }, "diag[0]", "must be finite"),
        (MatrixSpec::MomentumSgd { momentum: 1.5, learning_rates: None }, "momentum", "in [0, 1]"),
        (blt(&[2.0], &[1.0]), "buf_decay[0]", "in [-1, 1]"),
        (MatrixSpec::Dense { rows: vec![] }, "rows", "must not be empty"),
        (MatrixSpec::ColumnNormalizedBanded { params: vec![vec![]] }, "params[0]", "must not be empty"),
        (product([]), "factors", "must not be empty"),
    ];
    for (wrap, path) in inside {
        for (matrix, field, rule) in bads.clone() {
            let matrix = wrap(matrix);
            check(matrix.validate(), &format!("{path}.{field}"), rule, &matrix);
        }
    }
}

#[test]
fn a_coefficient_that_f32_cannot_hold_is_refused_in_f32_alone() {
    let cases = [
        MatrixSpec::Diagonal { diag: vec![1e39] },
        MatrixSpec::Diagonal { diag: vec![1.0, 1e-40] }.inverse(),
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, 1e39]) },
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1e-40]) }.inverse(),
        toeplitz(&[1.0, -1e39]),
        toeplitz(&[1e-20, 1e20]).inverse(),
        MatrixSpec::Toeplitz { coef: vec![1e-40, 1e-41], column_normalize_for_n: Some(4) },
        blt(&[0.5, 0.5], &[1.0, 1e39]),
        blt(&[0.5, 0.5], &[1.0, 1e39]).inverse(),
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0, 1e39], vec![1.0, 1.0]] },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0, 1e20], vec![1e-20, 1.0]] }.inverse(),
        MatrixSpec::Dense { rows: vec![vec![1.0], vec![1e39, 1.0]] },
        MatrixSpec::Dense { rows: vec![vec![1.0], vec![1e20, 1e-20]] }.inverse(),
        MatrixSpec::PrefixSum.scale_rows_and_columns(Some(vec![1e39]), None),
        MatrixSpec::PrefixSum.scale_rows_and_columns(None, Some(vec![1e-40])).inverse(),
        product([MatrixSpec::PrefixSum, toeplitz(&[1e39])]),
    ];
    for matrix in cases {
        check(session(&matrix, Precision::F32), "matrix", "not finite in f32", &matrix);
        session(&matrix, Precision::F64).unwrap();
    }
}

#[test]
fn a_diagonal_that_f32_would_turn_to_zero_is_refused_in_f32_alone() {
    let diagonal = |diag: &[f64]| MatrixSpec::Diagonal { diag: diag.to_vec() };
    let momentum = |rate| MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, rate]) };
    let banded =
        |first| MatrixSpec::ColumnNormalizedBanded { params: vec![vec![first, 1.0], vec![1.0, 0.0]] };
    let dense = |last| MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, last]] };
    let cases = [
        diagonal(&[1.0, 1e-60]),
        diagonal(&[1e60]).inverse(),
        momentum(1e-60),
        momentum(1e60).inverse(),
        toeplitz(&[-1e-60, 1.0]),
        banded(1e-60),
        dense(1e-60),
        dense(1e60).inverse(),
        MatrixSpec::PrefixSum.scale_rows_and_columns(Some(vec![1.0, 1e-60]), None),
        MatrixSpec::PrefixSum.scale_rows_and_columns(None, Some(vec![1e60])).inverse(),
        product([MatrixSpec::PrefixSum, diagonal(&[1e-60])]),
    ];
    for matrix in cases {
        check(session(&matrix, Precision::F32), "matrix", "rounds to zero in f32", &matrix);
        session(&matrix, Precision::F64).unwrap();
    }
    // Off the diagonal it is no more than a rounding, and a zero that was written is meant.
    for matrix in [toeplitz(&[1.0, 1e-60]), dense(1.0), blt(&[1e-60], &[1e-60]), diagonal(&[1.0, 0.0])] {
        session(&matrix, Precision::F32).unwrap();
    }
}

#[test]
fn what_the_rules_allow_at_their_edges_is_taken() {
    let ones = |n| vec![1.0; n];
    let nested = |depth: usize, wrap: fn(MatrixSpec) -> MatrixSpec| {
        (0..depth).fold(MatrixSpec::PrefixSum, |matrix, _| wrap(matrix))
    };
    let wide = |n| product(vec![MatrixSpec::Identity; n]);
    let good = [
        // Zeros where nothing is inverted.
        MatrixSpec::Diagonal { diag: vec![0.0] },
        toeplitz(&[0.0, 0.0]),
        MatrixSpec::Dense { rows: vec![vec![0.0, 0.0], vec![1.0, 0.0]] },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![0.0, 1.0], vec![1.0, 0.0]] },
        MatrixSpec::PrefixSum.scale_rows_and_columns(Some(vec![0.0]), Some(vec![-0.0])),
        product([MatrixSpec::Diagonal { diag: vec![0.0] }, MatrixSpec::PrefixSum.inverse()]),
        // Ends of intervals.
        MatrixSpec::MomentumSgd { momentum: 0.0, learning_rates: None }.inverse(),
        MatrixSpec::MomentumSgd { momentum: 1.0, learning_rates: Some(vec![f64::MIN_POSITIVE]) },
        blt(&[1.0, -1.0, 0.0], &[0.1, 1e3, 0.0]),
        MatrixSpec::Toeplitz { coef: vec![1.0, 0.5], column_normalize_for_n: Some(2) },
        MatrixSpec::Toeplitz { coef: vec![1.0, 0.5], column_normalize_for_n: Some(MAX_HORIZON) },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0]] },
        // Sizes.
        toeplitz(&ones(MAX_BANDS)).inverse(),
        blt(&vec![0.5; MAX_BANDS], &ones(MAX_BANDS)),
        MatrixSpec::Dense { rows: (1..=MAX_DENSE_N).map(ones).collect() },
        wide(MAX_FACTORS),
        product([wide(63), wide(63), wide(63), wide(62)]),
        nested(MAX_NESTING, MatrixSpec::inverse),
        nested(MAX_NESTING, |m| product([m])),
        product([
            toeplitz(&ones(MAX_BANDS)),
            toeplitz(&ones(MAX_BANDS)),
            toeplitz(&ones(MAX_BANDS)),
            toeplitz(&ones(MAX_BANDS)),
            toeplitz(&ones(5)),
        ]),
    ];
    for matrix in good {
        let resolved = session(&matrix, Precision::F64);
        assert!(resolved.is_ok(), "{:?}: {}", resolved.err(), matrix.kind());
    }
    assert_eq!(Plan::new(&nested(MAX_NESTING, MatrixSpec::inverse)).unwrap().planes(), 1);
}

#[test]
fn schedules_have_a_longest_length() {
    let mut long = vec![1.0; MAX_SCHEDULE + 1];
    let rule = "at most 16777216 entries";
    let diagonal = MatrixSpec::Diagonal { diag: long };
    check(diagonal.validate(), "matrix.diag", rule, &"diagonal");
    let MatrixSpec::Diagonal { diag } = diagonal else { return };
    let momentum = MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(diag) };
    check(momentum.validate(), "matrix.learning_rates", rule, &"momentum");
    let MatrixSpec::MomentumSgd { learning_rates: Some(rates), .. } = momentum else { return };
    let scaled = MatrixSpec::PrefixSum.scale_rows_and_columns(Some(rates), None);
    check(scaled.validate(), "matrix.row_scale", rule, &"rows");
    let MatrixSpec::Scaled { row_scale: Some(scale), .. } = scaled else { return };
    let scaled = MatrixSpec::PrefixSum.scale_rows_and_columns(None, Some(scale));
    check(scaled.validate(), "matrix.col_scale", rule, &"columns");
    let MatrixSpec::Scaled { col_scale: Some(scale), .. } = scaled else { return };
    long = scale;
    long.pop();
    MatrixSpec::Diagonal { diag: long }.validate().unwrap();
}

#[test]
fn leaves_that_break_a_rule_are_no_tree() {
    for Bad { what, field, rule } in bad::trees() {
        check(Tree::new(what.clone()), &field, rule, &what);
    }
    check(Tree::flat(0, DType::F32), "tree.leaves", "at least one lane", &0);
    check(Tree::flat(MAX_LANES + 1, DType::F32), "tree.leaves[0].shape", "at most", &0);
}

#[test]
fn the_largest_trees_are_trees() {
    let leaf = |path: &str, shape: &[u64]| Leaf::new(path, DType::F64, shape);
    assert_eq!(Tree::flat(MAX_LANES, DType::F64).unwrap().byte_len(), MAX_LANES * 8);
    let halves = vec![leaf("a", &[MAX_LANES / 2]), leaf("b", &[0]), leaf("c", &[MAX_LANES / 2])];
    assert_eq!(Tree::new(halves).unwrap().lanes(), MAX_LANES);
    let many = (0..MAX_LEAVES).map(|i| leaf(&i.to_string(), &[])).collect();
    assert_eq!(Tree::new(many).unwrap().lanes(), MAX_LEAVES as u64);
    let edge = Tree::new(vec![leaf(&"x".repeat(MAX_PATH_BYTES), &[1; MAX_RANK]), leaf("y", &[0, MAX_LANES])])
        .unwrap();
    assert_eq!(edge.lanes(), 1);
    assert_eq!(noised::tree::TreeValues::zeros(edge).leaf(1).shape(), [0, MAX_LANES as usize]);
}

#[test]
fn shards_and_horizons_that_break_a_rule_are_refused() {
    let spec = SessionSpec::new(MatrixSpec::PrefixSum, flat(10));
    let shard = |index, count| SessionSpec { shard: Shard::new(index, count), ..spec.clone() };
    check(shard(0, 0).resolve(), "shard.count", "at least 1", &0);
    check(shard(1, 1).resolve(), "shard.index", "less than shard.count, which is 1", &1);
    check(shard(3, 3).resolve(), "shard.index", "less than shard.count, which is 3", &3);
    check(shard(u32::MAX, u32::MAX).resolve(), "shard.index", "less than shard.count", &3);
    check(shard(0, 11).resolve(), "shard.count", "more shards than the tree has lanes (10)", &11);
    check(shard(7, u32::MAX).resolve(), "shard.count", "more shards", &11);
    shard(9, 10).resolve().unwrap();

    let at = |matrix: &MatrixSpec, horizon| {
        SessionSpec { horizon: Some(horizon), ..SessionSpec::new(matrix.clone(), flat(10)) }.resolve()
    };
    for horizon in [0, MAX_HORIZON + 1, u64::MAX] {
        check(at(&MatrixSpec::PrefixSum, horizon), "horizon", "at least 1 and at most", &horizon);
    }
    at(&MatrixSpec::PrefixSum, MAX_HORIZON).unwrap();
    let ends = [
        MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, 1.0]] },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0], vec![1.0]] },
        MatrixSpec::Toeplitz { coef: vec![1.0], column_normalize_for_n: Some(2) },
    ];
    for matrix in ends {
        for matrix in
            [matrix.clone(), matrix.clone().inverse(), product([specs::toeplitz(&[1.0, 0.5]), matrix])]
        {
            check(at(&matrix, 3), "horizon", "at most 2, found 3", &matrix);
            check(at(&matrix, 0), "horizon", "at most 2, found 0", &matrix);
            assert_eq!(at(&matrix, 2).unwrap().spec().horizon, Some(2));
        }
    }
}

#[test]
fn formats_and_sizes_that_no_one_knows_are_refused() {
    for text in ["", "f8", "float32", "F 32", "i32"] {
        check(text.parse::<DType>(), "dtype", "is not one of f32, f64, bf16, f16", &text);
    }
    for text in ["", "bf16", "f16", "double"] {
        check(text.parse::<Precision>(), "precision", "is not one of f32, f64", &text);
    }
    for n in [0, 4, u64::MAX] {
        let matrix = MatrixSpec::Dense { rows: (1..=3).map(|i| vec![1.0; i]).collect() };
        check(noised::analysis::Rows::new(&matrix, n), "n", "at least 1 and at most 3", &n);
    }
    for n in [0, 65_537, u64::MAX] {
        let rule = "at least 1 and at most 65536";
        check(noised::analysis::Rows::new(&MatrixSpec::PrefixSum, n), "n", rule, &n);
        check(noised::StreamingMatrix::prefix_sum().materialize(n as usize), "n", rule, &n);
    }
    for n in [0, (1 << 24) + 1, u64::MAX] {
        let rule = "at least 1 and at most 16777216";
        check(noised::analysis::row_norms_squared(&MatrixSpec::PrefixSum, n, || false), "n", rule, &n);
    }
    // Rows keep the state of every column.
    let wide = blt(&vec![0.5; 1024], &vec![0.1; 1024]);
    check(noised::analysis::Rows::new(&wide, 32_769), "n", "at most 32768 for a matrix of 1024 planes", &0);
    noised::analysis::Rows::new(&wide, 32_768).unwrap();
}
