//! Where a session's input comes from.

use noised::session::{KeyOrigin, Noise, NoiseState, Rewind, Source};
use noised::{Error, Result};

use super::tree::optional_dtype;
use crate::v1;

impl From<&Source> for v1::Source {
    fn from(source: &Source) -> Self {
        let kind = match source {
            Source::Input => v1::source::Kind::Input(v1::InputSource {}),
            Source::Gaussian(Noise { stddev, key }) => {
                v1::source::Kind::Gaussian(v1::GaussianSource { stddev: *stddev, key: Some(key.into()) })
            }
            Source::Privatize { noise: Noise { stddev, key }, answer_dtype } => {
                let answer_dtype = answer_dtype.map_or(v1::DType::DtypeUnspecified, v1::DType::from);
                v1::source::Kind::Privatize(v1::PrivatizeSource {
                    stddev: *stddev,
                    key: Some(key.into()),
                    answer_dtype: answer_dtype.into(),
                })
            }
        };
        Self { kind: Some(kind) }
    }
}

pub(super) fn source(source: Option<v1::Source>) -> Result<Source> {
    let Some(v1::Source { kind }) = source else {
        return Ok(Source::Input);
    };
    match kind {
        Some(v1::source::Kind::Input(v1::InputSource {})) => Ok(Source::Input),
        Some(v1::source::Kind::Gaussian(v1::GaussianSource { stddev, key })) => {
            Ok(Source::Gaussian(Noise { stddev, key: key_origin(key)? }))
        }
        Some(v1::source::Kind::Privatize(v1::PrivatizeSource { stddev, key, answer_dtype })) => {
            let answer_dtype = optional_dtype(|| "source.answer_dtype".to_owned(), answer_dtype)?;
            Ok(Source::Privatize { noise: Noise { stddev, key: key_origin(key)? }, answer_dtype })
        }
        None => Err(Error::invalid("source", "must have a kind")),
    }
}

impl From<&KeyOrigin> for v1::NoiseKey {
    fn from(origin: &KeyOrigin) -> Self {
        use v1::noise_key::Origin;
        let origin = match origin {
            KeyOrigin::Fresh => Origin::Fresh(v1::FreshKey {}),
            KeyOrigin::Derived { noise_id } => Origin::NoiseId(noise_id.clone()),
            KeyOrigin::Given => Origin::Given(v1::GivenKey {}),
        };
        Self { origin: Some(origin) }
    }
}

fn key_origin(key: Option<v1::NoiseKey>) -> Result<KeyOrigin> {
    use v1::noise_key::Origin;
    let Some(v1::NoiseKey { origin }) = key else {
        return Ok(KeyOrigin::Fresh);
    };
    match origin {
        Some(Origin::Fresh(v1::FreshKey {})) => Ok(KeyOrigin::Fresh),
        Some(Origin::NoiseId(noise_id)) => Ok(KeyOrigin::Derived { noise_id }),
        Some(Origin::Given(v1::GivenKey {})) => Ok(KeyOrigin::Given),
        None => Err(Error::invalid("source.key", "must have an origin")),
    }
}

impl From<NoiseState> for v1::NoiseState {
    fn from(state: NoiseState) -> Self {
        match state {
            NoiseState::Kept => Self::Kept,
            NoiseState::Replayed => Self::Replayed,
        }
    }
}

/// Reads what is kept between steps; unspecified is `None`.
///
/// # Errors
/// [`Error::Invalid`] where there is no such state.
pub fn noise_state(number: i32) -> Result<Option<NoiseState>> {
    match v1::NoiseState::try_from(number) {
        Ok(v1::NoiseState::Unspecified) => Ok(None),
        Ok(v1::NoiseState::Kept) => Ok(Some(NoiseState::Kept)),
        Ok(v1::NoiseState::Replayed) => Ok(Some(NoiseState::Replayed)),
        Err(_) => Err(Error::invalid("noise_state", format!("{number} is not a state"))),
    }
}

impl From<&Rewind> for v1::Rewind {
    fn from(rewind: &Rewind) -> Self {
        let Rewind { from_step, to_step, unix_seconds, allow_divergence } = *rewind;
        Self { from_step, to_step, unix_seconds, allow_divergence }
    }
}

impl From<v1::Rewind> for Rewind {
    fn from(rewind: v1::Rewind) -> Self {
        let v1::Rewind { from_step, to_step, unix_seconds, allow_divergence } = rewind;
        Self { from_step, to_step, unix_seconds, allow_divergence }
    }
}
