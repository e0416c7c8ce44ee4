//! What Python says of a session, as the types of the core.

use noised::session::{KeyOrigin, Noise, NoiseState, SessionSpec, Source};
use noised::{DType, Leaf, MatrixSpec, Precision, Shard, ShardCut, Tree};
use noised_client::{CreateOptions, GivenKey, ResumedNoise};
use pyo3::prelude::*;

use crate::error::{Failure, invalid};

/// The attributes of `noised.client._Description`.
#[derive(FromPyObject)]
pub(crate) struct Description {
    matrix: String,
    /// Path, format and shape of each.
    leaves: Vec<(String, String, Vec<u64>)>,
    /// Index and count, and whether it is cut by `lanes` or `leaves`.
    shard: Option<(u32, u32)>,
    cut: String,
    source: String,
    stddev: f64,
    noise_id: Option<String>,
    noise_key: Option<Vec<u8>>,
    answer_dtype: Option<String>,
    precision: Option<String>,
    horizon: Option<u64>,
    id: String,
    resume: bool,
    must_exist: bool,
    start_noise_over: bool,
    /// The step at which the noise of a session that is gone is gone on with, and the token of every shard.
    resumed_noise: Option<(u64, Vec<Vec<u8>>)>,
    lookahead: Option<u32>,
    noise_state: Option<String>,
}

/// A matrix, with `field` as the name under which an error tells of it.
pub(crate) fn matrix(field: &str, json: &str) -> Result<MatrixSpec, Failure> {
    Ok(MatrixSpec::from_json(json).map_err(|error| error.about_matrix(field))?)
}

/// A matrix of a question about `n` steps.
pub(crate) fn question(field: &str, json: &str, n: u64) -> Result<MatrixSpec, Failure> {
    Ok(MatrixSpec::from_json_for(json, n).map_err(|error| error.about_matrix(field))?)
}

impl Description {
    /// The session, how it is made, and how it is cut where several servers hold it.
    pub(crate) fn read(self) -> Result<(SessionSpec, CreateOptions, ShardCut), Failure> {
        let cut = match self.cut.as_str() {
            "lanes" => ShardCut::Lanes,
            "leaves" => ShardCut::Leaves,
            other => return Err(one_of("cut", "lanes or leaves", other)),
        };
        let leaves = self.leaves.into_iter().map(|(path, dtype, shape)| {
            let dtype: DType = dtype.parse()?;
            Ok(Leaf::new(path, dtype, shape))
        });
        let tree = Tree::new(leaves.collect::<Result<_, noised::Error>>()?)?;
        let key = match (&self.noise_id, &self.noise_key) {
            (None, None) => KeyOrigin::Fresh,
            (Some(noise_id), None) => KeyOrigin::Derived { noise_id: noise_id.clone() },
            (None, Some(_)) => KeyOrigin::Given,
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "noise_key",
                    "must not be set beside noise_id: one of the two is the key",
                )
                .into());
            }
        };
        let noise = Noise { stddev: self.stddev, key };
        let source = match self.source.as_str() {
            "input" => Source::Input,
            "gaussian" => Source::Gaussian(noise),
            "privatize" => {
                let answer_dtype = self.answer_dtype.as_deref().map(str::parse).transpose()?;
                Source::Privatize { noise, answer_dtype }
            }
            other => return Err(one_of("source", "input, gaussian or privatize", other)),
        };
        let mut spec = SessionSpec::new(matrix("matrix", &self.matrix)?, tree);
        spec.source = source;
        spec.horizon = self.horizon;
        if let Some((index, count)) = self.shard {
            spec.shard = Shard { index, count, cut };
        }
        if let Some(precision) = self.precision.as_deref() {
            spec.precision = precision.parse::<Precision>()?;
        }
        let noise_state = match self.noise_state.as_deref() {
            None => None,
            Some("kept") => Some(NoiseState::Kept),
            Some("replayed") => Some(NoiseState::Replayed),
            Some(other) => return Err(one_of("noise_state", "kept or replayed", other)),
        };
        let noise_key = self.noise_key.as_deref().map(|bytes| key_bytes("noise_key", bytes)).transpose()?;
        let options = CreateOptions {
            id: self.id,
            resume: self.resume,
            must_exist: self.must_exist,
            resumed_noise: self.resumed_noise.map(|(step, tokens)| ResumedNoise { step, tokens }),
            noise_key: noise_key.map(GivenKey::from_bytes),
            start_noise_over: self.start_noise_over,
            lookahead: self.lookahead,
            noise_state,
        };
        Ok((spec, options, cut))
    }
}

/// Raises where a session of this description would break a rule. None is made, and no server is asked.
#[pyfunction]
pub(crate) fn check_session(py: Python<'_>, description: Description) -> Result<(), Failure> {
    let (spec, ..) = description.read()?;
    py.detach(|| spec.resolve())?;
    Ok(())
}

/// A key's 32 bytes.
pub(crate) fn key_bytes(field: &str, bytes: &[u8]) -> Result<[u8; 32], Failure> {
    bytes.try_into().map_err(|_| invalid(field, format!("must have 32 bytes, found {}", bytes.len())).into())
}

fn one_of(field: &str, choice: &str, found: &str) -> Failure {
    invalid(field, format!("must be {choice}, found {found:?}")).into()
}
