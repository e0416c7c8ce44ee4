//! The pattern whose entries of `|C^T C|` add up to the most.
//!
//! Where a participation shares rows with its neighbours alone, dynamic programming finds the pattern. Where
//! it shares rows with more of them, the same table bounds what a beginning can still come to, and branch and
//! bound looks through the rest.

use super::gram::Gram;
use crate::error::{Error, Result};

/// A pattern within this part of the worst is told of beside it.
pub(super) const NEAR: f64 = 1e-3;

/// The patterns that a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The worst that is reached, and others that nearly are as bad.
    pub(super) patterns: Vec<Vec<usize>>,
    /// What no pattern exceeds.
    pub(super) upper: f64,
}

/// Looks for the worst pattern of at most `most` steps at least `apart` from each other.
pub(super) struct Search<'a> {
    gram: &'a Gram,
    apart: usize,
    most: usize,
    /// Earlier participations that one shares rows with.
    met: usize,
    /// At most what a pattern adds from a step on that it has, with `q` more steps after it: entry `step *
    /// most + q`.
    here: Vec<f64>,
    /// The largest of these for this step or any later one.
    later: Vec<f64>,
    best: f64,
    worst: Vec<usize>,
    /// The largest bound of what was not looked at.
    open: f64,
    work: usize,
}

/// About how many operations the table of a search takes.
pub(super) fn table_work(n: usize, bands: usize, apart: usize, most: usize) -> usize {
    let window = bands.saturating_sub(apart).max(1);
    let met = ((bands - 1) / apart).min(most);
    n.saturating_mul(window.saturating_mul(most + met))
}

impl<'a> Search<'a> {
    /// `work` is about how many operations the branches take; after that the bound of what is left has to do.
    pub(super) fn new(gram: &'a Gram, apart: usize, most: usize, work: usize) -> Self {
        let n = gram.n();
        let met = ((gram.bands() - 1) / apart).min(most - 1);
        let places = (n + 1) * most;
        Self {
            gram,
            apart,
            most,
            met,
            here: vec![0.0; places],
            later: vec![0.0; places],
            best: 0.0,
            worst: Vec::new(),
            open: 0.0,
            work,
        }
    }

    /// The worst pattern, and others beside it.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn run(mut self, cancelled: &dyn Fn() -> bool) -> Result<Found> {
        let n = self.gram.n();
        for step in (0..n).rev() {
            if step % 64 == 0 && cancelled() {
                return Err(Error::Cancelled);
            }
            self.fill(step);
        }
        let patterns = self.traced();
        for pattern in &patterns {
            let sum = self.gram.absolute_sum(pattern);
            if sum > self.best {
                (self.best, self.worst) = (sum, pattern.clone());
            }
        }
        if self.met > 1 {
            let order = self.ordered(0..n, |search, step| search.here[step * search.most + search.most - 1]);
            self.branch(&order, &mut Vec::new(), 0.0, &|_| 0.0, self.most, cancelled)?;
        }
        let (worst, least) = (self.worst, self.best * (1.0 - NEAR));
        let near = patterns.into_iter().filter(|p| *p != worst && self.gram.absolute_sum(p) >= least);
        let patterns = std::iter::once(worst.clone()).chain(near).collect();
        // With two that meet at most the table is the maximum itself.
        Ok(Found { patterns, upper: self.best.max(self.open) })
    }

    /// Steps after `step` that may share rows with it.
    fn window(&self, step: usize) -> std::ops::Range<usize> {
        let n = self.gram.n();
        let start = (step + self.apart).min(n);
        start..(step + self.gram.bands()).min(n).max(start)
    }

    fn shared(&self, step: usize, later: usize) -> f64 {
        2.0 * self.gram.entry(step, later).abs()
    }

    /// The entries of the table for one step, from those of later steps.
    fn fill(&mut self, step: usize) {
        let (most, window) = (self.most, self.window(step));
        let shared: Vec<f64> = window.clone().map(|later| self.shared(step, later)).collect();
        // With a step of the window as the next one, those after it share rows with this step too.
        let beyond = spaced_from(&shared, self.apart, self.met.saturating_sub(1));
        let own = self.gram.entry(step, step);
        for q in 0..most {
            let mut rest = 0.0_f64;
            if q > 0 {
                rest = self.later[window.end * most + q - 1];
                let others = &beyond[(q - 1).min(beyond.len() - 1)];
                for (at, later) in window.clone().enumerate() {
                    let beyond = others.get(at + self.apart).copied().unwrap_or(0.0);
                    rest = rest.max(shared[at] + beyond + self.here[later * most + q - 1]);
                }
            }
            self.here[step * most + q] = own + rest;
            self.later[step * most + q] = self.later[(step + 1) * most + q].max(own + rest);
        }
    }

    /// A pattern for each second step, from the first step that the table says is worst, each going on as the
    /// table says.
    fn traced(&self) -> Vec<Vec<usize>> {
        let n = self.gram.n();
        let all = self.most - 1;
        let first = (0..n).find(|step| self.here[step * self.most + all] >= self.later[all]).unwrap_or(0);
        if all == 0 {
            return vec![vec![first]];
        }
        // The best next step comes first; of ties, the nearest.
        let mut patterns = vec![self.traced_from(vec![first])];
        patterns.extend(
            self.window(first)
                .chain(self.window(first).end..n)
                .take(self.gram.bands())
                .map(|second| self.traced_from(vec![first, second])),
        );
        patterns.dedup();
        patterns
    }

    fn traced_from(&self, mut pattern: Vec<usize>) -> Vec<usize> {
        let (n, most) = (self.gram.n(), self.most);
        while let Some(&last) = pattern.last()
            && pattern.len() < most
        {
            let q = most - pattern.len() - 1;
            let mut best = (0.0, n);
            let window = self.window(last);
            for step in window.clone() {
                let shared: f64 = pattern.iter().map(|&earlier| self.shared(earlier, step)).sum();
                let value = shared + self.here[step * most + q];
                if value > best.0 {
                    best = (value, step);
                }
            }
            let beyond = self.later[window.end * most + q];
            if beyond > best.0 {
                let found = (window.end..n).find(|step| self.here[step * most + q] >= beyond);
                best = (beyond, found.unwrap_or(n));
            }
            if best.1 >= n {
                break;
            }
            pattern.push(best.1);
        }
        pattern
    }

    /// Steps with what a pattern can come to by them at most, the largest first, as far as that is more than
    /// is reached.
    fn ordered(
        &self,
        steps: std::ops::Range<usize>,
        bound: impl Fn(&Self, usize) -> f64,
    ) -> Vec<(usize, f64)> {
        let mut order: Vec<(usize, f64)> = steps
            .map(|step| (step, bound(self, step)))
            .filter(|&(_, bound)| bound > self.best * (1.0 + f64::EPSILON))
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order
    }

    /// Looks at every pattern that goes on from `picks` with one of the steps of `order`. `sum` is that of
    /// the picks, and `extra` what a later step shares with them.
    fn branch(
        &mut self,
        order: &[(usize, f64)],
        picks: &mut Vec<usize>,
        sum: f64,
        extra: &dyn Fn(usize) -> f64,
        left: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        for &(step, bound) in order {
            if bound <= self.best * (1.0 + f64::EPSILON) {
                return Ok(());
            }
            if self.work == 0 {
                self.open = self.open.max(bound);
                return Ok(());
            }
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let reached = sum + extra(step) + self.gram.entry(step, step);
            picks.push(step);
            if reached > self.best {
                (self.best, self.worst) = (reached, picks.clone());
            }
            if left > 1 {
                self.descend(picks, reached, left - 1, cancelled)?;
            }
            picks.pop();
        }
        Ok(())
    }

    /// Goes on from the last of `picks` with `left` more steps.
    fn descend(
        &mut self,
        picks: &mut Vec<usize>,
        sum: f64,
        left: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let Some(&last) = picks.last() else { return Ok(()) };
        let (n, most, window) = (self.gram.n(), self.most, self.window(last));
        let shares = |step: usize| -> f64 {
            let near = picks.iter().rev().take_while(|&&pick| step - pick < self.gram.bands());
            near.map(|&pick| self.shared(pick, step)).sum()
        };
        let shared: Vec<f64> = window.clone().map(shares).collect();
        let beyond = spaced_from(&shared, self.apart, self.met.min(left) - 1);
        let others = &beyond[beyond.len() - 1];
        self.work = self.work.saturating_sub(window.len() * (self.met + 1) + 1);
        let at = |step: usize| step - window.start;
        let extra = |step: usize| shared.get(at(step)).copied().unwrap_or(0.0);
        let bound = |search: &Self, step: usize| {
            let after = others.get(at(step) + search.apart).copied().unwrap_or(0.0);
            sum + extra(step) + after + search.here[step * most + left - 1]
        };
        // Past the window nothing is shared with the picks: the table tells whether anything there can be
        // worse.
        let end = if sum + self.later[window.end * most + left - 1] > self.best { n } else { window.end };
        let order = self.ordered(window.start..end, bound);
        self.branch(&order, picks, sum, &extra, left, cancelled)
    }
}

/// The largest sums of up to 0, 1, ..., `most` of `values` from each place on, at least `apart` from each
/// other.
fn spaced_from(values: &[f64], apart: usize, most: usize) -> Vec<Vec<f64>> {
    let mut sums = vec![vec![0.0; values.len() + 1]];
    for picks in 1..=most {
        let mut best = vec![0.0_f64; values.len() + 1];
        for i in (0..values.len()).rev() {
            let rest = sums[picks - 1].get(i + apart).copied().unwrap_or(0.0);
            best[i] = best[i + 1].max(values[i] + rest);
        }
        sums.push(best);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest sum over all patterns, one after the other.
    fn brute(gram: &Gram, apart: usize, most: usize, picks: &mut Vec<usize>, from: usize) -> f64 {
        let mut best = gram.absolute_sum(picks);
        if picks.len() < most {
            for step in from..gram.n() {
                picks.push(step);
                best = best.max(brute(gram, apart, most, picks, step + apart));
                picks.pop();
            }
        }
        best
    }

    #[test]
    fn the_worst_pattern_is_that_of_all_patterns() {
        let mut state = 7_u64;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for n in 1..=11_usize {
            for bands in 1..=n {
                for signed in [0.0, 0.5] {
                    let column: Vec<f64> = (0..bands).map(|_| number() - signed).collect();
                    let gram = Gram::of_toeplitz(&column, n);
                    for apart in 1..=n {
                        for most in 1..=n.div_ceil(apart) {
                            let expected = brute(&gram, apart, most, &mut Vec::new(), 0);
                            let found = Search::new(&gram, apart, most, usize::MAX).run(&|| false).unwrap();
                            let what = format!("{column:?} of {n}, {apart} apart, {most}: {found:?}");
                            assert!(
                                (found.upper - expected).abs() <= 1e-12 * expected,
                                "{what}, not {expected}"
                            );
                            let reached = gram.absolute_sum(&found.patterns[0]);
                            assert!((reached - expected).abs() <= 1e-12 * expected, "{what}, not {expected}");
                            for pattern in &found.patterns {
                                assert!(pattern.len() <= most, "{what}");
                                assert!(pattern.windows(2).all(|pair| pair[1] - pair[0] >= apart), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
}
