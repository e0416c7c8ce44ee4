//! Two streams that should be independent of one another.

use noised::{Error, MatrixSpec, Result};

use crate::chance::same_mean;
use crate::correlations::correlation;
use crate::report::Finding;
use crate::whiten::Whitener;
use crate::{MIN_VALUES, tamed};

/// Whether two streams, of other keys or other names, have something to do with one another.
///
/// Both are whitened, and the values of the same step and lane compared: their correlation, and how often
/// they were released with the same bits. Rounded numbers meet by chance, the more the coarser they are, so
/// that this count is compared with that of values one lane apart.
#[derive(Debug)]
pub struct Independence {
    whiteners: [Whitener; 2],
    count: u64,
    products: f64,
    squares: [f64; 2],
    equal: u64,
    equal_beside: u64,
}

impl Independence {
    /// Before the first step of two streams of the same matrix, deviation and lanes.
    ///
    /// # Errors
    /// Those of [`Whitener::new`].
    pub fn new(matrix: &MatrixSpec, stddev: f64, lanes: usize) -> Result<Self> {
        let whiteners = [Whitener::new(matrix, stddev, lanes)?, Whitener::new(matrix, stddev, lanes)?];
        Ok(Self { whiteners, count: 0, products: 0.0, squares: [0.0; 2], equal: 0, equal_beside: 0 })
    }

    /// Takes the next step's released values of both.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is not one for each lane; [`Error::PastHorizon`] where the matrix has
    /// ended.
    pub fn add<T: Copy + Into<f64>>(&mut self, a: &[T], b: &[T]) -> Result<()> {
        if a.len() != b.len() {
            return Err(Error::invalid("b", format!("must have {} lanes, found {}", a.len(), b.len())));
        }
        self.equal += equal(a, b);
        if let (Some((&first, b_rest)), Some((&last, a_rest))) = (b.split_first(), a.split_last()) {
            self.equal_beside += equal(a_rest, b_rest) + equal(&[last], &[first]);
        }
        let [of_a, of_b] = &mut self.whiteners;
        let (a, b) = (of_a.step(a)?, of_b.step(b)?);
        for (a, b) in a.chunks(1024).zip(b.chunks(1024)) {
            let mut sums = [0.0; 3];
            for (&a, &b) in a.iter().zip(b) {
                let (a, b) = (tamed(a), tamed(b));
                sums[0] += a * b;
                sums[1] += a * a;
                sums[2] += b * b;
            }
            self.products += sums[0];
            self.squares[0] += sums[1];
            self.squares[1] += sums[2];
        }
        self.count += a.len() as u64;
        Ok(())
    }

    /// Takes what another one has seen, of other lanes or of other streams.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.products += other.products;
        self.squares.iter_mut().zip(other.squares).for_each(|(sum, of_other)| *sum += of_other);
        self.equal += other.equal;
        self.equal_beside += other.equal_beside;
    }

    /// What was found, for [`Report::judge`](crate::Report::judge).
    pub fn findings(&self) -> Vec<Finding> {
        let enough = self.count >= MIN_VALUES;
        let mut findings = vec![Finding::rule("pairs", self.count, format!("at least {MIN_VALUES}"), enough)];
        if enough {
            let [a, b] = self.squares;
            findings.push(correlation("correlation", self.products / (a * b).sqrt(), self.count));
            let expected = format!("about {}", self.equal_beside);
            let p_value = same_mean(self.equal, self.equal_beside);
            findings.push(Finding::chance("equal bits", self.equal as f64, expected, p_value));
        }
        findings
    }
}

/// How many have the same bits. Widening to f64 takes other bits to other bits.
fn equal<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> u64 {
    let same = |(&a, &b): (&T, &T)| u64::from(a.into().to_bits() == b.into().to_bits());
    a.iter().zip(b).map(same).sum()
}
