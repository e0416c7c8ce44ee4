//! Trees of named leaves, shards of them, and the byte layout that a step's payload has.
//!
//! A [`Tree`] is an ordered list of named leaves: a model's parameters or gradients. One step's values of it
//! travel as safetensors lays them out: leaves back to back, little endian, in tree order, without padding. A
//! *lane* is one scalar coordinate of the flattened tree. A [`Layout`] is the run of lanes that one session
//! holds, with the map from lanes to bytes.

mod values;

pub use values::TreeValues;

use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::limits::{MAX_LANES, MAX_LEAVES, MAX_PATH_BYTES, MAX_RANK};

/// One named tensor of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// The name, unique in its tree, such as `encoder.layer.0.attention.self.query.weight`.
    pub path: String,
    /// The number format of its elements.
    pub dtype: DType,
    /// The length of each axis; empty for a scalar. An axis of length 0 makes an empty leaf.
    pub shape: Vec<u64>,
}

impl Leaf {
    /// A leaf from its parts.
    pub fn new(path: impl Into<String>, dtype: DType, shape: impl Into<Vec<u64>>) -> Self {
        Self { path: path.into(), dtype, shape: shape.into() }
    }

    /// The product of the axes, or `None` where it is more than a tree may hold.
    fn lanes(&self) -> Option<u64> {
        // The other axes of an empty leaf count as well: arrays of such a shape would overflow.
        let mut filled = self.shape.iter().filter(|&&axis| axis != 0);
        let lanes = filled.try_fold(1_u64, |product, &axis| product.checked_mul(axis))?;
        (lanes <= MAX_LANES).then_some(if self.shape.contains(&0) { 0 } else { lanes })
    }
}

/// An ordered list of named leaves, checked: paths are unique and not empty, and there is at least one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    leaves: Vec<Leaf>,
    /// The first lane of each leaf, and the number of lanes at the end.
    lane_starts: Vec<u64>,
    /// The first byte of each leaf, and the number of bytes at the end.
    byte_starts: Vec<u64>,
}

impl Tree {
    /// Checks the leaves and lays them out in the order given.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the leaf (`tree.leaves[3].shape`) and the rule that it breaks.
    pub fn new(leaves: Vec<Leaf>) -> Result<Self> {
        if leaves.is_empty() {
            return Err(Error::invalid("tree.leaves", "must not be empty"));
        }
        if leaves.len() > MAX_LEAVES {
            return Err(Error::invalid(
                "tree.leaves",
                format!("at most {MAX_LEAVES} leaves, found {}", leaves.len()),
            ));
        }
        let mut paths = HashSet::with_capacity(leaves.len());
        let mut lane_starts = Vec::with_capacity(leaves.len() + 1);
        let mut byte_starts = Vec::with_capacity(leaves.len() + 1);
        let (mut lanes, mut bytes) = (0_u64, 0_u64);
        for (i, leaf) in leaves.iter().enumerate() {
            let field = |name: &str| format!("tree.leaves[{i}].{name}");
            if leaf.path.is_empty() {
                return Err(Error::invalid(field("path"), "must not be empty"));
            }
            if leaf.path.len() > MAX_PATH_BYTES {
                return Err(Error::invalid(field("path"), format!("at most {MAX_PATH_BYTES} bytes")));
            }
            if !paths.insert(leaf.path.as_str()) {
                return Err(Error::invalid(field("path"), format!("`{}` appears twice", leaf.path)));
            }
            if leaf.shape.len() > MAX_RANK {
                return Err(Error::invalid(field("shape"), format!("at most {MAX_RANK} axes")));
            }
            lane_starts.push(lanes);
            byte_starts.push(bytes);
            let before = lanes;
            lanes = leaf
                .lanes()
                .and_then(|of_leaf| lanes.checked_add(of_leaf))
                .filter(|&total| total <= MAX_LANES)
                .ok_or_else(|| {
                    Error::invalid(field("shape"), format!("a tree holds at most {MAX_LANES} lanes"))
                })?;
            bytes += (lanes - before) * leaf.dtype.size() as u64;
        }
        if lanes == 0 {
            return Err(Error::invalid("tree.leaves", "must hold at least one lane"));
        }
        lane_starts.push(lanes);
        byte_starts.push(bytes);
        Ok(Self { leaves, lane_starts, byte_starts })
    }

    /// A tree of one leaf with one axis.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `lanes` is 0 or over the limit.
    pub fn flat(lanes: u64, dtype: DType) -> Result<Self> {
        Self::new(vec![Leaf::new("lanes", dtype, [lanes])])
    }

    /// The leaves, in tree order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Scalar coordinates of the whole tree.
    pub fn lanes(&self) -> u64 {
        self.lane_starts.last().copied().unwrap_or(0)
    }

    /// Bytes of one step's values of the whole tree.
    pub fn byte_len(&self) -> u64 {
        self.byte_starts.last().copied().unwrap_or(0)
    }

    /// Bytes that this description takes beside its own.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let Self { leaves, lane_starts, byte_starts } = self;
        let of_leaf = |leaf: &Leaf| leaf.path.len() + size_of_val(leaf.shape.as_slice());
        let lists =
            size_of_val(leaves.as_slice()) + size_of_val(&**lane_starts) + size_of_val(&**byte_starts);
        (lists + leaves.iter().map(of_leaf).sum::<usize>()) as u64
    }

    /// The lanes of leaf `index`, in the flattened tree.
    pub fn leaf_lanes(&self, index: usize) -> Range<u64> {
        self.lane_starts[index]..self.lane_starts[index + 1]
    }

    /// The bytes of leaf `index` in a step's payload.
    pub fn leaf_bytes(&self, index: usize) -> Range<usize> {
        self.byte_starts[index] as usize..self.byte_starts[index + 1] as usize
    }

    /// The length of each axis of leaf `index`.
    pub fn leaf_shape(&self, index: usize) -> Vec<usize> {
        self.leaves[index].shape.iter().map(|&axis| axis as usize).collect()
    }

    /// The precision that sessions take unless told otherwise: f64 where any leaf is f64, else f32.
    pub fn default_precision(&self) -> Precision {
        if self.leaves.iter().any(|leaf| leaf.dtype == DType::F64) { Precision::F64 } else { Precision::F32 }
    }
}

/// Which part of a tree a session holds: shard `index` of `count`.
///
/// By lanes, shard `i` of `k` of a tree of `L` lanes holds lanes `[floor(i L / k), floor((i + 1) L / k))`. By
/// leaves, it holds the leaves that begin there: each whole, and about as many lanes for each shard as the
/// leaves permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which shard, from 0.
    pub index: u32,
    /// Of how many.
    pub count: u32,
    /// Where the tree is cut.
    #[serde(default)]
    pub cut: ShardCut,
}

/// Where a tree is cut into shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardCut {
    /// Anywhere, so that shards differ by a lane at most.
    #[default]
    Lanes,
    /// Between leaves.
    Leaves,
}

impl Default for Shard {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Shard {
    /// The whole tree.
    pub const WHOLE: Self = Self::new(0, 1);

    /// Shard `index` of `count`, by lanes.
    pub const fn new(index: u32, count: u32) -> Self {
        Self { index, count, cut: ShardCut::Lanes }
    }

    /// Shard `index` of `count`, by leaves.
    pub const fn of_leaves(index: u32, count: u32) -> Self {
        Self { index, count, cut: ShardCut::Leaves }
    }

    /// The lanes of `tree` that this shard holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is no such shard, or it would be empty.
    pub fn lanes(self, tree: &Tree) -> Result<Range<u64>> {
        let Self { index, count, cut } = self;
        if count == 0 {
            return Err(Error::invalid("shard.count", "must be at least 1"));
        }
        if index >= count {
            return Err(Error::invalid(
                "shard.index",
                format!("must be less than shard.count, which is {count}"),
            ));
        }
        // 2^40 lanes times 2^32 shards does not fit 64 bits.
        let even = |i: u32| (u128::from(tree.lanes()) * u128::from(i) / u128::from(count)) as u64;
        let place = |i: u32| match cut {
            ShardCut::Lanes => even(i),
            ShardCut::Leaves => tree.lane_starts[tree.lane_starts.partition_point(|&start| start < even(i))],
        };
        let lanes = place(index)..place(index + 1);
        if lanes.is_empty() {
            let rule = match cut {
                ShardCut::Lanes => format!("more shards than the tree has lanes ({})", tree.lanes()),
                ShardCut::Leaves => format!("no leaf begins in shard {index} of {count}: take fewer shards"),
            };
            return Err(Error::invalid("shard.count", rule));
        }
        Ok(lanes)
    }
}

/// A run of lanes with one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    lane: usize,
    byte: usize,
    dtype: DType,
}

/// The lanes that a session holds and where each of them lies in a step's bytes.
///
/// Lanes and bytes are counted from the start of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Neighbouring leaves of one dtype are one run; ordered by lane.
    runs: Vec<Run>,
    lanes: usize,
    byte_len: usize,
}

/// A run of lanes with one dtype inside a range of lanes, as [`Layout::spans`] yields it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The format of these lanes.
    pub dtype: DType,
    /// The lanes, counted from the start of the range.
    pub lanes: Range<usize>,
    /// Their bytes, counted from the first byte of the range.
    pub bytes: Range<usize>,
}

impl Layout {
    /// The layout of one shard of a tree.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is no such shard, or it does not fit this machine's address space.
    pub fn new(tree: &Tree, shard: Shard) -> Result<Self> {
        let held = shard.lanes(tree)?;
        let too_large =
            || Error::invalid("tree.leaves", "the shard does not fit this machine's address space");
        let lanes = usize::try_from(held.end - held.start).map_err(|_| too_large())?;
        let mut runs: Vec<Run> = Vec::new();
        let mut byte_len = 0_usize;
        for (i, leaf) in tree.leaves().iter().enumerate() {
            let of_leaf = tree.leaf_lanes(i);
            let (start, end) = (of_leaf.start.max(held.start), of_leaf.end.min(held.end));
            if start >= end {
                continue;
            }
            if runs.last().is_none_or(|run| run.dtype != leaf.dtype) {
                runs.push(Run { lane: (start - held.start) as usize, byte: byte_len, dtype: leaf.dtype });
            }
            byte_len = usize::try_from(end - start)
                .ok()
                .and_then(|count| count.checked_mul(leaf.dtype.size()))
                .and_then(|bytes| byte_len.checked_add(bytes))
                .ok_or_else(too_large)?;
        }
        runs.shrink_to_fit();
        Ok(Self { runs, lanes, byte_len })
    }

    /// Bytes that this layout takes beside its own.
    pub(crate) fn heap_bytes(&self) -> u64 {
        size_of_val(self.runs.as_slice()) as u64
    }

    /// A layout of `lanes` lanes of one format.
    pub fn flat(lanes: usize, dtype: DType) -> Self {
        Self { runs: vec![Run { lane: 0, byte: 0, dtype }], lanes, byte_len: lanes * dtype.size() }
    }

    /// The number of lanes held.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Bytes of one step's values.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// The first byte of a lane; of `lanes()`, the number of bytes.
    pub fn byte_of_lane(&self, lane: usize) -> usize {
        match self.runs.partition_point(|run| run.lane <= lane).checked_sub(1) {
            Some(i) => self.runs[i].byte + (lane - self.runs[i].lane) * self.runs[i].dtype.size(),
            None => 0,
        }
    }

    /// The lane whose first byte is `byte`, or `None` where that byte is inside a lane.
    pub fn lane_of_byte(&self, byte: usize) -> Option<usize> {
        let (lane, rest) = self.lane_holding(byte);
        (rest == 0).then_some(lane)
    }

    /// The lane that `byte` lies in, and how many bytes into it.
    pub(crate) fn lane_holding(&self, byte: usize) -> (usize, usize) {
        match self.runs.partition_point(|run| run.byte <= byte).checked_sub(1) {
            Some(i) => {
                let (run, size) = (self.runs[i], self.runs[i].dtype.size());
                (run.lane + (byte - run.byte) / size, (byte - run.byte) % size)
            }
            None => (0, byte),
        }
    }

    /// The format of `lanes`, where it is one.
    pub(crate) fn uniform_dtype(&self, lanes: &Range<usize>) -> Option<DType> {
        let run = self.runs.partition_point(|run| run.lane <= lanes.start).checked_sub(1)?;
        let next = self.runs.get(run + 1);
        next.is_none_or(|next| next.lane >= lanes.end).then(|| self.runs[run].dtype)
    }

    /// The runs of one dtype within `lanes`, in order.
    pub fn spans(&self, lanes: Range<usize>) -> impl Iterator<Item = Span> + '_ {
        let first = self.runs.partition_point(|run| run.lane <= lanes.start).saturating_sub(1);
        let origin = self.byte_of_lane(lanes.start);
        (first..self.runs.len()).map_while(move |i| {
            let start = self.runs[i].lane.max(lanes.start);
            let end = self.runs.get(i + 1).map_or(self.lanes, |next| next.lane).min(lanes.end);
            let byte = self.byte_of_lane(start) - origin;
            let dtype = self.runs[i].dtype;
            (start < end).then(|| Span {
                dtype,
                lanes: start - lanes.start..end - lanes.start,
                bytes: byte..byte + (end - start) * dtype.size(),
            })
        })
    }
}
