//! Every family in every size that fits, compared.

use super::watch::Watch;
use super::{Design, Family, Known, Objective, Problem, Progress, Verdict, blt, designed};
use crate::analysis::{Participation, column_norms_squared};
use crate::error::{Error, Result};
use crate::limits::{MAX_BANDS, MAX_DENSE_N, MAX_DESIGNED_ENTRIES, MAX_PLANES};
use crate::matrix::{MatrixSpec, Plan};

/// Buffers of a BLT that are tried: with more, the optima differ by less than can be measured (arXiv
/// 2408.08868).
const MOST_BUFFERS: usize = 6;

/// A strategy within this factor of the lowest loss is as good, and the one with the fewest planes is
/// recommended: half a percent of noise is worth less than memory and time at every step.
const AS_GOOD: f64 = 1.01;

/// `n` times the square of the bands up to which columns of their own are tried: a second or so of work.
const MOST_COLUMN_WORK: u64 = 1 << 16;

/// Steps, and steps times the square of the planes, up to which the columns of a Toeplitz strategy are
/// divided by their norms.
const MOST_DIVIDED_STEPS: u64 = 1 << 16;
const MOST_DIVIDED_WORK: u64 = 1 << 26;

/// The part of its loss that dividing has to take off a strategy.
const WORTH_DIVIDING: f64 = 1e-4;

/// Steps up to which a dense strategy is tried: some seconds of work.
const MOST_DENSE_STEPS: u64 = 256;

const _: () =
    assert!(MOST_DENSE_STEPS as usize <= MAX_DENSE_N, "a dense strategy that is tried can be described");

/// A strategy among those compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it is, for people: `banded Toeplitz, 8 bands`.
    pub name: String,
    /// The family, as programs call it: `banded_toeplitz`.
    pub family: String,
    /// State values a lane of its noising matrix.
    pub planes: usize,
    /// The strategy and what it achieves on the problem.
    pub design: Design,
}

/// The strategies that fit, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// The one to use first, then the others, by rising loss.
    pub candidates: Vec<Candidate>,
    /// Which to use and why, in a few sentences.
    pub reason: String,
    /// Whether all were compared: `false` where a [`Verdict::Finish`] ended the comparison early.
    pub complete: bool,
}

/// Compares the strategies whose noising matrix fits into `max_planes` planes of state a lane, and says which
/// to use and why: of those whose loss is within 1% of the lowest, the one with the fewest planes.
///
/// Compared are independent noise and, for planes 1, 2, 4, ... and `max_planes` itself, and as many as make a
/// banded strategy of `min_sep` bands, the optimum of each family of that size; BLTs of up to 6 buffers;
/// Toeplitz strategies with their columns divided by their norms, which takes no plane, where the sensitivity
/// stays exact; columns of their own and dense strategies where that is a matter of seconds. The Toeplitz
/// families know Toeplitz workloads alone: for another workload they are designed for the prefix sum, and
/// compared on the workload that is asked for. A family that cannot be designed for the problem is left out,
/// and the reason says so.
///
/// # Errors
/// [`Error::Invalid`] on `max_planes` over [`MAX_PLANES`], and as those of [`optimize`](super::optimize);
/// [`Error::Cancelled`] where `progress` answers [`Verdict::Abandon`].
pub fn recommend(
    problem: &Problem,
    max_planes: usize,
    progress: &mut dyn FnMut(Progress) -> Verdict,
) -> Result<Recommendation> {
    if max_planes > MAX_PLANES {
        return Err(Error::invalid("max_planes", format!("at most {MAX_PLANES}, found {max_planes}")));
    }
    problem.validate()?;
    let watch = &Watch::new(progress);
    let identity = Design::of(MatrixSpec::Identity, MatrixSpec::Identity, problem, &|| watch.abandoned())?;
    let mut candidates = vec![Candidate {
        name: "independent noise".into(),
        family: "identity".into(),
        planes: 0,
        design: identity,
    }];
    let (known, mut left_out) = (Known::default(), Vec::new());
    for family in families(problem, max_planes) {
        if watch.stopped() {
            break;
        }
        match judged(&family, problem, &known, watch) {
            Ok(designs) => {
                for (family, design) in designs {
                    let planes = Plan::new(&design.noising_matrix)?.planes();
                    let kind = family.kind();
                    if !watch.stopped()
                        && let Some(design) = divided(&design, problem, watch)?
                    {
                        let name = format!("{family}, columns divided by their norms");
                        candidates.push(Candidate { name, family: kind.into(), planes, design });
                    }
                    candidates.push(Candidate {
                        name: family.to_string(),
                        family: kind.into(),
                        planes,
                        design,
                    });
                }
            }
            Err(Error::Invalid { field, rule }) => left_out.push(format!("{family} ({field}: {rule})")),
            Err(other) => return Err(other),
        }
    }
    let recommended = choose(&candidates);
    let first = candidates.remove(recommended);
    candidates.sort_by(|a, b| a.design.loss.total_cmp(&b.design.loss));
    candidates.insert(0, first);
    let mut reason = reason(&candidates, problem);
    if watch.stopped() {
        reason.push_str(" The comparison was ended before all were compared.");
    }
    if !left_out.is_empty() {
        reason.push_str(&format!(" Not compared: {}.", left_out.join("; ")));
    }
    Ok(Recommendation { candidates, reason, complete: !watch.stopped() })
}

/// A Toeplitz strategy with its columns divided by their norms, where the sensitivity is exact and the loss
/// lower for it. The last columns are shorter than the first, so that the noise of the last steps is less; it
/// takes no plane.
fn divided(design: &Design, problem: &Problem, watch: &Watch<'_>) -> Result<Option<Design>> {
    let plan = Plan::new(&design.noising_matrix)?;
    let (n, planes) = (problem.n, plan.planes() as u64);
    let work = n.saturating_mul((planes + 1).saturating_mul(planes + 1));
    if n > MOST_DIVIDED_STEPS || work > MOST_DIVIDED_WORK || planes == 0 || !plan.is_toeplitz() {
        return Ok(None);
    }
    // Columns of norm 1 have an exact sensitivity where a user meets one of them, or some that share no row.
    let separation = problem.participation.separation(n);
    let disjoint =
        matches!(&design.strategy, MatrixSpec::Toeplitz { coef, .. } if coef.len() as u64 <= separation);
    if problem.participation.true_max_participations(n)? > 1 && !disjoint {
        return Ok(None);
    }
    let cancelled = || watch.abandoned();
    let norms: Vec<f64> =
        column_norms_squared(&design.strategy, n, cancelled)?.iter().map(|norm| norm.sqrt()).collect();
    let inverse_norms = norms.iter().map(|norm| 1.0 / norm).collect();
    let strategy = design.strategy.clone().scale_rows_and_columns(None, Some(inverse_norms));
    let noising_matrix = design.noising_matrix.clone().scale_rows_and_columns(Some(norms), None);
    let divided = Design::of(strategy, noising_matrix, problem, &cancelled)?;
    let better = divided.sensitivity.exact && divided.loss < design.loss * (1.0 - WORTH_DIVIDING);
    Ok(better.then_some(divided))
}

/// The optimum of a family, and what it achieves on the problem's own workload. Of BLTs those of fewer
/// buffers come with it, as the search for many buffers goes through them.
fn judged(
    family: &Family,
    problem: &Problem,
    known: &Known,
    watch: &Watch<'_>,
) -> Result<Vec<(Family, Design)>> {
    let optima = |problem: &Problem| match *family {
        Family::BufferedToeplitz { buffers: Some(most) } => {
            let designs = blt::optimize_each_blt(problem, most, watch)?;
            let family = |design: &Design| match &design.strategy {
                MatrixSpec::BufferedToeplitz { buf_decay, .. } => {
                    Family::BufferedToeplitz { buffers: Some(buf_decay.len()) }
                }
                _ => *family,
            };
            Ok(designs.into_iter().map(|design| (family(&design), design)).collect())
        }
        family => Ok(vec![(family, designed(&family, problem, known, watch)?)]),
    };
    if family.takes_any_workload() || problem.has_toeplitz_workload()? {
        return optima(problem);
    }
    let for_prefix_sums = Problem { workload: None, ..problem.clone() };
    let again = |(family, Design { strategy, noising_matrix, .. })| {
        Ok((family, Design::of(strategy, noising_matrix, problem, &|| watch.abandoned())?))
    };
    optima(&for_prefix_sums)?.into_iter().map(again).collect()
}

/// What there is to compare.
fn families(problem: &Problem, max_planes: usize) -> Vec<Family> {
    let steps = usize::try_from(problem.n).unwrap_or(usize::MAX);
    let mut families = Vec::new();
    // A banded matrix of one band is a multiple of the identity.
    let mut sizes: Vec<usize> = (0..).map(|i| 1 << i).take_while(|&planes| planes < max_planes).collect();
    sizes.extend((max_planes > 0).then_some(max_planes));
    // A banded strategy without more bands than there are steps between participations has an exact
    // sensitivity.
    if let Participation::MinSep { min_sep, .. } = problem.participation
        && let Ok(min_sep) = usize::try_from(min_sep)
        && (2..max_planes).contains(&(min_sep - 1))
    {
        sizes.push(min_sep - 1);
    }
    let most = steps.min(MAX_BANDS).saturating_sub(1);
    sizes.iter_mut().for_each(|planes| *planes = (*planes).min(most));
    sizes.retain(|&planes| planes > 0);
    sizes.sort_unstable();
    sizes.dedup();
    // The cheapest first: where the comparison is ended early, these are there.
    let buffers = max_planes.min(MOST_BUFFERS);
    families.extend((buffers > 0).then_some(Family::BufferedToeplitz { buffers: Some(buffers) }));
    for &planes in &sizes {
        let bands = planes + 1;
        families.push(Family::BandedToeplitz { bands });
        families.push(Family::BandedInverseToeplitz { bands });
        // With more bands than there are steps between participations, the narrower optimum is as good.
        let meet = bands as u64 > problem.participation.separation(problem.n);
        let entries = problem.n.saturating_mul(bands as u64);
        if !meet
            && entries <= MAX_DESIGNED_ENTRIES as u64
            && entries.saturating_mul(bands as u64) <= MOST_COLUMN_WORK
        {
            families.push(Family::ColumnNormalizedBanded { bands });
        }
    }
    if problem.objective == Objective::Mean
        && problem.n <= MOST_DENSE_STEPS
        && steps <= max_planes.saturating_add(1)
    {
        families.push(Family::Dense);
    }
    families
}

/// Of those that are as good as the best, the one with the fewest planes, and among these the best.
fn choose(candidates: &[Candidate]) -> usize {
    let lowest = candidates.iter().map(|candidate| candidate.design.loss).fold(f64::INFINITY, f64::min);
    let as_good = candidates.iter().enumerate().filter(|(_, c)| c.design.loss <= lowest * AS_GOOD);
    let by_planes = |(_, a): &(usize, &Candidate), (_, b): &(usize, &Candidate)| {
        a.planes.cmp(&b.planes).then(a.design.loss.total_cmp(&b.design.loss))
    };
    as_good.min_by(by_planes).map_or(0, |(index, _)| index)
}

fn reason(candidates: &[Candidate], problem: &Problem) -> String {
    let [best, others @ ..] = candidates else { return String::new() };
    let noise = |candidate: &Candidate| candidate.design.loss.sqrt();
    let error = match problem.objective {
        Objective::Mean => "root mean squared error",
        Objective::Max => "largest error",
    };
    let planes = |planes: usize| if planes == 1 { "1 plane".to_owned() } else { format!("{planes} planes") };
    let mut text = format!("Use {} ({} of state a lane). ", best.name, planes(best.planes));
    let independent = candidates.iter().find(|candidate| candidate.family == "identity");
    match independent {
        Some(independent) if independent != best => {
            let ratio = noise(independent) / noise(best);
            text.push_str(&format!(
                "At the same privacy its {error} is {ratio:.2} times less than with independent noise. "
            ));
        }
        _ => text.push_str("Nothing that fits does better than independent noise. "),
    }
    if let Some(lowest) = others.first().filter(|lowest| lowest.design.loss < best.design.loss) {
        let percent = 100.0 * (noise(best) / noise(lowest) - 1.0);
        let lower = if percent < 0.01 { "less than 0.01%".to_owned() } else { format!("{percent:.2}%") };
        text.push_str(&format!(
            "The lowest, {} with {}, is {lower} lower, which is not worth its memory. ",
            lowest.name,
            planes(lowest.planes)
        ));
    }
    if !best.design.sensitivity.exact {
        text.push_str(
            "Its sensitivity is an upper bound: the privacy holds, and the true error may be less. ",
        );
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(n: u64) -> Problem {
        Problem { n, participation: Participation::Single, objective: Objective::Mean, workload: None }
    }

    #[test]
    fn more_room_never_recommends_a_noticeably_worse_strategy() {
        let losses: Vec<f64> = [0, 1, 2, 4, 9]
            .map(|planes| {
                recommend(&problem(64), planes, &mut |_| Verdict::Continue).unwrap().candidates[0].design.loss
            })
            .to_vec();
        assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * AS_GOOD), "{losses:?}");
        assert!(losses[4] < 0.5 * losses[0], "{losses:?}");
    }

    #[test]
    fn what_is_recommended_fits_and_is_as_good_as_the_best() {
        let participation = Participation::MinSep { min_sep: 16, max_participations: Some(4) };
        let problem = Problem { participation, ..problem(64) };
        let Recommendation { candidates, reason, .. } =
            recommend(&problem, 8, &mut |_| Verdict::Continue).unwrap();
        assert!(candidates.iter().all(|candidate| candidate.planes <= 8));
        let lowest = candidates.iter().map(|c| c.design.loss).fold(f64::INFINITY, f64::min);
        assert!(candidates[0].design.loss <= lowest * AS_GOOD);
        assert!(candidates[1..].windows(2).all(|pair| pair[0].design.loss <= pair[1].design.loss));
        assert!(reason.starts_with(&format!("Use {}", candidates[0].name)), "{reason}");
    }

    #[test]
    fn no_room_is_independent_noise() {
        let Recommendation { candidates, reason, .. } =
            recommend(&problem(10), 0, &mut |_| Verdict::Continue).unwrap();
        assert_eq!((candidates.len(), candidates[0].planes), (1, 0));
        assert!(reason.contains("independent noise"), "{reason}");
        // Mean of 1 ..= 10 at a sensitivity of 1.
        assert!((candidates[0].design.loss - 5.5).abs() < 1e-12);
    }

    #[test]
    fn another_workload_is_what_strategies_are_compared_on() {
        let workload = MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.5, 0.25]) };
        let problem = Problem { workload: Some(workload), ..problem(32) };
        for candidate in recommend(&problem, 4, &mut |_| Verdict::Continue).unwrap().candidates {
            let Design { strategy, noising_matrix, loss, .. } = candidate.design;
            let again = Design::of(strategy, noising_matrix, &problem, &|| false).unwrap();
            assert!((again.loss / loss - 1.0).abs() < 1e-9, "{}", candidate.name);
        }
    }

    #[test]
    fn a_family_that_refuses_is_left_out_and_told() {
        let workload = Some(MatrixSpec::Toeplitz { coef: vec![-1.0, 0.5], column_normalize_for_n: None });
        let problem = Problem { workload, ..problem(32) };
        let Recommendation { candidates, reason, .. } =
            recommend(&problem, 2, &mut |_| Verdict::Continue).unwrap();
        assert!(candidates.len() > 2 && reason.contains("Not compared: banded Toeplitz"), "{reason}");
    }

    #[test]
    fn sizes_fit_every_limit() {
        for (n, participation) in [
            (1, Participation::Single),
            ((1 << 19) + 1, Participation::Single),
            (1 << 24, Participation::MinSep { min_sep: 9, max_participations: Some(3) }),
        ] {
            for family in families(&Problem { participation, ..problem(n) }, 4096) {
                if let Family::ColumnNormalizedBanded { bands } = family {
                    assert!(bands as u64 * n <= MAX_DESIGNED_ENTRIES as u64, "{n} {family}");
                }
                if let Family::BandedToeplitz { bands } = family {
                    assert!(bands as u64 <= n && bands <= MAX_BANDS, "{n} {family}");
                }
            }
        }
    }

    #[test]
    fn one_who_gives_up_is_heard() {
        assert_eq!(recommend(&problem(64), 4, &mut |_| Verdict::Abandon), Err(Error::Cancelled));
    }

    #[test]
    fn columns_are_divided_by_their_norms_where_that_helps() {
        let found = recommend(&problem(64), 3, &mut |_| Verdict::Continue).unwrap();
        let named = |name: &str| found.candidates.iter().find(|candidate| candidate.name == name).unwrap();
        for name in ["buffered Toeplitz, 2 buffers", "banded Toeplitz, 3 bands"] {
            let (plain, divided) = (named(name), named(&format!("{name}, columns divided by their norms")));
            assert!(divided.design.loss < plain.design.loss, "{name}");
            assert_eq!((divided.planes, divided.design.sensitivity.exact), (plain.planes, true), "{name}");
            assert!((divided.design.sensitivity.squared - 1.0).abs() < 1e-12, "{name}");
            // The two halves are inverses of each other.
            let of = Design::of(
                divided.design.strategy.clone(),
                divided.design.strategy.clone().inverse(),
                &problem(64),
                &|| false,
            );
            assert!((of.unwrap().loss / divided.design.loss - 1.0).abs() < 1e-10, "{name}");
        }
    }

    #[test]
    fn a_comparison_that_is_ended_early_gives_what_it_has() {
        let whole = recommend(&problem(64), 4, &mut |_| Verdict::Continue).unwrap();
        for most in [1, 30, 300] {
            let mut heard = 0;
            let early = recommend(&problem(64), 4, &mut |_| {
                heard += 1;
                if heard <= most { Verdict::Continue } else { Verdict::Finish }
            })
            .unwrap();
            assert!(!early.complete && early.reason.contains("ended before"), "{}", early.reason);
            assert!(early.candidates.len() < whole.candidates.len() && !early.candidates.is_empty());
        }
        assert!(whole.complete);
    }
}
