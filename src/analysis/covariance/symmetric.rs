//! [`Symmetric`]: a symmetric matrix over the variables of a step, and what an assignment does to it.

use super::step::{Term, WIRE};
use crate::analysis::column::dot;

/// A symmetric matrix, both triangles, row after row.
#[derive(Clone, Debug)]
pub(super) struct Symmetric {
    size: usize,
    entries: Vec<f64>,
    row: Vec<f64>,
    /// The most that has cancelled in an entry of the diagonal, for each unit of what was left.
    cancelled: f64,
}

impl Symmetric {
    pub(super) fn zeros(size: usize) -> Self {
        Self { size, entries: vec![0.0; size * size], row: vec![0.0; size], cancelled: 0.0 }
    }

    pub(super) fn at(&self, i: usize, j: usize) -> f64 {
        self.entries[i * self.size + j]
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.entries[i * self.size..][..self.size]
    }

    pub(super) fn entries(&self) -> &[f64] {
        &self.entries
    }

    /// Takes over entries that [`Symmetric::entries`] gave.
    pub(super) fn set_entries(&mut self, entries: &[f64]) {
        self.entries.copy_from_slice(entries);
    }

    /// How much cancelled: about `2^-53` times this is the relative error of the results. Where something is
    /// not finite, so is this.
    pub(super) fn cancelled(&self) -> f64 {
        self.cancelled
    }

    /// Makes the wire a variable by itself, with `diagonal` on the diagonal.
    pub(super) fn reset_wire(&mut self, diagonal: f64) {
        self.row.fill(0.0);
        self.row[WIRE] = diagonal;
        self.write(WIRE);
    }

    pub(super) fn add_to_wire(&mut self, value: f64) {
        self.entries[WIRE * self.size + WIRE] += value;
    }

    /// Sets the row and the column `i`.
    pub(super) fn restore(&mut self, i: usize, row: &[f64]) {
        self.row.copy_from_slice(row);
        self.write(i);
    }

    fn write(&mut self, i: usize) {
        let size = self.size;
        self.entries[i * size..][..size].copy_from_slice(&self.row);
        for (row, &value) in self.entries.chunks_exact_mut(size).zip(&self.row) {
            row[i] = value;
        }
    }

    fn note(&mut self, magnitude: f64, left: f64) {
        if magnitude == 0.0 || (left > 0.0 && magnitude <= self.cancelled * left && magnitude.is_finite()) {
            return;
        }
        let ratio = if left > 0.0 { magnitude / left } else { f64::INFINITY };
        self.cancelled = self.cancelled.max(if ratio.is_nan() { f64::INFINITY } else { ratio });
    }

    /// `N K N^T`, where `N` assigns `sum_j w_j z_j` to variable `target`: what the covariance of the
    /// variables becomes.
    pub(super) fn assign(&mut self, target: usize, terms: &[Term]) {
        let size = self.size;
        let mut magnitude = 0.0;
        if let [Term { slot, weight: 1.0 }] = *terms {
            self.row.copy_from_slice(&self.entries[slot * size..][..size]);
            self.row[target] = self.row[slot];
        } else {
            self.row.fill(0.0);
            for &Term { slot, weight } in terms {
                add(&mut self.row, weight, &self.entries[slot * size..][..size]);
                magnitude += weight * weight * self.entries[slot * size + slot];
            }
            let variance = terms.iter().map(|term| term.weight * self.row[term.slot]).sum();
            self.row[target] = variance;
            self.note(magnitude, variance);
        }
        self.write(target);
    }

    /// `N^T W N`: what a quadratic form of the variables after the assignment is of those before it.
    /// `direction` gets `h = W_target` without its entry there, plus `W_target,target w`: for `W = dL/dK`, `2
    /// K h` is the derivative by `w`.
    pub(super) fn pull(&mut self, target: usize, terms: &[Term], direction: &mut [f64]) {
        let size = self.size;
        direction.copy_from_slice(&self.entries[target * size..][..size]);
        let own = std::mem::replace(&mut direction[target], 0.0);
        self.row.fill(0.0);
        self.write(target);
        terms.iter().for_each(|term| direction[term.slot] += 0.5 * own * term.weight);
        // W + h w^T + w h^T, where h has taken in half of W_target,target w. Entries on both sides of the
        // diagonal are sums of the same two products, and so the same.
        terms.iter().for_each(|term| self.row[term.slot] = term.weight);
        for r in 0..size {
            let row = &mut self.entries[r * size..][..size];
            let (w, h) = (self.row[r], direction[r]);
            if w != 0.0 {
                let before = row[r];
                for ((entry, h_c), w_c) in row.iter_mut().zip(&*direction).zip(&self.row) {
                    *entry += w * h_c + h * w_c;
                }
                let left = row[r];
                self.note(before + w * w * own, left);
            } else if h != 0.0 {
                terms.iter().for_each(|term| row[term.slot] += h * term.weight);
            }
        }
        terms.iter().for_each(|term| direction[term.slot] += 0.5 * own * term.weight);
    }

    /// `(K h)_i`.
    pub(super) fn times(&self, i: usize, h: &[f64]) -> f64 {
        dot(self.row(i), h)
    }
}

#[inline(always)]
fn add(sum: &mut [f64], weight: f64, row: &[f64]) {
    if weight != 0.0 {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
    }
}
