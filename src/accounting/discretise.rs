//! Privacy loss distributions on a grid.
//!
//! A cell holds the outputs whose loss lies between two neighbours of the grid, `l` and `l + h`. It has mass
//! `a` under `P` and `b` under `Q`.
//!
//! - *Connect the dots* (arXiv 2207.04380) splits a cell's mass between both ends so that `a` and `b` stay
//!   what they are: the end `l` gets the integral of `(e^(l + h - L) - 1) / (e^h - 1)` over `dP`, the end
//!   `l + h` that of `(1 - e^(l - L)) / (1 - e^-h)`. It is the least curve with kinks on the grid alone that
//!   is nowhere below the truth.
//! - *Rounding up* gives all of a cell's mass to its upper end.
//! - *Merging* gives a lower bound: outputs between two thresholds are told apart no more, which by the data
//!   processing inequality takes privacy loss away. The thresholds are such that the merged outputs' loss,
//!   `ln a/b`, is on the grid or above it. The grid begins at the loss of the lowest outputs.

use super::pair::Pair;
use super::quadrature::Rule;

/// Points of a rule on a panel as wide as [`Pair::panels`] allows, and on one that is much narrower.
const POINTS: u32 = 12;
const FEW_POINTS: u32 = 5;
const FEWEST_POINTS: u32 = 3;

/// A cell narrower than this, in standard deviations or the scale of the loss, takes few points.
const NARROW: f64 = 0.025;

/// A cell narrower than this takes [`FEWEST_POINTS`].
const NARROWEST: f64 = 0.004;

/// Steps of the search for a threshold.
const SEARCH_STEPS: usize = 60;

/// By how much a merged cell's loss may be larger than the grid's, as a part of the interval.
const MERGE_SLACK: f64 = 1e-6;

/// How a loss becomes one on the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Split between both neighbours: an upper bound, in error by the square of the interval.
    ConnectTheDots,
    /// Moved to the upper neighbour: an upper bound, in error by the interval. Tests compare with it.
    #[cfg(test)]
    Up,
    /// Merged around each point of the grid: a lower bound, in error by the square of the interval.
    Merge,
}

/// A discrete distribution of the privacy loss under `P`.
#[derive(Clone, Debug)]
pub(super) struct Pld {
    /// The distance of neighbouring losses.
    pub(super) interval: f64,
    /// The loss of the first mass, in intervals above `offset`.
    pub(super) first: i64,
    /// The loss of the grid's zero: 0 but for a lower bound.
    pub(super) offset: f64,
    /// The mass of each loss.
    pub(super) masses: Vec<f64>,
    /// The mass whose loss is infinite.
    pub(super) infinity: f64,
}

impl Pld {
    /// The distribution of a pair. Mass of about `tail` at the upper end counts as an infinite loss; a lower
    /// bound leaves it out.
    pub(super) fn new(pair: &Pair, interval: f64, tail: f64, rounding: Rounding) -> Self {
        let (from, to) = pair.support(tail);
        let first = (pair.loss(from) / interval).floor();
        let last = (pair.loss(to) / interval).ceil().max(first + 1.0);
        let cells = (last - first) as usize;
        let mut grid = Grid {
            pair,
            interval,
            first,
            offset: 0.0,
            masses: vec![0.0; cells + 1],
            wide: Rule::new(POINTS),
            narrow: Rule::new(FEW_POINTS),
            narrowest: Rule::new(FEWEST_POINTS),
        };
        let mut infinity = pair.mass_above(to);
        match rounding {
            Rounding::ConnectTheDots => grid.split(from, to),
            #[cfg(test)]
            Rounding::Up => grid.round_up(from, to),
            Rounding::Merge => {
                infinity = 0.0;
                grid.merge(from, to);
            }
        }
        let Grid { offset, mut masses, .. } = grid;
        if rounding != Rounding::Merge {
            // What lies below is as if it had the loss of the lower end, rounded up.
            masses[1] += pair.mass_below(from);
        }
        Self { interval, first: first as i64, offset, masses, infinity }
    }

    /// The loss of a mass.
    pub(super) fn loss(&self, index: usize) -> f64 {
        ((self.first + index as i64) as f64).mul_add(self.interval, self.offset)
    }

    /// The logarithm of the expectation of `e^(order * loss)`, the infinite loss left out. `near` is about
    /// the logarithm of the largest term.
    pub(super) fn ln_moment(&self, order: f64, near: f64) -> f64 {
        let term = |(index, mass): (usize, &f64)| tilted(*mass, order.mul_add(self.loss(index), -near));
        near + self.masses.iter().enumerate().map(term).sum::<f64>().ln()
    }
}

/// `mass * e^exponent`, where the exponential alone might overflow.
pub(super) fn tilted(mass: f64, exponent: f64) -> f64 {
    let root = (exponent / 2.0).exp();
    mass * root * root
}

/// The grid while its masses are found.
struct Grid<'a> {
    pair: &'a Pair,
    interval: f64,
    first: f64,
    offset: f64,
    masses: Vec<f64>,
    wide: Rule,
    narrow: Rule,
    narrowest: Rule,
}

impl Grid<'_> {
    fn loss(&self, index: usize) -> f64 {
        (self.first + index as f64).mul_add(self.interval, self.offset)
    }

    /// Integrates over the outputs between two points, with as few points as that takes.
    fn each(&self, from: f64, to: f64, add: impl FnMut(f64, f64)) {
        let width = (to - from) / self.pair.noise.min(2.0 * self.pair.noise * self.pair.noise);
        let rule = match width {
            _ if width < NARROWEST => &self.narrowest,
            _ if width < NARROW => &self.narrow,
            _ => &self.wide,
        };
        self.pair.each(rule, from, to, add);
    }

    /// The outputs of each cell: its index, and where it begins and ends.
    fn cells(&self, from: f64, to: f64) -> impl Iterator<Item = (usize, f64, f64)> + use<> {
        let (pair, interval, first, count) = (*self.pair, self.interval, self.first, self.masses.len() - 1);
        let mut start = from;
        (0..count).map(move |cell| {
            let upper = (first + (cell + 1) as f64) * interval;
            let end = if cell + 1 == count { to } else { pair.at_loss(upper).clamp(start, to) };
            (cell, std::mem::replace(&mut start, end), end)
        })
    }

    fn split(&mut self, from: f64, to: f64) {
        let (to_lower, to_upper) = (self.interval.exp_m1().recip(), (-(-self.interval).exp_m1()).recip());
        for (cell, start, end) in self.cells(from, to) {
            if end <= start {
                continue;
            }
            let (below, above) = (self.loss(cell), self.loss(cell + 1));
            let (mut lower, mut upper) = (0.0, 0.0);
            self.each(start, end, |t, weight| {
                let (loss, density) = self.pair.loss_and_density(t);
                lower += weight * density * (above - loss).exp_m1();
                upper -= weight * density * (below - loss).exp_m1();
            });
            self.masses[cell] += lower * to_lower;
            self.masses[cell + 1] += upper * to_upper;
        }
        // At the very ends of a cell rounding may leave less than nothing.
        self.masses.iter_mut().for_each(|mass| *mass = mass.max(0.0));
    }

    #[cfg(test)]
    fn round_up(&mut self, from: f64, to: f64) {
        for (cell, start, end) in self.cells(from, to) {
            if end > start {
                let mut mass = 0.0;
                self.each(start, end, |t, weight| mass += weight * self.pair.loss_and_density(t).1);
                self.masses[cell + 1] += mass;
            }
        }
    }

    fn merge(&mut self, from: f64, to: f64) {
        // The lowest outputs are merged as they come, and their loss sets the grid: where nearly all outputs
        // have about the same loss, which is so for rare sampling, all of them count.
        let mut start = self.pair.at_loss(self.pair.loss(from) + self.interval / 2.0).clamp(from, to);
        let (mut mass, mut excess) = (0.0, 0.0);
        self.each(from, start, |t, weight| {
            let (loss, density) = self.pair.loss_and_density(t);
            mass += weight * density;
            excess -= weight * density * (-loss).exp_m1();
        });
        let lowest = -(-excess / mass).ln_1p();
        if !lowest.is_finite() {
            return;
        }
        self.offset = self.first.mul_add(-self.interval, lowest);
        self.masses[0] = mass;
        for index in 1..self.masses.len() {
            if start >= to {
                break;
            }
            let Some((end, mass)) = self.merged(index, start, to) else {
                // What is left has a loss between this point and the one before.
                let mut mass = 0.0;
                self.each(start, to, |t, weight| mass += weight * self.pair.loss_and_density(t).1);
                self.masses[index - 1] += mass;
                break;
            };
            self.masses[index] = mass;
            start = end;
        }
    }

    /// The least threshold after `start` at which the outputs between have the loss of `index` or more, and
    /// their mass. `None` where not even all outputs up to `to` have it.
    fn merged(&self, index: usize, start: f64, to: f64) -> Option<(f64, f64)> {
        let target = self.loss(index);
        // The mass of the outputs between two points, and what their odds have above those of the target.
        let between = |from: f64, to: f64| {
            let (mut mass, mut excess) = (0.0, 0.0);
            self.each(from, to, |t, weight| {
                let (loss, density) = self.pair.loss_and_density(t);
                mass += weight * density;
                excess -= weight * density * (target - loss).exp_m1();
            });
            (mass, excess)
        };
        let level = self.pair.at_loss(target).clamp(start, to);
        let next = self.pair.at_loss(target + self.interval).clamp(level, to);
        let below = if level > start { between(start, level) } else { (0.0, 0.0) };
        let up_to = |end: f64| {
            let above = if end > level { between(level, end) } else { (0.0, 0.0) };
            (below.0 + above.0, below.1 + above.1)
        };
        // What is merged up to `low` has too low a loss, and up to `high` a loss that is high enough.
        let (mut low, mut high) = (level, None);
        let mut end = level + (next - level) / 2.0;
        for _ in 0..SEARCH_STEPS {
            let found = up_to(end);
            let slack = MERGE_SLACK * self.interval * found.0;
            if found.1 >= slack / 2.0 {
                high = Some((end, found.0));
                if found.1 <= slack {
                    break;
                }
            } else if end >= to {
                break;
            } else {
                low = end;
            }
            let (loss, density) = self.pair.loss_and_density(end);
            let newton = end + (0.75 * slack - found.1) / (-(target - loss).exp_m1() * density);
            end = match high {
                Some((high, _)) if newton > low && newton < high => newton,
                Some((high, _)) => low + (high - low) / 2.0,
                None if newton > low && newton < low + 2.0 * (low - start) => newton,
                None => low + (next - level).max(low - start),
            };
            end = end.min(to);
        }
        high
    }
}
