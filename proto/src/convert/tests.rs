//! Round trips, and a refusal for everything that may be missing or unknown.

use noised::session::{NoiseOptions, NoiseState, Rewind, Source};
use noised::{DType, Error, Leaf, MatrixSpec, Precision, SessionSpec, Shard, Tree};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::v1::{self, matrix::Kind};

/// Away from zero, so that every matrix can be inverted.
fn numbers(most: usize) -> impl Strategy<Value = Vec<f64>> {
    vec(0.1..0.9_f64, 1..=most)
}

fn plain() -> impl Strategy<Value = MatrixSpec> {
    prop_oneof![
        Just(MatrixSpec::Identity),
        Just(MatrixSpec::PrefixSum),
        numbers(4).prop_map(|diag| MatrixSpec::Diagonal { diag }),
        (0.0..1.0_f64, option::of(numbers(3)))
            .prop_map(|(momentum, learning_rates)| MatrixSpec::MomentumSgd { momentum, learning_rates }),
        (numbers(5), option::of(5..9_u64))
            .prop_map(|(coef, column_normalize_for_n)| MatrixSpec::Toeplitz { coef, column_normalize_for_n }),
        vec((-0.9..0.9_f64, 0.01..0.1_f64), 1..4).prop_map(|buffers| {
            let (buf_decay, output_scale) = buffers.into_iter().unzip();
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale }
        }),
        vec(vec(0.1..0.9_f64, 2), 3..6).prop_map(|params| MatrixSpec::ColumnNormalizedBanded { params }),
        (1..5_usize).prop_flat_map(|n| {
            let rows: Vec<_> = (1..=n).map(|len| vec(0.1..0.9_f64, len)).collect();
            rows.prop_map(|rows| MatrixSpec::Dense { rows })
        }),
    ]
}

fn matrices() -> impl Strategy<Value = MatrixSpec> {
    plain().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(|factors| MatrixSpec::Product { factors }),
            (inner.clone(), option::of(numbers(3)), option::of(numbers(3)))
                .prop_map(|(matrix, rows, cols)| matrix.scale_rows_and_columns(rows, cols)),
            inner.prop_map(MatrixSpec::inverse),
        ]
    })
}

proptest! {
    #[test]
    fn matrices_survive_the_wire(spec in matrices()) {
        prop_assume!(spec.validate().is_ok());
        let bytes = v1::Matrix::from(&spec).encode_to_vec();
        let read = MatrixSpec::try_from(v1::Matrix::decode(bytes.as_slice()).unwrap());
        prop_assert_eq!(read, Ok(spec));
    }
}

fn tree() -> Tree {
    let leaf = |(i, dtype): (usize, DType)| Leaf::new(format!("leaf{i}"), dtype, [3, i as u64 + 1]);
    Tree::new(DType::ALL.into_iter().enumerate().map(leaf).collect()).unwrap()
}

fn spec() -> SessionSpec {
    SessionSpec {
        matrix: MatrixSpec::PrefixSum.inverse(),
        tree: tree(),
        shard: Shard::new(1, 3),
        source: Source::Input,
        precision: Precision::F32,
        horizon: Some(7),
    }
}

fn field_of<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

fn field_of_matrix(kind: Option<Kind>) -> String {
    field_of(MatrixSpec::try_from(v1::Matrix { kind }))
}

#[test]
fn sessions_survive_the_wire() {
    for spec in [spec(), SessionSpec::new(MatrixSpec::Identity, tree())] {
        assert_eq!(session_spec(session_spec_to_wire(&spec)), Ok(spec));
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let whole = v1::Session {
        shard: None,
        source: None,
        precision: v1::Precision::Unspecified.into(),
        horizon: None,
        ..session_spec_to_wire(&spec())
    };
    assert_eq!(session_spec(whole), Ok(SessionSpec::new(spec().matrix, tree())));
}

#[test]
fn a_session_is_written_with_where_it_stands() {
    let resolved = spec().resolve().unwrap();
    let status = SessionStatus {
        name: "sessions/a".into(),
        next_step: 3,
        next_offset: 8,
        memory_bytes: 9,
        resumed: true,
        options: Some(NoiseOptions { lookahead: 3, state: NoiseState::Replayed }),
        kept_steps: vec![3, 5],
        rewinds: vec![Rewind {
            from_step: 9,
            to_step: 5,
            unix_seconds: 1_790_000_000,
            allow_divergence: true,
        }],
        rewind_count: 1,
        released_steps: 9,
        noise_started_over: true,
        last_used_unix_seconds: 1_790_000_001,
        owner: "http://b:1".into(),
        epoch: 7,
    };
    let full = session_to_wire(&resolved, status.clone());
    assert_eq!(full.fingerprint, resolved.fingerprint().as_bytes());
    assert_eq!((full.next_step, full.next_offset, full.memory_bytes, full.resumed), (3, 8, 9, true));
    assert_eq!((full.lanes, full.step_bytes), (10, resolved.layout().byte_len() as u64));
    let summary = session_summary_to_wire(&resolved, status);
    assert_eq!(summary, v1::Session { matrix: None, tree: None, ..full });
}

#[test]
fn what_only_the_server_sets_is_refused() {
    let sound = || session_spec_to_wire(&spec());
    for (field, session) in [
        ("name", v1::Session { name: "sessions/a".into(), ..sound() }),
        ("fingerprint", v1::Session { fingerprint: vec![0], ..sound() }),
        ("next_step", v1::Session { next_step: 1, ..sound() }),
        ("next_offset", v1::Session { next_offset: 1, ..sound() }),
        ("lanes", v1::Session { lanes: 1, ..sound() }),
        ("step_bytes", v1::Session { step_bytes: 1, ..sound() }),
        ("memory_bytes", v1::Session { memory_bytes: 1, ..sound() }),
        ("resumed", v1::Session { resumed: true, ..sound() }),
    ] {
        assert_eq!(field_of(session_spec(session)), field);
    }
}

#[test]
fn what_is_missing_or_unknown_is_refused() {
    let sound = || session_spec_to_wire(&spec());
    let mut unknown_dtype = sound();
    unknown_dtype.tree.as_mut().unwrap().leaves[3].dtype = 99;
    let mut no_dtype = sound();
    no_dtype.tree.as_mut().unwrap().leaves[0].dtype = v1::DType::DtypeUnspecified.into();
    for (field, session) in [
        ("matrix", v1::Session { matrix: None, ..sound() }),
        ("tree", v1::Session { tree: None, ..sound() }),
        ("tree.leaves", v1::Session { tree: Some(v1::Tree { leaves: vec![] }), ..sound() }),
        ("source", v1::Session { source: Some(v1::Source { kind: None }), ..sound() }),
        ("precision", v1::Session { precision: 99, ..sound() }),
        ("tree.leaves[3].dtype", unknown_dtype),
        ("tree.leaves[0].dtype", no_dtype),
    ] {
        assert_eq!(field_of(session_spec(session)), field);
    }
}

#[test]
fn matrices_that_miss_a_part_are_refused() {
    let empty = || v1::Matrix { kind: None };
    assert_eq!(field_of_matrix(None), "matrix");
    let inverse = |matrix| Some(Kind::Inverse(Box::new(v1::Inverse { matrix })));
    assert_eq!(field_of_matrix(inverse(None)), "matrix.matrix");
    assert_eq!(field_of_matrix(inverse(Some(Box::new(empty())))), "matrix.matrix");
    let scaled = v1::Scaled { matrix: None, row_scale: vec![], col_scale: vec![] };
    assert_eq!(field_of_matrix(Some(Kind::Scaled(Box::new(scaled)))), "matrix.matrix");
    let factors = vec![(&MatrixSpec::Identity).into(), v1::Matrix { kind: inverse(None) }];
    assert_eq!(field_of_matrix(Some(Kind::Product(v1::Product { factors }))), "matrix.factors[1].matrix");
    let toeplitz = v1::Toeplitz { coef: vec![], column_normalize_for_n: None };
    assert_eq!(field_of_matrix(Some(Kind::Toeplitz(toeplitz))), "matrix.coef");
    assert_eq!(field_of(required_matrix(None)), "matrix");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (0..depth).fold(MatrixSpec::Identity, |inner, _| inner.inverse());
    assert!(MatrixSpec::try_from(v1::Matrix::from(&nested(8))).is_ok());
    assert!(MatrixSpec::try_from(v1::Matrix::from(&nested(40))).is_err());
    // Deeper than that, the message itself is refused.
    let bytes = v1::Matrix::from(&nested(200)).encode_to_vec();
    assert!(v1::Matrix::decode(bytes.as_slice()).is_err());
}
