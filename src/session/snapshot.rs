//! A session's state as bytes, and back, exactly.
//!
//! ```text
//! magic "noised session\n"   15 bytes
//! version                    u32
//! header length              u64
//! header                     JSON: specification, fingerprint, step, tiles done, first step kept, lanes a tile and a block, steps ahead
//! header digest              32 bytes, BLAKE3 of all before it
//! state                      planes x lanes values, lanes rounded up to whole blocks, as they lie in memory
//! digests                    u64 a tile
//! outputs                    the kept output, from the first byte of the step on
//! digest                     32 bytes, BLAKE3 of all before it
//! ```
//!
//! Numbers are little endian. The header is checked before any memory is taken on its word.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use super::{Session, SessionSpec, Source};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_LANES, MAX_STEPS_AHEAD, TILE_LANES};
use crate::matrix::MatrixSpec;
use crate::tree::{Leaf, Shard, Tree};

const MAGIC: &[u8; 15] = b"noised session\n";

/// Goes up when a reader of the last version would read this one wrongly.
const VERSION: u32 = 3;

/// Bytes of a header. A description of many schedules of the largest permitted length may take more: such a
/// session is not written, so that whatever is written can be read. The length of a damaged state is not
/// believed past this.
const MAX_HEADER_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    matrix: MatrixSpec,
    leaves: Vec<Leaf>,
    shard: Shard,
    source: Source,
    precision: Precision,
    horizon: Option<u64>,
    fingerprint: String,
    step: u64,
    tiles_done: usize,
    first_step: u64,
    tile_lanes: usize,
    block_lanes: usize,
    steps_ahead: usize,
}

impl Session {
    /// Writes the session out.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::InvalidInput`], with nothing written, where the description
    /// takes more than 1 GiB as JSON.
    pub fn snapshot(&self, writer: impl Write) -> io::Result<()> {
        let mut out = Hashing { inner: writer, hash: blake3::Hasher::new() };
        let header = self.header_bytes(MAX_HEADER_BYTES)?;
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        out.write_digest()?;
        out.write_all(self.state.bytes())?;
        out.write_all(bytemuck::cast_slice(&self.track.digests))?;
        for piece in self.track.outputs.iter() {
            out.write_all(piece)?;
        }
        out.write_digest()
    }

    /// Reads a session that [`Session::snapshot`] wrote. It goes on where that one stood, bit for bit.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the bytes are not what was written, or of a version that this build does not
    /// read.
    pub fn restore(reader: impl Read) -> Result<Self> {
        let mut input = Hashing { inner: reader, hash: blake3::Hasher::new() };
        let header = read_header(&mut input)?;
        let Header {
            matrix,
            leaves,
            shard,
            source,
            precision,
            horizon,
            fingerprint,
            step,
            tiles_done,
            first_step,
            tile_lanes,
            block_lanes,
            steps_ahead,
        } = header;
        // What a plane holds between two steps depends on all of these.
        let (found, here) =
            ([tile_lanes, block_lanes, steps_ahead], [TILE_LANES, BLOCK_LANES, MAX_STEPS_AHEAD]);
        if found != here {
            return Err(Error::damaged(format!(
                "lanes a tile, lanes a block and steps ahead are {found:?}; in this build {here:?}"
            )));
        }
        let resolved = Tree::new(leaves)
            .map(|tree| SessionSpec { matrix, tree, shard, source, precision, horizon })
            .and_then(SessionSpec::resolve)
            .map_err(Error::damaged)?;
        if resolved.spec.source != Source::Input {
            return Err(Error::damaged("the source is not a client's input"));
        }
        if resolved.fingerprint().to_string() != fingerprint {
            return Err(Error::damaged("the fingerprint is not that of the specification"));
        }
        let mut session = Self::new(resolved);
        if tiles_done >= session.track.digests.len()
            || session.track.resolved.spec.horizon.is_some_and(|n| step > n)
        {
            return Err(Error::damaged("the step is not one of this session"));
        }
        read_exactly(&mut input, session.state.bytes_mut())?;
        read_exactly(&mut input, bytemuck::cast_slice_mut(&mut session.track.digests))?;
        let middle = session.track.output_bytes(&(0..tiles_done)).end;
        // The ring of outputs begins with the oldest.
        let kept = if step > first_step { session.track.resolved.layout.byte_len() } else { middle };
        let mut outputs = BytesMut::zeroed(kept);
        read_exactly(&mut input, &mut outputs)?;
        input.check_digest()?;
        let newest = outputs.split_to(middle).freeze();
        if !outputs.is_empty() {
            session.track.outputs.push(middle..kept, outputs.freeze());
        }
        if !newest.is_empty() {
            session.track.outputs.push(0..middle, newest);
        }
        session.track.step = step;
        session.track.tiles_done = tiles_done;
        session.track.first_step = first_step;
        session.resolve_program();
        Ok(session)
    }

    /// The header as it is written, unless it is longer than is read.
    fn header_bytes(&self, most: u64) -> io::Result<Vec<u8>> {
        let header = serde_json::to_vec(&self.header())?;
        if header.len() as u64 > most {
            let text =
                format!("the session's description takes {} bytes, at most {most} are read", header.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(header)
    }

    fn header(&self) -> Header {
        let SessionSpec { matrix, tree, shard, source, precision, horizon } =
            self.track.resolved.spec().clone();
        Header {
            matrix,
            leaves: tree.leaves().to_vec(),
            shard,
            source,
            precision,
            horizon,
            fingerprint: self.track.resolved.fingerprint().to_string(),
            step: self.track.step,
            tiles_done: self.track.tiles_done,
            first_step: self.track.first_step,
            tile_lanes: TILE_LANES,
            block_lanes: BLOCK_LANES,
            steps_ahead: MAX_STEPS_AHEAD,
        }
    }
}

/// Reads what a kind of bytes begins with: its magic, and the one version that this build reads.
pub(super) fn read_beginning(input: &mut impl Read, magic: &[u8], version: u32, what: &str) -> Result<()> {
    let mut found = vec![0; magic.len()];
    read_exactly(input, &mut found)?;
    if found != magic {
        return Err(Error::damaged(format!("it does not begin as {what} does")));
    }
    let mut found = [0; 4];
    read_exactly(input, &mut found)?;
    let found = u32::from_le_bytes(found);
    if found != version {
        return Err(Error::damaged(format!("version {found}, this build reads version {version}")));
    }
    Ok(())
}

fn read_header(input: &mut Hashing<impl Read>) -> Result<Header> {
    read_beginning(input, MAGIC, VERSION, "a session")?;
    let mut length = [0; 8];
    read_exactly(input, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::damaged("the header is longer than any"));
    }
    let mut header = Vec::new();
    let read = input.by_ref().take(length).read_to_end(&mut header);
    if read.map_err(|e| Error::damaged(e.to_string()))? as u64 != length {
        return Err(Error::damaged("it ends early"));
    }
    input.check_digest()?;
    serde_json::from_slice(&header).map_err(|e| Error::damaged(format!("the header does not read: {e}")))
}

pub(super) fn read_exactly(input: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    input.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::damaged("it ends early"),
        _ => Error::damaged(e.to_string()),
    })
}

/// A reader or writer that hashes all that passes.
struct Hashing<T> {
    inner: T,
    hash: blake3::Hasher,
}

impl<W: Write> Hashing<W> {
    /// Writes the digest of everything before it.
    fn write_digest(&mut self) -> io::Result<()> {
        let digest = self.hash.finalize();
        self.write_all(digest.as_bytes())
    }
}

impl<R: Read> Hashing<R> {
    /// Reads a digest and checks that it is of everything before it.
    fn check_digest(&mut self) -> Result<()> {
        let expected = self.hash.finalize();
        let mut found = [0; blake3::OUT_LEN];
        read_exactly(self, &mut found)?;
        if expected.as_bytes() != &found {
            return Err(Error::damaged("its digest does not match"));
        }
        Ok(())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_longer_than_is_read_is_not_written() {
        let tree = Tree::flat(3, crate::DType::F32).unwrap();
        let session = Session::new(SessionSpec::new(MatrixSpec::PrefixSum, tree).resolve().unwrap());
        let length = session.header_bytes(MAX_HEADER_BYTES).unwrap().len() as u64;
        assert_eq!(session.header_bytes(length).unwrap().len() as u64, length);
        let refused = session.header_bytes(length - 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
