//! The state of a [`StreamingMatrix`] on one tree.

use std::any::Any;
use std::sync::Arc;

use ndarray::{ArrayViewD, IxDyn};

use super::array::ArrayImplementation;
use super::{Repr, StreamingMatrix};
use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::kernel::{Backend, LaneState, Pass, Real, decode, encode};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::{Layout, Shard, Tree, TreeValues};

/// The state of a matrix between two steps.
#[derive(Debug)]
pub struct MultiplyState {
    tree: Tree,
    layout: Layout,
    step: u64,
    form: Form,
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
        Ok(Self { tree: tree.clone(), layout, step: 0, form })
    }

    /// The step that comes next.
    pub fn step(&self) -> u64 {
        self.step
    }

    pub(super) fn multiply_next(&mut self, x: &TreeValues) -> Result<TreeValues> {
        if x.tree() != &self.tree {
            return Err(Error::invalid("x", "is not of the tree that this state was made for"));
        }
        self.check_horizon()?;
        let mut output = TreeValues::zeros(self.tree.clone());
        match &mut self.form {
            Form::Fused(lanes) => lanes.apply(self.step, &self.layout, x.as_bytes(), output.as_bytes_mut()),
            Form::Staged { layout, factors } => {
                staged(&self.tree, &self.layout, layout, factors, self.step, x, &mut output)?;
            }
        }
        self.step += 1;
        Ok(output)
    }

    fn check_horizon(&self) -> Result<()> {
        let ends = match &self.form {
            Form::Fused(lanes) => lanes.plan.horizon(),
            Form::Staged { factors, .. } => factors.iter().filter_map(Factor::horizon).min(),
        };
        match ends.filter(|&horizon| self.step >= horizon) {
            Some(horizon) => Err(Error::PastHorizon { requested: self.step, horizon }),
            None => Ok(()),
        }
    }
}

/// Appends the factors of a matrix, the first applied first.
fn append(matrix: &StreamingMatrix, tree: &Tree, layout: &Layout, factors: &mut Vec<Factor>) -> Result<()> {
    match &matrix.repr {
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
    x: &TreeValues,
    output: &mut TreeValues,
) -> Result<()> {
    let mut values = vec![0.0; layout.lanes()];
    for span in layout.spans(0..layout.lanes()) {
        decode(span.dtype, &x.as_bytes()[span.bytes], &mut values[span.lanes]);
    }
    for factor in factors {
        factor.apply(tree, flat, step, &mut values)?;
    }
    for span in layout.spans(0..layout.lanes()) {
        encode(span.dtype, &values[span.lanes], &mut output.as_bytes_mut()[span.bytes]);
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
                let mut input = vec![0; layout.byte_len()];
                encode(DType::F64, values, &mut input);
                let mut output = vec![0; layout.byte_len()];
                lanes.apply(step, layout, &input, &mut output);
                decode(DType::F64, &output, values);
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
                        return Err(Error::invalid(
                            "matrix",
                            format!("gave another shape than it was given at `{path}`"),
                        ));
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
        let state = LaneState::zeroed(precision, layout.lanes() * plan.planes());
        Ok(Self { plan, state })
    }

    fn apply(&mut self, step: u64, layout: &Layout, input: &[u8], output: &mut [u8]) {
        fn run<T: Real>(
            plan: &Plan,
            step: u64,
            layout: &Layout,
            state: &mut [T],
            input: &[u8],
            output: &mut [u8],
        ) {
            let (ops, planes) = (plan.ops(step), plan.planes());
            let pass = Pass { backend: Backend::best(), layout, ops: &ops, planes };
            pass.run(0..layout.lanes(), state, input, output, &mut []);
        }
        match &mut self.state {
            LaneState::F32(state) => run(&self.plan, step, layout, state, input, output),
            LaneState::F64(state) => run(&self.plan, step, layout, state, input, output),
        }
    }
}
