//! Answers into the caller's memory.

use bytes::{Bytes, BytesMut};
use noised::limits::PARALLEL_GRAIN_BYTES;
use noised::session::OutputChunk;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

/// The chunks of a whole step into `output`, which is as long. One thread does not use all of the memory's
/// bandwidth, and copying a large step takes as long as drawing it does.
pub(super) fn into(chunks: &[OutputChunk], output: &mut [u8]) {
    for OutputChunk { offset, bytes, replay: _ } in chunks {
        copy_large(bytes, &mut output[*offset..offset + bytes.len()]);
    }
}

/// Copies a step's answer into memory that is as long, on several threads where that is faster.
///
/// # Panics
/// Where the lengths differ.
pub fn copy_large(answer: &[u8], output: &mut [u8]) {
    assert_eq!(answer.len(), output.len(), "an answer goes into memory of its length");
    if answer.len() <= PARALLEL_GRAIN_BYTES {
        output.copy_from_slice(answer);
        return;
    }
    let parts = output.par_chunks_mut(PARALLEL_GRAIN_BYTES).zip(answer.par_chunks(PARALLEL_GRAIN_BYTES));
    parts.for_each(|(output, answer)| output.copy_from_slice(answer));
}

/// Pieces that follow one another into `memory`, which may hold anything and becomes as long as they are
/// together.
pub(super) fn gather(pieces: &[&[u8]], memory: &mut BytesMut) {
    let len = pieces.iter().map(|piece| piece.len()).sum();
    memory.resize(len, 0);
    let mut rest = &mut memory[..];
    let mut copies = Vec::new();
    for piece in pieces {
        let (place, after) = rest.split_at_mut(piece.len());
        copies.extend(place.chunks_mut(PARALLEL_GRAIN_BYTES).zip(piece.chunks(PARALLEL_GRAIN_BYTES)));
        rest = after;
    }
    if len <= PARALLEL_GRAIN_BYTES {
        copies.into_iter().for_each(|(place, piece)| place.copy_from_slice(piece));
    } else {
        copies.into_par_iter().for_each(|(place, piece)| place.copy_from_slice(piece));
    }
}

/// The chunks of a whole step as one. Nothing is copied where there is one.
pub(super) fn join(mut chunks: Vec<OutputChunk>) -> Bytes {
    if chunks.len() == 1
        && let Some(OutputChunk { bytes, .. }) = chunks.pop()
    {
        return bytes;
    }
    let mut joined = vec![0; chunks.iter().map(|chunk| chunk.bytes.len()).sum()];
    into(&chunks, &mut joined);
    joined.into()
}
