//! Against all patterns and all signs, on small matrices of every kind.

use super::*;
use crate::analysis::toeplitz_coefs;
use crate::matrix::{DenseMatrix, strategy};

/// Numbers in `[-1, 1)` that a seed fixes.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn list(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.next()).collect()
    }

    fn positive(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.next().abs() + 0.01).collect()
    }

    fn decreasing(&mut self, n: usize) -> Vec<f64> {
        let mut list = self.positive(n);
        list.sort_by(|a, b| b.total_cmp(a));
        list
    }
}

fn toeplitz(coef: Vec<f64>) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef, column_normalize_for_n: None }
}

fn dense(n: usize, mut entry: impl FnMut(usize, usize) -> f64) -> MatrixSpec {
    MatrixSpec::Dense { rows: (0..n).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect() }
}

fn patterns(n: usize, participation: Participation) -> Vec<Vec<usize>> {
    match participation {
        Participation::Single => (0..n).map(|i| vec![i]).collect(),
        Participation::FixedEpochs { epochs } => {
            let apart = n / epochs as usize;
            (0..apart).map(|first| (first..n).step_by(apart).collect()).collect()
        }
        Participation::MinSep { min_sep, max_participations } => (1..1_u32 << n)
            .map(|mask| (0..n).filter(|i| mask >> i & 1 == 1).collect::<Vec<_>>())
            .filter(|steps| steps.windows(2).all(|pair| pair[1] - pair[0] >= min_sep as usize))
            .filter(|steps| max_participations.is_none_or(|most| steps.len() as u64 <= most))
            .collect(),
    }
}

/// The largest squared norm of a pattern's columns with signs, and the largest sum of `|X|` over a pattern.
fn brute(matrix: &MatrixSpec, n: usize, participation: Participation) -> (f64, f64) {
    let matrix = DenseMatrix::new(matrix, n).unwrap();
    let entry = |i: usize, j: usize| if j <= i { matrix.row(i)[j] } else { 0.0 };
    let gram = |i: usize, j: usize| (0..n).map(|t| entry(t, i) * entry(t, j)).sum::<f64>();
    let gram: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| gram(i, j)).collect()).collect();
    let (mut signed, mut absolute) = (0.0_f64, 0.0_f64);
    for steps in patterns(n, participation) {
        for signs in 0..1_u32 << (steps.len() - 1) {
            let sign = |at: usize| if signs >> at & 1 == 1 { -1.0 } else { 1.0 };
            let mut sum = 0.0;
            for (a, &i) in steps.iter().enumerate() {
                sum += steps.iter().enumerate().map(|(b, &j)| sign(a) * sign(b) * gram[i][j]).sum::<f64>();
            }
            signed = signed.max(sum);
        }
        let sum = steps.iter().flat_map(|&i| steps.iter().map(move |&j| (i, j)));
        absolute = absolute.max(sum.map(|(i, j)| gram[i][j].abs()).sum());
    }
    (signed, absolute)
}

fn participations(n: usize) -> Vec<Participation> {
    let mut all = vec![Participation::Single];
    for min_sep in 1..=n as u64 {
        let limits = [None, Some(1), Some(2), Some(3), Some(n as u64)];
        all.extend(limits.map(|max_participations| Participation::MinSep { min_sep, max_participations }));
    }
    let divisors = (1..=n as u64).filter(|epochs| (n as u64).is_multiple_of(*epochs));
    all.extend(divisors.map(|epochs| Participation::FixedEpochs { epochs }));
    all
}

/// Checks every participation; answers how many were exact, and how many there are.
fn check(matrix: &MatrixSpec, n: usize) -> (usize, usize) {
    let (mut exact, mut all) = (0, 0);
    for participation in participations(n) {
        let found = sensitivity(matrix, n as u64, participation, &|| false).unwrap();
        let (signed, absolute) = brute(matrix, n, participation);
        let what =
            format!("{matrix:?} {participation:?}: {found:?}; {signed} with signs, {absolute} absolute");
        assert!(found.squared >= signed * (1.0 - 1e-12), "{what}");
        if found.exact {
            assert!((found.squared - signed).abs() <= 1e-12 * signed.max(1e-300), "{what}");
        } else {
            assert!(found.squared >= absolute * (1.0 - 1e-12), "{what}");
        }
        if participation.true_max_participations(n as u64).unwrap() == 1 {
            assert!(found.exact, "{what}");
        }
        exact += usize::from(found.exact);
        all += 1;
    }
    (exact, all)
}

#[test]
fn toeplitz_matrices_that_do_not_increase_are_exact() {
    let mut numbers = Numbers(1);
    for n in 1..=9 {
        let mut matrices = vec![
            MatrixSpec::PrefixSum,
            MatrixSpec::Identity,
            strategy::optimal_max_error(n).unwrap(),
            toeplitz(vec![1.0, 0.5]).inverse(),
            toeplitz(vec![1.0, -0.5]).inverse(),
            toeplitz(vec![-1.0, 0.5]),
            toeplitz(vec![-2.0, -0.5, -0.5]),
            MatrixSpec::BufferedToeplitz { buf_decay: vec![0.9, 0.3], output_scale: vec![0.3, 0.2] },
        ];
        matrices.extend((1..=n).map(|bands| toeplitz(numbers.decreasing(bands))));
        for matrix in matrices {
            let (exact, all) = check(&matrix, n);
            assert_eq!(exact, all, "{matrix:?}");
        }
    }
}

#[test]
fn matrices_without_negative_entries_are_exact_in_fixed_epochs() {
    let mut numbers = Numbers(2);
    for n in [4, 6, 8, 9] {
        for matrix in [
            toeplitz(numbers.positive(n)),
            dense(n, |_, _| numbers.next().abs()),
            strategy::lambda_cgd(0.7, n).unwrap(),
            MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.5, 2.0]) },
        ] {
            check(&matrix, n);
            for epochs in (1..=n as u64).filter(|epochs| (n as u64).is_multiple_of(*epochs)) {
                let found =
                    sensitivity(&matrix, n as u64, Participation::FixedEpochs { epochs }, &|| false).unwrap();
                assert!(found.exact, "{matrix:?} {epochs}: {found:?}");
            }
        }
    }
}

#[test]
fn columns_that_share_no_row_are_exact() {
    let mut numbers = Numbers(3);
    for n in 2..=9 {
        for bands in 1..=n.min(4) {
            let matrices = [
                toeplitz(numbers.list(bands)),
                toeplitz(numbers.list(bands)).scale_rows_and_columns(None, Some(numbers.list(n))),
                MatrixSpec::ColumnNormalizedBanded { params: (0..n).map(|_| numbers.list(bands)).collect() }
                    .scale_rows_and_columns(Some(numbers.list(n)), Some(numbers.list(n))),
                dense(n, |i, j| if i - j < bands { numbers.next() } else { 0.0 }),
            ];
            for matrix in matrices {
                check(&matrix, n);
                for min_sep in bands..=n {
                    for max_participations in [None, Some(2), Some(3)] {
                        let participation =
                            Participation::MinSep { min_sep: min_sep as u64, max_participations };
                        let found = sensitivity(&matrix, n as u64, participation, &|| false).unwrap();
                        assert!(found.exact, "{matrix:?} {participation:?}: {found:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn any_matrix_is_bounded() {
    let mut numbers = Numbers(4);
    for n in 1..=8 {
        for _ in 0..6 {
            let spread = numbers.list(n);
            check(&dense(n, |_, _| numbers.next()), n);
            check(&dense(n, |i, j| spread[j].abs() * numbers.next().powi(3) + f64::from(i == j)), n);
            check(&toeplitz(numbers.list(n)), n);
            check(&toeplitz(numbers.list(n.min(3))), n);
            check(&toeplitz(numbers.positive(n)), n);
        }
    }
}

/// Columns that share rows and yet are orthogonal where they may come together.
#[test]
fn orthogonal_columns_are_exact() {
    let matrix =
        dense(4, |i, j| [[1.0; 4], [0.3, 1.0, 0.0, 0.0], [1.0, -2.0, 1.0, 0.0], [1.0, 0.0, -1.0, 1.0]][i][j]);
    let found = sensitivity(&matrix, 4, Participation::FixedEpochs { epochs: 2 }, &|| false).unwrap();
    assert!(found.exact && found.rule == SensitivityRule::GramSums, "{found:?}");
    check(&matrix, 4);
}

/// The Gram matrix by bands, of more rows than a block has.
#[test]
fn large_banded_matrices_agree_with_full_ones() {
    let mut numbers = Numbers(5);
    let (n, bands) = (300, 20);
    let banded = toeplitz(numbers.list(bands)).scale_rows_and_columns(None, Some(numbers.list(n)));
    let rows = DenseMatrix::new(&banded, n).unwrap();
    // The last entry of the first column makes it full, and changes nothing else.
    let full = dense(n, |i, j| rows.row(i)[j] + if (i, j) == (n - 1, 0) { 1e-200 } else { 0.0 });
    for participation in [
        Participation::MinSep { min_sep: 7, max_participations: None },
        Participation::MinSep { min_sep: 7, max_participations: Some(20) },
        Participation::FixedEpochs { epochs: 20 },
    ] {
        let [a, b] = [&banded, &full].map(|matrix| {
            let plan = Plan::new(matrix).unwrap();
            let bands = Bands::new(&plan, n, bandwidth(&plan, n), &|| false).unwrap();
            let bound = by_gram(
                &Gram::new(&bands, &|| false).unwrap(),
                match participation {
                    Participation::MinSep { max_participations, .. } => {
                        Pattern::Spaced { apart: 7, most: max_participations.unwrap_or(99) as usize }
                    }
                    _ => Pattern::Residue { apart: 15 },
                },
                &|| false,
            );
            bound.unwrap()
        });
        assert!((a.squared - b.squared).abs() < 1e-12 * b.squared, "{participation:?}: {a:?} {b:?}");
    }
}

/// As many steps as the columns are wide, against the plain sum of the columns.
#[test]
fn long_toeplitz_matrices() {
    let n = 20_000;
    let matrix = MatrixSpec::BufferedToeplitz { buf_decay: vec![0.999, 0.9], output_scale: vec![0.01, 0.2] };
    let coefs = toeplitz_coefs(&matrix, n as u64).unwrap().unwrap();
    for (apart, count) in [(1, 20_000), (7, 100), (100, 37), (3_000, 3), (19_999, 2), (20_000, 1)] {
        let mut sum = vec![0.0; n];
        for start in (0..n).step_by(apart).take(count) {
            sum[start..].iter_mut().zip(&coefs).for_each(|(sum, c)| *sum += c);
        }
        let expected: f64 = sum.iter().map(|entry| entry * entry).sum();
        let participation =
            Participation::MinSep { min_sep: apart as u64, max_participations: Some(count as u64) };
        let found = sensitivity(&matrix, n as u64, participation, &|| false).unwrap();
        assert!((found.squared - expected).abs() < 1e-12 * expected, "{apart} {count}: {found:?} {expected}");
        assert!(found.exact);
    }
}

#[test]
fn what_cannot_be_written_out_is_bounded_by_norms() {
    let mut numbers = Numbers(6);
    let (n, bands) = (40_000, 500);
    let mut coef = numbers.list(bands);
    coef[0] = 1.0;
    let norm = coef.iter().map(|c| c * c).sum::<f64>().sqrt();
    let participation = Participation::MinSep { min_sep: 100, max_participations: Some(7) };
    let found = sensitivity(&toeplitz(coef), n, participation, &|| false).unwrap();
    assert_eq!(found.rule, SensitivityRule::SumOfNorms);
    assert!(!found.exact && (found.value() - 7.0 * norm).abs() < 1e-9 * norm, "{found:?}");
}

#[test]
fn bad_input_is_told() {
    let field =
        |matrix: &MatrixSpec, n: u64, participation| match sensitivity(matrix, n, participation, &|| false) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
    let min_sep = |min_sep, max_participations| Participation::MinSep { min_sep, max_participations };
    let matrix = toeplitz(vec![1.0, 0.5]);
    assert_eq!(field(&matrix, 0, Participation::Single), "n");
    assert_eq!(field(&matrix, 0, min_sep(1, None)), "n");
    assert_eq!(field(&matrix, 4, min_sep(0, None)), "min_sep");
    assert_eq!(field(&matrix, 4, min_sep(5, None)), "min_sep");
    assert_eq!(field(&matrix, 4, min_sep(2, Some(0))), "max_participations");
    assert_eq!(field(&matrix, 4, Participation::FixedEpochs { epochs: 3 }), "epochs");
    assert_eq!(field(&matrix, 4, Participation::FixedEpochs { epochs: 0 }), "epochs");
    assert_eq!(field(&dense(3, |_, _| 1.0), 4, Participation::Single), "n");
    assert_eq!(field(&dense(3, |_, _| 1.0), 4, Participation::FixedEpochs { epochs: 2 }), "n");
    assert_eq!(field(&toeplitz(vec![1.0, f64::NAN]), 4, Participation::Single), "matrix.coef[1]");
    assert_eq!(field(&toeplitz(vec![1e200, 1e200]), 4, Participation::Single), "matrix");
    assert_eq!(field(&toeplitz(vec![1e200, -1e200]), 4, min_sep(1, None)), "matrix");
}

#[test]
fn a_call_can_be_cancelled() {
    let mut numbers = Numbers(7);
    let matrix = dense(8, |_, _| numbers.next());
    for participation in [Participation::Single, Participation::FixedEpochs { epochs: 2 }] {
        assert_eq!(sensitivity(&matrix, 8, participation, &|| true), Err(Error::Cancelled));
    }
}

#[test]
fn small_matrices_have_a_sensitivity() {
    let min_sep = Participation::MinSep { min_sep: 2, max_participations: Some(2) };
    for small in [1e-130, 1e-160, 1e-170, 1e-200, 1e-307] {
        let diagonal = MatrixSpec::Diagonal { diag: vec![small / 3.0, small] };
        for (participation, factor) in [(Participation::Single, 1.0), (min_sep, 2.0_f64.sqrt())] {
            for (matrix, norm) in [
                (toeplitz(vec![small]), 1.0),
                (toeplitz(vec![small, small]), 2.0_f64.sqrt()),
                (diagonal.clone(), 1.0),
                (product(toeplitz(vec![small, -small]), toeplitz(vec![1.0])), 2.0_f64.sqrt()),
                (dense(6, |i, j| if i == j { small } else { 0.0 }), 1.0),
            ] {
                let found = sensitivity(&matrix, 6, participation, &|| false).unwrap();
                let expected = small * norm * factor;
                let off = found.value() / expected - 1.0;
                assert!((-1e-15..1e-14).contains(&off), "{matrix:?}: {found:?} not {expected:e}");
                assert!(found.squared > 0.0);
            }
        }
    }
    for zero in [toeplitz(vec![0.0]), MatrixSpec::Diagonal { diag: vec![0.0] }] {
        let found = sensitivity(&zero, 6, Participation::Single, &|| false).unwrap();
        assert_eq!((found.value(), found.squared), (0.0, 0.0));
    }
    assert_eq!(
        sensitivity(&toeplitz(vec![1e-170]), 1, Participation::Single, &|| false).unwrap().value(),
        1e-170
    );
}

fn product(a: MatrixSpec, b: MatrixSpec) -> MatrixSpec {
    MatrixSpec::Product { factors: vec![a, b] }
}

/// What a session in f32 applies, written out by hand, has the sensitivity that is told for f32.
#[test]
fn a_precision_tells_the_sensitivity_of_what_is_applied() {
    let f32 = |value: f64| f64::from(value as f32);
    let each = |list: &[f64]| list.iter().map(|&value| f32(value)).collect::<Vec<_>>();
    let (theta, w) = ([0.999_998_3, 0.997_1, 0.9], [1.1e-3, 0.013, 0.21]);
    let blt = |theta: &[f64], w: &[f64]| MatrixSpec::BufferedToeplitz {
        buf_decay: theta.to_vec(),
        output_scale: w.to_vec(),
    };
    let coef = [0.9, 0.3, 0.1];
    // The inverse multiplies with 1 / c_0 and -c_k / c_0.
    let first = 1.0 / f32(1.0 / coef[0]);
    let quotients: Vec<f64> = coef.iter().map(|c| f32(c / coef[0]) * first).collect();
    let applied = [first, quotients[1], quotients[2]];
    let scale = [3.3, 0.7, 1.9];
    let reciprocals: Vec<f64> = scale.iter().map(|&s| 1.0 / f32(1.0 / s)).collect();
    let cases = [
        (blt(&theta, &w), blt(&each(&theta), &each(&w))),
        (toeplitz(coef.to_vec()), toeplitz(applied.to_vec())),
        // The noising matrix of an inverse is the matrix.
        (toeplitz(vec![1.0, -0.3, -0.1]).inverse(), toeplitz(each(&[1.0, -0.3, -0.1])).inverse()),
        (
            toeplitz(coef.to_vec()).scale_rows_and_columns(None, Some(scale.to_vec())),
            toeplitz(applied.to_vec()).scale_rows_and_columns(None, Some(reciprocals)),
        ),
        (MatrixSpec::PrefixSum, MatrixSpec::PrefixSum),
    ];
    let epochs = Participation::FixedEpochs { epochs: 4 };
    for (told, applied) in cases {
        for (n, participation) in [(2000, Participation::Single), (2000, epochs), (20, epochs)] {
            let of = |matrix: &MatrixSpec| sensitivity(matrix, n, participation, &|| false).unwrap();
            let in_precision =
                |precision| sensitivity_in(&told, n, participation, precision, &|| false).unwrap();
            let (expected, exact) = (of(&applied), of(&told));
            let (found, precision) = in_precision(Some(Precision::F32));
            assert!(
                (found.value() / expected.value() - 1.0).abs() < 1e-14,
                "{told:?}: {found:?} {expected:?}"
            );
            assert_eq!(precision, Precision::F32);
            assert_eq!(in_precision(Some(Precision::F64)), (exact, Precision::F64));
            let (safe, of_which) = in_precision(None);
            assert_eq!(safe.value(), found.value().max(exact.value()));
            let same = found.value() >= exact.value();
            assert_eq!(of_which, if same { Precision::F32 } else { Precision::F64 });
        }
    }
    // No session in f32 runs the inverse of these.
    for only_f64 in [toeplitz(vec![1e-60]), toeplitz(vec![0.0, 1.0]), toeplitz(vec![1e60])] {
        let asked = |precision| sensitivity_in(&only_f64, 3, Participation::Single, precision, &|| false);
        assert_eq!(asked(None).unwrap().1, Precision::F64);
        assert!(
            matches!(asked(Some(Precision::F32)), Err(Error::Invalid { field, .. }) if field == "matrix")
        );
    }
}
