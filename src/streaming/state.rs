//! The state of a [`StreamingMatrix`] on one tree.

use std::any::Any;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ndarray::{ArrayViewD, IxDyn};

use super::array::ArrayImplementation;
use super::{Repr, StreamingMatrix};
use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::kernel::{
    Aligned, Backend, Data, LaneState, Pass, PassState, Real, StepIo, Steps, decode, encode,
};
use crate::limits::{MAX_STEPS_A_PASS, TILE_LANES};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::{Layout, Shard, Tree, TreeValues};

/// The state of a matrix between two steps.
#[derive(Debug)]
pub struct MultiplyState {
    matrix: StreamingMatrix,
    tree: Tree,
    layout: Layout,
    step: u64,
    form: Form,
    /// A step broke off in the middle.
    damaged: bool,
}

#[derive(Debug)]
enum Form {
    /// The whole matrix in one pass, from bytes to bytes.
    Fused(Lanes),
    /// Factor after factor, the first applied first, over all lanes in f64.
    Staged { layout: Layout, factors: Vec<Factor> },
}

#[derive(Debug)]
enum Factor {
    Lanes(Lanes),
    Arrays { implementation: Arc<dyn ArrayImplementation>, leaves: Vec<Box<dyn Any + Send>> },
}

#[derive(Debug)]
struct Lanes {
    plan: Plan,
    state: LaneState,
}

impl MultiplyState {
    pub(super) fn new(matrix: &StreamingMatrix, tree: &Tree, precision: Precision) -> Result<Self> {
        let layout = Layout::new(tree, Shard::WHOLE)?;
        let form = match matrix.spec() {
            Some(spec) => Form::Fused(Lanes::new(spec, &layout, precision)?),
            None => {
                let layout = Layout::flat(layout.lanes(), DType::F64);
                let mut factors = Vec::new();
                append(matrix, tree, &layout, &mut factors)?;
                Form::Staged { layout, factors }
            }
        };
        Ok(Self { matrix: matrix.clone(), tree: tree.clone(), layout, step: 0, form, damaged: false })
    }

    /// The step that comes next.
    pub fn step(&self) -> u64 {
        self.step
    }

    pub(super) fn multiply(&mut self, matrix: &StreamingMatrix, steps: &mut [TreeValues]) -> Result<()> {
        if !self.matrix.is_same(matrix) {
            return Err(Error::invalid("state", "is one of another matrix"));
        }
        if steps.iter().any(|x| x.tree() != &self.tree) {
            return Err(Error::invalid("x", "is not of the tree that this state was made for"));
        }
        if self.damaged {
            return Err(Error::damaged("a step broke off in the middle of its computation"));
        }
        self.check_horizon(steps.len() as u64)?;
        // Taken back at the end: an error or a panic on the way leaves it.
        self.damaged = true;
        match &mut self.form {
            Form::Fused(lanes) => {
                let mut step = self.step;
                for steps in steps.chunks_mut(MAX_STEPS_A_PASS) {
                    lanes.apply(step, &self.layout, steps.iter_mut().map(TreeValues::as_bytes_mut));
                    step += steps.len() as u64;
                }
            }
            Form::Staged { layout, factors } => {
                for (step, x) in (self.step..).zip(steps.iter_mut()) {
                    staged(&self.tree, &self.layout, layout, factors, step, x)?;
                }
            }
        }
        self.step += steps.len() as u64;
        self.damaged = false;
        Ok(())
    }

    fn check_horizon(&self, steps: u64) -> Result<()> {
        let ends = match &self.form {
            Form::Fused(lanes) => lanes.plan.horizon(),
            Form::Staged { factors, .. } => factors.iter().filter_map(Factor::horizon).min(),
        };
        match ends.filter(|&horizon| self.step + steps > horizon) {
            Some(horizon) => Err(Error::PastHorizon { requested: self.step.max(horizon), horizon }),
            None => Ok(()),
        }
    }
}

/// Appends the factors of a matrix, the first applied first.
fn append(matrix: &StreamingMatrix, tree: &Tree, layout: &Layout, factors: &mut Vec<Factor>) -> Result<()> {
    match &*matrix.repr {
        Repr::Spec(spec) => factors.push(Factor::Lanes(Lanes::new(spec, layout, Precision::F64)?)),
        Repr::Array(implementation) => factors.push(Factor::Arrays {
            implementation: Arc::clone(implementation),
            leaves: (0..tree.leaves().len()).map(|i| implementation.init(&tree.leaf_shape(i))).collect(),
        }),
        Repr::Product(product) => {
            for factor in product.iter().rev() {
                append(factor, tree, layout, factors)?;
            }
        }
    }
    Ok(())
}

fn staged(
    tree: &Tree,
    layout: &Layout,
    flat: &Layout,
    factors: &mut [Factor],
    step: u64,
    x: &mut TreeValues,
) -> Result<()> {
    let mut values = vec![0.0; layout.lanes()];
    for span in layout.spans(0..layout.lanes()) {
        decode(span.dtype, &x.as_bytes()[span.bytes], &mut values[span.lanes]);
    }
    for factor in factors {
        factor.apply(tree, flat, step, &mut values)?;
    }
    for span in layout.spans(0..layout.lanes()) {
        encode(span.dtype, &values[span.lanes], &mut x.as_bytes_mut()[span.bytes]);
    }
    Ok(())
}

impl Factor {
    fn horizon(&self) -> Option<u64> {
        match self {
            Self::Lanes(lanes) => lanes.plan.horizon(),
            Self::Arrays { .. } => None,
        }
    }

    fn apply(&mut self, tree: &Tree, layout: &Layout, step: u64, values: &mut [f64]) -> Result<()> {
        match self {
            Self::Lanes(lanes) => {
                lanes.apply(step, layout, [bytemuck::cast_slice_mut(values)]);
                Ok(())
            }
            Self::Arrays { implementation, leaves } => {
                for (i, state) in leaves.iter_mut().enumerate() {
                    let lanes = tree.leaf_lanes(i);
                    let of_leaf = &mut values[lanes.start as usize..lanes.end as usize];
                    let shape = tree.leaf_shape(i);
                    let x =
                        ArrayViewD::from_shape(IxDyn(&shape), of_leaf).map_err(|e| Error::invalid("x", e))?;
                    let y = implementation.next(x, state.as_mut()).filter(|y| y.shape() == shape);
                    let Some(y) = y else {
                        let path = &tree.leaves()[i].path;
                        return Err(Error::damaged(format!(
                            "the matrix gave another shape than it was given at `{path}`"
                        )));
                    };
                    of_leaf.iter_mut().zip(&y).for_each(|(value, y)| *value = *y);
                }
                Ok(())
            }
        }
    }
}

impl Lanes {
    fn new(spec: &MatrixSpec, layout: &Layout, precision: Precision) -> Result<Self> {
        let plan = Plan::new(spec)?;
        match precision {
            Precision::F32 => plan.check_representable::<f32>()?,
            Precision::F64 => plan.check_representable::<f64>()?,
        }
        let state = LaneState::zeroed(precision, layout.lanes(), plan.planes());
        Ok(Self { plan, state })
    }

    /// At most [`MAX_STEPS_A_PASS`] steps from `step` on, in place.
    fn apply<'a>(&mut self, step: u64, layout: &Layout, steps: impl IntoIterator<Item = &'a mut [u8]>) {
        fn run<'a, T: Real>(
            plan: &Plan,
            step: u64,
            layout: &Layout,
            state: &mut Aligned<T>,
            steps: impl IntoIterator<Item = &'a mut [u8]>,
        ) {
            let bytes: ArrayVec<_, MAX_STEPS_A_PASS> = steps.into_iter().collect();
            let tiles = layout.lanes().div_ceil(TILE_LANES);
            let programs: ArrayVec<_, MAX_STEPS_A_PASS> =
                (step..).take(bytes.len()).map(|step| plan.program(step, tiles)).collect();
            let io = |(program, bytes)| StepIo { program, data: Data::InPlace(bytes), digests: &mut [] };
            let steps: Steps<'_, T> = programs.iter().zip(bytes).map(io).collect();
            let pass =
                Pass { backend: Backend::best(), layout, planes: plan.planes(), lanes: 0..layout.lanes() };
            pass.run(PassState::Kept(state), steps);
        }
        match &mut self.state {
            LaneState::F32(state) => run(&self.plan, step, layout, state, steps),
            LaneState::F64(state) => run(&self.plan, step, layout, state, steps),
        }
    }
}
