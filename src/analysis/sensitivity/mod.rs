//! How much one user's data can move what a strategy measures.

mod bands;
mod gram;
mod patterns;
mod spaced;
#[cfg(test)]
mod tests;

use super::Participation;
use super::column::coefs_of;
use super::norms::{UNDERFLOW_SCALES, column_norms_of};
use super::upward::{self, Upward, sum_of_squares};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::limits::MAX_GRAM_ENTRIES;
use crate::matrix::{MatrixSpec, Plan, Runs};
use bands::{Bands, bandwidth};
use gram::Gram;
use patterns::{NEAR, Search};
use spaced::largest_spaced_sum;

/// What rounding may make of a number that is zero, or of two that are equal, in units of the largest there
/// is.
const ROUNDING: f64 = 1e-13;

/// Diagonals of the leading `n x n` block of a matrix from the main one to the last that may hold a number
/// that is not zero.
pub(crate) fn strategy_bands(matrix: &MatrixSpec, n: u64) -> Result<u64> {
    let plan = Plan::for_question(matrix, n)?;
    let rows = usize::try_from(n).unwrap_or(usize::MAX);
    Ok(bandwidth(&plan, rows) as u64)
}

/// Squares below which those that they are added up from may have lost digits.
const LEAST_SQUARE: f64 = 1e-250;

/// The L2 sensitivity of a strategy, or a bound on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    value: f64,
    /// Its square.
    pub squared: f64,
    /// Whether it is the sensitivity itself, up to rounding (2e-9 of it at most, where column norms come by
    /// way of covariances); else an upper bound, which is safe to calibrate noise with.
    pub exact: bool,
    /// What it comes from.
    pub rule: SensitivityRule,
}

impl Sensitivity {
    /// A sensitivity of a value. Its square is rounded up, to more than zero where the value is.
    pub fn new(value: f64, exact: bool, rule: SensitivityRule) -> Self {
        let square = value * value;
        // Below, what a square lacks is no number any more.
        let squared = if square >= LEAST_SQUARE { upward::product(value, value) } else { square.next_up() };
        Self { value, squared: if value == 0.0 { 0.0 } else { squared }, exact, rule }
    }

    /// A sensitivity as it was told elsewhere.
    pub fn told(value: f64, squared: f64, exact: bool, rule: SensitivityRule) -> Self {
        Self { value, squared, exact, rule }
    }

    /// A sensitivity of a square: its root is rounded up.
    pub(crate) fn of_squared(squared: f64, exact: bool, rule: SensitivityRule) -> Self {
        Self { value: upward::square_root(squared), squared, exact, rule }
    }

    /// An exact sensitivity, of a sum of squares.
    fn of_sum(sum: Upward, rule: SensitivityRule) -> Self {
        Self { value: sum.square_root(), squared: sum.value(), exact: true, rule }
    }

    /// The sensitivity. It is rounded up.
    pub fn value(&self) -> f64 {
        self.value
    }
}

/// What a sensitivity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensitivityRule {
    /// The largest norm of a column, for one participation; exact.
    LargestColumn,
    /// The norm of the sum of the columns `0, b, 2b, ...` of a Toeplitz matrix without negative entries, for
    /// `min_sep` one whose first column does not increase (arXiv 2405.13763, Theorem 2); exact.
    ShiftedColumns,
    /// The norms of columns that share no row with each other (arXiv 2306.08153, Algorithm 3); exact.
    DisjointColumns,
    /// Sums of `|C^T C|` over the patterns (arXiv 2306.08153, Equation 5 and Algorithm 4); exact where the
    /// pattern that it comes from reaches it.
    GramSums,
    /// The sum of the norms of a pattern's columns, by the triangle inequality; an upper bound.
    SumOfNorms,
}

impl SensitivityRule {
    /// A name for programs: `disjoint_columns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LargestColumn => "largest_column",
            Self::ShiftedColumns => "shifted_columns",
            Self::DisjointColumns => "disjoint_columns",
            Self::GramSums => "gram_sums",
            Self::SumOfNorms => "sum_of_norms",
        }
    }
}

/// A squared sensitivity between two numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    /// What some pattern reaches.
    reached: f64,
    /// What no pattern exceeds.
    upper: f64,
}

impl Bound {
    fn plus(self, entry: f64, times: f64) -> Self {
        Self { reached: self.reached + times * entry, upper: self.upper + times * entry.abs() }
    }

    /// That of patterns of either kind.
    fn or(self, other: Self) -> Self {
        Self { reached: self.reached.max(other.reached), upper: self.upper.max(other.upper) }
    }
}

/// Which columns of one user's data a mechanism adds up.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// At most `most`, at least `apart` from each other.
    Spaced { apart: usize, most: usize },
    /// All of one residue modulo `apart`.
    Residue { apart: usize },
}

impl Pattern {
    fn apart(self) -> usize {
        match self {
            Self::Spaced { apart, most: _ } | Self::Residue { apart } => apart,
        }
    }

    /// The largest sum of one number a column, none of which is negative.
    fn largest_sum(self, values: &[f64], cancelled: &dyn Fn() -> bool) -> Result<f64> {
        match self {
            Self::Spaced { apart, most } => Ok(largest_spaced_sum(values, apart, most, cancelled)?.sum),
            Self::Residue { apart } => {
                let mut sums = vec![Upward::default(); apart];
                for row in values.chunks(apart) {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| sum.add(*value));
                }
                Ok(sums.into_iter().map(Upward::value).fold(0.0, f64::max))
            }
        }
    }
}

/// The sensitivity of the leading `n x n` block of a strategy: the most that the measurements `C G` move in
/// L2 norm (Frobenius norm, with a gradient a row of `G`) where one user, who takes part in a pattern of
/// steps that `participation` allows, adds a vector of norm at most 1 to each of them.
///
/// With `X = C^T C` that is the largest `sum_ij X_ij <u_i, u_j>` over patterns and unit vectors, which where
/// its entries are not negative is the largest `sum_ij X_ij` (arXiv 2306.08153, Equation 5). The answer tells
/// which [rule](SensitivityRule) it comes from and whether it is exact. It takes `O(n)` for Toeplitz matrices
/// without negative entries, and little more for matrices with at most `min_sep` diagonals; the Gram matrix
/// of others is written out where it has at most [`MAX_GRAM_ENTRIES`] entries, and past that what is left is
/// the sum of the columns' norms.
///
/// # Errors
/// [`Error::Invalid`] on `n` where it is 0, past the end of the matrix or over what the columns can be found
/// for; on `matrix` where it breaks a rule or its sensitivity is not finite in f64; those of
/// [`Participation::true_max_participations`]; [`Error::Cancelled`].
pub fn sensitivity(
    strategy: &MatrixSpec,
    n: u64,
    participation: Participation,
    cancelled: &dyn Fn() -> bool,
) -> Result<Sensitivity> {
    Question { n, participation, cancelled }.of(&plan_of(strategy, n)?)
}

/// The sensitivity of the strategy that a session realises: the one whose inverse has the numbers of the
/// session's recurrences, rounded to its precision. With it comes the precision of the session whose
/// sensitivity it is.
///
/// Where no precision is given it is the larger of those of sessions in f32 and in f64, so that noise
/// calibrated with it serves both. Where no session in f32 can run the inverse, it is that in f64.
///
/// # Errors
/// As [`sensitivity`], and [`Error::Invalid`] on `matrix` where no session of the given precision can run the
/// inverse.
pub fn sensitivity_in(
    strategy: &MatrixSpec,
    n: u64,
    participation: Participation,
    precision: Option<Precision>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Sensitivity, Precision)> {
    let question = Question { n, participation, cancelled };
    let plan = plan_of(strategy, n)?;
    let rounded = match precision {
        Some(Precision::F64) => return Ok((question.of(&plan)?, Precision::F64)),
        Some(Precision::F32) => {
            return Ok((question.of(&plan.rounded(Precision::F32, Runs::Inverse)?)?, Precision::F32));
        }
        None => plan.rounded(Precision::F32, Runs::Inverse),
    };
    let exact = question.of(&plan)?;
    match rounded {
        Err(_) => Ok((exact, Precision::F64)),
        Ok(rounded) if rounded.stages() == plan.stages() => Ok((exact, Precision::F32)),
        Ok(rounded) => {
            let rounded = question.of(&rounded)?;
            let is_larger = rounded.value() >= exact.value();
            Ok(if is_larger { (rounded, Precision::F32) } else { (exact, Precision::F64) })
        }
    }
}

fn plan_of(strategy: &MatrixSpec, n: u64) -> Result<Plan> {
    let plan = Plan::for_question(strategy, n)?;
    plan.check_representable::<f64>()?;
    Ok(plan)
}

/// What is asked of a strategy.
struct Question<'a> {
    n: u64,
    participation: Participation,
    cancelled: &'a dyn Fn() -> bool,
}

impl Question<'_> {
    fn of(&self, plan: &Plan) -> Result<Sensitivity> {
        let Self { n, participation, cancelled } = *self;
        if n == 0 {
            return Err(Error::invalid("n", "must be at least 1, found 0"));
        }
        let most = participation.true_max_participations(n)?;
        let found = find(plan, n, participation, most, cancelled)?;
        if !found.squared.is_finite() {
            return Err(Error::invalid("matrix", "must have a squared sensitivity that is finite in f64"));
        }
        if found.squared >= LEAST_SQUARE {
            return Ok(found);
        }
        // Squares of small numbers are no numbers of f64: those of a multiple are.
        for factor in UNDERFLOW_SCALES {
            let scaled = find(&plan.scaled(factor), n, participation, most, cancelled)?;
            if scaled.squared >= LEAST_SQUARE && scaled.value().is_finite() {
                let value = upward::quotient(scaled.value(), factor);
                return Ok(Sensitivity::new(value, scaled.exact, scaled.rule));
            }
        }
        Ok(found)
    }
}

fn find(
    strategy: &Plan,
    n: u64,
    participation: Participation,
    most: u64,
    cancelled: &dyn Fn() -> bool,
) -> Result<Sensitivity> {
    use SensitivityRule::{DisjointColumns, LargestColumn, ShiftedColumns, SumOfNorms};
    let exact = |squared, rule| Ok(Sensitivity::of_squared(squared, true, rule));
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let coefs = coefs_of(strategy, n, cancelled)?;
    let pattern = match participation {
        // The last participation has no other to be apart from.
        _ if most == 1 => {
            return match coefs {
                Some(coefs) => Ok(Sensitivity::of_sum(sum_of_squares(coefs), LargestColumn)),
                None => exact(largest(&column_norms_of(strategy, n, cancelled)?), LargestColumn),
            };
        }
        Participation::Single => Pattern::Spaced { apart: n as usize, most: 1 },
        Participation::MinSep { min_sep, max_participations: _ } => {
            Pattern::Spaced { apart: min_sep as usize, most: most as usize }
        }
        Participation::FixedEpochs { epochs } => Pattern::Residue { apart: (n / epochs) as usize },
    };
    if let Some(coefs) = &coefs
        && let Some(sign) = common_sign(coefs)
        && (matches!(pattern, Pattern::Residue { .. }) || is_non_increasing(coefs, sign))
    {
        let sum = shifted_columns(coefs, sign, pattern.apart(), most as usize);
        return Ok(Sensitivity::of_sum(sum, ShiftedColumns));
    }
    let norms_squared = match &coefs {
        Some(coefs) => toeplitz_column_norms_squared(coefs),
        None => column_norms_of(strategy, n, cancelled)?,
    };
    let (n, bands) = (norms_squared.len(), bandwidth(strategy, norms_squared.len()));
    if bands <= pattern.apart() {
        return exact(pattern.largest_sum(&norms_squared, cancelled)?, DisjointColumns);
    }
    let norms: Vec<f64> = norms_squared.iter().map(|&norm| upward::square_root(norm)).collect();
    let by_norms = Sensitivity::new(pattern.largest_sum(&norms, cancelled)?, false, SumOfNorms);
    if n.saturating_mul(bands) > MAX_GRAM_ENTRIES {
        return Ok(by_norms);
    }
    let gram = match &coefs {
        Some(coefs) => Gram::of_toeplitz(&coefs[..bands], n),
        None => Gram::new(&Bands::new(strategy, n, bands, cancelled)?, cancelled)?,
    };
    let by_gram = by_gram(&gram, pattern, cancelled)?;
    Ok(if by_gram.exact || by_gram.squared <= by_norms.squared { by_gram } else { by_norms })
}

fn by_gram(gram: &Gram, pattern: Pattern, cancelled: &dyn Fn() -> bool) -> Result<Sensitivity> {
    let bound = match pattern {
        Pattern::Spaced { apart, most } => gram.of_spaced(apart, most, cancelled)?,
        Pattern::Residue { apart } => gram.of_residues(apart),
    };
    let exact = bound.upper - bound.reached <= ROUNDING * bound.upper;
    Ok(Sensitivity::of_squared(bound.upper, exact, SensitivityRule::GramSums))
}

/// Patterns of participations that move a strategy the most.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorstPatterns {
    /// The steps of each: the worst that is known, and others that nearly are as bad.
    pub(crate) patterns: Vec<Vec<usize>>,
    /// The sum of `|C^T C|` over a pattern that none exceeds: the squared sensitivity that is told.
    pub(crate) squared: f64,
}

/// The columns of a lower-triangular strategy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Columns<'a> {
    /// The first of a Toeplitz matrix, zero past its end.
    Toeplitz(&'a [f64]),
    /// Each from the diagonal down, zero past its end.
    Banded(&'a [Vec<f64>]),
}

/// The worst patterns of a strategy of `n` steps, or `None` where looking through them takes more than about
/// `most_work` operations. For a search that lowers what they come to.
///
/// # Errors
/// Those of [`Participation::true_max_participations`]; [`Error::Cancelled`].
pub(crate) fn worst_patterns(
    columns: Columns<'_>,
    n: usize,
    participation: Participation,
    most_work: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<WorstPatterns>> {
    let most = participation.true_max_participations(n as u64)? as usize;
    let apart = participation.separation(n as u64) as usize;
    let bands = match columns {
        Columns::Toeplitz(column) => column.len(),
        Columns::Banded(columns) => columns.iter().map(Vec::len).max().unwrap_or(1),
    };
    if n.saturating_mul(bands) > MAX_GRAM_ENTRIES.min(most_work) {
        return Ok(None);
    }
    let gram = match columns {
        Columns::Toeplitz(column) => Gram::of_toeplitz(column, n),
        Columns::Banded(columns) => Gram::of_columns(columns, bands),
    };
    if let Participation::FixedEpochs { .. } = participation {
        let class = |first: usize| (first..n).step_by(apart).collect::<Vec<_>>();
        let sums: Vec<f64> = (0..apart).map(|first| gram.absolute_sum(&class(first))).collect();
        let squared = sums.iter().copied().fold(0.0, f64::max);
        let mut order: Vec<usize> =
            (0..apart).filter(|&first| sums[first] >= squared * (1.0 - NEAR)).collect();
        order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
        return Ok(Some(WorstPatterns { patterns: order.into_iter().map(class).collect(), squared }));
    }
    if !gram.can_search(apart, most, most_work) {
        return Ok(None);
    }
    let found = Search::new(&gram, apart, most, most_work).run(cancelled)?;
    Ok(Some(WorstPatterns { patterns: found.patterns, squared: found.upper }))
}

/// The signs that the entries of a Toeplitz matrix have in common.
#[derive(Clone, Copy, Debug)]
struct CommonSign {
    /// Of every second diagonal.
    even: f64,
    odd: f64,
}

impl CommonSign {
    fn applied(self, coefs: &[f64]) -> impl Iterator<Item = f64> {
        coefs.iter().enumerate().map(move |(j, c)| c * if j % 2 == 0 { self.even } else { self.odd })
    }
}

/// Signs that leave no entry negative, where there are such: the same for all of them, or alternating from
/// diagonal to diagonal. `D C D` with `D` of alternating signs has the sensitivity of `C`, since a user's
/// vectors may have any sign.
fn common_sign(coefs: &[f64]) -> Option<CommonSign> {
    let least = -ROUNDING * coefs.iter().fold(0.0, |most: f64, c| most.max(c.abs()));
    [(1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0)]
        .map(|(even, odd)| CommonSign { even, odd })
        .into_iter()
        .find(|sign| sign.applied(coefs).all(|c| c >= least))
}

fn is_non_increasing(coefs: &[f64], sign: CommonSign) -> bool {
    let mut most = f64::INFINITY;
    sign.applied(coefs).all(|c| {
        let fits = c <= most + ROUNDING * coefs[0].abs();
        most = most.min(c);
        fits
    })
}

/// `|sum over m < count of C_{m apart}|^2` of the lower-triangular Toeplitz matrix of `coefs` (arXiv
/// 2405.13763, Theorem 2), in `O(n)`.
///
/// Entry `t` of the sum has the last `count` of the terms `c_t, c_{t - apart}, ...`. They are a run of whole
/// blocks of `count` terms, or the end of one block and the start of the next: nothing is subtracted, and so
/// nothing cancels.
fn shifted_columns(coefs: &[f64], sign: CommonSign, apart: usize, count: usize) -> Upward {
    let n = coefs.len();
    let mut starts: Vec<f64> = sign.applied(coefs).collect();
    let mut ends = starts.clone();
    let place = |t: usize| t / apart % count;
    for t in (0..n.saturating_sub(apart)).rev() {
        if place(t) + 1 != count {
            ends[t] += ends[t + apart];
        }
    }
    for t in apart..n {
        if place(t) != 0 {
            starts[t] += starts[t - apart];
        }
    }
    let entry = |t: usize| {
        let ended = if place(t) + 1 == count { None } else { t.checked_sub((count - 1) * apart) };
        starts[t] + ended.map_or(0.0, |t| ends[t])
    };
    sum_of_squares((0..n).map(entry))
}

/// Column `j` has the first `n - j` of the coefficients.
fn toeplitz_column_norms_squared(coefs: &[f64]) -> Vec<f64> {
    let mut norms: Vec<f64> = coefs
        .iter()
        .scan(Upward::default(), |sum, &c| {
            sum.add_square(c);
            Some(sum.value())
        })
        .collect();
    norms.reverse();
    norms
}
