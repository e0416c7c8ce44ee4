//! Runs of steps: inputs from a file or from a generator.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use noised::session::ResolvedSpec;
use noised::tree::Span;
use noised::{DType, Layout};
use noised_client::tree_file::{SafetensorsHeader, is_safetensors};
use rand_distr::{Distribution, StandardNormal};

use crate::failure::Failure;
use crate::files::{Files, unreadable};
use crate::npy::Header;

/// Where the inputs of a run come from. Every step can be asked for again, and is then the same.
#[derive(Debug)]
pub(crate) enum Inputs {
    File(StepFile),
    Seed(Generator),
    /// The server draws it.
    Drawn,
}

impl Inputs {
    /// How many steps there are; `None` for as many as are wanted.
    pub(crate) fn steps(&self) -> Option<u64> {
        match self {
            Self::File(file) => Some(file.steps),
            Self::Seed(_) | Self::Drawn => None,
        }
    }

    /// The bytes of one step.
    pub(crate) fn read(&self, step: u64) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(file) => file.read(step).map_err(|e| Failure::failed("input", e)),
            Self::Seed(generator) => Ok(generator.read(step)),
            Self::Drawn => Ok(Vec::new()),
        }
    }
}

/// A run of one leaf's bytes in a file, for step 0; each further step is `stride` bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: u64,
    len: usize,
    stride: u64,
}

/// Steps in a file: `.npy` with an array of `[steps, lanes]`, for a tree of one format; or `.safetensors`
/// with a tensor for each leaf, of the leaf's shape with an axis of steps before it, or of just the leaf's
/// shape for one step.
#[derive(Debug)]
pub(crate) struct StepFile {
    file: File,
    steps: u64,
    step_bytes: usize,
    segments: Vec<Segment>,
    /// Of an `.npy`, whose elements may be those of a big-endian machine.
    npy: Option<Header>,
}

impl StepFile {
    pub(crate) fn open(files: &Files, path: &Path, resolved: &ResolvedSpec) -> Result<Self, Failure> {
        files.input("input", path)?;
        let invalid = |rule: String| Failure::usage("input", format_args!("{}: {rule}", path.display()));
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = opened.map_err(|e| unreadable("input", path, &e))?;
        if !metadata.is_file() {
            return Err(invalid("must be a file: steps are read from any place in it".to_owned()));
        }
        let (npy, found) = if is_safetensors(path) {
            (None, safetensors_segments(&SafetensorsHeader::read(path)?, resolved))
        } else {
            let header = npy_header(&mut file, metadata.len()).map_err(invalid)?;
            let found = npy_segments(&header, resolved);
            (Some(header), found)
        };
        let (steps, segments) = found.map_err(invalid)?;
        Ok(Self { file, steps, step_bytes: resolved.input_layout().byte_len(), segments, npy })
    }

    fn read(&self, step: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.step_bytes];
        let mut rest = bytes.as_mut_slice();
        for Segment { start, len, stride } in &self.segments {
            let (of_segment, others) = rest.split_at_mut(*len);
            self.file.read_exact_at(of_segment, start + step * stride)?;
            rest = others;
        }
        if let Some(header) = &self.npy {
            header.to_little_endian(&mut bytes);
        }
        Ok(bytes)
    }
}

/// The header of a file of so many bytes, in which each step is one piece.
pub(crate) fn npy_header(file: &mut File, file_len: u64) -> Result<Header, String> {
    let header = Header::read(&mut BufReader::new(file))?;
    header.check_steps_first()?;
    header.check_len(file_len)?;
    Ok(header)
}

fn npy_segments(header: &Header, resolved: &ResolvedSpec) -> Result<(u64, Vec<Segment>), String> {
    let layout = resolved.input_layout();
    let tree = &resolved.spec().tree;
    let dtype = only_dtype(layout).ok_or("an .npy file holds one format, and the tree has several")?;
    if header.dtype != dtype {
        return Err(format!("has elements of {}, and the tree of {dtype}", header.dtype));
    }
    let held = resolved.spec().shard.lanes(tree).map_err(|e| e.to_string())?;
    let (steps, columns) = match header.shape[..] {
        [steps, columns] => (steps, columns),
        _ => return Err(format!("must have two axes, steps and lanes; it has {:?}", header.shape)),
    };
    // A file may hold the whole tree or just this shard.
    let first = match columns {
        all if all == tree.lanes() => held.start,
        shard if shard == held.end - held.start => 0,
        _ => return Err(format!("has {columns} lanes, and the tree {}", tree.lanes())),
    };
    let size = dtype.size() as u64;
    let segment =
        Segment { start: header.data_start + first * size, len: layout.byte_len(), stride: columns * size };
    Ok((steps, vec![segment]))
}

fn safetensors_segments(
    header: &SafetensorsHeader,
    resolved: &ResolvedSpec,
) -> Result<(u64, Vec<Segment>), String> {
    let tree = &resolved.spec().tree;
    let held = resolved.spec().shard.lanes(tree).map_err(|e| e.to_string())?;
    let mut steps = None;
    let mut segments = Vec::new();
    for (i, leaf) in tree.leaves().iter().enumerate() {
        let lanes = tree.leaf_lanes(i);
        let (start, end) = (lanes.start.max(held.start), lanes.end.min(held.end));
        if start >= end {
            continue;
        }
        let tensor = header.tensors.iter().find(|(tensor, _)| tensor.path == leaf.path);
        let name = leaf.path.escape_debug();
        let missing = || match header.others.iter().find(|(tensor, _)| *tensor == leaf.path) {
            Some((_, dtype)) => format!("`{name}` is of {dtype:?}, and the leaf of {}", leaf.dtype),
            None => format!("has no tensor `{name}`"),
        };
        let (tensor, at) = tensor.ok_or_else(missing)?;
        let of_leaf = match tensor.shape.split_first() {
            _ if tensor.shape == leaf.shape => 1,
            Some((&steps, shape)) if shape == leaf.shape => steps,
            _ => {
                return Err(format!(
                    "`{name}` has the shape {:?}, and the leaf {:?}",
                    tensor.shape, leaf.shape
                ));
            }
        };
        if tensor.dtype != leaf.dtype {
            return Err(format!("`{name}` is of {}, and the leaf of {}", tensor.dtype, leaf.dtype));
        }
        if *steps.get_or_insert(of_leaf) != of_leaf {
            return Err(format!("`{name}` has {of_leaf} steps, and other tensors have not"));
        }
        let size = leaf.dtype.size() as u64;
        segments.push(Segment {
            start: at + (start - lanes.start) * size,
            len: ((end - start) * size) as usize,
            stride: (lanes.end - lanes.start) * size,
        });
    }
    Ok((steps.unwrap_or(0), segments))
}

pub(crate) fn only_dtype(layout: &Layout) -> Option<DType> {
    let mut spans = layout.spans(0..layout.lanes());
    let first = spans.next()?.dtype;
    spans.all(|span| span.dtype == first).then_some(first)
}

/// Lanes that share a place in the generator's stream.
const BLOCK_LANES: u64 = 1024;
/// Words of the stream that a block may use: a normal takes a little over two.
const BLOCK_WORDS: u128 = 1 << 14;

/// Standard normals for trying a session out: a function of the seed, the step and the lane of the whole
/// tree, so that shards put together are the whole.
///
/// ChaCha8 of the `chacha20` crate, its key the seed as eight little-endian bytes and 24 of zero, its stream
/// the step, each block of 1024 lanes from word 16384 times its number on; `StandardNormal` of the
/// `rand_distr` crate on that, rounded to the leaf's format. This is not noise for privacy: whoever knows the
/// seed knows all of it.
#[derive(Debug)]
pub(crate) struct Generator {
    seed: u64,
    layout: Layout,
    first_lane: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64, resolved: &ResolvedSpec) -> Result<Self, Failure> {
        let first_lane = resolved.spec().shard.lanes(&resolved.spec().tree)?.start;
        Ok(Self { seed, layout: resolved.input_layout().clone(), first_lane })
    }

    fn read(&self, step: u64) -> Vec<u8> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut stream = ChaCha8Rng::from_seed(key);
        stream.set_stream(step);
        let mut bytes = vec![0; self.layout.byte_len()];
        let mut block_values = Vec::with_capacity(BLOCK_LANES as usize);
        let (mut lane, end) = (self.first_lane, self.first_lane + self.layout.lanes() as u64);
        while lane < end {
            let block = lane / BLOCK_LANES;
            let block_end = ((block + 1) * BLOCK_LANES).min(end);
            stream.set_word_pos(u128::from(block) * BLOCK_WORDS);
            // A block that starts before this shard is drawn from its start all the same.
            let skipped = (lane - block * BLOCK_LANES) as usize;
            let wanted = (block_end - block * BLOCK_LANES) as usize;
            block_values.clear();
            block_values.extend((0..wanted).map(|_| -> f32 { StandardNormal.sample(&mut stream) }));
            let held = (lane - self.first_lane) as usize;
            self.write(held, &block_values[skipped..], &mut bytes);
            lane = block_end;
        }
        bytes
    }

    fn write(&self, lane: usize, values: &[f32], bytes: &mut [u8]) {
        let start = self.layout.byte_of_lane(lane);
        for Span { dtype, lanes, bytes: range } in self.layout.spans(lane..lane + values.len()) {
            let range = start + range.start..start + range.end;
            encode(dtype, &values[lanes], &mut bytes[range]);
        }
    }
}

fn encode(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    for (&value, bytes) in values.iter().zip(bytes.chunks_exact_mut(dtype.size())) {
        match dtype {
            DType::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
            DType::F64 => bytes.copy_from_slice(&f64::from(value).to_le_bytes()),
            DType::Bf16 => bytes.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            DType::F16 => bytes.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use noised::{Leaf, MatrixSpec, SessionSpec, Shard, Tree};
    use tempfile::TempDir;

    use super::*;

    fn resolved(tree: Tree, shard: Shard) -> ResolvedSpec {
        SessionSpec { shard, ..SessionSpec::new(MatrixSpec::PrefixSum, tree) }.resolve().unwrap()
    }

    fn mixed() -> Tree {
        let leaves = vec![
            Leaf::new("a", DType::F32, [700]),
            Leaf::new("b", DType::Bf16, [13, 50]),
            Leaf::new("c", DType::F64, [901]),
        ];
        Tree::new(leaves).unwrap()
    }

    #[test]
    fn generated_shards_are_the_whole() {
        let whole = Generator::new(5, &resolved(mixed(), Shard::WHOLE)).unwrap();
        let parts =
            (0..3).map(|index| Generator::new(5, &resolved(mixed(), Shard::new(index, 3))).unwrap().read(9));
        assert_eq!(parts.collect::<Vec<_>>().concat(), whole.read(9));
        assert_ne!(whole.read(9), whole.read(10));
    }

    #[test]
    fn generated_values_are_standard_normal() {
        let tree = Tree::flat(100_000, DType::F32).unwrap();
        let bytes = Generator::new(1, &resolved(tree, Shard::WHOLE)).unwrap().read(0);
        let values: Vec<f64> =
            bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    }

    fn npy(dir: &TempDir, shape: [u64; 2]) -> std::path::PathBuf {
        let path = dir.path().join("x.npy");
        let mut file = File::create(&path).unwrap();
        file.write_all(&Header::new(DType::F32, shape.to_vec()).to_bytes()).unwrap();
        for i in 0..shape[0] * shape[1] {
            file.write_all(&(i as f32).to_le_bytes()).unwrap();
        }
        path
    }

    fn open(path: &Path, resolved: &ResolvedSpec) -> Result<StepFile, Failure> {
        StepFile::open(&Files::default(), path, resolved)
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn npy_files_hold_the_tree_or_the_shard() {
        let dir = TempDir::new().unwrap();
        let path = npy(&dir, [3, 10]);
        let shard = Shard::new(1, 2);
        let of = |lanes| resolved(Tree::flat(lanes, DType::F32).unwrap(), shard);
        let file = open(&path, &of(10)).unwrap();
        assert_eq!((file.steps, floats(&file.read(2).unwrap())), (3, vec![25.0, 26.0, 27.0, 28.0, 29.0]));
        let file = open(&path, &of(20)).unwrap();
        assert_eq!(floats(&file.read(1).unwrap())[0], 10.0);
        assert!(open(&path, &of(11)).is_err());
        let wide = resolved(Tree::flat(10, DType::F64).unwrap(), Shard::WHOLE);
        assert!(open(&path, &wide).is_err());
    }

    #[test]
    fn npy_files_are_read_whole_or_not_at_all() {
        let dir = TempDir::new().unwrap();
        let path = npy(&dir, [2, 3]);
        let of_tree = resolved(Tree::flat(3, DType::F32).unwrap(), Shard::WHOLE);
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let Err(Failure::Usage(message)) = open(&path, &of_tree) else { panic!("it was taken") };
            message
        };
        assert!(refused(&whole[..whole.len() - 1]).contains("cut short"));
        assert!(refused(&[&whole[..], &[0]].concat()).contains("1 bytes behind"));
        let with = |from: &str, to: &str| {
            let text: Vec<u8> = whole[..128].to_vec();
            let text = String::from_utf8_lossy(&text[10..]).replace(from, to);
            [&whole[..10], text.as_bytes(), &whole[128..]].concat()
        };
        assert!(refused(&with("False", "True ")).contains("Fortran"));
        // The same bytes, as a big-endian machine means them.
        std::fs::write(&path, with("<f4", ">f4")).unwrap();
        let step = open(&path, &of_tree).unwrap().read(1).unwrap();
        assert_eq!(
            floats(&step),
            [3.0_f32, 4.0, 5.0].map(|value| f32::from_bits(value.to_bits().swap_bytes()))
        );
        let fifo = dir.path();
        assert!(
            matches!(open(fifo, &of_tree), Err(Failure::Usage(message)) if message.contains("must be a file"))
        );
    }

    #[test]
    fn safetensors_files_hold_steps_of_each_leaf() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.safetensors");
        // Two steps of `b` before two of `a`; the tree has `a` first.
        let header = r#"{"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},
            "a":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0.0_f32, 1.0, 10.0, 11.0, 20.0, 21.0].iter().flat_map(|v| v.to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let leaves = vec![Leaf::new("a", DType::F32, [2]), Leaf::new("b", DType::F32, [1])];
        let tree = Tree::new(leaves).unwrap();
        let file = open(&path, &resolved(tree.clone(), Shard::WHOLE)).unwrap();
        assert_eq!(floats(&file.read(1).unwrap()), [20.0, 21.0, 1.0]);
        let file = open(&path, &resolved(tree, Shard::new(1, 3))).unwrap();
        assert_eq!((file.steps, floats(&file.read(0).unwrap())), (2, vec![11.0]));
    }
}
