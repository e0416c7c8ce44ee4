//! What a step multiplies with.

/// Whether a recurrence remembers what came in or what goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Input,
    Output,
}

/// One recurrence of one step: `x` comes in and `y` goes out, a lane at a time. `fma(a, b, c)` is `a*b + c`
/// rounded once; sums run in the order that is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op<T> {
    /// `y = factor*x`.
    Scale { factor: T },
    /// `s = s + x; y = s`.
    PrefixSum,
    /// `y = x - s; s = x`.
    FirstDifference,
    /// `m = fma(momentum, m, x); r = fma(learning_rate, m, r); y = r`, with `m, r` the planes.
    Momentum { momentum: T, learning_rate: T },
    /// `m' = inverse_rate*(x - r); y = fma(-momentum, m, m'); m = m'; r = x`.
    MomentumInverse { momentum: T, inverse_rate: T },
    /// A row of a banded matrix, on a ring.
    Banded(Banded<T>),
    /// `y = x; y = fma(weights_k, s_k, y)` for each plane; then `s_k = fma(decay_k, s_k, p)` where `p` is `x`
    /// or `y`.
    Blt { weights: Vec<T>, decay: Vec<T>, push: Push },
}

/// One step of a banded recurrence: `y = fma(diagonal, x, sum)`, where `sum` starts at 0 and takes in what
/// earlier steps pushed, the oldest first: `sum = fma(weight, s, sum)`. Then `x` or `y` is pushed into the
/// plane of this step, which held the oldest.
///
/// # Sums ahead
///
/// To read the whole ring for every step is most of a step's work where the ring is long. Since the oldest
/// comes first, the sum of a later step begins with what is in the ring already. So at some steps (see
/// [`Banded::ahead`]) the ring is read once for this and the next few steps, and their sums are kept, as far
/// as they go, in the planes that those steps push into: exactly the values that nothing will need any more
/// lie there. The steps between begin with that sum and read the few values that are newer. Each lane still
/// does the same operations in the same order, so not a bit depends on where the sums begin; and no plane is
/// added.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Banded<T> {
    /// Planes in the ring.
    pub(crate) planes: usize,
    /// Whether they lie block after block and in a block plane after plane, and not plane after plane.
    pub(crate) interleaved: bool,
    /// The plane that this step pushes into; meaningless where there is none.
    pub(crate) newest: usize,
    /// Whether the sum starts with what is kept in that plane, and not with 0.
    pub(crate) begun: bool,
    /// The plane of the first weight; the others follow round the ring.
    pub(crate) first: usize,
    /// The weights, of the oldest value first.
    pub(crate) weights: Vec<T>,
    /// The weights of the sums ahead, for every value in the ring, the oldest first: `ahead[i]` belongs to
    /// the step `i + 1` later, whose sum leaves out the `i + 1` oldest and is kept in the plane `i + 1` after
    /// `newest`. Where there are any, `weights` is as long as the ring.
    pub(crate) ahead: Vec<Vec<T>>,
    pub(crate) diagonal: T,
    pub(crate) push: Push,
}

/// The recurrences of one step: for each stage of the matrix, one operation or several that tiles take in
/// turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program<T> {
    pub(crate) stages: Vec<StageOps<T>>,
}

/// A stage's operation for tile `i` is `ops[i % ops.len()]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StageOps<T> {
    pub(crate) planes: usize,
    pub(crate) ops: Vec<Op<T>>,
}

impl<T> Program<T> {
    /// Whether the state of a tile is that of its blocks, one after the other: one stage has any, and has it
    /// interleaved.
    pub(crate) fn is_block_by_block(&self) -> bool {
        let interleaved = |op: &Op<T>| !matches!(op, Op::Banded(ring) if !ring.interleaved);
        let stateful = self.stages.iter().filter(|stage| stage.planes > 0);
        stateful.clone().count() <= 1 && stateful.flat_map(|stage| &stage.ops).all(interleaved)
    }

    /// Whether it is one operation, the same for every tile.
    pub(crate) fn is_one_op(&self) -> bool {
        matches!(&self.stages[..], [stage] if stage.ops.len() == 1)
    }
}

impl<T> StageOps<T> {
    #[inline(always)]
    pub(crate) fn of_tile(&self, tile: usize) -> &Op<T> {
        &self.ops[tile % self.ops.len()]
    }
}
