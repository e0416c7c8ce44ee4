//! The largest sum of entries that lie apart: `VecSens` of arXiv 2306.08153, Algorithm 3.

use crate::analysis::upward::{self, Upward};
use crate::error::{Error, Result};

/// Picks up to which one bit of a word each tells what was taken.
const MAX_PICKS_BY_TABLE: usize = 64;

/// Halvings of the multiplier's interval; past some 60 it cannot be halved in f64.
const MAX_HALVINGS: usize = 128;

/// The largest sum that picks `apart` from each other reach.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spaced {
    /// The sum.
    pub(super) sum: f64,
    /// Picks that reach it, ascending, where they are known.
    pub(super) picks: Option<Vec<usize>>,
}

/// The largest sum of at most `most` of `values` whose indices are at least `apart` from each other.
///
/// No value is negative. It takes `O(len)` where every pick that fits is allowed, `O(len * most)` for few
/// picks and some 60 `O(len)` else.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn largest_spaced_sum(
    values: &[f64],
    apart: usize,
    most: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Spaced> {
    let Some(&first) = values.first().filter(|_| most > 0) else {
        return Ok(Spaced { sum: 0.0, picks: Some(Vec::new()) });
    };
    let fit = values.len().div_ceil(apart);
    if values.iter().all(|&value| value == first) {
        let count = most.min(fit);
        let picks = (0..count).map(|pick| pick * apart).collect();
        return Ok(Spaced { sum: upward::product(first, count as f64), picks: Some(picks) });
    }
    if most >= fit {
        let picks = penalized_picks(values, apart, 0.0);
        return Ok(Spaced { sum: sum_of(values, &picks), picks: Some(picks) });
    }
    if most <= MAX_PICKS_BY_TABLE {
        by_table(values, apart, most, cancelled)
    } else {
        by_multiplier(values, apart, most, cancelled)
    }
}

fn sum_of(values: &[f64], picks: &[usize]) -> f64 {
    let mut sum = Upward::default();
    picks.iter().for_each(|&pick| sum.add(values[pick]));
    sum.value()
}

/// Picks that maximise the sum of `value - penalty`, however many.
fn penalized_picks(values: &[f64], apart: usize, penalty: f64) -> Vec<usize> {
    let n = values.len();
    // best[i] is that of the entries from i on.
    let mut best = vec![0.0; n + 1];
    for i in (0..n).rev() {
        best[i] = (values[i] - penalty + best[n.min(i + apart)]).max(best[i + 1]);
    }
    let (mut picks, mut i) = (Vec::new(), 0);
    while i < n {
        if best[i] > best[i + 1] {
            picks.push(i);
            i += apart;
        } else {
            i += 1;
        }
    }
    picks
}

/// `best_q[i] = max(best_q[i + 1], values[i] + best_{q - 1}[i + apart])`, for each number of picks `q`.
fn by_table(values: &[f64], apart: usize, most: usize, cancelled: &dyn Fn() -> bool) -> Result<Spaced> {
    let n = values.len();
    let mut taken = vec![0_u64; n];
    let (mut fewer, mut best) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    for q in 0..most {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        for i in (0..n).rev() {
            let take = values[i] + fewer[n.min(i + apart)];
            let better = take > best[i + 1];
            best[i] = if better { take } else { best[i + 1] };
            taken[i] |= u64::from(better) << q;
        }
        std::mem::swap(&mut fewer, &mut best);
    }
    let (mut picks, mut i) = (Vec::new(), 0);
    while i < n && picks.len() < most {
        if taken[i] >> (most - 1 - picks.len()) & 1 == 1 {
            picks.push(i);
            i += apart;
        } else {
            i += 1;
        }
    }
    Ok(Spaced { sum: sum_of(values, &picks), picks: Some(picks) })
}

/// The same with the number of picks priced instead of counted: `min over penalty >= 0` of
/// `max over picks of sum(value - penalty) + penalty * most`.
///
/// Any penalty gives an upper bound, and the best gives the maximum itself: each run of `apart` entries holds
/// one pick at most, a program whose constraints (with the count among them) are intervals, so it is
/// integral, and its value is concave in the count.
fn by_multiplier(values: &[f64], apart: usize, most: usize, cancelled: &dyn Fn() -> bool) -> Result<Spaced> {
    let (mut low, mut high) = (0.0, values.iter().copied().fold(0.0, f64::max));
    let mut few = Vec::new();
    let mut many = penalized_picks(values, apart, low);
    if many.len() <= most {
        return Ok(Spaced { sum: sum_of(values, &many), picks: Some(many) });
    }
    for _ in 0..MAX_HALVINGS {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let penalty = low + (high - low) / 2.0;
        if penalty <= low || penalty >= high {
            break;
        }
        let picks = penalized_picks(values, apart, penalty);
        match picks.len().cmp(&most) {
            std::cmp::Ordering::Equal => {
                return Ok(Spaced { sum: sum_of(values, &picks), picks: Some(picks) });
            }
            std::cmp::Ordering::Less => (high, few) = (penalty, picks),
            std::cmp::Ordering::Greater => (low, many) = (penalty, picks),
        }
    }
    // Several counts are best at the same penalty, and the one asked for is between those found.
    let above = sum_of(values, &few) + high * (most - few.len()) as f64;
    let below = sum_of(values, &many) - low * (many.len() - most) as f64;
    Ok(Spaced { sum: above.min(below), picks: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brute(values: &[f64], apart: usize, most: usize) -> f64 {
        let Some(value) = values.first().filter(|_| most > 0) else { return 0.0 };
        let rest = &values[values.len().min(apart)..];
        brute(&values[1..], apart, most).max(value + brute(rest, apart, most - 1))
    }

    /// Values with many ties where `levels` is small.
    fn values(n: usize, seed: u64, levels: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 20) % levels) as f64 / levels as f64
            })
            .collect()
    }

    #[test]
    fn every_way_finds_the_largest_sum() {
        for seed in 0..60 {
            let n = 1 + seed as usize % 14;
            for levels in [2, 3, 1 << 30] {
                let values = values(n, seed + 1, levels);
                for apart in 1..=n {
                    for most in 1..=n.div_ceil(apart) {
                        let expected = brute(&values, apart, most);
                        let ways = [
                            largest_spaced_sum(&values, apart, most, &|| false).unwrap(),
                            by_table(&values, apart, most, &|| false).unwrap(),
                            by_multiplier(&values, apart, most, &|| false).unwrap(),
                        ];
                        for (way, found) in ways.into_iter().enumerate() {
                            let what = format!("way {way}, {values:?}, {apart} apart, {most}: {found:?}");
                            assert!((found.sum - expected).abs() < 1e-13, "{what}, not {expected}");
                            let Some(picks) = found.picks else { continue };
                            assert!(
                                picks.len() <= most && picks.windows(2).all(|p| p[1] - p[0] >= apart),
                                "{what}"
                            );
                            assert!((sum_of(&values, &picks) - expected).abs() < 1e-13, "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pricing_the_picks_agrees_with_counting_them() {
        for (n, apart, most, levels) in
            [(3000, 3, 60, 1 << 40), (3000, 7, 64, 5), (500, 1, 33, 2), (2000, 31, 20, 100)]
        {
            let values = values(n, 5, levels);
            let (counted, priced) = (
                by_table(&values, apart, most, &|| false).unwrap(),
                by_multiplier(&values, apart, most, &|| false).unwrap(),
            );
            assert!((counted.sum - priced.sum).abs() < 1e-12 * counted.sum, "{n} {apart} {most}");
        }
    }

    #[test]
    fn equal_values_are_counted() {
        let found = largest_spaced_sum(&[2.0; 1000], 3, 100, &|| false).unwrap();
        assert_eq!(found.sum, 200.0);
        assert_eq!(found.picks.unwrap_or_default().len(), 100);
        assert_eq!(largest_spaced_sum(&[], 3, 100, &|| false).unwrap().sum, 0.0);
        assert_eq!(largest_spaced_sum(&[1.0], 3, 0, &|| false).unwrap().sum, 0.0);
    }
}
