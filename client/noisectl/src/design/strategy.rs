//! `noisectl strategy`: the named strategies of the literature.

use clap::ValueEnum;
use noised::matrix::strategy;
use noised::{MatrixSpec, Plan, analysis};
use serde_json::json;

use super::args::{SaveArg, WorkloadArg};
use crate::args::{FormatArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::Files;
use crate::output::{Format, print_fields, print_json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Named {
    /// The optimal Toeplitz strategy for the largest error over -n steps (arXiv 2202.11205).
    OptimalMaxError,
    /// The first --bands diagonals of the square root of the workload (arXiv 2405.13763).
    BandedSquareRoot,
    /// The inverse of the first --bands diagonals of the inverse square root (arXiv 2505.12128).
    BandedInverseSquareRoot,
    /// lambda-CGD over -n steps with --lambda (arXiv 2601.22334).
    LambdaCgd,
    /// A BLT of --buffers buffers (arXiv 2404.16706, Proposition 4.5).
    BltFromRationalApproximation,
    /// The optimal Toeplitz coefficients, --bands of them, in each of -n columns of norm 1.
    ColumnNormalizedBanded,
    /// Independent noise: DP-SGD.
    Identity,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which strategy.
    #[arg(long, value_enum)]
    family: Named,
    /// Steps.
    #[arg(short = 'n', value_name = "N")]
    n: Option<usize>,
    /// Bands.
    #[arg(long, value_name = "P")]
    bands: Option<usize>,
    /// Buffers.
    #[arg(long, value_name = "D")]
    buffers: Option<usize>,
    /// What a step takes away of the last step's noise.
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    lambda: Option<f64>,
    #[command(flatten)]
    workload: WorkloadArg,
    #[command(flatten)]
    save: SaveArg,
    #[command(flatten)]
    _place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        self.check_flags()?;
        let strategy = self.strategy(&context.files)?;
        let save = self.save.prepare(context)?;
        let noising_matrix = strategy.clone().inverse();
        save.write(&noising_matrix)?;
        match self.format.format {
            Format::Json => print_json(&json!({ "strategy": strategy, "noising_matrix": noising_matrix })),
            Format::Table => print_fields([
                ("planes", Plan::new(&noising_matrix)?.planes().to_string()),
                ("strategy", strategy.to_json()),
                ("noising matrix", noising_matrix.to_json()),
            ]),
        }
    }

    fn strategy(&self, files: &Files) -> Result<MatrixSpec, Failure> {
        let n = || self.needed("-n", self.n);
        let bands = || self.needed("--bands", self.bands);
        Ok(match self.family {
            Named::OptimalMaxError => strategy::optimal_max_error(n()?)?,
            Named::BandedSquareRoot => {
                strategy::banded_square_root(bands()?, self.coefficients(files, bands()?)?.as_deref())?
            }
            Named::BandedInverseSquareRoot => strategy::banded_inverse_square_root(
                bands()?,
                self.coefficients(files, bands()?)?.as_deref(),
            )?,
            Named::LambdaCgd => strategy::lambda_cgd(self.needed("--lambda", self.lambda)?, n()?)?,
            Named::BltFromRationalApproximation => {
                let found =
                    strategy::blt_from_rational_approximation(self.needed("--buffers", self.buffers)?);
                found.map_err(|error| error.moved("num_buffers", "buffers"))?
            }
            Named::ColumnNormalizedBanded => strategy::column_normalized_banded(n()?, bands()?)?,
            Named::Identity => MatrixSpec::Identity,
        })
    }

    /// The workload's first column.
    fn coefficients(&self, files: &Files, bands: usize) -> Result<Option<Vec<f64>>, Failure> {
        let Some(workload) = self.workload.read(files, 0)? else { return Ok(None) };
        let found = analysis::toeplitz_coefs(&workload, bands as u64);
        let found = found.map_err(|error| error.about_matrix("workload").moved("n", "bands"))?;
        found.map(Some).ok_or_else(|| Failure::usage("workload", "must be Toeplitz by its algebra"))
    }

    fn needed<T>(&self, flag: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| {
            Failure::usage(flag, format_args!("is missing: the family {} needs it", self.name()))
        })
    }

    fn name(&self) -> String {
        self.family.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// A flag that would have no effect is a mistake.
    fn check_flags(&self) -> Result<(), Failure> {
        use Named as F;
        let with_bands = [F::BandedSquareRoot, F::BandedInverseSquareRoot, F::ColumnNormalizedBanded];
        let with_workload = [F::BandedSquareRoot, F::BandedInverseSquareRoot];
        let rules: [(&str, bool, &[Named]); 4] = [
            ("--bands", self.bands.is_some(), &with_bands),
            ("--buffers", self.buffers.is_some(), &[F::BltFromRationalApproximation]),
            ("--lambda", self.lambda.is_some(), &[F::LambdaCgd]),
            ("--workload", self.workload.is_given(), &with_workload),
        ];
        for (flag, given, families) in rules {
            if given && !families.contains(&self.family) {
                return Err(Failure::usage(flag, format_args!("the family {} has none", self.name())));
            }
        }
        Ok(())
    }
}
