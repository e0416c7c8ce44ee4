//! [`StreamingMatrix`] in a program's own memory: operators, a program's own matrices, and questions without
//! state.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::cell::Cell;

use ndarray::{Array2, ArrayD, ArrayViewD, Axis, IxDyn, arr0, arr1};
use noised::kernel::Backend;
use noised::tree::TreeValues;
use noised::{DType, DenseMatrix, Error, MatrixSpec, Plan, Precision, StreamingMatrix, Tree, analysis};
use noised_tests::{drive, specs, trees};
use specs::{blt, product, toeplitz};

const SIZES: [usize; 4] = [1, 2, 7, 33];

fn streaming(spec: &MatrixSpec) -> StreamingMatrix {
    StreamingMatrix::new(spec.clone()).unwrap()
}

fn dense(spec: &MatrixSpec, n: usize) -> Array2<f64> {
    let dense = DenseMatrix::new(spec, n).unwrap();
    Array2::from_shape_fn((n, n), |(i, j)| if j <= i { dense.row(i)[j] } else { 0.0 })
}

/// Within a few roundings of the largest number around.
fn assert_close(found: &ArrayD<f64>, expected: &ArrayD<f64>, what: &str) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let unit = expected.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off <= 1e-12 * unit, "{what}: off by {off:e} of {unit:e}");
}

fn rows_of(spec: &MatrixSpec, n: usize) -> usize {
    Plan::new(spec).unwrap().horizon().map_or(n, |rows| n.min(rows as usize))
}

/// `n` steps of an array of this shape.
fn input(n: usize, shape: &[usize]) -> ArrayD<f64> {
    let lanes: usize = shape.iter().product();
    let values = (0..n * lanes).map(|i| trees::value((i / lanes) as u64, (i % lanes) as u64));
    let all: Vec<usize> = [n].iter().chain(shape).copied().collect();
    ArrayD::from_shape_vec(IxDyn(&all), values.collect()).unwrap()
}

fn dense_product(matrix: &Array2<f64>, x: &ArrayD<f64>) -> ArrayD<f64> {
    let lanes = x.len() / x.shape()[0];
    let flat = x.to_shape((x.shape()[0], lanes)).unwrap();
    matrix.dot(&flat).into_dyn().into_shape_with_order(x.raw_dim()).unwrap()
}

#[test]
fn rows_norms_and_products_are_those_of_the_dense_matrix() {
    for spec in specs::nested() {
        let (matrix, what) = (streaming(&spec), spec.to_json());
        for n in SIZES.map(|n| rows_of(&spec, n)) {
            let expected = dense(&spec, n);
            assert_close(&matrix.materialize(n).unwrap().into_dyn(), &expected.clone().into_dyn(), &what);
            let norms = arr1(&matrix.row_norms_squared(n).unwrap()).into_dyn();
            let squares = expected.map_axis(Axis(1), |row| row.dot(&row)).into_dyn();
            assert_close(&norms, &squares, &what);
            for shape in [&[][..], &[1], &[3, 2]] {
                let x = input(n, shape);
                assert_close(&matrix.multiply(x.view()).unwrap(), &dense_product(&expected, &x), &what);
            }
        }
    }
}

#[test]
fn more_rows_than_a_tile_has_lanes() {
    let n = 1100;
    let spec = product([MatrixSpec::PrefixSum, blt(&[0.9, 0.5], &[0.1, 0.2]).inverse()]);
    let (matrix, expected) = (streaming(&spec), dense(&spec, n));
    assert_close(&matrix.materialize(n).unwrap().into_dyn(), &expected.clone().into_dyn(), "materialize");
    let norms = arr1(&matrix.row_norms_squared(n).unwrap()).into_dyn();
    assert_close(&norms, &expected.map_axis(Axis(1), |row| row.dot(&row)).into_dyn(), "norms");
    let x = input(n, &[2]);
    assert_close(&matrix.multiply(x.view()).unwrap(), &dense_product(&expected, &x), "multiply");
    // And more lanes than a tile.
    let x = input(3, &[5, 300]);
    let expected = dense(&spec, 3);
    assert_close(&matrix.multiply(x.view()).unwrap(), &dense_product(&expected, &x), "lanes");
}

#[test]
fn operators_build_the_products_that_they_say() {
    let (a, b) =
        (toeplitz(&[1.0, 0.5, 0.25]), MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: None });
    let c = MatrixSpec::Diagonal { diag: vec![1.0, -2.0, 3.0] };
    let (sa, sb, sc) = (streaming(&a), streaming(&b), streaming(&c));
    let (da, db, dc) = (dense(&a, 9), dense(&b, 9), dense(&c, 9));
    let close = |found: &StreamingMatrix, expected: Array2<f64>, what| {
        assert_close(&found.materialize(9).unwrap().into_dyn(), &expected.into_dyn(), what);
    };
    close(&(&sa * &sb), da.dot(&db), "A B");
    close(&(&sb * &sa), db.dot(&da), "B A");
    close(&(&(&sa * &sb) * &sc), da.dot(&db).dot(&dc), "(A B) C");
    close(&(&sa * &(&sb * &sc)), da.dot(&db).dot(&dc), "A (B C)");
    close(&(&sa * 2.5), da.mapv(|x| 2.5 * x), "2.5 A");
    close(&(&(&sa * 2.0) * 0.5), da.clone(), "A");
    close(&(&sa * &sa.inverse().unwrap()), Array2::eye(9), "A A^-1");
    close(&(&sa * &sb).inverse().unwrap(), dense(&product([a, b]).inverse(), 9), "(A B)^-1");
    close(&(&sc * -0.5).inverse().unwrap(), dense(&c.inverse(), 9).mapv(|x| x / -0.5), "(C/-2)^-1");
    close(
        &(&StreamingMatrix::identity() * &StreamingMatrix::prefix_sum()),
        dense(&MatrixSpec::PrefixSum, 9),
        "S",
    );
    let (row, col) = ([2.0, 3.0], [0.5, -1.0, 4.0]);
    let last = |list: &[f64], i: usize| list[i.min(list.len() - 1)];
    let scaled = Array2::from_shape_fn((9, 9), |(i, j)| last(&row, i) * da[(i, j)] * last(&col, j));
    close(&sa.scale_rows_and_columns(Some(&row), Some(&col)).unwrap(), scaled, "R A C");
    close(&sa.scale_rows_and_columns(None, None).unwrap(), da, "A");
}

#[test]
fn a_long_chain_of_products_does_not_nest() {
    let mut chain = StreamingMatrix::prefix_sum();
    for i in 0..30 {
        chain = if i % 2 == 0 { &chain * 2.0 } else { &StreamingMatrix::identity() * &(&chain * 0.5) };
    }
    assert_eq!(chain.materialize(3).unwrap(), dense(&MatrixSpec::PrefixSum, 3));
}

/// `s = decay*s + x; y = s`, on arrays.
fn smooth(decay: f64) -> StreamingMatrix {
    StreamingMatrix::from_array_implementation(
        |shape| ArrayD::<f64>::zeros(shape),
        move |x: ArrayViewD<'_, f64>, s: &mut ArrayD<f64>| {
            *s *= decay;
            *s += &x;
            s.clone()
        },
    )
}

fn smooth_dense(decay: f64, n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(i, j)| if j <= i { decay.powi((i - j) as i32) } else { 0.0 })
}

#[test]
fn a_programs_own_matrix_takes_part_in_products() {
    let spec = product([MatrixSpec::PrefixSum, blt(&[0.9, 0.5], &[0.1, 0.2]).inverse()]);
    let (own, known) = (smooth(0.75), streaming(&spec));
    for n in SIZES.into_iter().chain([1030]) {
        let (o, k) = (smooth_dense(0.75, n), dense(&spec, n));
        let scaled = own.scale_rows_and_columns(Some(&[2.0, 1.0]), Some(&[3.0])).unwrap();
        let rows =
            Array2::from_diag(&arr1(&(0..n).map(|i| if i == 0 { 6.0 } else { 3.0 }).collect::<Vec<_>>()));
        let cases = [
            ("own", own.clone(), o.clone()),
            ("own own", &own * &smooth(0.5), o.dot(&smooth_dense(0.5, n))),
            ("own known", &own * &known, o.dot(&k)),
            ("known own", &known * &own, k.dot(&o)),
            ("known own known", &(&known * &own) * &known, k.dot(&o).dot(&k)),
            ("known (own known)", &known * &(&own * &known), k.dot(&o).dot(&k)),
            ("own -0.5", &own * -0.5, o.mapv(|x| -0.5 * x)),
            ("scaled own", scaled, rows.dot(&o)),
        ];
        let cases = if n > 33 { cases[2..3].to_vec() } else { cases.to_vec() };
        for (what, found, expected) in cases {
            assert_close(&found.materialize(n).unwrap().into_dyn(), &expected.clone().into_dyn(), what);
            let norms = arr1(&found.row_norms_squared(n).unwrap()).into_dyn();
            assert_close(&norms, &expected.map_axis(Axis(1), |row| row.dot(&row)).into_dyn(), what);
            for shape in [&[][..], &[2, 3]] {
                let x = input(n, shape);
                assert_close(&found.multiply(x.view()).unwrap(), &dense_product(&expected, &x), what);
            }
        }
    }
}

#[test]
fn a_programs_own_matrix_is_lifted_to_every_leaf() {
    let mut all: Vec<Tree> = DType::ALL.into_iter().flat_map(trees::odd).collect();
    all.push(trees::mixed());
    let own = &(&smooth(0.5) * &streaming(&toeplitz(&[1.0, 0.25]))) * 2.0;
    let expected = smooth_dense(0.5, 6).dot(&dense(&toeplitz(&[2.0, 0.5]), 6));
    for tree in all {
        let mut state = own.init_multiply(&tree, tree.default_precision()).unwrap();
        let inputs: Vec<Vec<f64>> = (0..6).map(|t| trees::lanes(&tree, &trees::payload(&tree, t))).collect();
        for t in 0..6 {
            assert_eq!(state.step(), t);
            let x = TreeValues::from_bytes(tree.clone(), trees::payload(&tree, t)).unwrap();
            let y = own.multiply_next(&x, &mut state).unwrap();
            assert_eq!(y.tree(), &tree);
            for (lane, (found, format)) in
                trees::lanes(&tree, y.as_bytes()).into_iter().zip(trees::formats(&tree)).enumerate()
            {
                let sum: f64 = (0..=t as usize).map(|k| expected[(t as usize, k)] * inputs[k][lane]).sum();
                let allowed = 4.0 * trees::roundoff(format) * sum.abs().max(1e-3) + 1e-13;
                assert!((found - sum).abs() <= allowed, "{format} lane {lane} step {t}: {found}, not {sum}");
            }
        }
    }
}

#[test]
fn a_programs_own_matrix_sees_the_shape_of_each_leaf() {
    // The state is a list of the shapes that it has seen; the answer counts them.
    let own = StreamingMatrix::from_array_implementation(
        |shape: &[usize]| vec![shape.to_vec()],
        |x: ArrayViewD<'_, f64>, seen: &mut Vec<Vec<usize>>| {
            assert_eq!(x.shape(), seen[0]);
            seen.push(x.shape().to_vec());
            ArrayD::from_elem(x.raw_dim(), seen.len() as f64)
        },
    );
    let tree = trees::of_shapes(DType::F32, &[&[], &[2, 3], &[0, 4], &[1, 1, 1]]);
    let mut state = own.init_multiply(&tree, Precision::F32).unwrap();
    for step in 0..3 {
        let y = own.multiply_next(&TreeValues::zeros(tree.clone()), &mut state).unwrap();
        assert!(trees::lanes(&tree, y.as_bytes()).iter().all(|&count| count == f64::from(step) + 2.0));
    }
}

#[test]
fn steps_on_trees_have_the_bits_of_a_session() {
    for spec in specs::nested() {
        for tree in [trees::mixed(), trees::of_shapes(DType::F32, &[&[3], &[], &[1100]])] {
            for precision in [Precision::F32, Precision::F64] {
                let (matrix, n) = (streaming(&spec), rows_of(&spec, 4) as u64);
                let mut state = matrix.init_multiply(&tree, precision).unwrap();
                let mut session = drive::session(&spec, &tree, precision, Backend::best());
                for t in 0..n {
                    let payload = trees::payload(&tree, t);
                    let x = TreeValues::from_bytes(tree.clone(), payload.clone()).unwrap();
                    let y = matrix.multiply_next(&x, &mut state).unwrap();
                    let expected = drive::step(&mut session, t, &payload, &[5000]);
                    assert!(y.into_bytes() == expected, "{} {precision} step {t}", spec.to_json());
                }
            }
        }
    }
}

#[test]
fn several_steps_at_once_have_the_bits_of_one_after_another() {
    for spec in specs::nested() {
        let (matrix, tree) = (streaming(&spec), trees::mixed());
        let n = rows_of(&spec, 21) as u64;
        let input = |t| TreeValues::from_bytes(tree.clone(), trees::payload(&tree, t)).unwrap();
        let mut state = matrix.init_multiply(&tree, Precision::F32).unwrap();
        let expected: Vec<_> = (0..n).map(|t| matrix.multiply_next(&input(t), &mut state).unwrap()).collect();
        let mut state = matrix.init_multiply(&tree, Precision::F32).unwrap();
        let mut found: Vec<_> = (0..n).map(input).collect();
        let (first, rest) = found.split_at_mut(3.min(n as usize));
        matrix.multiply_steps_in_place(first, &mut state).unwrap();
        matrix.multiply_steps_in_place(rest, &mut state).unwrap();
        assert!(found == expected, "{}", spec.to_json());
        assert_eq!(state.step(), n);
        if Plan::new(&spec).unwrap().horizon() == Some(n) {
            let error = matrix.multiply_steps_in_place(&mut found[..1], &mut state).unwrap_err();
            assert_eq!(error, Error::PastHorizon { requested: n, horizon: n });
        }
    }
}

#[test]
fn a_state_belongs_to_its_matrix() {
    let tree = Tree::flat(3, DType::F32).unwrap();
    let x = TreeValues::zeros(tree.clone());
    let (sum, own) = (StreamingMatrix::prefix_sum(), smooth(0.5));
    let mut state = sum.init_multiply(&tree, Precision::F32).unwrap();
    for other in [StreamingMatrix::identity(), own.clone(), &sum * &own] {
        assert!(
            matches!(other.multiply_next(&x, &mut state), Err(Error::Invalid { field, .. }) if field == "state")
        );
    }
    // One that is the same is as good.
    StreamingMatrix::prefix_sum().multiply_next(&x, &mut state).unwrap();
    let mut state = (&sum * &own).init_multiply(&tree, Precision::F32).unwrap();
    (&sum * &own).multiply_next(&x, &mut state).unwrap();
    assert!((&sum * &smooth(0.5)).multiply_next(&x, &mut state).is_err());
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let field = |error: Error| match error {
        Error::Invalid { field, .. } => field,
        other => panic!("not about a field: {other}"),
    };
    let (own, tree) = (smooth(0.5), Tree::flat(3, DType::F64).unwrap());
    assert_eq!(field(own.inverse().unwrap_err()), "matrix");
    assert_eq!(field((&own * &StreamingMatrix::prefix_sum()).inverse().unwrap_err()), "matrix");
    let zero = MatrixSpec::Diagonal { diag: vec![1.0, 0.0] };
    assert_eq!(field(streaming(&zero).inverse().unwrap_err()), "matrix.matrix.diag[1]");
    assert_eq!(field((&own * f64::NAN).init_multiply(&tree, Precision::F64).unwrap_err()), "matrix.diag[0]");
    let infinite = &StreamingMatrix::prefix_sum() * f64::INFINITY;
    assert_eq!(field(infinite.materialize(2).unwrap_err()), "matrix.factors[1].diag[0]");
    let huge = streaming(&toeplitz(&[1e39]));
    assert_eq!(field(huge.init_multiply(&tree, Precision::F32).unwrap_err()), "matrix");
    for matrix in [own.clone(), StreamingMatrix::prefix_sum()] {
        let nothing: [f64; 0] = [];
        assert!(matrix.scale_rows_and_columns(Some(&nothing), None).is_err());
        assert!(matrix.scale_rows_and_columns(None, Some(&[f64::NAN])).is_err());
        for n in [0, 65_537, usize::MAX] {
            assert_eq!(field(matrix.materialize(n).unwrap_err()), "n");
        }
        for n in [0, (1 << 24) + 1, usize::MAX] {
            assert!(matrix.row_norms_squared(n).is_err_and(|error| field(error) == "n"), "{n}");
        }
        for x in [arr0(1.0).into_dyn(), ArrayD::zeros(IxDyn(&[0, 2])), ArrayD::zeros(IxDyn(&[2, 0]))] {
            assert_eq!(field(matrix.multiply(x.view()).unwrap_err()), "x");
        }
        // Steps of another tree.
        let mut state = matrix.init_multiply(&tree, Precision::F64).unwrap();
        let one = TreeValues::from_bytes(tree.clone(), [1_f64.to_le_bytes(); 3].concat()).unwrap();
        let first = matrix.multiply_next(&one, &mut state).unwrap();
        let others =
            [Tree::flat(4, DType::F64), Tree::flat(3, DType::F32), Ok(trees::of_shapes(DType::F64, &[&[3]]))];
        for other in others {
            let x = TreeValues::zeros(other.unwrap());
            assert_eq!(field(matrix.multiply_next(&x, &mut state).unwrap_err()), "x");
            assert_eq!(state.step(), 1);
        }
        let second = matrix.multiply_next(&one, &mut state).unwrap();
        assert!(second.leaf(0).sum() > first.leaf(0).sum());
    }
    let reshapes = StreamingMatrix::from_array_implementation(|_| (), |_, ()| ArrayD::zeros(IxDyn(&[7])));
    let mut state = reshapes.init_multiply(&tree, Precision::F64).unwrap();
    for _ in 0..2 {
        let error = reshapes.multiply_next(&TreeValues::zeros(tree.clone()), &mut state).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }

    // Past the end, alone and in a product with a matrix that has none.
    let ends = streaming(&MatrixSpec::Dense { rows: vec![vec![2.0], vec![1.0, 2.0]] });
    for matrix in [ends.clone(), &own * &ends, &ends * &own] {
        let mut state = matrix.init_multiply(&tree, Precision::F64).unwrap();
        let x = TreeValues::zeros(tree.clone());
        matrix.multiply_next(&x, &mut state).unwrap();
        matrix.multiply_next(&x, &mut state).unwrap();
        for _ in 0..2 {
            let error = matrix.multiply_next(&x, &mut state).unwrap_err();
            assert_eq!(error, Error::PastHorizon { requested: 2, horizon: 2 });
        }
        assert!(matrix.materialize(3).is_err());
        assert!(matrix.row_norms_squared(3).is_err());
        assert!(matrix.multiply(input(3, &[1]).view()).is_err());
    }
}

#[test]
fn a_long_computation_stops_when_it_is_asked_to() {
    let asked = Cell::new(0);
    let cancelled = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let spec = MatrixSpec::PrefixSum;
    assert_eq!(analysis::row_norms_squared(&spec, 1 << 20, cancelled), Err(Error::Cancelled));
    assert_eq!(asked.get(), 4);
    asked.set(0);
    assert_eq!(analysis::multiply(&spec, input(100, &[2]).view(), cancelled), Err(Error::Cancelled));
    assert_eq!(asked.get(), 4);
}
