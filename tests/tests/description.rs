//! Descriptions as JSON, without loss and with errors that name the path; and the fingerprints of what they
//! describe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::collections::HashMap;

use noised::limits::MAX_NESTING;
use noised::session::Fingerprint;
use noised::{DType, Error, Leaf, MatrixSpec, Precision, SessionSpec, Shard, Tree};
use noised_tests::specs::{self, blt, product, toeplitz};
use proptest::prelude::*;

fn invalid(text: &str) -> (String, String) {
    match MatrixSpec::from_json(text) {
        Err(Error::Invalid { field, rule }) => (field, rule),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn json_that_is_no_matrix_names_the_path_and_the_rule() {
    let cases = [
        ("", "matrix", "is not JSON"),
        ("{", "matrix", "is not JSON"),
        (r#"{"kind":"identity"} x"#, "matrix", "is not JSON"),
        (r#"{"kind":"diagonal","diag":[NaN]}"#, "matrix", "is not JSON"),
        (r#"{"kind":"diagonal","diag":[1e999]}"#, "matrix", "is not JSON"),
        ("null", "matrix", "must be an object with a `kind`"),
        (r#""identity""#, "matrix", "must be an object"),
        ("[]", "matrix", "must be an object"),
        ("{}", "matrix.kind", "is missing"),
        (r#"{"kind":7}"#, "matrix.kind", "must be one of"),
        (r#"{"kind":"Identity"}"#, "matrix.kind", "`Identity` is not one of"),
        (r#"{"kind":"identity","diag":[1]}"#, "matrix.diag", "is not a field of `identity`"),
        (r#"{"kind":"diagonal"}"#, "matrix.diag", "is missing"),
        (r#"{"kind":"diagonal","diag":null}"#, "matrix.diag", "must be a list of numbers"),
        (r#"{"kind":"diagonal","diag":1}"#, "matrix.diag", "must be a list of numbers"),
        (r#"{"kind":"diagonal","diag":[1,"2"]}"#, "matrix.diag[1]", "must be a number"),
        (r#"{"kind":"diagonal","diag":[null]}"#, "matrix.diag[0]", "must be a number"),
        (r#"{"kind":"diagonal","diag":[]}"#, "matrix.diag", "must not be empty"),
        (r#"{"kind":"diagonal","diag":[1],"scale":2}"#, "matrix.scale", "is not a field of `diagonal`"),
        (r#"{"kind":"momentum_sgd"}"#, "matrix.momentum", "is missing"),
        (r#"{"kind":"momentum_sgd","momentum":"0.9"}"#, "matrix.momentum", "must be a number"),
        (r#"{"kind":"momentum_sgd","momentum":2}"#, "matrix.momentum", "must be in [0, 1]"),
        (
            r#"{"kind":"momentum_sgd","momentum":0,"learning_rates":[]}"#,
            "matrix.learning_rates",
            "must not be empty",
        ),
        (
            r#"{"kind":"momentum_sgd","momentum":0,"learning_rates":[1,-1]}"#,
            "matrix.learning_rates[1]",
            "must not be negative, found -1",
        ),
        (r#"{"kind":"toeplitz"}"#, "matrix.coef", "is missing"),
        (
            r#"{"kind":"toeplitz","coef":[1],"column_normalize_for_n":-1}"#,
            "matrix.column_normalize_for_n",
            "whole number",
        ),
        (
            r#"{"kind":"toeplitz","coef":[1],"column_normalize_for_n":1.5}"#,
            "matrix.column_normalize_for_n",
            "whole number",
        ),
        (
            r#"{"kind":"toeplitz","coef":[1],"column_normalize_for_n":1e30}"#,
            "matrix.column_normalize_for_n",
            "whole number",
        ),
        (
            r#"{"kind":"toeplitz","coef":[1,1],"column_normalize_for_n":1}"#,
            "matrix.column_normalize_for_n",
            "number of bands",
        ),
        (r#"{"kind":"buffered_toeplitz","buf_decay":[0.5]}"#, "matrix.output_scale", "is missing"),
        (r#"{"kind":"buffered_toeplitz","output_scale":[0.5]}"#, "matrix.buf_decay", "is missing"),
        (
            r#"{"kind":"buffered_toeplitz","buf_decay":[0.5],"output_scale":[]}"#,
            "matrix.output_scale",
            "must not be empty",
        ),
        (
            r#"{"kind":"column_normalized_banded","params":[1,2]}"#,
            "matrix.params[0]",
            "must be a list of numbers",
        ),
        (r#"{"kind":"column_normalized_banded","params":{}}"#, "matrix.params", "list of lists of numbers"),
        (r#"{"kind":"column_normalized_banded"}"#, "matrix.params", "is missing"),
        (r#"{"kind":"dense","rows":[[1],[1,true]]}"#, "matrix.rows[1][1]", "must be a number"),
        (r#"{"kind":"dense"}"#, "matrix.rows", "is missing"),
        (r#"{"kind":"product"}"#, "matrix.factors", "is missing"),
        (r#"{"kind":"product","factors":{}}"#, "matrix.factors", "must be a list of matrices"),
        (r#"{"kind":"product","factors":[]}"#, "matrix.factors", "must not be empty"),
        (r#"{"kind":"product","factors":[1]}"#, "matrix.factors[0]", "must be an object"),
        (
            r#"{"kind":"product","factors":[{"kind":"identity"},{"kind":"toeplitz","coef":[]}]}"#,
            "matrix.factors[1].coef",
            "must not be empty",
        ),
        (
            r#"{"kind":"inverse","matrix":{"kind":"product","factors":[{"kind":"diagonal","diag":[1,0]}]}}"#,
            "matrix.matrix.factors[0].diag[1]",
            "must not be zero",
        ),
        (r#"{"kind":"inverse","matrix":{"kind":"inverse"}}"#, "matrix.matrix.matrix", "is missing"),
        (r#"{"kind":"inverse","matrix":null}"#, "matrix.matrix", "must be an object"),
        (r#"{"kind":"scaled","row_scale":[1]}"#, "matrix.matrix", "is missing"),
        (
            r#"{"kind":"scaled","matrix":{"kind":"identity"},"row_scale":[]}"#,
            "matrix.row_scale",
            "must not be empty",
        ),
        (
            r#"{"kind":"scaled","matrix":{"kind":"identity"},"col_scale":["a"]}"#,
            "matrix.col_scale[0]",
            "must be a number",
        ),
    ];
    for (text, field, rule) in cases {
        let (found, told) = invalid(text);
        assert!(
            found == field && told.contains(rule),
            "{text}: `{found}: {told}` instead of `{field}: {rule}`"
        );
    }
}

#[test]
fn json_may_nest_only_so_deep() {
    let nested = |depth: usize| {
        format!(
            "{}{}{}",
            r#"{"kind":"inverse","matrix":"#.repeat(depth),
            r#"{"kind":"identity"}"#,
            "}".repeat(depth)
        )
    };
    MatrixSpec::from_json(&nested(MAX_NESTING)).unwrap();
    let (field, rule) = invalid(&nested(MAX_NESTING + 1));
    assert_eq!(field, format!("matrix{}", ".matrix".repeat(MAX_NESTING + 1)));
    assert!(rule.contains("at most 16 deep"), "{rule}");
    // Deeper than any reader of JSON goes.
    for text in [nested(200), nested(200_000), "[".repeat(1_000_000), r#"{"kind":"#.repeat(100_000)] {
        invalid(&text);
    }
}

#[test]
fn json_may_leave_out_what_is_optional() {
    let same = [
        (
            r#"{"kind":"momentum_sgd","momentum":1,"learning_rates":null}"#,
            MatrixSpec::MomentumSgd { momentum: 1.0, learning_rates: None },
        ),
        (r#" { "coef" : [ 1 , 5e-1 ] , "kind" : "toeplitz" } "#, toeplitz(&[1.0, 0.5])),
        (
            r#"{"kind":"scaled","matrix":{"kind":"identity"}}"#,
            MatrixSpec::Identity.scale_rows_and_columns(None, None),
        ),
        (
            r#"{"kind":"diagonal","diag":[18446744073709551616]}"#,
            MatrixSpec::Diagonal { diag: vec![2f64.powi(64)] },
        ),
    ];
    for (text, spec) in same {
        assert_eq!(MatrixSpec::from_json(text).unwrap(), spec);
    }
}

fn fingerprint(spec: SessionSpec) -> Fingerprint {
    spec.resolve().unwrap().fingerprint()
}

fn of_matrix(matrix: &MatrixSpec) -> Fingerprint {
    fingerprint(SessionSpec::new(matrix.clone(), Tree::flat(3, DType::F64).unwrap()))
}

/// Any `f64` that a matrix may hold, by its bits.
fn finite() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |x| x.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_keeps_every_bit(matrix in specs::arbitrary(), numbers in prop::collection::vec(finite(), 1..20)) {
        let scaled = matrix.scale_rows_and_columns(Some(numbers.clone()), None);
        let matrix = product([scaled, MatrixSpec::Diagonal { diag: numbers }]);
        let back = MatrixSpec::from_json(&matrix.to_json()).unwrap();
        prop_assert_eq!(back.to_json(), matrix.to_json());
        prop_assert_eq!(&back, &matrix);
        // A session refuses numbers that overflow, of both in the same words.
        let answer = |matrix: &MatrixSpec| {
            let spec = SessionSpec::new(matrix.clone(), Tree::flat(3, DType::F64).unwrap());
            spec.resolve().map(|resolved| resolved.fingerprint()).map_err(|error| error.to_string())
        };
        prop_assert_eq!(answer(&back), answer(&matrix));
    }

    #[test]
    fn fingerprints_are_equal_only_where_descriptions_are(a in specs::arbitrary(), b in specs::arbitrary()) {
        prop_assert_eq!(of_matrix(&a) == of_matrix(&b), a.to_json() == b.to_json());
    }

    /// The last bit of one number makes another matrix.
    #[test]
    fn fingerprints_see_the_last_bit(mut diag in prop::collection::vec(finite(), 1..20), at in any::<prop::sample::Index>()) {
        let before = of_matrix(&MatrixSpec::Diagonal { diag: diag.clone() });
        let number = at.index(diag.len());
        let changed = f64::from_bits(diag[number].to_bits() ^ 1);
        prop_assume!(changed.is_finite());
        diag[number] = changed;
        prop_assert_ne!(of_matrix(&MatrixSpec::Diagonal { diag }), before);
    }
}

#[test]
fn fingerprints_differ_where_any_one_part_does() {
    let leaf = |path: &str, dtype, shape: &[u64]| Leaf::new(path, dtype, shape);
    let tree = |leaves: &[Leaf]| Tree::new(leaves.to_vec()).unwrap();
    let base = SessionSpec::new(
        MatrixSpec::PrefixSum,
        tree(&[leaf("a", DType::F32, &[6]), leaf("bc", DType::F32, &[2])]),
    );
    let mut all = vec![base.clone()];
    let ends = MatrixSpec::Dense { rows: (1..=33).map(|i| vec![1.0; i]).collect() };
    let matrices = specs::nested().into_iter().filter(|matrix| *matrix != MatrixSpec::PrefixSum).chain([
        // The same numbers in other places.
        toeplitz(&[1.0, 2.0, 3.0]),
        MatrixSpec::Diagonal { diag: vec![1.0, 2.0, 3.0] },
        MatrixSpec::Diagonal { diag: vec![1.0, 2.0] },
        MatrixSpec::Diagonal { diag: vec![0.0] },
        MatrixSpec::Diagonal { diag: vec![-0.0] },
        blt(&[0.5, 0.25], &[1.0, 2.0]),
        blt(&[0.25, 0.5], &[1.0, 2.0]),
        MatrixSpec::Toeplitz { coef: vec![1.0, 2.0, 3.0], column_normalize_for_n: Some(33) },
        MatrixSpec::Toeplitz { coef: vec![1.0, 2.0, 3.0], column_normalize_for_n: Some(34) },
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: None },
        MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0]) },
        MatrixSpec::PrefixSum.scale_rows_and_columns(None, None),
        MatrixSpec::PrefixSum.scale_rows_and_columns(Some(vec![1.0]), None),
        MatrixSpec::PrefixSum.scale_rows_and_columns(None, Some(vec![1.0])),
        product([MatrixSpec::PrefixSum]),
        product([MatrixSpec::PrefixSum, MatrixSpec::PrefixSum]),
        product([product([MatrixSpec::PrefixSum]), MatrixSpec::PrefixSum]),
        product([MatrixSpec::PrefixSum, product([MatrixSpec::PrefixSum])]),
        MatrixSpec::Dense { rows: vec![vec![1.0], vec![2.0, 3.0]] },
        MatrixSpec::Dense { rows: vec![vec![1.0, 0.0], vec![2.0, 3.0]] },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0, 2.0], vec![3.0, 4.0]] },
        MatrixSpec::ColumnNormalizedBanded { params: vec![vec![1.0], vec![2.0], vec![3.0], vec![4.0]] },
        ends.clone(),
    ]);
    all.extend(matrices.map(|matrix| SessionSpec { matrix, ..base.clone() }));
    let trees = [
        tree(&[leaf("ab", DType::F32, &[6]), leaf("c", DType::F32, &[2])]),
        tree(&[leaf("a", DType::Bf16, &[6]), leaf("bc", DType::F32, &[2])]),
        tree(&[leaf("a", DType::F16, &[6]), leaf("bc", DType::F32, &[2])]),
        tree(&[leaf("a", DType::F32, &[2, 3]), leaf("bc", DType::F32, &[2])]),
        tree(&[leaf("a", DType::F32, &[3, 2]), leaf("bc", DType::F32, &[2])]),
        tree(&[leaf("a", DType::F32, &[6, 1]), leaf("bc", DType::F32, &[2])]),
        tree(&[leaf("a", DType::F32, &[2]), leaf("bc", DType::F32, &[6])]),
        tree(&[leaf("bc", DType::F32, &[2]), leaf("a", DType::F32, &[6])]),
        tree(&[leaf("a", DType::F32, &[6]), leaf("bc", DType::F32, &[2]), leaf("e", DType::F32, &[0])]),
        tree(&[leaf("a", DType::F32, &[8])]),
    ];
    all.extend(trees.map(|tree| SessionSpec { tree, ..base.clone() }));
    // Paths that hold what is hashed between them: were lengths not hashed, both would be the same bytes.
    let between = format!("f32{}{}", "\u{1}\0\0\0\0\0\0\0", "\u{6}\0\0\0\0\0\0\0");
    let paths = [("a".to_owned(), format!("q{between}z")), (format!("a{between}q"), "z".to_owned())];
    for (first, second) in paths {
        let tree = tree(&[leaf(&first, DType::F32, &[6]), leaf(&second, DType::F32, &[2])]);
        all.push(SessionSpec { tree, ..base.clone() });
    }
    let shards = [(0, 2), (1, 2), (1, 3)].map(|(index, count)| Shard::new(index, count));
    all.extend(shards.map(|shard| SessionSpec { shard, ..base.clone() }));
    all.push(SessionSpec { precision: Precision::F64, ..base.clone() });
    all.extend([1, 2, 1 << 62].map(|horizon| SessionSpec { horizon: Some(horizon), ..base.clone() }));
    all.push(SessionSpec { matrix: ends.clone(), horizon: Some(32), ..base.clone() });

    let mut seen = HashMap::new();
    for spec in &all {
        if let Some(other) = seen.insert(fingerprint(spec.clone()), spec) {
            panic!("one fingerprint for {spec:?} and {other:?}");
        }
        assert_eq!(fingerprint(spec.clone()), fingerprint(spec.clone()));
        let resolved = spec.clone().resolve().unwrap();
        assert_eq!(resolved.check_same(&base.clone().resolve().unwrap()).is_ok(), *spec == base);
    }
    // A horizon that only repeats the matrix's says nothing new.
    let repeated = SessionSpec { matrix: ends.clone(), horizon: Some(33), ..base.clone() };
    assert_eq!(fingerprint(repeated), fingerprint(SessionSpec { matrix: ends, ..base.clone() }));
    assert_eq!(base.resolve().unwrap().fingerprint().to_string().len(), 64);
}
