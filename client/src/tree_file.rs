//! Trees from files: the header of a `.safetensors`, the index of a model in several of them, or JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use noised::{DType, Leaf, Tree, json};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::text_file;

/// The safetensors format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of the length before a header.
const LENGTH_BYTES: u64 = 8;

/// A tree that was read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeFile {
    /// The tensors of floats, in the order of the file.
    pub tree: Tree,
    /// Tensors of integers and truth values, by name and format. They have no gradient, so they take no
    /// noise.
    pub integers: Vec<(String, String)>,
    /// Every file that was read: the one that was named, and the files that an index names.
    pub files: Vec<PathBuf>,
}

/// Reads the tree of a `.safetensors` file, whose header alone is read; of a `.safetensors.index.json`, which
/// names several of these in its directory; or of a JSON file: `{"leaves": [{"path", "dtype", "shape"}]}`,
/// with a `name` and an `about` for people where they are wanted.
///
/// Every tensor that can have a gradient is a leaf. A tensor in a format for which there is no noise, such as
/// F8 or C64, is therefore an error, unless its name is in `skip`. Tensors in `skip` are left out, whatever
/// their format.
///
/// # Errors
/// [`Error::Invalid`] on `tree` names the file and what is wrong with it, or the leaf and the rule it breaks;
/// on `skip` a name that the file does not have.
pub fn read(path: &Path, skip: &[String]) -> Result<TreeFile> {
    let Source { mut leaves, mut others, files } =
        if is_safetensors(path) { Source::of_safetensors(path)? } else { Source::of_text(path)? };
    for name in skip {
        let before = leaves.len() + others.len();
        leaves.retain(|leaf| leaf.path != *name);
        others.retain(|(other, _)| other != name);
        if leaves.len() + others.len() == before {
            return Err(Error::invalid(
                "skip",
                format!("{}: has no tensor {}", path.display(), quoted(name)),
            ));
        }
    }
    if let Some((name, dtype)) = others.iter().find(|(_, dtype)| !is_integer(*dtype)) {
        let rule = format!(
            "the tensor {} is of {dtype:?}, and noise is of f32, f64, bf16 or f16; convert the tensor, or leave it \
             out with --skip",
            quoted(name)
        );
        return Err(of_file(path, rule));
    }
    let integers = others.into_iter().map(|(name, dtype)| (name, format!("{dtype:?}"))).collect();
    Ok(TreeFile { tree: Tree::new(leaves)?, integers, files })
}

fn of_file(path: &Path, what: impl Display) -> Error {
    Error::invalid("tree", format!("{}: {what}", path.display()))
}

/// A name from a file, which may hold anything, for an error.
fn quoted(name: &str) -> String {
    format!("`{}`", name.escape_debug())
}

/// Whether a file is safetensors by its name.
pub fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

/// What files tell of a tree.
#[derive(Debug, Default)]
struct Source {
    leaves: Vec<Leaf>,
    others: Vec<(String, Dtype)>,
    files: Vec<PathBuf>,
}

impl Source {
    fn of_safetensors(path: &Path) -> Result<Self> {
        let SafetensorsHeader { tensors, others } = SafetensorsHeader::read(path)?;
        let leaves = tensors.into_iter().map(|(leaf, _)| leaf).collect();
        Ok(Self { leaves, others, files: vec![path.to_owned()] })
    }

    fn of_text(path: &Path) -> Result<Self> {
        let text = text_file::read(path).map_err(|e| of_file(path, e))?;
        let value = json::from_str(&text, "tree").map_err(|error| match error {
            noised::Error::Invalid { field, rule } => {
                Error::invalid(field, format!("{}: {rule}", path.display()))
            }
            other => other.into(),
        })?;
        if let Some(map) = value.get("weight_map") {
            return Self::of_index(path, map);
        }
        let JsonTree { leaves, .. } = serde_json::from_value(value).map_err(|e| of_file(path, e))?;
        Ok(Self { leaves, others: Vec::new(), files: vec![path.to_owned()] })
    }

    /// A model in several files: those of the index, by name, each with its tensors in their order.
    fn of_index(path: &Path, map: &Value) -> Result<Self> {
        let map = BTreeMap::<String, String>::deserialize(map)
            .map_err(|e| of_file(path, format_args!("weight_map: {e}")))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut whole = Self { files: vec![path.to_owned()], ..Self::default() };
        let shards: BTreeSet<&String> = map.values().collect();
        for shard in shards {
            // An index comes with a model from anywhere, and reads nothing but that model.
            let is_inside = Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
            if !is_inside || !is_safetensors(Path::new(shard)) {
                let rule = "must be a .safetensors file below the directory of the index";
                return Err(of_file(path, format_args!("weight_map: {} {rule}", quoted(shard))));
            }
            let shard_path = directory.join(shard);
            let part = Self::of_safetensors(&shard_path)?;
            for name in part.names() {
                if map.get(name) != Some(shard) {
                    let rule = format!("the index {} does not place the tensor there", path.display());
                    return Err(of_file(&shard_path, format_args!("{}: {rule}", quoted(name))));
                }
            }
            let found: BTreeSet<&str> = part.names().collect();
            let wanted = map.iter().filter(|(_, file)| *file == shard).map(|(name, _)| name);
            if let Some(missing) = wanted.into_iter().find(|name| !found.contains(name.as_str())) {
                let rule = format!("the index {} places the tensor there", path.display());
                return Err(of_file(&shard_path, format_args!("{} is missing: {rule}", quoted(missing))));
            }
            whole.leaves.extend(part.leaves);
            whole.others.extend(part.others);
            whole.files.extend(part.files);
        }
        Ok(whole)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let others = self.others.iter().map(|(name, _)| name.as_str());
        self.leaves.iter().map(|leaf| leaf.path.as_str()).chain(others)
    }
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

/// What a `.safetensors` file holds, and where.
#[derive(Debug)]
pub struct SafetensorsHeader {
    /// The tensors of floats in the order of the file, each with its first byte in the file.
    pub tensors: Vec<(Leaf, u64)>,
    /// The tensors of other formats.
    pub others: Vec<(String, Dtype)>,
}

impl SafetensorsHeader {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `tree` names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = opened.map_err(|e| of_file(path, e))?;
        if !metadata.is_file() {
            return Err(of_file(path, "must be a file, found something else"));
        }
        Self::parse(&mut file, metadata.len()).map_err(|rule| of_file(path, rule))
    }

    fn parse(reader: &mut impl Read, file_len: u64) -> std::result::Result<Self, String> {
        let broken = |what: &dyn Display| format!("is not a safetensors file: {what}");
        let mut length = [0; LENGTH_BYTES as usize];
        if file_len < LENGTH_BYTES {
            return Err(broken(&format_args!("it has {file_len} bytes, and the header's length takes 8")));
        }
        reader.read_exact(&mut length).map_err(|e| broken(&e))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            let rule = format_args!("a header has at most {MAX_HEADER} bytes, found a length of {length}");
            return Err(broken(&rule));
        }
        let data_start = LENGTH_BYTES + length;
        if data_start > file_len {
            return Err(format!(
                "is cut short: it has {file_len} bytes, and its header ends at {data_start}"
            ));
        }
        let mut text = vec![0; length as usize];
        reader.read_exact(&mut text).map_err(|e| broken(&e))?;
        let text = text_file::decode(text).map_err(|rule| broken(&format_args!("its header {rule}")))?;
        let header = json::from_str(&text, "header").map_err(|e| broken(&e))?;
        let metadata: Metadata = serde_json::from_value(header).map_err(|e| broken(&e))?;
        let end = data_start + metadata.data_len() as u64;
        if end > file_len {
            return Err(format!("is cut short: it has {file_len} bytes, and its tensors end at {end}"));
        }
        if end < file_len {
            return Err(format!(
                "has bytes behind its tensors: they end at {end}, and the file has {file_len} bytes"
            ));
        }
        Ok(Self::of(&metadata, data_start))
    }

    fn of(metadata: &Metadata, data_start: u64) -> Self {
        let mut header = Self { tensors: Vec::new(), others: Vec::new() };
        let mut tensors: Vec<(String, &TensorInfo)> = metadata.tensors().into_iter().collect();
        // Tensors without elements share their place, and the map that they come from has no order.
        tensors.sort_by(|(name, info), (other_name, other)| {
            info.data_offsets.cmp(&other.data_offsets).then_with(|| name.cmp(other_name))
        });
        for (name, TensorInfo { dtype, shape, data_offsets: (start, _) }) in tensors {
            match float(*dtype) {
                Some(float) => {
                    let shape: Vec<u64> = shape.iter().map(|&axis| axis as u64).collect();
                    header.tensors.push((Leaf::new(name, float, shape), data_start + *start as u64));
                }
                None => header.others.push((name, *dtype)),
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

/// Formats of which no framework has gradients. A format that is not known here may have some.
fn is_integer(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::U32
            | Dtype::I64
            | Dtype::U64
    )
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

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

    /// A file of a model with these tensors, each of 2 elements of so many bits.
    fn model(tensors: &[(&str, &str, usize)]) -> Vec<u8> {
        let mut end = 0;
        let mut entries = Vec::new();
        for (name, dtype, bits) in tensors {
            let start = end;
            end += bits / 4;
            let name = serde_json::to_string(name).unwrap();
            let offsets = format!("[{start},{end}]");
            entries.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":[2],"data_offsets":{offsets}}}"#));
        }
        file(&format!("{{{}}}", entries.join(",")), end)
    }

    fn written(directory: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn refusal(read: Result<TreeFile>) -> (String, String) {
        match read {
            Err(Error::Invalid { field, rule }) => (field, rule),
            other => panic!("{other:?}"),
        }
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.leaves().iter().map(|leaf| leaf.path.as_str()).collect()
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
        assert_eq!(parsed.others, [("b".to_owned(), Dtype::I64)]);
    }

    #[test]
    fn bad_files_are_refused() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(parse(&file(header, 8)).is_ok());
        let twice = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let inner = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"shape":[1,2]}}"#;
        let metadata = r#"{"__metadata__":{"a":"1","a":"2"}}"#;
        for (bytes, words) in [
            (file(header, 7), "cut short"),
            (file(header, 9), "behind its tensors"),
            (file("{}", 1), "behind its tensors"),
            (file(header, 8)[..20].to_vec(), "cut short"),
            (b"{}".to_vec(), "it has 2 bytes"),
            (Vec::new(), "it has 0 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "found a length of 18446744073709551615"),
            (file("[]", 0), "is not a safetensors file"),
            (file("{} x", 0), "is not JSON"),
            (file(twice, 8), "header.a: is given twice"),
            (file(inner, 8), "header.a.shape: is given twice"),
            (file(metadata, 0), "header.__metadata__.a: is given twice"),
        ] {
            let rule = parse(&bytes).unwrap_err();
            assert!(rule.contains(words), "{words}: {rule}");
        }
    }

    #[test]
    fn formats_without_noise_are_refused_unless_they_are_left_out() {
        let directory = TempDir::new().unwrap();
        let formats = [
            ("F8_E4M3", 8),
            ("F8_E5M2", 8),
            ("F8_E8M0", 8),
            ("F8_E4M3FNUZ", 8),
            ("F8_E5M2FNUZ", 8),
            ("F4", 4),
            ("C64", 64),
        ];
        for (dtype, bits) in formats {
            let bytes = model(&[("w", "F32", 32), ("odd", dtype, bits), ("b", "F16", 16)]);
            let path = written(&directory, "model.safetensors", &bytes);
            let (field, rule) = refusal(read(&path, &[]));
            assert_eq!(field, "tree");
            assert!(rule.contains("`odd`") && rule.contains(dtype) && rule.contains("--skip"), "{rule}");
            let skipped = read(&path, &["odd".into()]).unwrap();
            assert_eq!((paths(&skipped.tree), skipped.integers), (vec!["w", "b"], vec![]), "{dtype}");
        }
    }

    #[test]
    fn integers_take_no_noise_and_are_told() {
        let directory = TempDir::new().unwrap();
        for (dtype, bits) in [("BOOL", 8), ("U8", 8), ("I8", 8), ("I16", 16), ("U32", 32), ("I64", 64)] {
            let path =
                written(&directory, "m.safetensors", &model(&[("ids", dtype, bits), ("w", "F64", 64)]));
            let TreeFile { tree, integers, files } = read(&path, &[]).unwrap();
            assert_eq!((paths(&tree), integers), (vec!["w"], vec![("ids".to_owned(), dtype.to_owned())]));
            assert_eq!(files, std::slice::from_ref(&path));
            assert_eq!(read(&path, &["ids".into()]).unwrap().integers, []);
        }
    }

    #[test]
    fn leaves_are_left_out_by_name_from_every_kind_of_file() {
        let directory = TempDir::new().unwrap();
        let json =
            br#"{"leaves":[{"path":"w","dtype":"f32","shape":[2]},{"path":"b","dtype":"f32","shape":[]}]}"#;
        let files = [
            written(&directory, "t.json", json),
            written(&directory, "m.safetensors", &model(&[("w", "F32", 32), ("b", "F32", 32)])),
        ];
        for path in files {
            assert_eq!(paths(&read(&path, &["w".into()]).unwrap().tree), ["b"]);
            let (field, rule) = refusal(read(&path, &["x\u{1b}[2J".into()]));
            assert_eq!(field, "skip");
            assert!(rule.ends_with(r"has no tensor `x\u{1b}[2J`"), "{rule}");
        }
    }

    #[test]
    fn an_index_is_the_model_of_its_files() {
        let directory = TempDir::new().unwrap();
        let shards = ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"];
        let second = written(&directory, shards[0], &model(&[("c", "F32", 32), ("ids", "I64", 64)]));
        let first = written(&directory, shards[1], &model(&[("b", "BF16", 16), ("a", "F32", 32)]));
        let index = |map: &[(&str, &str)]| {
            let map: BTreeMap<_, _> = map.iter().copied().collect();
            let text = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
            written(&directory, "model.safetensors.index.json", text.as_bytes())
        };
        let whole = [("a", shards[1]), ("b", shards[1]), ("c", shards[0]), ("ids", shards[0])];
        let path = index(&whole);
        let TreeFile { tree, integers, files } = read(&path, &[]).unwrap();
        assert_eq!(paths(&tree), ["b", "a", "c"]);
        assert_eq!((integers.len(), files), (1, vec![path, first, second]));
        let bad: [(Vec<(&str, &str)>, &str); 6] = [
            (whole[1..].to_vec(), "`a`: the index"),
            ([&whole[..], &[("d", shards[0])]].concat(), "`d` is missing"),
            ([&[("a", shards[0])], &whole[1..]].concat(), "`a`: the index"),
            ([&whole[..], &[("d", "/etc/m.safetensors")]].concat(), "below the directory"),
            ([&whole[..], &[("d", "../m.safetensors")]].concat(), "below the directory"),
            ([&whole[..], &[("d", "model.bin")]].concat(), "below the directory"),
        ];
        for (map, words) in bad {
            let (field, rule) = refusal(read(&index(&map), &[]));
            assert!(field == "tree" && rule.contains(words), "{words}: {rule}");
        }
        let path =
            written(&directory, "i.json", br#"{"weight_map":{"a":"m.safetensors","a":"n.safetensors"}}"#);
        assert_eq!(refusal(read(&path, &[])).0, "tree.weight_map.a");
        let path = written(&directory, "i.json", br#"{"weight_map":["a"]}"#);
        assert!(refusal(read(&path, &[])).1.contains("weight_map: "));
    }

    #[test]
    fn json_trees() {
        let directory = TempDir::new().unwrap();
        let read_text = |text: &str| read(&written(&directory, "tree.json", text.as_bytes()), &[]);
        let tiny =
            r#"{"name":"tiny","about":"for a test","leaves":[{"path":"w","dtype":"bf16","shape":[4,2]}]}"#;
        for text in [tiny.to_owned(), format!("\u{feff}{tiny}\n")] {
            assert_eq!(read_text(&text).unwrap().tree.leaves(), [Leaf::new("w", DType::Bf16, [4, 2])]);
        }
        let of = |dtype: &str| format!(r#"{{"leaves":[{{"path":"w","dtype":"{dtype}","shape":[]}}]}}"#);
        assert!(read_text(&of("f32")).is_ok());
        assert!(refusal(read_text(&of("int8"))).1.contains("int8"));
        assert!(refusal(read_text(r#"{"leaf":[]}"#)).1.contains("leaf"));
        assert!(refusal(read_text(&format!("{tiny} {tiny}"))).1.contains("is not JSON"));
        let twice = r#"{"leaves":[{"path":"w","dtype":"f32","path":"v","shape":[]}]}"#;
        assert_eq!(refusal(read_text(twice)).0, "tree.leaves[0].path");
        let utf16: Vec<u8> = format!("\u{feff}{tiny}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let path = written(&directory, "utf16.json", &utf16);
        assert!(refusal(read(&path, &[])).1.contains("UTF-16"));
    }
}
