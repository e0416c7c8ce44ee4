//! Which recurrences undo each other, so that a plan runs neither.
//!
//! A recurrence followed by its inverse is the identity in exact arithmetic. In floating point the pair is
//! not: where the first grows, the second takes the difference of large numbers, in which the values that
//! came in are lost.

use super::plan::{Rows, Scale, Stage, clip};

impl Stage {
    /// Whether this recurrence and `other`, one after the other in either order, are the identity by their
    /// parameters.
    pub(super) fn undoes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scale(a), Self::Scale(b)) => a.undoes(b),
            (Self::PrefixSum { inverse: a }, Self::PrefixSum { inverse: b }) => a != b,
            (
                Self::Momentum { momentum: m, learning_rates: rates, inverse: a },
                Self::Momentum { momentum: other_m, learning_rates: other_rates, inverse: b },
            ) => a != b && m == other_m && same_schedule(rates, other_rates),
            (Self::Banded { rows, inverse: a }, Self::Banded { rows: other, inverse: b }) => {
                a != b && rows.are(other)
            }
            // The first difference is the inverse of the prefix sum.
            (Self::PrefixSum { inverse: a }, Self::Banded { rows, inverse: b })
            | (Self::Banded { rows, inverse: b }, Self::PrefixSum { inverse: a }) => {
                a == b && matches!(rows, Rows::Toeplitz(coef) if without_zeros(coef) == [1.0, -1.0])
            }
            (
                Self::Blt { buf_decay: theta, output_scale: w, inverse: a },
                Self::Blt { buf_decay: other_theta, output_scale: other_w, inverse: b },
            ) => a != b && theta == other_theta && w == other_w,
            _ => false,
        }
    }
}

impl Scale {
    fn undoes(&self, other: &Self) -> bool {
        let mut steps = self.distinct_steps().chain(other.distinct_steps());
        if self.reciprocal != other.reciprocal {
            return steps.all(|step| self.value(step) == other.value(step));
        }
        let exactly_one = |step| {
            let (a, b) = (self.at(step), other.at(step));
            a * b == 1.0 && a.mul_add(b, -1.0) == 0.0
        };
        steps.all(exactly_one)
    }
}

impl Rows {
    /// Whether these are the entries of the same matrix.
    fn are(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Toeplitz(a), Self::Toeplitz(b)) => without_zeros(a) == without_zeros(b),
            (Self::Columns(a), Self::Columns(b)) => {
                let n = a.len();
                let within = |(j, column): (usize, &Vec<f64>)| column.len().min(n - j);
                n == b.len()
                    && a.iter()
                        .enumerate()
                        .zip(b.iter().enumerate())
                        .all(|(a, b)| without_zeros(&a.1[..within(a)]) == without_zeros(&b.1[..within(b)]))
            }
            // A row may be written to the diagonal, or with the zeros right of it.
            (Self::Dense(a), Self::Dense(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).enumerate().all(|(i, (a, b))| a[..=i] == b[..=i])
            }
            (Self::Toeplitz(_) | Self::Columns(_) | Self::Dense(_), _) => false,
        }
    }
}

fn without_zeros(values: &[f64]) -> &[f64] {
    let end = values.iter().rposition(|&value| value != 0.0).map_or(0, |last| last + 1);
    &values[..end]
}

/// Whether two lists whose last entries repeat give every step the same number.
fn same_schedule(a: &[f64], b: &[f64]) -> bool {
    (0..a.len().max(b.len()) as u64).all(|step| a[clip(step, a.len())] == b[clip(step, b.len())])
}
