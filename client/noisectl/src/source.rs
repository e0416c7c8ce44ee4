//! Arguments that say where a session's input comes from.

use std::fmt;

use clap::{Args, ValueEnum};
use noised::DType;
use noised::session::{KeyOrigin, Noise, NoiseState, Source};
use noised_client::{CreateOptions, GivenKey};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The field that an error about the text of a key names.
const KEY_FIELD: &str = "noise_key_hex";

/// Where a session's input comes from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Where the input comes from.
    #[arg(long, value_enum, default_value_t = SourceKind::Input)]
    source: SourceKind,
    /// With a source that draws: the standard deviation of the noise before the matrix.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    stddev: Option<f64>,
    /// With --source privatize: the format of answers, f32, f64, bf16 or f16. Unless given, that of the
    /// gradient.
    #[arg(long, value_name = "DTYPE")]
    answer_dtype: Option<DType>,
    #[command(flatten)]
    noise: NoiseArgs,
}

/// Which source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceKind {
    /// Steps x go up, A x comes down.
    Input,
    /// The server draws noise z of --stddev, and A z comes down.
    Gaussian,
    /// Gradients g go up, and g + A z comes down; noise leaves the server under a gradient alone.
    Privatize,
}

/// Whose key it is, and how the server goes about drawing.
#[derive(Debug, Args)]
pub(crate) struct NoiseArgs {
    /// With a source that draws: derive the key from the server's master key and this name. Unless this or
    /// --noise-key-hex is given, the key is a fresh one.
    #[arg(long, value_name = "ID")]
    noise_id: Option<String>,
    /// With a source that draws: the key, 64 hexadecimal digits. Whoever knows it knows the noise.
    #[arg(
        long,
        value_name = "HEX",
        env = "NOISED_NOISE_KEY_HEX",
        hide_env_values = true,
        allow_hyphen_values = true,
        value_parser = Secret::parse
    )]
    noise_key_hex: Option<Secret>,
    /// With --noise-id: where that noise was drawn before, begin it again at step 0. Whoever says this
    /// answers for no noise being put under two gradients.
    #[arg(long)]
    start_noise_over: bool,
    /// With a source that draws: steps whose noise is ready before it is asked for, at most 64. Unless given,
    /// the server chooses.
    #[arg(long, value_name = "N")]
    lookahead: Option<u32>,
    /// With a source that draws: what is kept between steps.
    #[arg(long, value_enum)]
    noise_state: Option<NoiseStateArg>,
}

/// What is kept between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NoiseStateArg {
    /// The planes of the matrix.
    Kept,
    /// Nothing: earlier noise is drawn again. For banded matrices that remember their input alone.
    Replayed,
}

/// A text that is shown nowhere, not where it is wrong either.
#[derive(Clone)]
struct Secret(Zeroizing<String>);

impl Secret {
    fn parse(text: &str) -> Result<Self, std::convert::Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl SourceArgs {
    /// The source, once what does not go together is refused.
    pub(crate) fn read(&self) -> Result<Source, Failure> {
        let Self { source, stddev, answer_dtype, noise } = self;
        if *source != SourceKind::Privatize && answer_dtype.is_some() {
            return Err(Failure::usage("answer_dtype", "is for --source privatize"));
        }
        if *source == SourceKind::Input {
            if stddev.is_some() {
                return Err(only_drawn("stddev"));
            }
            noise.check_unset()?;
            return Ok(Source::Input);
        }
        let missing = || Failure::usage("stddev", "is missing: a source that draws needs --stddev S");
        let noise = Noise { stddev: stddev.ok_or_else(missing)?, key: noise.origin()? };
        Ok(match source {
            SourceKind::Privatize => Source::Privatize { noise, answer_dtype: *answer_dtype },
            SourceKind::Input | SourceKind::Gaussian => Source::Gaussian(noise),
        })
    }

    /// Whose key it is, and how the server goes about drawing.
    pub(crate) fn noise(&self) -> &NoiseArgs {
        &self.noise
    }
}

impl NoiseArgs {
    /// Where the key comes from, once what does not go together is refused.
    pub(crate) fn origin(&self) -> Result<KeyOrigin, Failure> {
        if self.start_noise_over && self.noise_id.is_none() {
            return Err(Failure::usage("start_noise_over", "is for a noise with --noise-id"));
        }
        match (&self.noise_id, &self.noise_key_hex) {
            (Some(_), Some(_)) => Err(Failure::usage("noise_id", "does not go with --noise-key-hex")),
            (Some(noise_id), None) => Ok(KeyOrigin::Derived { noise_id: noise_id.clone() }),
            (None, Some(_)) => Ok(KeyOrigin::Given),
            (None, None) => Ok(KeyOrigin::Fresh),
        }
    }

    fn check_unset(&self) -> Result<(), Failure> {
        let Self { noise_id, noise_key_hex, start_noise_over, lookahead, noise_state } = self;
        let set = [
            ("noise_id", noise_id.is_some()),
            (KEY_FIELD, noise_key_hex.is_some()),
            ("start_noise_over", *start_noise_over),
            ("lookahead", lookahead.is_some()),
            ("noise_state", noise_state.is_some()),
        ];
        set.into_iter().find(|(_, set)| *set).map_or(Ok(()), |(field, _)| Err(only_drawn(field)))
    }

    /// How a session is made on a server.
    pub(crate) fn create_options(&self) -> Result<CreateOptions, Failure> {
        let noise_key = self.noise_key_hex.as_ref().map(|key| GivenKey::from_hex(&key.0)).transpose()?;
        Ok(CreateOptions {
            noise_key,
            start_noise_over: self.start_noise_over,
            lookahead: self.lookahead,
            noise_state: self.noise_state.map(Into::into),
            ..CreateOptions::default()
        })
    }

    /// How a session in this process is made.
    pub(crate) fn local_options(&self) -> Result<CreateOptions, Failure> {
        if self.noise_id.is_some() {
            return Err(Failure::usage("noise_id", "needs a server with a master key, which --local is not"));
        }
        self.create_options()
    }
}

fn only_drawn(field: &str) -> Failure {
    Failure::usage(field, "is for --source gaussian and privatize")
}

impl From<NoiseStateArg> for NoiseState {
    fn from(state: NoiseStateArg) -> Self {
        match state {
            NoiseStateArg::Kept => Self::Kept,
            NoiseStateArg::Replayed => Self::Replayed,
        }
    }
}
