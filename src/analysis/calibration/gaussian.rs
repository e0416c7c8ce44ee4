//! The privacy curve of a Gaussian mechanism, without cancellation, overflow or underflow on the way.
//!
//! With `Q` the upper tail of the unit Gaussian, `phi` its density and `R = Q / phi` (Mills' ratio),
//! `a = epsilon/mu - mu/2` and `b = a + mu`,
//!
//! ```text
//! delta = Q(a) - e^epsilon Q(b)       and, since e^epsilon phi(b) = phi(a),
//!       = phi(a) (R(a) - R(b))        and, since R'(x) = x R(x) - 1,
//!       = phi(a) * integral from a to b of (1 - x R(x))
//! ```
//!
//! The first form serves where nothing cancels in it, the second in the tail, the third where `mu` is small.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Relative slack for the rounding of a curve's value, where nothing enlarges it.
const VALUE_SLACK: f64 = 32.0 * f64::EPSILON;

/// Roundings of the curve's argument, each of which moves its logarithm by as much as the argument has digits
/// before the point.
const ARGUMENT_ROUNDINGS: f64 = 2.0 * f64::EPSILON;

/// Nodes and weights of the Gauss-Legendre rule of 16 points on `[-1, 1]`, the positive half.
const LEGENDRE: [(f64, f64); 8] = [
    (0.989_400_934_991_649_9, 0.027_152_459_411_754_096),
    (0.944_575_023_073_232_6, 0.062_253_523_938_647_894),
    (0.865_631_202_387_831_8, 0.095_158_511_682_492_79),
    (0.755_404_408_355_003, 0.124_628_971_255_533_88),
    (0.617_876_244_402_643_8, 0.149_595_988_816_576_74),
    (0.458_016_777_657_227_37, 0.169_156_519_395_002_54),
    (0.281_603_550_779_258_9, 0.182_603_415_044_923_58),
    (0.095_012_509_837_637_44, 0.189_450_610_455_068_5),
];

/// Terms of the continued fraction of Mills' ratio; at [`FROM_FRACTION`] and above they leave less than
/// rounding.
const FRACTION_TERMS: u32 = 150;

/// Where the continued fraction takes over from `erfc`.
const FROM_FRACTION: f64 = 1.5;

/// Below this distance of the two Gaussians the difference of ratios is integrated.
const SMALL_MU: f64 = 1.0;

/// `delta` at `epsilon`, rounded up by half of what [`fits`] leaves room for.
pub(super) fn delta(mu: f64, epsilon: f64) -> f64 {
    let a = epsilon / mu - mu / 2.0;
    let slack = slack(mu, a, epsilon) / 2.0;
    if in_tail(mu, a) {
        return (ln_tail(mu, a) + slack).exp().min(1.0);
    }
    let found = (upper_tail(a) - scaled_tail(mu, a)).max(0.0);
    if found <= 0.5 {
        return found * (1.0 + slack);
    }
    let rest = (upper_tail(-a) + scaled_tail(mu, a)) * (1.0 - slack);
    let found = 1.0 - rest;
    // The distance of a number over 1/2 to 1 is exact.
    if 1.0 - found > rest { found.next_up() } else { found }
}

/// Whether `delta(epsilon)` is at most `delta`, with room for rounding.
pub(super) fn fits(mu: f64, epsilon: f64, delta: f64) -> bool {
    let a = epsilon / mu - mu / 2.0;
    let slack = slack(mu, a, epsilon);
    if in_tail(mu, a) {
        return ln_tail(mu, a) <= delta.ln() - slack;
    }
    if delta <= 0.5 {
        return upper_tail(a) - scaled_tail(mu, a) <= delta * (1.0 - slack);
    }
    // Near 1 it is the distance to 1 that tells deltas apart.
    upper_tail(-a) + scaled_tail(mu, a) >= (1.0 - delta) * (1.0 + slack)
}

/// The relative error that rounding may make in a value of the curve, or in its distance to 1. The argument
/// `a` is a difference of two numbers that are rounded, and the curve's logarithm, `-a^2 / 2` in the tail,
/// falls by `1 + |a|` for each unit of it: so the slack grows with the logarithm of `delta`.
fn slack(mu: f64, a: f64, epsilon: f64) -> f64 {
    let rounded = epsilon / mu + mu / 2.0 + a.abs();
    VALUE_SLACK + ARGUMENT_ROUNDINGS * (1.0 + a.abs()) * rounded
}

fn in_tail(mu: f64, a: f64) -> bool {
    mu <= SMALL_MU || a >= FROM_FRACTION
}

/// The logarithm of `delta`.
fn ln_tail(mu: f64, a: f64) -> f64 {
    let difference = if mu <= SMALL_MU {
        let term = |&(node, weight): &(f64, f64)| {
            let at = |node: f64| one_minus_x_mills(a + mu / 2.0 * (1.0 + node));
            weight * (at(node) + at(-node))
        };
        mu / 2.0 * LEGENDRE.iter().map(term).sum::<f64>()
    } else {
        mills(a) - mills(a + mu)
    };
    -a * a / 2.0 - (2.0 * PI).sqrt().ln() + difference.ln()
}

/// `Q(x)`.
fn upper_tail(x: f64) -> f64 {
    0.5 * libm::erfc(x * FRAC_1_SQRT_2)
}

/// `e^epsilon Q(b) = phi(a) R(b)`.
fn scaled_tail(mu: f64, a: f64) -> f64 {
    (-a * a / 2.0).exp() / (2.0 * PI).sqrt() * mills(a + mu)
}

/// `R(x)`.
fn mills(x: f64) -> f64 {
    if x < FROM_FRACTION {
        upper_tail(x) * (2.0 * PI).sqrt() * (x * x / 2.0).exp()
    } else {
        1.0 / (x + rest(x))
    }
}

/// `1 - x R(x)`.
fn one_minus_x_mills(x: f64) -> f64 {
    if x < FROM_FRACTION {
        return 1.0 - x * mills(x);
    }
    let rest = rest(x);
    rest / (x + rest)
}

/// `R(x) = 1 / (x + rest)`, `rest = 1/(x + 2/(x + 3/(x + ...)))`.
fn rest(x: f64) -> f64 {
    // Of the terms left out all are about the first of them.
    let left_out = f64::from(FRACTION_TERMS + 1);
    let start = 2.0 * left_out / (x + (x * x + 4.0 * left_out).sqrt());
    (1..=FRACTION_TERMS).rev().fold(start, |rest, term| f64::from(term) / (x + rest))
}
