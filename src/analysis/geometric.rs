//! Sums of powers, for any number of terms, however near to 1 the ratio is.

/// Sums over the first `n` powers of a ratio `x`, and their derivatives by the parameter of `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GeometricSums {
    /// `sum_{s < n} x^s`.
    pub(crate) plain: f64,
    /// `sum_{s < n} (n - s) x^s`: the sum of the plain sums of 1 to `n` terms.
    pub(crate) weighted: f64,
    /// The derivative of `plain`.
    pub(crate) plain_derivative: f64,
    /// The derivative of `weighted`.
    pub(crate) weighted_derivative: f64,
}

/// Both sums for `n` terms. `power(a)` gives `x^a` and its derivative.
///
/// The sums of `a + b` terms are `G_a + x^a G_b` and `H_a + b G_a + x^a H_b`: doubling takes `O(log n)`
/// operations, and where `x` is positive all that is added has one sign, in the sums and in their
/// derivatives. The textbook's `(1 - x^n) / (1 - x)` loses its digits where `x` is near 1, and its derivative
/// loses twice as many.
pub(crate) fn geometric_sums(n: u64, power: impl Fn(u64) -> (f64, f64)) -> GeometricSums {
    let mut sums = GeometricSums::default();
    let (x, x_derivative) = power(1);
    let mut terms = 0_u64;
    for bit in (0..u64::BITS - n.leading_zeros()).rev() {
        if terms > 0 {
            let (p, p_derivative) = power(terms);
            let GeometricSums { plain, weighted, plain_derivative, weighted_derivative } = sums;
            let count = terms as f64;
            sums = GeometricSums {
                plain: plain + p * plain,
                weighted: weighted + count * plain + p * weighted,
                plain_derivative: plain_derivative + p * plain_derivative + p_derivative * plain,
                weighted_derivative: weighted_derivative
                    + count * plain_derivative
                    + p * weighted_derivative
                    + p_derivative * weighted,
            };
            terms *= 2;
        }
        if n >> bit & 1 == 1 {
            sums.plain_derivative = x * sums.plain_derivative + x_derivative * sums.plain;
            sums.plain = 1.0 + x * sums.plain;
            sums.weighted += sums.plain;
            sums.weighted_derivative += sums.plain_derivative;
            terms += 1;
        }
    }
    sums
}

/// The sums of the powers of `x = exp(-rate)`, with derivatives by the rate.
pub(crate) fn of_rate(rate: f64, n: u64) -> GeometricSums {
    geometric_sums(n, |a| {
        let count = a as f64;
        let power = (-count * rate).exp();
        (power, -count * power)
    })
}

/// The sums of the powers of a number in `[-1, 1]`.
pub(crate) fn of_ratio(ratio: f64, n: u64) -> GeometricSums {
    geometric_sums(n, |a| (power(ratio, a), 0.0))
}

/// `x^a` by repeated squaring.
pub(crate) fn power(x: f64, mut a: u64) -> f64 {
    let (mut result, mut square) = (1.0, x);
    while a > 0 {
        if a & 1 == 1 {
            result *= square;
        }
        square *= square;
        a >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_a_loop() {
        for rate in [1e-14, 1e-6, 0.003, 0.5, 4.0, 40.0] {
            for n in [0, 1, 2, 3, 7, 64, 1000] {
                let (mut plain, mut weighted, mut by_rate, mut weighted_by_rate) = (0.0, 0.0, 0.0, 0.0);
                for s in (0..n).rev() {
                    let (s, left) = (s as f64, (n - s) as f64);
                    let power = (-s * rate).exp();
                    plain += power;
                    weighted += left * power;
                    by_rate -= s * power;
                    weighted_by_rate -= left * s * power;
                }
                let sums = of_rate(rate, n);
                let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-13 * b.abs(), "{rate} {n}: {a} {b}");
                close(sums.plain, plain);
                close(sums.weighted, weighted);
                close(sums.plain_derivative, by_rate);
                close(sums.weighted_derivative, weighted_by_rate);
                close(of_ratio((-rate).exp(), n).weighted, weighted);
            }
        }
        assert_eq!(of_ratio(1.0, 10_000_000).weighted, 10_000_000.0 * 10_000_001.0 / 2.0);
        assert_eq!(of_ratio(0.0, 9), GeometricSums { plain: 1.0, weighted: 9.0, ..GeometricSums::default() });
        assert_eq!(of_ratio(-1.0, 9).plain, 1.0);
    }
}
