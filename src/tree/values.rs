//! One step's values of a tree.

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::Tree;
use crate::error::{Error, Result};
use crate::kernel::{decode, encode};

/// One step's values of a tree, as bytes laid out like a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeValues {
    tree: Tree,
    bytes: Vec<u8>,
}

impl TreeValues {
    /// All zero.
    pub fn zeros(tree: Tree) -> Self {
        let bytes = vec![0; tree.byte_len() as usize];
        Self { tree, bytes }
    }

    /// Values from a payload.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not as long as the tree's.
    pub fn from_bytes(tree: Tree, bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() as u64 != tree.byte_len() {
            let (expected, found) = (tree.byte_len(), bytes.len());
            return Err(Error::invalid("payload", format!("must have {expected} bytes, found {found}")));
        }
        Ok(Self { tree, bytes })
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The payload, to be written.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The payload, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The values of leaf `index`, widened.
    pub fn leaf(&self, index: usize) -> ArrayD<f64> {
        let range = self.tree.leaf_bytes(index);
        let mut array = ArrayD::zeros(IxDyn(&self.tree.leaf_shape(index)));
        if let Some(values) = array.as_slice_mut() {
            decode(self.tree.leaves()[index].dtype, &self.bytes[range], values);
        }
        array
    }

    /// Sets the values of leaf `index`, rounded to its format.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the shape is not the leaf's.
    pub fn set_leaf(&mut self, index: usize, values: ArrayViewD<'_, f64>) -> Result<()> {
        let leaf = &self.tree.leaves()[index];
        let shape = self.tree.leaf_shape(index);
        if values.shape() != shape {
            let rule = format!("must have the shape {shape:?}, found {:?}", values.shape());
            return Err(Error::invalid(format!("leaves[{index}]"), rule));
        }
        let range = self.tree.leaf_bytes(index);
        encode(leaf.dtype, values.as_standard_layout().as_slice().unwrap_or(&[]), &mut self.bytes[range]);
        Ok(())
    }
}
