//! Forward duals: a number with its derivatives by `W` parameters.

use std::iter::Sum;
use std::ops::{Add, Mul};

/// A value and its derivatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dual<const W: usize> {
    pub(super) value: f64,
    pub(super) gradient: [f64; W],
}

impl<const W: usize> Dual<W> {
    pub(super) fn constant(value: f64) -> Self {
        Self { value, gradient: [0.0; W] }
    }

    /// A function of this number, by its value there and its derivative.
    pub(super) fn map(self, value: f64, derivative: f64) -> Self {
        Self { value, gradient: self.gradient.map(|g| g * derivative) }
    }

    pub(super) fn scale(self, factor: f64) -> Self {
        self.map(self.value * factor, factor)
    }

    pub(super) fn exp(self) -> Self {
        let exp = self.value.exp();
        self.map(exp, exp)
    }

    pub(super) fn ln(self) -> Self {
        self.map(self.value.ln(), 1.0 / self.value)
    }

    /// `ln(1 - exp(-x))` for a positive `x`.
    pub(super) fn ln_one_minus_exp_neg(self) -> Self {
        let one_minus = -(-self.value).exp_m1();
        self.map(one_minus.ln(), (-self.value).exp() / one_minus)
    }

    pub(super) fn square(self) -> Self {
        self.map(self.value * self.value, 2.0 * self.value)
    }
}

impl<const W: usize> Add for Dual<W> {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.value += other.value;
        self.gradient.iter_mut().zip(other.gradient).for_each(|(a, b)| *a += b);
        self
    }
}

impl<const W: usize> Mul for Dual<W> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let mut product = self.scale(other.value);
        product.gradient.iter_mut().zip(other.gradient).for_each(|(a, b)| *a += self.value * b);
        product
    }
}

impl<const W: usize> Sum for Dual<W> {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::constant(0.0), Add::add)
    }
}
