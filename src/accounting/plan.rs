//! What a composition is computed with: the tilt, the interval, the window.

use super::discretise::Pld;
use super::pair::Pair;
use super::quadrature::Rule;
use crate::limits;

/// Points of a rule in an estimate of moments.
const POINTS: u32 = 5;

/// Part of the answer that discretisation may cost: of epsilon, and of delta.
const EPSILON_COST: f64 = 3e-5;
const DELTA_COST: f64 = 3e-4;

/// Part of delta that truncation may cost.
const TRUNCATION_COST: f64 = 1e-9;

/// The least tail that is worth telling from nothing.
const LEAST_TAIL: f64 = 1e-300;

/// The logarithm of the tilted mass outside of the window.
const LN_OUTSIDE: f64 = -30.0;

/// The interval is at most this part of the standard deviation of the sum.
const COARSEST: f64 = 0.05;

/// The grid has at least so many points, about: with fewer, nothing is saved.
const FEWEST_POINTS: f64 = 8192.0;

/// Orders of moments that are looked at.
const ORDERS: (f64, f64) = (1e-6, 1e7);

/// Evaluations of a search for the best order.
const SEARCH: usize = 60;

/// What is asked of a composition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// The epsilon of a delta.
    Epsilon {
        /// The delta.
        delta: f64,
    },
    /// The delta of an epsilon.
    Delta {
        /// The epsilon.
        epsilon: f64,
    },
}

/// Everything that is chosen before a composition is computed. None of it has to be exact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The order of the exponential tilt.
    pub(super) order: f64,
    /// The distance of losses on the grid.
    pub(super) interval: f64,
    /// The mass that each round's distribution may lose.
    pub(super) tail: f64,
    /// The losses between which the sum lies, as good as always, once it is tilted.
    pub(super) window: (f64, f64),
    /// The orders at which the window's ends are checked, beyond `order`.
    pub(super) beyond: (f64, f64),
}

/// A quadrature of one pair's losses: `(ln mass, loss)`.
pub(super) struct Nodes(Vec<(f64, f64)>);

impl Nodes {
    fn new(pair: &Pair, tail: f64) -> Self {
        let (from, to) = pair.support(tail);
        let mut nodes = Vec::new();
        pair.each(&Rule::new(POINTS), from, to, |t, weight| {
            let (loss, density) = pair.loss_and_density(t);
            let mass = weight * density;
            if mass > 0.0 {
                nodes.push((mass.ln(), loss));
            }
        });
        Self(nodes)
    }

    /// The largest logarithm of a term of a moment.
    pub(super) fn peak(&self, order: f64) -> f64 {
        self.0.iter().map(|(ln_mass, loss)| order.mul_add(*loss, *ln_mass)).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The logarithm of a moment.
    fn ln_moment(&self, order: f64) -> f64 {
        let peak = self.peak(order);
        let term = |(ln_mass, loss): &(f64, f64)| (order.mul_add(*loss, *ln_mass) - peak).exp();
        peak + self.0.iter().map(term).sum::<f64>().ln()
    }

    /// The variance of the tilted loss.
    fn variance(&self, order: f64) -> f64 {
        let peak = self.peak(order);
        let (mut mass, mut mean) = (0.0, 0.0);
        let weight = |&(ln_mass, loss): &(f64, f64)| (order.mul_add(loss, ln_mass) - peak).exp();
        for node in &self.0 {
            mass += weight(node);
            mean += weight(node) * node.1;
        }
        mean /= mass;
        self.0.iter().map(|node| weight(node) * (node.1 - mean).powi(2)).sum::<f64>() / mass
    }

    fn ends(&self) -> (f64, f64) {
        self.0
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |ends, node| (ends.0.min(node.1), ends.1.max(node.1)))
    }
}

/// The quadratures of a composition's pairs, each with its number of rounds.
pub(super) struct Estimate(pub(super) Vec<(Nodes, f64)>);

impl Estimate {
    pub(super) fn new(pairs: &[(Pair, u32)], question: Question) -> Self {
        let rounds: f64 = pairs.iter().map(|(_, rounds)| f64::from(*rounds)).sum();
        let tail = match question {
            Question::Epsilon { delta } => (TRUNCATION_COST * delta / rounds).max(LEAST_TAIL),
            Question::Delta { .. } => LEAST_TAIL,
        };
        Self(pairs.iter().map(|(pair, rounds)| (Nodes::new(pair, tail), f64::from(*rounds))).collect())
    }

    fn sum(&self, of: impl Fn(&Nodes) -> f64) -> f64 {
        self.0.iter().map(|(nodes, rounds)| rounds * of(nodes)).sum()
    }

    fn ln_moment(&self, order: f64) -> f64 {
        self.sum(|nodes| nodes.ln_moment(order))
    }

    /// The plan for a question. `coarseness` multiplies the interval.
    pub(super) fn plan(&self, question: Question, coarseness: f64) -> Plan {
        let rounds = self.sum(|_| 1.0);
        let (order, ln_delta) = match question {
            Question::Epsilon { delta } => {
                let order = least(ORDERS, |order| (self.ln_moment(order) - delta.ln()) / order);
                (order, delta.ln())
            }
            Question::Delta { epsilon } => {
                let exponent = |order: f64| self.ln_moment(order) - order * epsilon;
                let order = least(ORDERS, exponent);
                (order, exponent(order).min(0.0))
            }
        };
        let variance = self.sum(|nodes| nodes.variance(order)).max(f64::MIN_POSITIVE);
        // Connecting the dots adds about h^2/6 to the variance of each round's loss.
        let cost = match question {
            Question::Epsilon { delta } => {
                EPSILON_COST * order * ((self.ln_moment(order) - delta.ln()) / order).max(0.0)
            }
            Question::Delta { .. } => DELTA_COST,
        };
        let per_order = order.max(variance.sqrt().recip());
        let fine = (12.0 * cost / rounds).sqrt() / per_order;
        let tail = (TRUNCATION_COST * (ln_delta - 4.0).exp() / rounds).clamp(LEAST_TAIL, 1e-9);
        let ((bottom, before), (top, after)) = self.window(order, variance);
        let ends = self.0.iter().fold(0.0_f64, |widest, (nodes, _)| {
            let (low, high) = nodes.ends();
            widest.max(high - low)
        });
        let widest = (top - bottom).max(ends);
        let fine = fine.min(COARSEST * variance.sqrt()).min(widest / FEWEST_POINTS);
        let interval = (coarseness * fine).max(widest / limits::MAX_ACCOUNTING_POINTS as f64);
        Plan { order, interval, tail, window: (bottom, top), beyond: (before, after) }
    }

    /// The window, each end with the order at which it is found, by Chernoff's bound for the tilted sum.
    fn window(&self, order: f64, variance: f64) -> ((f64, f64), (f64, f64)) {
        let at = self.ln_moment(order);
        let reach = (-2.0 * LN_OUTSIDE / variance).sqrt();
        let orders = (reach * 1e-3, reach * 1e2);
        let top = |more: f64| (self.ln_moment(order + more) - at - LN_OUTSIDE) / more;
        let bottom = |less: f64| (self.ln_moment(order - less) - at - LN_OUTSIDE) / less;
        let (after, before) = (least(orders, top), least(orders, bottom));
        ((-bottom(before), order - before), (top(after), order + after))
    }
}

/// Where a function of one valley is least, between two positive numbers, by golden sections of the
/// logarithm.
fn least((from, to): (f64, f64), function: impl Fn(f64) -> f64) -> f64 {
    const SECTION: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = (from.ln(), to.ln());
    let inner = |low: f64, high: f64| (high - SECTION * (high - low), low + SECTION * (high - low));
    let (mut left, mut right) = inner(low, high);
    let at = |x: f64| function(x.exp());
    let (mut at_left, mut at_right) = (at(left), at(right));
    for _ in 0..SEARCH {
        if high - low < 1e-4 {
            break;
        }
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = inner(low, high).0;
            at_left = at(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = inner(low, high).1;
            at_right = at(right);
        }
    }
    ((low + high) / 2.0).exp()
}

/// The logarithm of the moment of a composition of discrete distributions.
pub(super) fn ln_moment(plds: &[(Pld, u32)], estimate: &Estimate, order: f64) -> f64 {
    let each = plds.iter().zip(&estimate.0);
    each.map(|((pld, rounds), (nodes, _))| f64::from(*rounds) * pld.ln_moment(order, nodes.peak(order))).sum()
}
