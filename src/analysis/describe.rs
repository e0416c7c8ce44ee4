//! What a session on a matrix holds and moves.

use super::growth::{Growth, growth};
use crate::dtype::Precision;
use crate::error::Result;
use crate::matrix::{MatrixSpec, Plan};
use crate::session::SessionSpec;
use crate::tree::{Shard, Tree};

/// What a session on a matrix holds and moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// State values a lane.
    pub planes: usize,
    /// Planes that one step reads, once every plane is in use.
    pub planes_read: usize,
    /// Planes that one step writes.
    pub planes_written: usize,
    /// Whether the matrix is Toeplitz by its algebra.
    pub toeplitz: bool,
    /// The number of rows of a matrix that ends.
    pub horizon: Option<u64>,
    /// The format of state and arithmetic.
    pub precision: Precision,
    /// How values and rounding errors grow in it.
    pub growth: Growth,
    /// Figures for the tree, where there is one.
    pub tree: Option<TreeDescription>,
}

/// What a session on a matrix and a tree holds and moves, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeDescription {
    /// Lanes of the shard.
    pub lanes: u64,
    /// One step's payload.
    pub step_bytes: u64,
    /// State.
    pub state_bytes: u64,
    /// State, one step's output, digests.
    pub memory_bytes: u64,
    /// State read and written, input and output: what must move through memory in a step.
    pub moved_bytes_per_step: u64,
}

/// Tells what a session on `matrix` would hold and move, for a shard of a tree where one is given.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) names the field and the rule it breaks.
pub fn describe(
    matrix: &MatrixSpec,
    tree: Option<(&Tree, Shard)>,
    precision: Option<Precision>,
) -> Result<Description> {
    let plan = Plan::new(matrix)?;
    let (planes_read, planes_written) = plan.planes_moved();
    let default = tree.map_or(Precision::F32, |(tree, _)| tree.default_precision());
    let precision = precision.unwrap_or(default);
    let tree = match tree {
        None => None,
        Some((tree, shard)) => {
            let spec = SessionSpec { shard, precision, ..SessionSpec::new(matrix.clone(), tree.clone()) };
            let resolved = spec.resolve_whatever_grows()?;
            let cost = resolved.cost();
            let lanes = resolved.layout().lanes() as u64;
            let moved_state = (planes_read + planes_written) as u64 * lanes * precision.size() as u64;
            Some(TreeDescription {
                lanes,
                step_bytes: cost.output_bytes,
                state_bytes: cost.state_bytes,
                memory_bytes: cost.total(),
                moved_bytes_per_step: moved_state + 2 * cost.output_bytes,
            })
        }
    };
    Ok(Description {
        planes: plan.planes(),
        planes_read,
        planes_written,
        toeplitz: plan.is_toeplitz(),
        horizon: plan.horizon(),
        precision,
        growth: growth(&plan, precision, plan.horizon(), 1.0),
        tree,
    })
}
