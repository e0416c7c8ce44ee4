//! Whether noise is what it should be.
//!
//! A source releases slices `y_0, y_1, ...` of `N` lanes that ought to be `y = stddev * A z`, the `z`
//! independent standard normals and `A` a [`MatrixSpec`](noised::MatrixSpec). A [`Verifier`] takes the slices
//! one at a time, undoes the correlation, `z_t = (A^-1 y)_t / stddev`, and looks at what is left. It keeps
//! sums and counts, so that memory does not grow with the number of steps.
//!
//! ```
//! use noised::MatrixSpec;
//! use noised_verify::{Verifier, VerifyOptions};
//!
//! let mut verifier = Verifier::new(&MatrixSpec::PrefixSum, 1.0, 2000, VerifyOptions::default())?;
//! for _ in 0..10 {
//!     verifier.step(&[0.25_f32; 2000])?;
//! }
//! let report = verifier.finish()?;
//! assert!(!report.passed());
//! # Ok::<(), noised::Error>(())
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`Verifier`], [`VerifyOptions`] | all of it for one stream |
//! | [`Independence`] | two streams that should have nothing to do with one another |
//! | [`Univariate`], `moments`, `histogram` | standard normals: moments, cells, tails, atoms |
//! | [`Correlations`] | whitened values some lanes or some steps apart |
//! | [`Covariance`] | the first steps as they were released against `stddev^2 A A^T` |
//! | [`Whitener`] | `A^-1 y / stddev`, streaming |
//! | [`Report`], [`Finding`] | what was found, and how it is judged |
//! | `chance` | how probable a statistic is |
//!
//! # The checks
//!
//! `n` is the number of whitened values.
//!
//! | name | statistic | law where the source is sound | what it is for |
//! |---|---|---|---|
//! | `values` | `n` | a rule: at least [`MIN_VALUES`] | too little to tell anything |
//! | `released not finite`, `not finite` | how many | a rule: none | NaN, infinities, anything beyond 1e15 deviations |
//! | `released zeros`; `zeros` of a [`Univariate`] | how many | at most Poisson, mean `n * zero_probability` | lanes that were never written |
//! | `mean` | `sum z / n` | normal, variance `1/n` | an offset |
//! | `variance` | `sum z^2 / n` | `chi2_n / n` | a wrong scale |
//! | `skewness` | `m_3 / m_2^1.5` | normal, variance `6/n` | a lopsided law |
//! | `kurtosis` | `m_4 / m_2^2 - 3` | Anscombe and Glynn (1983); variance `24/n` | tails too light or too heavy |
//! | `chi-square` | over cells 1/255 wide | `chi2`, both sides | coarse rounding, steps and holes in the density |
//! | `Kolmogorov-Smirnov` | largest difference of distribution functions at the cells' edges | Kolmogorov | small smooth errors |
//! | `beyond 3 sigma` ... `beyond 6 sigma` | how many `abs(z)` are larger | Poisson, both sides | the tails |
//! | `largest` | `max abs(z)` | that of `n` normals, both sides | tails cut off, outliers |
//! | `lanes 1 apart` ... | correlation of `z` in a step | normal, variance 1 / pairs | lanes repeated |
//! | `steps 1 apart` ... | correlation of `z` in a lane | normal, variance 1 / pairs | steps repeated, a wrong matrix |
//! | `covariance` | sum of squares of all standardised entries | `chi2` | a wrong covariance, spread out |
//! | `covariance entry` | the largest of them | that of so many normals | a wrong covariance, in one place |
//!
//! # The verdict
//!
//! A sound source fails a [`Report`] with a probability of about [`VerifyOptions::level`], 1e-6 unless set,
//! however many checks there are: each is made at the level `1 - (1 - level)^(1/checks)` (Šidák). Some of the
//! laws above are those of many values, and good to far in the tails from some ten thousand on.
//!
//! # What rounding does
//!
//! Sources release numbers with finite resolution. The edges of the cells are multiples of 1/255, which no
//! binary lattice meets but at whole numbers, so that values of a lattice do not sit on edges; and f32 are
//! moved within their last place before they are whitened (see [`Whitener`]), so that a lattice much coarser
//! than that of `z` does not show either. The resolution of bf16 and f16 is as coarse as a cell and is told
//! at 10^6 values: these checks are for f32 and f64.
//!
//! Whitening multiplies rounding errors of the released values by what `A^-1` does to them. A relative error
//! of `e` in `z` adds `e^2` to its variance, which is told where it is above `5 sqrt(2/n)`: at 10^10 values
//! an `e` of 0.8%, which no strategy in use comes near. A matrix with an inverse that grows without bound
//! (`toeplitz` with `coef` 1, 2) cannot be undone from rounded values, and nothing can be said of its stream.

mod chance;
mod correlations;
mod covariance;
mod histogram;
mod independence;
mod moments;
mod report;
#[cfg(test)]
mod tests;
mod univariate;
mod verifier;
mod whiten;

pub use correlations::Correlations;
pub use covariance::{Covariance, MAX_COVARIANCE_STEPS};
pub use independence::Independence;
pub use report::{Check, Evidence, Finding, Report, Verdict};
pub use univariate::{MIN_VALUES, Univariate};
pub use verifier::{Verifier, VerifyOptions};
pub use whiten::Whitener;

/// Deviations beyond which a value is counted as not finite: its powers would drown the sums.
const BEYOND_REASON: f64 = 1e15;

/// The value, or 0 in the place of one that is counted as not finite. It must not go into sums, nor into the
/// state of a matrix, where it would spoil every later step of its lane.
fn tamed(value: f64) -> f64 {
    if value.abs() <= BEYOND_REASON { value } else { 0.0 }
}
