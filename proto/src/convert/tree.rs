//! Trees, shards and number formats.

use noised::limits::MAX_LEAVES;
use noised::{DType, Error, Leaf, Precision, Result, Shard, ShardCut, Tree};

use super::{at_most, fitted};
use crate::v1;

impl From<DType> for v1::DType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::DtypeF32,
            DType::F64 => Self::DtypeF64,
            DType::Bf16 => Self::DtypeBf16,
            DType::F16 => Self::DtypeF16,
        }
    }
}

impl From<Precision> for v1::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F64 => Self::F64,
        }
    }
}

/// Reads a precision; unspecified is `None`.
///
/// # Errors
/// [`Error::Invalid`] where there is no such precision.
pub fn precision(number: i32) -> Result<Option<Precision>> {
    match v1::Precision::try_from(number) {
        Ok(v1::Precision::Unspecified) => Ok(None),
        Ok(v1::Precision::F32) => Ok(Some(Precision::F32)),
        Ok(v1::Precision::F64) => Ok(Some(Precision::F64)),
        Err(_) => Err(Error::invalid("precision", format!("{number} is not a precision"))),
    }
}

impl From<&Tree> for v1::Tree {
    fn from(tree: &Tree) -> Self {
        let leaf = |leaf: &Leaf| {
            let Leaf { path, dtype, shape } = leaf;
            v1::Leaf { path: path.clone(), dtype: v1::DType::from(*dtype).into(), shape: shape.clone() }
        };
        Self { leaves: tree.leaves().iter().map(leaf).collect() }
    }
}

impl TryFrom<v1::Tree> for Tree {
    type Error = Error;

    fn try_from(tree: v1::Tree) -> Result<Self> {
        let v1::Tree { leaves } = tree;
        at_most(leaves.len(), MAX_LEAVES, "tree.leaves", "leaves")?;
        let leaf = |(i, leaf): (usize, v1::Leaf)| {
            let v1::Leaf { path, dtype, shape } = leaf;
            let (path, shape) = (path.into_boxed_str().into_string(), fitted(shape));
            let field = || format!("tree.leaves[{i}].dtype");
            let dtype = optional_dtype(field, dtype)?.ok_or_else(|| not_a_dtype(field(), dtype))?;
            Ok(Leaf { path, dtype, shape })
        };
        Self::new(fitted(leaves.into_iter().enumerate().map(leaf).collect::<Result<_>>()?))
    }
}

impl From<Shard> for v1::Shard {
    fn from(shard: Shard) -> Self {
        let Shard { index, count, cut } = shard;
        let cut = match cut {
            ShardCut::Lanes => v1::ShardCut::Lanes,
            ShardCut::Leaves => v1::ShardCut::Leaves,
        };
        Self { index, count, cut: cut.into() }
    }
}

impl TryFrom<v1::Shard> for Shard {
    type Error = Error;

    fn try_from(shard: v1::Shard) -> Result<Self> {
        let v1::Shard { index, count, cut } = shard;
        let cut = match v1::ShardCut::try_from(cut) {
            Ok(v1::ShardCut::Unspecified | v1::ShardCut::Lanes) => ShardCut::Lanes,
            Ok(v1::ShardCut::Leaves) => ShardCut::Leaves,
            Err(_) => return Err(Error::invalid("shard.cut", format!("{cut} is no way to cut a tree"))),
        };
        Ok(Self { index, count, cut })
    }
}

/// Reads a format that may be left out.
pub(super) fn optional_dtype(field: impl Fn() -> String, number: i32) -> Result<Option<DType>> {
    match v1::DType::try_from(number) {
        Ok(v1::DType::DtypeUnspecified) => Ok(None),
        Ok(v1::DType::DtypeF32) => Ok(Some(DType::F32)),
        Ok(v1::DType::DtypeF64) => Ok(Some(DType::F64)),
        Ok(v1::DType::DtypeBf16) => Ok(Some(DType::Bf16)),
        Ok(v1::DType::DtypeF16) => Ok(Some(DType::F16)),
        Err(_) => Err(not_a_dtype(field(), number)),
    }
}

fn not_a_dtype(field: String, number: i32) -> Error {
    Error::invalid(field, format!("{number} is not one of F32, F64, BF16, F16"))
}
