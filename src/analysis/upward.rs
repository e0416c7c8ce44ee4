//! Numbers that are told to be no less than they are: rounded up, and exact where f64 has them.

/// A sum without the rounding of a running total: its head, and what that lacks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Upward {
    head: f64,
    tail: f64,
}

impl Upward {
    pub(super) fn add(&mut self, value: f64) {
        let sum = self.head + value;
        // What the rounded sum lacks, exactly (Knuth's two-sum).
        let of_value = sum - self.head;
        let lacks = (self.head - (sum - of_value)) + (value - of_value);
        let tail = self.tail + lacks;
        self.head = sum + tail;
        self.tail = tail - (self.head - sum);
    }

    pub(super) fn add_square(&mut self, value: f64) {
        let square = value * value;
        self.add(square);
        self.add(value.mul_add(value, -square));
    }

    /// The least number of f64, about, that is not less.
    pub(super) fn value(self) -> f64 {
        if self.tail > 0.0 { self.head.next_up() } else { self.head }
    }

    /// The square root, rounded up.
    pub(super) fn square_root(self) -> f64 {
        let root = self.head.sqrt();
        if root.mul_add(root, -self.head) < self.tail { root.next_up() } else { root }
    }
}

/// The sum of squares.
pub(super) fn sum_of_squares(values: impl IntoIterator<Item = f64>) -> Upward {
    let mut sum = Upward::default();
    values.into_iter().for_each(|value| sum.add_square(value));
    sum
}

/// A product, rounded up.
pub(super) fn product(a: f64, b: f64) -> f64 {
    let product = a * b;
    // What the rounded product lacks, exactly where it does not underflow.
    if a.mul_add(b, -product) > 0.0 { product.next_up() } else { product }
}

/// A square root, rounded up.
pub(super) fn square_root(square: f64) -> f64 {
    Upward { head: square, tail: 0.0 }.square_root()
}

/// A quotient of positive numbers, rounded up.
pub(super) fn quotient(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    if quotient.mul_add(b, -a) < 0.0 { quotient.next_up() } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f64_has_is_exact_and_what_it_has_not_is_rounded_up() {
        assert_eq!(sum_of_squares([3.0, 4.0]).value(), 25.0);
        assert_eq!(sum_of_squares([1.0, 1e-9]).value(), 1.0_f64.next_up());
        assert_eq!(sum_of_squares([1e-9]).square_root(), 1e-9);
        assert_eq!((product(3.0, 7.0), quotient(21.0, 7.0), square_root(49.0)), (21.0, 3.0, 7.0));
        for i in 1..2000_i32 {
            let (a, b) = (f64::from(i).sqrt(), f64::from(i % 37 + 1).ln_1p());
            let (p, q, r) = (product(a, b), quotient(a, b), square_root(a));
            // The remainders are exact: what is told is not less, and the number below it is.
            assert!(a.mul_add(b, -p) <= 0.0 && a.mul_add(b, -p.next_down()) > 0.0);
            assert!(q.mul_add(b, -a) >= 0.0 && q.next_down().mul_add(b, -a) < 0.0);
            assert!(r.mul_add(r, -a) >= 0.0 && r.next_down().mul_add(r.next_down(), -a) < 0.0);
        }
    }
}
