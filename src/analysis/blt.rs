//! Closed forms for BLTs: what a sum over `n` steps would say, in a time that hardly depends on `n`.
//!
//! A BLT `C` with positive weights has an inverse that is a BLT with negative ones, whose decays `theta^`
//! interlace with those of `C` (arXiv 2504.21413, Theorem 1). The prefix sums of the inverse's coefficients
//! are then
//!
//! ```text
//! b_s = b_inf + sum_a beta_a theta^_a^s,   b_inf = prod_a (1 - theta_a) / (1 - theta^_a),   beta_a = |w^_a| / (1 - theta^_a),
//! ```
//!
//! with no negative term where no decay is negative. Errors are sums of their squares (arXiv 2404.16706,
//! Lemma 5.4), and with sums of powers that are formed by doubling no digit is lost where decays come near 1
//! or each other, or are 1.

use super::geometric::{GeometricSums, of_ratio, power};
use crate::error::{Error, Result};
use crate::limits::MAX_BANDS;
use crate::matrix::MatrixSpec;
use crate::matrix::strategy::invert_negative_blt;

/// A BLT with its decays distinct and falling, and none of its weights zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Blt {
    buf_decay: Vec<f64>,
    output_scale: Vec<f64>,
}

impl Blt {
    /// From decays `theta` in `[0, 1]` and as many weights `w`. Buffers of the same decay become one, and
    /// those without weight none.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `buf_decay` or `output_scale`: lengths differ or are over [`MAX_BANDS`], a
    /// number is not finite, a decay outside `[0, 1]`.
    pub fn new(buf_decay: &[f64], output_scale: &[f64]) -> Result<Self> {
        if buf_decay.len() != output_scale.len() || buf_decay.len() > MAX_BANDS {
            let (decays, scales) = (buf_decay.len(), output_scale.len());
            let rule =
                format!("must be as long as buf_decay, at most {MAX_BANDS}; found {scales} and {decays}");
            return Err(Error::invalid("output_scale", rule));
        }
        check_decays("buf_decay", buf_decay)?;
        if let Some(i) = output_scale.iter().position(|w| !w.is_finite()) {
            return Err(Error::invalid(format!("output_scale[{i}]"), "must be finite"));
        }
        let mut buffers: Vec<(f64, f64)> =
            buf_decay.iter().copied().zip(output_scale.iter().copied()).collect();
        buffers.sort_by(|a, b| b.0.total_cmp(&a.0));
        buffers.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        buffers.retain(|(_, w)| *w != 0.0);
        let (buf_decay, output_scale) = buffers.into_iter().unzip();
        Ok(Self { buf_decay, output_scale })
    }

    /// A BLT and its inverse from the decays of both, all distinct: `w_a = prod_j (theta_a - theta^_j) /
    /// prod_{j != a} (theta_a - theta_j)`, and the same the other way round (arXiv 2404.16706, Lemma 5.2;
    /// arXiv 2504.21413, Theorem 2).
    ///
    /// # Errors
    /// [`Error::Invalid`] on `buf_decay` or `inverse_buf_decay`: lengths differ, a decay outside `[0, 1]`,
    /// two alike.
    pub fn from_decay_pair(buf_decay: &[f64], inverse_buf_decay: &[f64]) -> Result<(Self, Self)> {
        if buf_decay.len() != inverse_buf_decay.len() {
            let rule = format!("must have {} entries, as many as buf_decay", buf_decay.len());
            return Err(Error::invalid("inverse_buf_decay", rule));
        }
        for (field, decays) in [("buf_decay", buf_decay), ("inverse_buf_decay", inverse_buf_decay)] {
            check_decays(field, decays)?;
            if let Some(i) = (1..decays.len()).find(|&i| decays[..i].contains(&decays[i])) {
                return Err(Error::invalid(format!("{field}[{i}]"), "must differ from the decays before it"));
            }
        }
        let weights = |own: &[f64], other: &[f64]| -> Vec<f64> {
            let weight = |a: usize| {
                let others = (0..own.len()).filter(|&j| j != a).map(|j| own[a] - own[j]);
                // In turns, so that the product neither overflows nor underflows on the way.
                let last = own[a] - other[a];
                let rest = (0..own.len()).filter(|&j| j != a).map(|j| own[a] - other[j]);
                rest.zip(others).fold(last, |product, (above, below)| product * (above / below))
            };
            (0..own.len()).map(weight).collect()
        };
        let (w, inverse_w) = (weights(buf_decay, inverse_buf_decay), weights(inverse_buf_decay, buf_decay));
        Ok((Self::new(buf_decay, &w)?, Self::new(inverse_buf_decay, &inverse_w)?))
    }

    /// The decays, falling.
    pub fn buf_decay(&self) -> &[f64] {
        &self.buf_decay
    }

    /// The weight of each decay.
    pub fn output_scale(&self) -> &[f64] {
        &self.output_scale
    }

    /// The matrix that it is.
    pub fn spec(&self) -> MatrixSpec {
        match self.buf_decay.is_empty() {
            true => MatrixSpec::Identity,
            false => MatrixSpec::BufferedToeplitz {
                buf_decay: self.buf_decay.clone(),
                output_scale: self.output_scale.clone(),
            },
        }
    }

    /// The coefficient of step `t`: 1, and from step 1 on `sum_a w_a theta_a^(t-1)` (arXiv 2404.16706, Lemma
    /// 5.1).
    pub fn coef(&self, t: u64) -> f64 {
        match t.checked_sub(1) {
            None => 1.0,
            Some(t) => self.buffers().map(|(theta, w)| w * power(theta, t)).sum(),
        }
    }

    fn buffers(&self) -> impl Iterator<Item = (f64, f64)> {
        self.buf_decay.iter().copied().zip(self.output_scale.iter().copied())
    }

    /// The inverse, by one bisection a buffer: `O(d^2)` an iteration.
    ///
    /// Its decays are the zeros of `1 + sum_a w_a / (u - theta_a)`, one between each two decays and one below
    /// the last, and its weights the residues there (arXiv 2504.21413, Theorem 1).
    ///
    /// # Errors
    /// [`Error::Invalid`] on `output_scale` where a weight is negative (zeros may then be complex numbers),
    /// or so large that a decay of the inverse is below -1.
    pub fn inverse(&self) -> Result<Self> {
        let (buf_decay, output_scale) =
            self.zeros()?.into_iter().map(|zero| (zero.decay, zero.weight)).unzip();
        Ok(Self { buf_decay, output_scale })
    }

    fn zeros(&self) -> Result<Vec<Zero>> {
        if self.output_scale.iter().any(|&w| w < 0.0) {
            let rule = "closed forms of the inverse are for BLTs without negative weights";
            return Err(Error::invalid("output_scale", rule));
        }
        // In v = -u the poles are -theta, rising with theta falling, and the weights negative.
        let theta: Vec<f64> = self.buf_decay.iter().rev().map(|theta| -theta).collect();
        let w: Vec<f64> = self.output_scale.iter().rev().map(|w| -w).collect();
        let zeros: Vec<Zero> = invert_negative_blt(&theta, &w)
            .into_iter()
            .rev()
            .map(|zero| Zero {
                decay: -(zero.pole + zero.offset),
                one_minus: (1.0 + zero.pole) + zero.offset,
                weight: -zero.weight,
            })
            .collect();
        match zeros.iter().any(|zero| zero.decay < -1.0) {
            true => Err(Error::invalid("output_scale", "so large that the inverse grows without end")),
            false => Ok(zeros),
        }
    }

    /// The squared sensitivity of the first `n` steps in a single participation: `1 + sum_ab w_a w_b (1 + ... +
    /// (theta_a theta_b)^(n-2))` (arXiv 2404.16706, Lemma 5.3).
    ///
    /// # Errors
    /// [`Error::Invalid`] on `n` where it is 0.
    pub fn sensitivity_squared(&self, n: u64) -> Result<f64> {
        check_n(n)?;
        Ok(1.0 + self.pair_sum(|ratio| of_ratio(ratio, n - 1).plain))
    }

    /// What [`Blt::sensitivity_squared`] tends to with `n`; infinite where a decay is 1.
    pub fn limit_sensitivity_squared(&self) -> f64 {
        1.0 + self.pair_sum(|ratio| 1.0 / (1.0 - ratio))
    }

    fn pair_sum(&self, powers: impl Fn(f64) -> f64) -> f64 {
        let of = |(theta, w): (f64, f64)| -> f64 {
            self.buffers().map(|(other, v)| w * v * powers(theta * other)).sum()
        };
        self.buffers().map(of).sum()
    }

    /// The largest expected squared error of the first `n` prefix sums at noise of variance 1, with this as
    /// the strategy: that of the last (arXiv 2404.16706, Lemma 5.4).
    ///
    /// # Errors
    /// [`Error::Invalid`] on `n` where it is 0; those of [`Blt::inverse`].
    pub fn max_error(&self, n: u64) -> Result<f64> {
        self.error(n, n as f64, |sums| sums.plain)
    }

    /// The mean of the expected squared errors of the first `n` prefix sums: `sum_s (n - s) b_s^2 / n`.
    ///
    /// # Errors
    /// As those of [`Blt::max_error`].
    pub fn mean_error(&self, n: u64) -> Result<f64> {
        let steps = n as f64;
        self.error(n, 0.5 * (steps + 1.0), |sums| sums.weighted / steps)
    }

    fn error(&self, n: u64, ones: f64, powers: impl Fn(GeometricSums) -> f64) -> Result<f64> {
        check_n(n)?;
        let zeros = self.zeros()?;
        let limit = self.limit(&zeros);
        let betas: Vec<(f64, f64)> =
            zeros.iter().map(|zero| (zero.decay, -zero.weight / zero.one_minus)).collect();
        let power_sum = |ratio| powers(of_ratio(ratio, n));
        let cross: f64 = betas.iter().map(|&(decay, beta)| beta * power_sum(decay)).sum();
        let squares: f64 = betas
            .iter()
            .map(|&(a, beta)| betas.iter().map(|&(b, other)| beta * other * power_sum(a * b)).sum::<f64>())
            .sum();
        Ok(limit * limit * ones + 2.0 * limit * cross + squares)
    }

    /// Where the prefix sums of the inverse's coefficients tend to.
    fn limit(&self, zeros: &[Zero]) -> f64 {
        self.buf_decay.iter().zip(zeros).map(|(theta, zero)| (1.0 - theta) / zero.one_minus).product()
    }

    /// What [`Blt::max_error`] over `n` tends to with `n`.
    ///
    /// # Errors
    /// Those of [`Blt::inverse`].
    pub fn limit_max_error(&self) -> Result<f64> {
        Ok(self.limit(&self.zeros()?).powi(2))
    }

    /// Squared sensitivity times largest error, for `n` steps in a single participation.
    ///
    /// # Errors
    /// As those of [`Blt::max_error`].
    pub fn max_loss(&self, n: u64) -> Result<f64> {
        Ok(self.sensitivity_squared(n)? * self.max_error(n)?)
    }

    /// What [`Blt::max_loss`] over `n` tends to with `n`.
    ///
    /// # Errors
    /// Those of [`Blt::inverse`]; [`Error::Invalid`] on `buf_decay` where a decay is 1: there is no limit.
    pub fn limit_max_loss(&self) -> Result<f64> {
        if self.buf_decay.first() == Some(&1.0) {
            return Err(Error::invalid("buf_decay[0]", "must be below 1: the sensitivity grows without end"));
        }
        Ok(self.limit_sensitivity_squared() * self.limit_max_error()?)
    }
}

/// A decay of the inverse.
struct Zero {
    decay: f64,
    /// 1 minus the decay, with all its digits.
    one_minus: f64,
    weight: f64,
}

fn check_n(n: u64) -> Result<()> {
    if n == 0 { Err(Error::invalid("n", "must be at least 1, found 0")) } else { Ok(()) }
}

fn check_decays(field: &str, decays: &[f64]) -> Result<()> {
    match decays.iter().position(|theta| !(0.0..=1.0).contains(theta)) {
        Some(i) => {
            Err(Error::invalid(format!("{field}[{i}]"), format!("must be in [0, 1], found {}", decays[i])))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Mechanism, query_errors, toeplitz_coefs};

    fn close(a: f64, b: f64, relative: f64) {
        assert!((a - b).abs() <= relative * b.abs() + f64::MIN_POSITIVE, "{a} {b}");
    }

    const BLTS: [(&[f64], &[f64]); 8] = [
        (&[0.9], &[0.3]),
        (&[0.99, 0.7, 0.2], &[0.05, 0.1, 0.3]),
        (&[1.0, 0.5], &[0.01, 0.3]),
        (&[1.0 - 1e-12, 1.0 - 2e-12, 0.5], &[0.01, 0.02, 0.3]),
        (&[0.8, 0.8, 0.8 - 1e-13], &[0.1, 0.05, 0.1]),
        (&[0.9, 0.0], &[0.2, 0.3]),
        (&[0.1], &[0.9]),
        (&[], &[]),
    ];

    #[test]
    fn closed_forms_are_the_sums() {
        for (decay, scale) in BLTS {
            let blt = Blt::new(decay, scale).unwrap();
            for n in [1, 2, 3, 50, 2000, 1_000_000] {
                let relative = if n > 10_000 { 1e-8 } else { 1e-10 };
                let coefs = toeplitz_coefs(&blt.spec(), n).unwrap().unwrap();
                close(blt.coef(n - 1), coefs[n as usize - 1], relative);
                close(blt.sensitivity_squared(n).unwrap(), coefs.iter().map(|c| c * c).sum(), relative);
                let errors = query_errors(Mechanism::Strategy(&blt.spec()), None, n, &|| false).unwrap();
                close(blt.max_error(n).unwrap(), errors.max(), relative);
                close(blt.mean_error(n).unwrap(), errors.mean(), relative);
            }
        }
    }

    #[test]
    fn an_inverse_is_the_inverse_and_a_pair_of_decays_is_both() {
        for (decay, scale) in BLTS {
            let blt = Blt::new(decay, scale).unwrap();
            let inverse = blt.inverse().unwrap();
            let coefs = toeplitz_coefs(&blt.spec().inverse(), 200).unwrap().unwrap();
            (0..200).for_each(|t| assert!((inverse.coef(t) - coefs[t as usize]).abs() < 1e-12));
            if blt.buf_decay().windows(2).all(|pair| pair[0] - pair[1] > 0.1)
                && inverse.buf_decay().iter().all(|theta| *theta >= 0.0)
            {
                let (again, inverse_again) =
                    Blt::from_decay_pair(blt.buf_decay(), inverse.buf_decay()).unwrap();
                let pairs = [(&again, &blt), (&inverse_again, &inverse)];
                for (a, b) in
                    pairs.into_iter().flat_map(|(a, b)| a.output_scale().iter().zip(b.output_scale()))
                {
                    close(*a, *b, 1e-10);
                }
            }
        }
    }

    #[test]
    fn limits_are_what_many_steps_come_to() {
        let blt = Blt::new(&[0.99, 0.7, 0.2], &[0.05, 0.1, 0.3]).unwrap();
        let n = 1_u64 << 40;
        close(blt.limit_sensitivity_squared(), blt.sensitivity_squared(n).unwrap(), 1e-12);
        close(blt.limit_max_error().unwrap(), blt.max_error(n).unwrap() / n as f64, 1e-9);
        close(blt.limit_max_loss().unwrap(), blt.max_loss(n).unwrap() / n as f64, 1e-9);
    }

    #[test]
    fn what_is_no_blt_is_refused() {
        let refused = |decay: &[f64], scale: &[f64]| {
            let Err(Error::Invalid { field, .. }) = Blt::new(decay, scale) else { panic!() };
            field
        };
        assert_eq!(refused(&[0.5, 1.5], &[1.0, 1.0]), "buf_decay[1]");
        assert_eq!(refused(&[-0.1], &[1.0]), "buf_decay[0]");
        assert_eq!(refused(&[f64::NAN], &[1.0]), "buf_decay[0]");
        assert_eq!(refused(&[0.5], &[f64::INFINITY]), "output_scale[0]");
        assert_eq!(refused(&[0.5], &[]), "output_scale");
        assert!(Blt::new(&[0.5], &[-0.5]).unwrap().inverse().is_err());
        assert!(Blt::new(&[0.5], &[9.0]).unwrap().inverse().is_err());
        assert!(Blt::new(&[0.5], &[0.5]).unwrap().max_error(0).is_err());
        assert!(Blt::new(&[1.0], &[0.5]).unwrap().limit_max_loss().is_err());
        assert!(Blt::from_decay_pair(&[0.5, 0.5], &[0.1, 0.2]).is_err());
    }
}
