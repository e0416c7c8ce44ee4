//! How probable a statistic is.
//!
//! Tails are computed from their own side, so that a p-value of 1e-20 has digits. Functions give
//! probabilities in `[0, 1]`, and take infinite statistics.

use std::f64::consts::SQRT_2;

use statrs::function::beta::checked_beta_reg;
use statrs::function::erf::erfc;
use statrs::function::gamma::{checked_gamma_lr, checked_gamma_ur};

/// The shape beyond which a gamma law is taken to a normal one: series and fractions get long, and are not
/// needed.
const LARGE_SHAPE: f64 = 1e4;

/// `P(Z > x)` of a standard normal.
pub(crate) fn normal_above(x: f64) -> f64 {
    0.5 * erfc(x / SQRT_2)
}

/// `P(|Z| >= |x|)` of a standard normal.
pub(crate) fn normal_two_sided(x: f64) -> f64 {
    erfc(x.abs() / SQRT_2)
}

/// Twice the smaller of two tails.
pub(crate) fn two_sided(below: f64, above: f64) -> f64 {
    (2.0 * below.min(above)).min(1.0)
}

/// The p-value of the smallest of `count` p-values (Šidák): `1 - (1 - p)^count`. Tails of normals with any
/// correlation are no larger.
pub(crate) fn smallest_of(p: f64, count: f64) -> f64 {
    -(count * (-p).ln_1p()).exp_m1()
}

/// The normal score of `x` under chi-square with `k` degrees of freedom (Wilson and Hilferty, 1931). Its
/// error is of the order `1/k` to far in the tails.
pub(crate) fn chi_square_score(x: f64, k: f64) -> f64 {
    let variance = 2.0 / (9.0 * k);
    ((x / k).cbrt() - (1.0 - variance)) / variance.sqrt()
}

/// `P(X <= x)` and `P(X > x)` of chi-square with `k > 0` degrees of freedom.
pub(crate) fn chi_square_tails(x: f64, k: f64) -> (f64, f64) {
    if x <= 0.0 {
        return (0.0, 1.0);
    }
    if x == f64::INFINITY {
        return (1.0, 0.0);
    }
    if k > 2.0 * LARGE_SHAPE {
        let score = chi_square_score(x, k);
        return (normal_above(-score), normal_above(score));
    }
    let (shape, at) = (0.5 * k, 0.5 * x);
    let below = checked_gamma_lr(shape, at).unwrap_or(f64::NAN);
    let above = checked_gamma_ur(shape, at).unwrap_or(f64::NAN);
    (below.clamp(0.0, 1.0), above.clamp(0.0, 1.0))
}

/// `P(X <= count)` and `P(X >= count)` of a Poisson law: both are tails of chi-square laws.
pub(crate) fn poisson_tails(count: u64, mean: f64) -> (f64, f64) {
    let count = count as f64;
    let (_, at_most) = chi_square_tails(2.0 * mean, 2.0 * (count + 1.0));
    let at_least = if count > 0.0 { chi_square_tails(2.0 * mean, 2.0 * count).0 } else { 1.0 };
    (at_most, at_least)
}

/// How probable two counts so far apart are that have the same mean: binomial with 1/2, both sides.
pub(crate) fn same_mean(a: u64, b: u64) -> f64 {
    let (more, less) = (a.max(b) as f64, a.min(b) as f64);
    if more + less == 0.0 {
        return 1.0;
    }
    if more + less > LARGE_SHAPE {
        return normal_two_sided((more - less) / (more + less).sqrt());
    }
    (2.0 * checked_beta_reg(more, less + 1.0, 0.5).unwrap_or(f64::NAN)).min(1.0)
}

/// `P(D >= distance)` of the Kolmogorov-Smirnov distance of `n` values: the asymptotic law, with Stephens'
/// correction.
pub(crate) fn kolmogorov_above(distance: f64, n: f64) -> f64 {
    let root = n.sqrt();
    let lambda = distance * (root + 0.12 + 0.11 / root);
    // The series converges slowly there, to 1.
    if lambda < 0.3 {
        return 1.0;
    }
    let term = |j: i32| (-2.0 * f64::from(j * j) * lambda * lambda).exp();
    let sum: f64 = (1..=20).map(|j| if j % 2 == 1 { term(j) } else { -term(j) }).sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

/// The normal score of an excess kurtosis `m_4 / m_2^2 - 3` of `n` normals (Anscombe and Glynn, 1983).
pub(crate) fn kurtosis_score(excess: f64, n: f64) -> f64 {
    let mean = -6.0 / (n + 1.0);
    let variance = 24.0 * n * (n - 2.0) * (n - 3.0) / ((n + 1.0).powi(2) * (n + 3.0) * (n + 5.0));
    let x = (excess - mean) / variance.sqrt();
    let skew = 6.0 * (n * n - 5.0 * n + 2.0) / ((n + 7.0) * (n + 9.0))
        * (6.0 * (n + 3.0) * (n + 5.0) / (n * (n - 2.0) * (n - 3.0))).sqrt();
    let a = 6.0 + 8.0 / skew * (2.0 / skew + (1.0 + 4.0 / (skew * skew)).sqrt());
    let base = 1.0 + x * (2.0 / (a - 4.0)).sqrt();
    if base <= 0.0 {
        // So far below what is expected that the transformation has no value there.
        return f64::NEG_INFINITY;
    }
    let variance = 2.0 / (9.0 * a);
    ((1.0 - variance) - ((1.0 - 2.0 / a) / base).cbrt()) / variance.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, relative: f64) {
        assert!((found / expected - 1.0).abs() < relative, "{found} {expected}");
    }

    #[test]
    fn normals() {
        close(normal_above(6.0), 9.865_876_450_377_01e-10, 1e-10);
        close(normal_two_sided(-3.0), 0.002_699_796_063_260_19, 1e-10);
        close(smallest_of(1e-12, 1000.0), 1e-9, 1e-6);
        assert_eq!(normal_two_sided(f64::INFINITY), 0.0);
        assert_eq!(smallest_of(1.0, 5.0), 1.0);
    }

    #[test]
    fn chi_squares() {
        // R: pchisq(30, 10, lower = F), pchisq(1e-3, 1), pchisq(1500, 1000, lower = F).
        close(chi_square_tails(30.0, 10.0).1, 0.000_856_641_2, 1e-6);
        close(chi_square_tails(1e-3, 1.0).0, 0.025_227_122, 1e-6);
        assert_eq!(
            (chi_square_tails(0.0, 3.0), chi_square_tails(f64::INFINITY, 3.0)),
            ((0.0, 1.0), (1.0, 0.0))
        );
        // The two ways agree where one takes over from the other, far in both tails.
        let k = 2.0 * LARGE_SHAPE;
        for deviations in [-6.0, -1.0, 1.0, 6.0] {
            let x = k + deviations * (2.0 * k).sqrt();
            let (exact, score) = (chi_square_tails(x, k), chi_square_score(x, k));
            close(exact.0, normal_above(-score), 2e-3);
            close(exact.1, normal_above(score), 2e-3);
        }
    }

    #[test]
    fn poissons() {
        close(poisson_tails(0, 5.0).0, (-5.0_f64).exp(), 1e-12);
        close(poisson_tails(2, 1.0).1, 1.0 - 2.0 * (-1.0_f64).exp(), 1e-12);
        assert_eq!(poisson_tails(0, 5.0).1, 1.0);
        let (below, above) = poisson_tails(27_000_000, 2.7e7);
        close(below, 0.5, 1e-3);
        close(above, 0.5, 1e-3);
        close(same_mean(5, 0), 2.0 / 32.0, 1e-12);
        close(same_mean(0, 30), 2.0 * 0.5_f64.powi(30), 1e-9);
        assert_eq!((same_mean(0, 0), same_mean(7, 7)), (1.0, 1.0));
        assert!(same_mean(1 << 33, 0) == 0.0);
    }

    #[test]
    fn others() {
        // Quantiles of the Kolmogorov law at 5% and 1%.
        close(kolmogorov_above(1.358_1e-4, 1e8), 0.05, 2e-3);
        close(kolmogorov_above(1.627_6e-4, 1e8), 0.01, 2e-3);
        assert_eq!(kolmogorov_above(1e-9, 1e6), 1.0);
        assert_eq!(kolmogorov_above(1.0, 1e6), 0.0);
        // Plain where there are many, and monotone.
        close(kurtosis_score((24e-10_f64).sqrt(), 1e10), 1.0, 1e-3);
        assert!(kurtosis_score(-1.2, 1e6) < -30.0 && kurtosis_score(3.0, 1e6) > 30.0);
    }
}
