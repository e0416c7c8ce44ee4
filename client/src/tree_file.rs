//! Trees from files: the header of a `.safetensors`, or JSON.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use noised::{DType, Leaf, Tree};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The safetensors format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// A tree that was read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeFile {
    /// The tensors of floats, in the order of the file.
    pub tree: Tree,
    /// Tensors that are none, by name and format: they take no noise.
    pub skipped: Vec<(String, String)>,
}

/// Reads the tree of a `.safetensors` file, whose header alone is read, or of a JSON file:
/// `{"leaves": [{"path", "dtype", "shape"}]}`, with a `name` and an `about` for people where they are wanted.
///
/// # Errors
/// [`Error::Invalid`] on `tree` names the file and what is wrong with it, or the leaf and the rule it breaks.
pub fn read(path: &Path) -> Result<TreeFile> {
    let (leaves, skipped) = if is_safetensors(path) {
        let SafetensorsHeader { tensors, skipped } = SafetensorsHeader::read(path)?;
        let skipped = skipped.into_iter().map(|(name, dtype)| (name, format!("{dtype:?}"))).collect();
        (tensors.into_iter().map(|(leaf, _)| leaf).collect(), skipped)
    } else {
        let text = std::fs::read_to_string(path).map_err(|e| of_file(path, &e))?;
        (parse_json(&text).map_err(|e| of_file(path, &e))?, Vec::new())
    };
    Ok(TreeFile { tree: Tree::new(leaves)?, skipped })
}

fn of_file(path: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::invalid("tree", format!("{}: {what}", path.display()))
}

/// Whether a file is safetensors by its name.
pub fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

/// A tree as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonTree {
    /// For the people who read the file.
    #[serde(default, rename = "name")]
    _name: String,
    #[serde(default, rename = "about")]
    _about: String,
    leaves: Vec<Leaf>,
}

fn parse_json(text: &str) -> serde_json::Result<Vec<Leaf>> {
    Ok(serde_json::from_str::<JsonTree>(text)?.leaves)
}

/// What a `.safetensors` file holds, and where.
#[derive(Debug)]
pub struct SafetensorsHeader {
    /// The tensors of floats in the order of the file, each with its first byte in the file.
    pub tensors: Vec<(Leaf, u64)>,
    /// The others.
    pub skipped: Vec<(String, Dtype)>,
}

impl SafetensorsHeader {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `tree` names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).and_then(|file| {
            let len = file.metadata()?.len();
            Ok((file, len))
        });
        let (mut file, file_len) = file.map_err(|e| of_file(path, &e))?;
        Self::parse(&mut file, file_len).map_err(|rule| of_file(path, &rule))
    }

    fn parse(reader: &mut impl Read, file_len: u64) -> std::result::Result<Self, String> {
        let broken = |e: io::Error| format!("is not a safetensors file: {e}");
        let mut len = [0; 8];
        reader.read_exact(&mut len).map_err(broken)?;
        let len = u64::from_le_bytes(len);
        if len > MAX_HEADER {
            return Err(format!("is not a safetensors file: it has a header of {len} bytes"));
        }
        let mut text = vec![0; len as usize];
        reader.read_exact(&mut text).map_err(broken)?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|e| format!("is not a safetensors file: {e}"))?;
        let data_start = 8 + len;
        if data_start + metadata.data_len() as u64 > file_len {
            return Err("is cut short: its header tells of more than it has".to_owned());
        }
        Ok(Self::of(&metadata, data_start))
    }

    fn of(metadata: &Metadata, data_start: u64) -> Self {
        let mut header = Self { tensors: Vec::new(), skipped: Vec::new() };
        for name in metadata.offset_keys() {
            let Some(TensorInfo { dtype, shape, data_offsets: (start, _) }) = metadata.info(&name) else {
                continue;
            };
            match float(*dtype) {
                Some(float) => {
                    let shape: Vec<u64> = shape.iter().map(|&axis| axis as u64).collect();
                    header.tensors.push((Leaf::new(name, float, shape), data_start + *start as u64));
                }
                None => header.skipped.push((name, *dtype)),
            }
        }
        header
    }
}

fn float(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        Dtype::BF16 => Some(DType::Bf16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn parse(bytes: &[u8]) -> std::result::Result<SafetensorsHeader, String> {
        SafetensorsHeader::parse(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn tensors_come_in_the_order_of_the_file_and_only_floats() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},
            "b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},
            "c":{"dtype":"BF16","shape":[],"data_offsets":[32,34]}}"#;
        let parsed = parse(&file(header, 34)).unwrap();
        let start = 8 + header.len() as u64;
        let expected =
            [(Leaf::new("a", DType::F32, [2, 3]), start + 8), (Leaf::new("c", DType::Bf16, []), start + 32)];
        assert_eq!(parsed.tensors, expected);
        assert_eq!(parsed.skipped, [("b".to_owned(), Dtype::I64)]);
    }

    #[test]
    fn bad_files_are_refused() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(parse(&file(header, 7)).unwrap_err().contains("cut short"));
        assert!(parse(&file(header, 8)[..20]).is_err());
        assert!(parse(b"{}").is_err());
        assert!(parse(&u64::MAX.to_le_bytes()).is_err());
        assert!(parse(&file("[]", 0)).is_err());
    }

    #[test]
    fn json_trees() {
        let leaves = parse_json(
            r#"{"name":"tiny","about":"for a test","leaves":[{"path":"w","dtype":"bf16","shape":[4,2]}]}"#,
        );
        assert_eq!(leaves.unwrap(), [Leaf::new("w", DType::Bf16, [4, 2])]);
        let of = |dtype: &str| format!(r#"{{"leaves":[{{"path":"w","dtype":"{dtype}","shape":[]}}]}}"#);
        assert!(parse_json(&of("f32")).is_ok());
        assert!(parse_json(&of("int8")).is_err());
        assert!(parse_json(r#"{"leaf":[]}"#).is_err());
    }
}
