//! NumPy's `.npy`: its header, and small arrays whole.
//!
//! A header is a Python literal, which `py_literal` reads, with the rules of `numpy.load`. Runs of steps are
//! read and written as raw bytes at known places, which is what keeps them out of memory.

use std::io::{self, Read, Write};

use ndarray::{ArrayViewD, IxDyn, ShapeBuilder};
use noised::tree::TreeValues;
use noised::{DType, Tree};
use py_literal::Value;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes before the size of the header: those of [`MAGIC`] and the version.
const START: usize = 8;
/// Longer than any header of an array of numbers.
const MAX_HEADER: usize = 1 << 16;
/// Brackets that a header of an array of numbers has open at the same time: its dictionary's and its shape's.
const MAX_BRACKETS: usize = 2;

/// What an `.npy` file holds, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    /// The file's byte at which the elements start.
    pub(crate) data_start: u64,
    order: Order,
    bytes: ByteOrder,
}

/// Which axis runs fastest through the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The last.
    C,
    /// The first.
    Fortran,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    const NATIVE: Self = if cfg!(target_endian = "big") { Self::Big } else { Self::Little };
}

impl Header {
    /// Of a file to be written.
    pub(crate) fn new(dtype: DType, shape: Vec<u64>) -> Self {
        let mut header = Self { dtype, shape, data_start: 0, order: Order::C, bytes: ByteOrder::Little };
        header.data_start = header.to_bytes().len() as u64;
        header
    }

    /// Reads a header; the reader then stands at the first element.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut start = Vec::with_capacity(START);
        reader.by_ref().take(START as u64).read_to_end(&mut start).map_err(|e| e.to_string())?;
        if !start.starts_with(MAGIC) {
            return Err(no_npy(&start));
        }
        let short = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => "is cut short: it ends within its header".to_owned(),
            _ => e.to_string(),
        };
        let size_bytes = match start[MAGIC.len()..] {
            [1, 0] => 2,
            [2 | 3, 0] => 4,
            [major, minor] => {
                return Err(format!("must be of the .npy version 1.0, 2.0 or 3.0, found {major}.{minor}"));
            }
            _ => return Err(short(io::ErrorKind::UnexpectedEof.into())),
        };
        let mut size = [0; 4];
        reader.read_exact(&mut size[..size_bytes]).map_err(short)?;
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_HEADER {
            return Err(format!("must have a header of at most {MAX_HEADER} bytes, found {size}"));
        }
        let mut text = vec![0; size];
        reader.read_exact(&mut text).map_err(short)?;
        let is_version_3 = start[MAGIC.len()] == 3;
        let text = match is_version_3 {
            true => String::from_utf8(text).map_err(|_| "has a header that is not UTF-8".to_owned())?,
            // Latin-1, and numbers as Python 2 wrote them.
            false => without_long_marks(&text.into_iter().map(char::from).collect::<String>()),
        };
        Self::parse(&text, (START + size_bytes + size) as u64)
    }

    /// Reads the Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str, data_start: u64) -> Result<Self, String> {
        let text = text.trim();
        // Deeper ones are records, and the parser calls itself for each.
        if most_brackets(text) > MAX_BRACKETS {
            return Err("has elements of several fields; they must be floats".to_owned());
        }
        let no_dictionary = || "has a header that is no dictionary of Python".to_owned();
        let Ok(Value::Dict(entries)) = text.parse::<Value>() else { return Err(no_dictionary()) };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        for (key, value) in &entries {
            let Value::String(key) = key else { return Err(no_dictionary()) };
            let field = match key.as_str() {
                "descr" => &mut descr,
                "fortran_order" => &mut fortran_order,
                "shape" => &mut shape,
                other => return Err(format!("has the key `{}` in its header", other.escape_debug())),
            };
            if field.replace(value).is_some() {
                return Err(format!("has the key `{key}` twice in its header"));
            }
        }
        let missing = |key: &str| format!("has no `{key}` in its header");
        let (dtype, bytes) = elements_of(descr.ok_or_else(|| missing("descr"))?)?;
        let order = match fortran_order.ok_or_else(|| missing("fortran_order"))? {
            Value::Boolean(true) => Order::Fortran,
            Value::Boolean(false) => Order::C,
            other => return Err(format!("must have True or False as its `fortran_order`, found {other}")),
        };
        let shape = shape_of(shape.ok_or_else(|| missing("shape"))?)?;
        // Where there is one axis to run along, both orders are the same.
        let is_flat = shape.iter().filter(|&&axis| axis != 1).count() <= 1;
        let order = if is_flat { Order::C } else { order };
        Ok(Self { dtype, shape, data_start, order, bytes })
    }

    /// The number of elements, where memory could hold them.
    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, &axis| product.checked_mul(axis))
    }

    /// Refuses a file of so many bytes unless these are the header and its elements.
    pub(crate) fn check_len(&self, file_len: u64) -> Result<(), String> {
        let elements = self.elements().and_then(|elements| elements.checked_mul(self.dtype.size() as u64));
        let end = elements.and_then(|bytes| bytes.checked_add(self.data_start));
        match end {
            Some(end) if end == file_len => Ok(()),
            Some(end) if end < file_len => {
                Err(format!("has {} bytes behind its elements, which end at {end}", file_len - end))
            }
            _ => {
                Err(format!("is cut short: it has {file_len} bytes, too few for the shape {:?}", self.shape))
            }
        }
    }

    /// Refuses elements of which a step is not one piece.
    pub(crate) fn check_steps_first(&self) -> Result<(), String> {
        match self.order {
            Order::C => Ok(()),
            Order::Fortran => Err("is in Fortran order; save numpy.ascontiguousarray of it".to_owned()),
        }
    }

    /// Makes elements as they are in the file those of a little-endian machine.
    pub(crate) fn to_little_endian(&self, elements: &mut [u8]) {
        if self.bytes == ByteOrder::Big {
            elements.chunks_exact_mut(self.dtype.size()).for_each(<[u8]>::reverse);
        }
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

/// What a file is instead, from its first bytes.
fn no_npy(start: &[u8]) -> String {
    let is = match start {
        [] => "it is empty",
        [b'P', b'K', 3, 4, ..] => "it is a .npz or another zip archive; save the one array with numpy.save",
        [b'{' | b'[', ..] => "it looks like JSON",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is text in UTF-16",
        _ if MAGIC.starts_with(start) => "it ends within its first bytes",
        _ => return format!("is not an .npy file: it begins with \"{}\"", start.escape_ascii()),
    };
    format!("is not an .npy file: {is}")
}

/// Python 2 wrote `(3L, 4L)`.
fn without_long_marks(text: &str) -> String {
    let mut before = ' ';
    let kept = text.chars().filter(|&character| {
        let is_mark = character == 'L' && before.is_ascii_digit();
        before = character;
        !is_mark
    });
    kept.collect()
}

fn most_brackets(text: &str) -> usize {
    let mut open = 0_usize;
    let depths = text.chars().map(|character| {
        match character {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        open
    });
    depths.max().unwrap_or(0)
}

fn shape_of(shape: &Value) -> Result<Vec<u64>, String> {
    let axes = match shape {
        Value::Tuple(axes) => axes,
        other => return Err(format!("must have a tuple as its `shape`, found {other}")),
    };
    let axis = |axis: &Value| match axis {
        Value::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    };
    let read = |found: &Value| axis(found).ok_or_else(|| format!("has an axis of length {found}"));
    axes.iter().map(read).collect()
}

/// The format of elements by its description. NumPy has no bfloat16 of its own; the package ml_dtypes writes
/// it as two opaque bytes.
fn elements_of(descr: &Value) -> Result<(DType, ByteOrder), String> {
    let refused = |found: &dyn std::fmt::Display| {
        Err(format!("has elements {found}; they must be floats: f2, f4, f8, or V2 for bfloat16"))
    };
    let Value::String(descr) = descr else { return refused(&"of several fields") };
    let (order, format) = match descr.split_at_checked(1) {
        Some(("<", format)) => (ByteOrder::Little, format),
        Some((">", format)) => (ByteOrder::Big, format),
        Some(("=" | "|", format)) => (ByteOrder::NATIVE, format),
        _ => (ByteOrder::NATIVE, descr.as_str()),
    };
    let dtype = match format {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "V2" if order == ByteOrder::Little => DType::Bf16,
        _ => return refused(&format_args!("`{}`", descr.escape_debug())),
    };
    Ok((dtype, order))
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
        header.check_len(header.data_start + bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(Self { shape: header.shape, values: Vec::new() });
        }
        header.to_little_endian(&mut bytes);
        let elements = (bytes.len() / header.dtype.size()) as u64;
        let tree = Tree::flat(elements, header.dtype).map_err(|e| e.to_string())?;
        let values = TreeValues::from_bytes(tree, bytes).map_err(|e| e.to_string())?;
        let values: Vec<f64> = values.leaf(0).into_iter().collect();
        let values = match header.order {
            Order::C => values,
            Order::Fortran => {
                let axes: Vec<usize> = header.shape.iter().map(|&axis| axis as usize).collect();
                let view = ArrayViewD::from_shape(IxDyn(&axes).f(), &values).map_err(|e| e.to_string())?;
                view.iter().copied().collect()
            }
        };
        Ok(Self { shape: header.shape, values })
    }

    /// Writes it as f64.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&Header::new(DType::F64, self.shape.clone()).to_bytes())?;
        self.values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
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

    /// A file of a version with this dictionary and these elements.
    fn file(version: u8, dict: &str, elements: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((dict.len() as u16).to_le_bytes()),
            _ => bytes.extend((dict.len() as u32).to_le_bytes()),
        }
        [&bytes, dict.as_bytes(), elements].concat()
    }

    fn read(bytes: &[u8]) -> Result<Array, String> {
        Array::read(&mut &bytes[..])
    }

    #[test]
    fn arrays_are_read_as_numpy_reads_them() {
        let little: Vec<u8> = (1..=6).flat_map(|i| f64::from(i).to_le_bytes()).collect();
        let big: Vec<u8> = (1..=6).flat_map(|i| f64::from(i).to_be_bytes()).collect();
        let native: Vec<u8> = (1..=6).flat_map(|i| f64::from(i).to_ne_bytes()).collect();
        let singles: Vec<u8> = (1..=6_u8).flat_map(|i| f32::from(i).to_be_bytes()).collect();
        let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        // Of [[1, 3, 5], [2, 4, 6]], columns first.
        let columns = [1.0, 3.0, 5.0, 2.0, 4.0, 6.0];
        let cases: [(&str, &[u8], [f64; 6]); 12] = [
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", &little, rows),
            ("{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }", &little, columns),
            ("{'descr': '>f8', 'fortran_order': False, 'shape': (2, 3), }", &big, rows),
            ("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 3), }", &big, columns),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", &singles, rows),
            ("{'descr': '=f8', 'fortran_order': False, 'shape': (2, 3), }", &native, rows),
            ("{'descr': '|f8', 'fortran_order': False, 'shape': (2, 3), }", &native, rows),
            ("{'descr': 'f8', 'fortran_order': False, 'shape': (2, 3), }", &native, rows),
            ("  {  'shape' : ( 2 , 3 ) , 'fortran_order' : False , 'descr' : '<f8' }  \n", &little, rows),
            ("{\"descr\": \"<f8\", \"fortran_order\": False, \"shape\": (2, 3,)}", &little, rows),
            ("{'descr':'<f8','fortran_order':False,'shape':(2,3)}", &little, rows),
            ("{'shape': (2, 3), 'fortran_order': True, 'descr': '<f8'}\n", &little, columns),
        ];
        for (dict, elements, values) in cases {
            for version in [1, 2, 3] {
                let array = read(&file(version, dict, elements)).unwrap_or_else(|e| panic!("{dict}: {e}"));
                assert_eq!((array.shape, array.values), (vec![2, 3], values.to_vec()), "{dict}");
            }
        }
        for version in [1, 2] {
            let dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L), }";
            assert_eq!(read(&file(version, dict, &little)).unwrap().shape, [2, 3]);
        }
        let dict = "{'descr': '<f8', 'fortran_order': True, 'shape': (6, 1), }";
        assert_eq!(read(&file(1, dict, &little)).unwrap().values, rows);
        let dict = "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 2, 3), }";
        assert_eq!(read(&file(1, dict, &little)).unwrap().values, columns);
    }

    #[test]
    fn bad_files_are_refused_for_what_they_are() {
        let of = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")
        };
        let good = of("'<f8'", "False", "(1,)");
        for (dict, words) in [
            (of("'<i8'", "False", "(1,)"), "`<i8`"),
            (of("'<f16'", "False", "(1,)"), "`<f16`"),
            (of("'>V2'", "False", "(1,)"), "`>V2`"),
            (of("''", "False", "(1,)"), "``"),
            (of("'|\\x1b]2J'", "False", "(1,)"), r"`|\u{1b}]2J`"),
            (of("[('a', '<f8')]", "False", "(1,)"), "several fields"),
            (of("['a', '<f8']", "False", "(1,)"), "several fields"),
            (of("'<f8'", "1", "(1,)"), "`fortran_order`, found 1"),
            (of("'<f8'", "'False'", "(1,)"), "`fortran_order`"),
            (of("'<f8'", "False", "(-3,)"), "-3"),
            (of("'<f8'", "False", "(1.5,)"), "1.5"),
            (of("'<f8'", "False", "(99999999999999999999,)"), "99999999999999999999"),
            (of("'<f8'", "False", "1"), "tuple"),
            (of("'<f8'", "False", "(4294967296, 4294967296, 4294967296)"), "cut short"),
            ("{'fortran_order': False, 'shape': (1,), }".to_owned(), "`descr`"),
            (good.replace("'shape'", "'descr'"), "twice"),
            (good.replace('{', "{'more': 1, "), "`more`"),
            ("[]".to_owned(), "no dictionary"),
            ("{'descr'".to_owned(), "no dictionary"),
            (String::new(), "no dictionary"),
            ("(".repeat(60_000), "several fields"),
        ] {
            let rule = read(&file(2, &dict, &1.0_f64.to_le_bytes())).unwrap_err();
            assert!(rule.contains(words), "{dict}: {rule}");
        }
        assert!(read(&file(3, &of("'<f8'", "False", "(1L,)"), &[0; 8])).is_err());
        let one = 1.0_f64.to_le_bytes();
        for version in [0, 4, 9] {
            assert!(read(&file(version, &good, &one)).unwrap_err().contains("version"), "{version}");
        }
        for (elements, words) in [(&[0; 7][..], "cut short"), (&[0; 9], "1 bytes behind"), (&[], "cut short")]
        {
            assert!(read(&file(1, &good, elements)).unwrap_err().contains(words), "{words}");
        }
        let whole = file(1, &good, &one);
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len}");
        }
        for (start, words) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04 not an array", "zip"),
            (b"{}", "JSON"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\x93NUM", "first bytes"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "at most"),
            (b"a\x1b[m", r#"begins with "a\x1b[m""#),
        ] {
            let rule = read(start).unwrap_err();
            assert!(rule.contains(words), "{words}: {rule}");
        }
    }

    #[test]
    fn arrays_come_back() {
        let array = Array { shape: vec![2, 3], values: vec![1.0, -0.5, 1e300, 0.1, f64::MIN_POSITIVE, 3.0] };
        let mut bytes = Vec::new();
        array.write(&mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), array);
    }
}
