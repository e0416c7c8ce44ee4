//! NumPy's `.npy`: its header, and small arrays whole.
//!
//! Only the header needs a reader of its own: runs of steps are read and written as raw bytes at known places, which
//! is what keeps them out of memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use noised::tree::TreeValues;
use noised::{DType, Tree};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longer than any header of an array of numbers.
const MAX_HEADER: usize = 1 << 16;

/// What an `.npy` file holds, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    /// The file's byte at which the elements start, in C order.
    pub(crate) data_start: u64,
}

impl Header {
    /// Of a file to be written.
    pub(crate) fn new(dtype: DType, shape: Vec<u64>) -> Self {
        let mut header = Self { dtype, shape, data_start: 0 };
        header.data_start = header.to_bytes().len() as u64;
        header
    }

    /// Reads a header; the reader then stands at the first element.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(|e| e.to_string())?;
        if start[..6] != *MAGIC {
            return Err("is not an .npy file".to_owned());
        }
        let size_bytes = if start[6] == 1 { 2 } else { 4 };
        let mut size = [0; 4];
        reader.read_exact(&mut size[..size_bytes]).map_err(|e| e.to_string())?;
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_HEADER {
            return Err(format!("has a header of {size} bytes"));
        }
        let mut text = vec![0; size];
        reader.read_exact(&mut text).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&text);
        Self::parse(&text, (8 + size_bytes + size) as u64)
    }

    /// Reads the Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str, data_start: u64) -> Result<Self, String> {
        let descr = value_of(text, "descr")?.trim_start_matches(['\'', '"']);
        let descr = descr.split(['\'', '"']).next().unwrap_or_default();
        let dtype = dtype_of(descr).ok_or_else(|| format!("has elements `{descr}`; they must be floats"))?;
        let shape = value_of(text, "shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
        let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
        let shape: Vec<u64> = axes
            .map(|axis| axis.parse().map_err(|_| format!("has an axis `{axis}`")))
            .collect::<Result<_, _>>()?;
        let flat = shape.iter().filter(|&&axis| axis != 1).count() <= 1;
        if value_of(text, "fortran_order")?.starts_with("True") && !flat {
            return Err("is in Fortran order; save numpy.ascontiguousarray of it".to_owned());
        }
        Ok(Self { dtype, shape, data_start })
    }

    /// The number of elements, where memory could hold them.
    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis))
    }

    /// As NumPy writes it, padded so that the elements are aligned.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let descr = descr_of(self.dtype);
        let axes: String = self.shape.iter().map(|axis| format!("{axis}, ")).collect();
        let shape = if self.shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        let unpadded = 10 + text.len() + 1;
        text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }
}

/// What follows a key of the dictionary.
fn value_of<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let quoted = [format!("'{key}':"), format!("\"{key}\":")];
    let value =
        quoted.iter().find_map(|key| text.split_once(key.as_str())).map(|(_, value)| value.trim_start());
    value.ok_or_else(|| format!("has no `{key}` in its header"))
}

/// NumPy has no bfloat16 of its own; the ml_dtypes package writes it as two opaque bytes.
fn dtype_of(descr: &str) -> Option<DType> {
    match descr {
        "<f4" => Some(DType::F32),
        "<f8" => Some(DType::F64),
        "<f2" => Some(DType::F16),
        "<V2" | "|V2" => Some(DType::Bf16),
        _ => None,
    }
}

fn descr_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::Bf16 => "<V2",
    }
}

/// An array of f64, in C order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<u64>,
    pub(crate) values: Vec<f64>,
}

impl Array {
    /// Reads a file whole, its elements widened.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Self, String> {
        let header = Header::read(reader)?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let elements = header.elements().ok_or("has more elements than memory holds")?;
        if elements == 0 {
            return Ok(Self { shape: header.shape, values: Vec::new() });
        }
        let tree = Tree::flat(elements, header.dtype).map_err(|e| e.to_string())?;
        let (expected, found) = (tree.byte_len(), bytes.len());
        let short = |_| format!("has {found} bytes of elements where its header tells of {expected}");
        let values = TreeValues::from_bytes(tree, bytes).map_err(short)?;
        Ok(Self { shape: header.shape, values: values.leaf(0).into_iter().collect() })
    }

    /// Writes it as f64.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(path)?);
        file.write_all(&Header::new(DType::F64, self.shape.clone()).to_bytes())?;
        for value in &self.values {
            file.write_all(&value.to_le_bytes())?;
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_numpys_own() {
        // numpy.save of zeros((3, 4), '<f4'), as NumPy 2 writes it.
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }";
        let mut numpy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        numpy.extend(text.as_bytes());
        numpy.extend(" ".repeat(0x76 - text.len() - 1).as_bytes());
        numpy.push(b'\n');
        let header = Header::new(DType::F32, vec![3, 4]);
        assert_eq!(header.to_bytes(), numpy);
        assert_eq!(header.data_start, 128);
        assert_eq!(Header::read(&mut numpy.as_slice()).unwrap(), header);
    }

    #[test]
    fn headers_come_back() {
        for dtype in DType::ALL {
            for shape in [vec![], vec![0], vec![5], vec![1 << 40, 2], vec![2, 3, 4]] {
                let header = Header::new(dtype, shape);
                assert_eq!(Header::read(&mut header.to_bytes().as_slice()).unwrap(), header);
            }
        }
    }

    #[test]
    fn bad_files_are_refused() {
        let file = |dict: &str| {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((dict.len() as u16).to_le_bytes());
            bytes.extend(dict.as_bytes());
            Header::read(&mut bytes.as_slice()).unwrap_err()
        };
        assert!(file("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }").contains("<i8"));
        assert!(file("{'descr': '<f8', 'fortran_order': True, 'shape': (3, 2), }").contains("Fortran"));
        assert!(file("{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }").contains("-3"));
        assert!(file("{'fortran_order': False, 'shape': (3,), }").contains("descr"));
        assert!(Header::read(&mut &b"PK\x03\x04 not an array"[..]).unwrap_err().contains(".npy"));
        assert!(Header::read(&mut &b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..]).is_err());
        assert!(Header::read(&mut &b"\x93NUM"[..]).is_err());
    }

    #[test]
    fn arrays_come_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let array = Array { shape: vec![2, 3], values: vec![1.0, -0.5, 1e300, 0.1, f64::MIN_POSITIVE, 3.0] };
        array.write(file.path()).unwrap();
        assert_eq!(Array::read(&mut File::open(file.path()).unwrap()).unwrap(), array);
    }

    #[test]
    fn truncated_arrays_are_refused() {
        let mut bytes = Header::new(DType::F32, vec![3]).to_bytes();
        bytes.extend([0; 11]);
        assert!(Array::read(&mut bytes.as_slice()).is_err());
    }
}
