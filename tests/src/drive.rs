//! A session driven through steps.

use bytes::Bytes;
use noised::kernel::Backend;
use noised::limits::TILE_LANES;
use noised::session::Assembler;
use noised::session::OutputChunk;
use noised::{Error, Layout, MatrixSpec, Precision, Session, SessionSpec, Tree};

use crate::trees;

/// A session for a whole tree.
pub fn session(matrix: &MatrixSpec, tree: &Tree, precision: Precision, backend: Backend) -> Session {
    let spec = SessionSpec { precision, ..SessionSpec::new(matrix.clone(), tree.clone()) };
    Session::with_backend(spec.resolve().unwrap(), backend)
}

/// Sends one step cut into frames of the sizes given, which go round, and returns the answer put together.
pub fn step(session: &mut Session, step: u64, payload: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut assembler = Assembler::new(session.resolved().layout().clone());
    let mut answer = Vec::with_capacity(payload.len());
    let mut offset = 0;
    for size in sizes.iter().cycle() {
        if offset == payload.len() {
            break;
        }
        let end = payload.len().min(offset + size);
        let frame = Bytes::copy_from_slice(&payload[offset..end]);
        if let Some(run) = assembler.push(step, offset as u64, vec![frame]).unwrap() {
            for chunk in session.apply_pieces(run.step, run.offset, &run.pieces).unwrap() {
                assert_eq!(chunk.offset, answer.len());
                answer.extend_from_slice(&chunk.bytes);
            }
        }
        offset = end;
    }
    answer
}

/// The answers of a straight run of `n` steps of [`trees::payload`], on the scalar reference.
pub fn straight(matrix: &MatrixSpec, tree: &Tree, precision: Precision, n: u64) -> Vec<Vec<u8>> {
    let mut session = session(matrix, tree, precision, Backend::REFERENCE);
    (0..n).map(|t| step(&mut session, t, &trees::payload(tree, t), &[usize::MAX / 2])).collect()
}

/// The state written out.
pub fn snapshot(session: &Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.snapshot(&mut bytes).unwrap();
    bytes
}

/// Where each tile of a step starts, and where the last of them ends.
pub fn tile_bounds(layout: &Layout) -> Vec<usize> {
    let lanes = layout.lanes();
    (0..=lanes.div_ceil(TILE_LANES)).map(|tile| layout.byte_of_lane((tile * TILE_LANES).min(lanes))).collect()
}

/// Chunks that follow one another, put together, and whether each byte was computed by an earlier call.
pub fn join(offset: usize, chunks: &[OutputChunk]) -> (Vec<u8>, Vec<bool>) {
    let (mut bytes, mut replays) = (Vec::new(), Vec::new());
    for chunk in chunks {
        assert_eq!(chunk.offset, offset + bytes.len(), "chunks are in order and without gaps");
        assert!(!chunk.bytes.is_empty());
        bytes.extend_from_slice(&chunk.bytes);
        replays.resize(bytes.len(), chunk.replay);
    }
    (bytes, replays)
}

/// Applies a run that has to be refused, and checks that it left the session as it was.
pub fn refused(session: &mut Session, step: u64, offset: usize, payload: &[u8]) -> Error {
    let before = snapshot(session);
    let error = session.apply(step, offset, payload).unwrap_err();
    assert!(snapshot(session) == before, "a refused call changed the session: {error}");
    error
}
