//! Arguments that say how the examples of a step are chosen, and answers about privacy.

use clap::ValueEnum;
use noised::accounting::{Account, Method, Question, Sampling, unit};
use noised::analysis::Participation;
use serde_json::{Value, json};

use super::args::{ParticipationArgs, read_named};
use crate::args::Place;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, print_fields, print_json, short, short_up};

/// How the examples of a step are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheme {
    /// Full batches, or epochs in any order: no amplification.
    None,
    /// Every step takes every example with one probability.
    Poisson,
    /// The examples are split into --bands groups; the groups take turns, and a step takes every example of
    /// its group with one probability. For banded strategies.
    #[value(name = "cyclic_poisson", alias = "cyclic-poisson")]
    CyclicPoisson,
    /// Every step draws --batch-size of --examples without replacement.
    #[value(name = "fixed_size", alias = "fixed-size")]
    FixedSize,
}

/// How the examples of a step are chosen, and with which strategy.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArgs {
    /// How the examples of a step are chosen.
    #[arg(long, value_enum, default_value_t = Scheme::None)]
    sampling: Scheme,
    /// Steps.
    #[arg(short = 'n', value_name = "N")]
    n: Option<u64>,
    /// With --sampling cyclic_poisson: the bands of the strategy, and so the groups of examples. Unless
    /// given, those of a Toeplitz --strategy.
    #[arg(long, value_name = "B")]
    bands: Option<u64>,
    /// The probability of an example in a step in which it may take part. Unless given, --batch-size over the
    /// examples of a step's group.
    #[arg(long, value_name = "Q", allow_negative_numbers = true)]
    sampling_probability: Option<f64>,
    /// Examples of a step: expected ones with Poisson sampling.
    #[arg(long, value_name = "M")]
    batch_size: Option<u64>,
    /// All examples.
    #[arg(long, value_name = "L")]
    examples: Option<u64>,
    /// The strategy C: JSON, @FILE with it, or @- for stdin. It is checked to fit the sampling, and what the
    /// noise multiplier is over is told.
    #[arg(long, value_name = "JSON|@FILE")]
    strategy: Option<String>,
    #[command(flatten)]
    participation: ParticipationArgs,
}

impl SamplingArgs {
    /// Whether none of it is given.
    pub(crate) fn is_plain(&self) -> bool {
        let Self { sampling, n, bands, sampling_probability, batch_size, examples, strategy, participation } =
            self;
        *sampling == Scheme::None
            && n.is_none()
            && bands.is_none()
            && sampling_probability.is_none()
            && batch_size.is_none()
            && examples.is_none()
            && strategy.is_none()
            && participation.read() == Participation::Single
    }

    /// The sampling, the steps, and what the noise multiplier of the strategy is over.
    pub(crate) fn read(&self, context: &Context) -> Result<(Sampling, u64, Option<f64>), Failure> {
        let missing = |field: &str| Failure::usage(field, "is missing");
        let n = self.n.ok_or_else(|| missing("n"))?;
        let strategy = self.strategy.as_deref();
        let strategy = strategy.map(|text| read_named(&context.files, "strategy", text, n)).transpose()?;
        let sampling = match self.sampling {
            Scheme::None => self.none()?,
            Scheme::Poisson => {
                self.only("bands", self.bands.is_none())?;
                Sampling::Poisson { probability: self.probability(1)? }
            }
            Scheme::CyclicPoisson => {
                let told = match &strategy {
                    Some(noised::MatrixSpec::Toeplitz { coef, .. }) => Some(coef.len() as u64),
                    _ => None,
                };
                let bands = self.bands.or(told).ok_or_else(|| missing("bands"))?;
                Sampling::CyclicPoisson { probability: self.probability(bands)?, bands }
            }
            Scheme::FixedSize => {
                self.only("bands", self.bands.is_none())?;
                self.only("sampling_probability", self.sampling_probability.is_none())?;
                let batch_size = self.batch_size.ok_or_else(|| missing("batch_size"))?;
                Sampling::FixedSize {
                    batch_size,
                    examples: self.examples.ok_or_else(|| missing("examples"))?,
                }
            }
        };
        let participation = self.participation.read();
        let unit = match strategy {
            Some(strategy) => {
                let cancelled = || context.interrupt.is_raised();
                Some(unit(sampling, &strategy, n, participation, &cancelled)?)
            }
            None if participation != Participation::Single => {
                return Err(Failure::usage("strategy", "is missing: a participation pattern is for one"));
            }
            None => None,
        };
        Ok((sampling, n, unit))
    }

    fn none(&self) -> Result<Sampling, Failure> {
        self.only("bands", self.bands.is_none())?;
        self.only("sampling_probability", self.sampling_probability.is_none())?;
        self.only("batch_size", self.batch_size.is_none())?;
        self.only("examples", self.examples.is_none())?;
        Ok(Sampling::None)
    }

    fn only(&self, field: &str, unset: bool) -> Result<(), Failure> {
        if unset {
            return Ok(());
        }
        let name = self.sampling.to_possible_value().map(|value| value.get_name().to_owned());
        Err(Failure::usage(field, format!("is not for --sampling {}", name.unwrap_or_default())))
    }

    /// The probability of an example in a step of its group, of which there are so many.
    fn probability(&self, groups: u64) -> Result<f64, Failure> {
        match (self.sampling_probability, self.batch_size, self.examples) {
            (Some(probability), None, None) => Ok(probability),
            (Some(_), ..) => {
                Err(Failure::usage("sampling_probability", "does not go with --batch-size and --examples"))
            }
            (None, Some(batch_size), Some(examples)) => {
                // The smallest group has the largest probability.
                let group = examples.checked_div(groups).unwrap_or(0);
                if batch_size == 0 || batch_size > group {
                    let rule = format!(
                        "must be at least 1 and at most the {group} examples of a step's group, found {batch_size}"
                    );
                    return Err(Failure::usage("batch_size", rule));
                }
                Ok(batch_size as f64 / group as f64)
            }
            _ => Err(Failure::usage(
                "sampling_probability",
                "is missing: give it, or --batch-size and --examples",
            )),
        }
    }
}

/// The answer of a server, or of this process.
pub(crate) async fn answer(place: &Place, context: &Context, question: Question) -> Result<Account, Failure> {
    let cancelled = || context.interrupt.is_raised();
    Ok(match place.client().await? {
        None => question.answer(&cancelled)?,
        Some(client) => client.analysis().privacy(question).await?,
    })
}

/// Prints what a training run guarantees.
pub(crate) fn print(
    found: Account,
    unit: Option<f64>,
    stddev: Option<f64>,
    format: Format,
) -> Result<(), Failure> {
    let Account { epsilon, delta, noise_multiplier, lower, method, adjacency, interval, order } = found;
    if format == Format::Json {
        let mut told = json!({
            "epsilon": epsilon,
            "delta": delta,
            "noise_multiplier": noise_multiplier,
            "method": method.name(),
            "adjacency": adjacency.name(),
            "confidence": 1.0,
            "lower": lower,
            "interval": interval,
            "order": order,
            "sensitivity": unit,
        });
        if let (Some(stddev), Value::Object(fields)) = (stddev, &mut told) {
            fields.insert("stddev".to_owned(), json!(stddev));
        }
        return print_json(&told);
    }
    let how = match method {
        Method::Gaussian => "the closed form of a Gaussian mechanism".to_owned(),
        Method::Pld => {
            format!("privacy loss distributions, interval {}", short(interval.unwrap_or_default()))
        }
        Method::Rdp => format!("Renyi divergences, order {}", order.unwrap_or_default()),
    };
    let mut fields = vec![
        ("epsilon", short_up(epsilon)),
        ("delta", short_up(delta)),
        ("noise multiplier", short_up(noise_multiplier)),
        ("neighbours", adjacency.name().replace('_', " ")),
        ("method", how),
    ];
    fields.extend(lower.map(|lower| ("at least", short(lower))));
    fields.extend(unit.map(|unit| ("sensitivity", short_up(unit))));
    fields.extend(stddev.map(|stddev| ("stddev", short_up(stddev))));
    print_fields(fields)
}
