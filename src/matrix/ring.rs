//! One step of a banded recurrence: which value of the ring is multiplied with what, and which sums are
//! formed ahead.
//!
//! What was pushed at step `i` lies in plane `i mod planes`: the ring is an index, nothing is moved.

use crate::kernel::{Banded, Push, Real};
use crate::limits::MAX_STEPS_AHEAD;

/// The steps from one sweep through a whole ring to the next, of all sums that [`Banded`] may form ahead the
/// one with the least traffic.
///
/// Of `k` steps, the first reads the ring's `m` planes and writes `k`; each later step `i` reads the sum that
/// was kept and the `i` newer values, and writes one.
pub(super) fn sweep_period(planes: usize) -> usize {
    let moved = |k: usize| {
        let (read, written) = moved_in_period(planes, k);
        read + written
    };
    let better = |best: usize, k: usize| if moved(k) * best < moved(best) * k { k } else { best };
    (1..=planes.min(MAX_STEPS_AHEAD + 1)).fold(1, better)
}

/// Planes that `k` steps from one sweep to the next read, and write.
fn moved_in_period(planes: usize, k: usize) -> (usize, usize) {
    (planes + (1..k).map(|i| i + 1).sum::<usize>(), k + k - 1)
}

/// Planes that a step reads, and writes, on average, rounded up.
pub(super) fn planes_moved(planes: usize) -> (usize, usize) {
    if planes == 0 {
        return (0, 0);
    }
    let period = sweep_period(planes);
    let (read, written) = moved_in_period(planes, period);
    (read.div_ceil(period), written.div_ceil(period))
}

/// Step `step` on the tiles whose index is `tile` modulo the period, of a matrix of `rows` rows.
///
/// Tiles take turns at sweeping the ring, so that every step costs the same.
pub(super) fn banded<T: Real>(
    planes: usize,
    rows: Option<usize>,
    step: usize,
    tile: usize,
    weight: impl Fn(usize, usize) -> T,
    push: Push,
) -> Banded<T> {
    let diagonal = weight(step, 0);
    if planes == 0 {
        let (weights, ahead) = (Vec::new(), Vec::new());
        let interleaved = true;
        return Banded {
            planes,
            interleaved,
            newest: 0,
            begun: false,
            first: 0,
            weights,
            ahead,
            diagonal,
            push,
        };
    }
    let period = sweep_period(planes);
    // Steps since this tile's last sweep.
    let since = (step + tile) % period;
    let newest = step % planes;
    // Before the ring is full, every step reads what there is.
    let full = step.checked_sub(since).is_some_and(|swept| swept >= planes);
    let begun = full && since > 0;
    let values = if begun { since } else { planes.min(step) };
    let ahead = if full && since == 0 { period - 1 } else { 0 };
    let sum_ahead = |later: usize| {
        let row = step + later;
        // Planes that a sum leaves out have a weight that is not looked at, and so has a row that does not
        // come.
        let weight = |i: usize| match rows.is_none_or(|rows| row < rows) && i >= later {
            true => weight(row, later + planes - i),
            false => T::default(),
        };
        (0..planes).map(weight).collect()
    };
    Banded {
        planes,
        // A step that does not sweep the ring moves a few planes only: each should be one long run.
        interleaved: period == 1,
        newest,
        begun,
        first: (step - values) % planes,
        weights: (1..=values).rev().map(|back| weight(step, back)).collect(),
        ahead: (1..=ahead).map(sum_ahead).collect(),
        diagonal,
        push,
    }
}

/// The same step where the ring holds just the inputs of the steps before it, and nothing that was summed
/// ahead: what a pass has that forgets its state. The order of a lane's operations is the same.
pub(super) fn replayed_banded<T: Real>(
    planes: usize,
    step: usize,
    weight: impl Fn(usize, usize) -> T,
    push: Push,
) -> Banded<T> {
    let values = planes.min(step);
    Banded {
        planes,
        interleaved: true,
        newest: if planes == 0 { 0 } else { step % planes },
        begun: false,
        first: if planes == 0 { 0 } else { (step - values) % planes },
        weights: (1..=values).rev().map(|back| weight(step, back)).collect(),
        ahead: Vec::new(),
        diagonal: weight(step, 0),
        push,
    }
}
