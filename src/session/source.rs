//! Where a session's input comes from.

use serde::{Deserialize, Serialize};

use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::limits::{MAX_LOOKAHEAD, MAX_NOISE_ID_BYTES};

/// Where a session's input comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// The client sends `x_t` and gets `(A x)_t`.
    #[default]
    Input,
    /// The server draws `z_t`, and the client gets `(A z)_t`. Nothing but the step goes up.
    Gaussian(Noise),
    /// The client sends its clipped gradient `g_t` and gets `g_t + (A z)_t`. Noise leaves the server under a
    /// gradient alone.
    Privatize {
        /// What is drawn.
        noise: Noise,
        /// The format of every leaf of an answer; `None` for that of the gradient's leaf.
        answer_dtype: Option<DType>,
    },
}

/// What a server draws: `z_t[lane]` normal, of mean 0 and standard deviation `stddev`, all independent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// The standard deviation of each `z_t[lane]`, in the units of the gradient: noise multiplier times
    /// clipping norm, times the sensitivity of the strategy. Not negative; zero draws nothing, exactly.
    pub stddev: f64,
    /// Where the key comes from.
    pub key: KeyOrigin,
}

/// Where the key of a noise comes from. The key itself is no part of a description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyOrigin {
    /// From the operating system, for this session alone. Nobody can draw it again once the session is gone.
    #[default]
    Fresh,
    /// From the server's master key and a public name, so that every server with the same master key draws
    /// the same: each may hold a shard.
    Derived {
        /// 1 to 128 of a-z, A-Z, 0-9, `.`, `_`, `-`, `:`, `/`.
        noise_id: String,
    },
    /// From whoever made the session, for research that has to be repeatable. Who knows the key knows the
    /// noise, so this is no private mechanism against them.
    Given,
}

/// How a server goes about drawing. The bits do not depend on it, so a session is not bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseOptions {
    /// Steps whose noise is ready before it is asked for, at most [`MAX_LOOKAHEAD`].
    pub lookahead: u32,
    /// What is kept between steps.
    pub state: NoiseState,
}

/// What a server that draws its input keeps between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseState {
    /// The planes of the matrix.
    #[default]
    Kept,
    /// Nothing: earlier inputs are drawn again. For banded matrices of at most
    /// [`MAX_REPLAY_PLANES`](crate::limits::MAX_REPLAY_PLANES) planes that remember inputs alone.
    Replayed,
}

/// An act of going back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// The step that was expected before.
    pub from_step: u64,
    /// The step that was expected after.
    pub to_step: u64,
    /// When, in seconds since 1970-01-01 UTC, as whoever went back said.
    pub unix_seconds: u64,
    /// Whether released steps may be asked again with another gradient.
    pub allow_divergence: bool,
}

impl Source {
    /// What the server draws, where it does.
    pub fn noise(&self) -> Option<&Noise> {
        match self {
            Self::Input => None,
            Self::Gaussian(noise) | Self::Privatize { noise, answer_dtype: _ } => Some(noise),
        }
    }

    /// Whether another session can go on with this noise once its own session is gone: the noise is released
    /// under no gradient, and its key can be derived again.
    pub fn is_resumable(&self) -> bool {
        matches!(self, Self::Gaussian(Noise { key: KeyOrigin::Derived { .. }, stddev: _ }))
    }

    /// A short name for logs and tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Gaussian(_) => "gaussian",
            Self::Privatize { .. } => "privatize",
        }
    }

    pub(super) fn validate(&self, precision: Precision) -> Result<()> {
        self.noise().map_or(Ok(()), |noise| noise.validate(precision))
    }
}

impl Noise {
    fn validate(&self, precision: Precision) -> Result<()> {
        let Self { stddev, key } = self;
        let field = "source.stddev";
        if !stddev.is_finite() || stddev.is_sign_negative() {
            return Err(Error::invalid(field, format!("must be finite and not negative, found {stddev}")));
        }
        // How large it may be depends on the answers.
        let smallest = match precision {
            Precision::F32 => f64::from(f32::MIN_POSITIVE),
            Precision::F64 => f64::MIN_POSITIVE,
        };
        if *stddev != 0.0 && *stddev < smallest {
            let rule = format!(
                "must be 0 or at least {smallest:e}, the smallest normal number of {precision}, found {stddev:e}"
            );
            return Err(Error::invalid(field, rule));
        }
        match key {
            KeyOrigin::Derived { noise_id } => check_noise_id(noise_id),
            KeyOrigin::Fresh | KeyOrigin::Given => Ok(()),
        }
    }
}

impl NoiseOptions {
    /// Checks the options for a session.
    pub(super) fn validate(self, replayable: bool) -> Result<()> {
        let Self { lookahead, state } = self;
        if lookahead > MAX_LOOKAHEAD {
            return Err(Error::invalid(
                "lookahead",
                format!("must be at most {MAX_LOOKAHEAD}, found {lookahead}"),
            ));
        }
        if state == NoiseState::Replayed && !replayable {
            return Err(Error::invalid(
                "noise_state",
                "can be REPLAYED only for a banded matrix that remembers inputs alone, of at most 32 bands",
            ));
        }
        Ok(())
    }
}

fn check_noise_id(noise_id: &str) -> Result<()> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
    if (1..=MAX_NOISE_ID_BYTES).contains(&noise_id.len()) && noise_id.bytes().all(letter) {
        return Ok(());
    }
    Err(Error::invalid(
        "source.key.noise_id",
        format!("must be 1 to {MAX_NOISE_ID_BYTES} of a-z, A-Z, 0-9, '.', '_', '-', ':', '/'"),
    ))
}
