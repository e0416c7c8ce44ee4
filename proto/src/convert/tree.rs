//! Trees, shards and number formats.

use noised::limits::MAX_LEAVES;
use noised::{DType, Error, Leaf, Precision, Result, Shard, Tree};

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
            let dtype = match v1::DType::try_from(dtype) {
                Ok(v1::DType::DtypeF32) => DType::F32,
                Ok(v1::DType::DtypeF64) => DType::F64,
                Ok(v1::DType::DtypeBf16) => DType::Bf16,
                Ok(v1::DType::DtypeF16) => DType::F16,
                Ok(v1::DType::DtypeUnspecified) | Err(_) => {
                    let rule = format!("{dtype} is not one of F32, F64, BF16, F16");
                    return Err(Error::invalid(format!("tree.leaves[{i}].dtype"), rule));
                }
            };
            Ok(Leaf { path, dtype, shape })
        };
        Self::new(fitted(leaves.into_iter().enumerate().map(leaf).collect::<Result<_>>()?))
    }
}

impl From<Shard> for v1::Shard {
    fn from(shard: Shard) -> Self {
        let Shard { index, count } = shard;
        Self { index, count }
    }
}

impl From<v1::Shard> for Shard {
    fn from(shard: v1::Shard) -> Self {
        let v1::Shard { index, count } = shard;
        Self { index, count }
    }
}
