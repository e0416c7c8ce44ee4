//! Noise released under gradients, each step under one gradient.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::track::{Checked, Track};
use super::{DrawnStep, OutputChunk, ResolvedSpec};
use crate::error::{Error, Result};
use crate::kernel::{Backend, Sum, all_finite, decode, gradient_range};
use crate::limits::PARALLEL_GRAIN_BYTES;
use crate::noise::NoiseKey;

/// A digest of a step's gradient. Nobody without the noise's key can make two gradients agree in it.
pub type GradientDigest = [u8; 16];

/// Takes gradients in, and remembers which it took.
pub(super) struct Privatize {
    backend: Backend,
    track: Track,
    digest_key: Box<Zeroizing<[u8; 32]>>,
    /// Of the gradient of the step under way, as far as it is applied.
    hash: Zeroizing<blake3::Hasher>,
    /// Of the gradients under which steps 0, 1, ... were released. None where a step may be released under
    /// any: it was not, or only in part, or may be released under another.
    released: Vec<Option<GradientDigest>>,
    /// The beginnings of the gradients of other steps, in the middle of which the session went back.
    released_in_part: BTreeMap<u64, ReleasedInPart>,
    /// The gradient of a step that was released before, as far as it has come. Its answer waits for the rest:
    /// until then nobody knows whether it is the same gradient. The bytes are copied: a piece may keep a
    /// longer message alive, and the session answers for as many bytes as a gradient has.
    held: Vec<u8>,
    /// Whether no part of any answer goes out before all of the gradient has come.
    whole: bool,
}

/// What came of a run of tiles.
pub(super) enum Taken {
    /// The noise of the step is missing; nothing was changed.
    NeedsNoise,
    /// These answers; the step goes on.
    Part(Vec<OutputChunk>),
    /// These answers, of which the last ended the step: its noise is used up.
    Last(Vec<OutputChunk>),
}

#[derive(Clone, Copy, Debug)]
struct ReleasedInPart {
    bytes: usize,
    digest: GradientDigest,
}

impl Privatize {
    pub(super) fn new(resolved: Arc<ResolvedSpec>, backend: Backend, key: &NoiseKey) -> Self {
        let digest_key = key.of_digests();
        Self {
            backend,
            track: Track::new(resolved),
            hash: hash_of_step(&digest_key, 0),
            digest_key,
            released: Vec::new(),
            released_in_part: BTreeMap::new(),
            held: Vec::new(),
            whole: false,
        }
    }

    /// From now on, answers nothing of a step before all of its gradient has come.
    pub(super) fn take_whole_steps(&mut self) {
        self.whole = true;
    }

    /// Goes on before `step` as one that released the steps before under gradients of these digests.
    pub(super) fn go_on(&mut self, step: u64, released: Vec<Option<GradientDigest>>) {
        self.released = released;
        self.restart_at(step, None);
    }

    pub(super) fn next_step(&self) -> u64 {
        self.track.step
    }

    pub(super) fn next_offset(&self) -> usize {
        self.track.next_offset()
    }

    /// Takes a run of whole tiles. `drawn` is the noise of the next step, where there is any.
    pub(super) fn apply(
        &mut self,
        step: u64,
        offset: usize,
        pieces: Vec<Bytes>,
        drawn: Option<&DrawnStep>,
    ) -> Result<Taken> {
        let waits = self.whole || self.was_released(step);
        if step == self.track.step && waits && self.track.tiles_done == 0 {
            return self.hold(step, offset, pieces, drawn);
        }
        self.apply_fresh(step, offset, &pieces, drawn)
    }

    fn apply_fresh(
        &mut self,
        step: u64,
        offset: usize,
        pieces: &[impl AsRef<[u8]>],
        drawn: Option<&DrawnStep>,
    ) -> Result<Taken> {
        let checked = self.track.check(step, offset, pieces)?;
        let mut chunks = Vec::new();
        self.track.collect(&checked.replayed, &mut chunks);
        if checked.fresh.is_empty() {
            return Ok(Taken::Part(chunks));
        }
        let Some(drawn) = drawn.filter(|drawn| drawn.step == step) else {
            return Ok(Taken::NeedsNoise);
        };
        if !drawn.finite {
            return Err(Error::NoiseNotFinite { requested: step });
        }
        let (hash_before, digests_before) =
            (self.hash.clone(), self.track.digests[checked.fresh.clone()].to_vec());
        let mut buffer = self.track.take_buffer(&checked.fresh);
        let fresh: Vec<_> = checked.fresh_pieces(&self.track).collect();
        let mut output = &mut buffer[..];
        let mut finite = true;
        for (tiles, gradient) in fresh {
            let (of_tiles, rest) =
                std::mem::take(&mut output).split_at_mut(self.track.output_bytes(&tiles).len());
            let Self { backend, track, hash, .. } = self;
            let mut add = || add(*backend, track, &tiles, gradient, drawn, of_tiles);
            if gradient.len() > PARALLEL_GRAIN_BYTES / 4 {
                // The hash has to be done byte after byte; the sum need not wait for it.
                finite &= rayon::join(add, || hash.update(gradient)).0;
            } else {
                finite &= add();
                hash.update(gradient);
            }
            output = rest;
        }
        if !finite {
            self.hash = hash_before;
            self.track.give_up(&checked.fresh, &digests_before);
            return Err(self
                .out_of_range(&checked)
                .unwrap_or_else(|| self.not_finite(&checked.fresh, &buffer)));
        }
        let (chunk, step_ended) = self.track.finish(&checked.fresh, buffer);
        chunks.push(chunk);
        if !step_ended {
            return Ok(Taken::Part(chunks));
        }
        self.note_released(step);
        Ok(Taken::Last(chunks))
    }

    /// What is wrong with a gradient that leaves no room for noise.
    fn out_of_range(&self, checked: &Checked<'_>) -> Option<Error> {
        let Track { resolved, .. } = &self.track;
        let (input, answer) = (resolved.input_layout(), &resolved.layout);
        for (tiles, gradient) in checked.fresh_pieces(&self.track) {
            let lanes = self.track.lanes(&tiles);
            let origin = input.byte_of_lane(lanes.start);
            for lane in lanes {
                let bytes = input.byte_of_lane(lane) - origin..input.byte_of_lane(lane + 1) - origin;
                let of_input = input.spans(lane..lane + 1).next()?;
                let dtype = answer.spans(lane..lane + 1).next()?.dtype;
                let mut value = [0.0_f64];
                decode(of_input.dtype, &gradient[bytes], &mut value);
                let ([value], range) = (value, gradient_range(resolved.spec.precision, dtype));
                if value.abs() <= range {
                    continue;
                }
                let lane = resolved.first_lane + lane as u64;
                let rule = format!(
                    "must be at most {range:?} in absolute value, half of the range of answers in {dtype}, and the number of \
                     lane {lane} is not: clip the gradient before it is sent, or ask for answers of a wider format"
                );
                return Some(Error::invalid("payload", rule));
            }
        }
        None
    }

    /// What is wrong with the answer to a run of tiles.
    fn not_finite(&self, tiles: &Range<usize>, answer: &[u8]) -> Error {
        let Track { resolved, .. } = &self.track;
        let (layout, lanes) = (&resolved.layout, self.track.lanes(tiles));
        let origin = layout.byte_of_lane(lanes.start);
        let is_finite = |&lane: &usize| {
            let bytes = layout.byte_of_lane(lane) - origin..layout.byte_of_lane(lane + 1) - origin;
            layout.spans(lane..lane + 1).all(|span| all_finite(span.dtype, &answer[bytes.clone()]))
        };
        let lane = lanes.clone().find(|lane| !is_finite(lane)).unwrap_or(lanes.start);
        let lane = resolved.first_lane + lane as u64;
        let rule = format!(
            "its sum with the noise must be finite in the format of the answer, and that of lane {lane} is not: \
             ask for answers of a wider format"
        );
        Error::invalid("payload", rule)
    }

    /// The digest of the gradient under which all of a step was released.
    pub(super) fn digest_of(&self, step: u64) -> Option<GradientDigest> {
        self.released.get(usize::try_from(step).ok()?).copied().flatten()
    }

    /// Whether noise of this step was released before the session went back.
    fn was_released(&self, step: u64) -> bool {
        self.digest_of(step).is_some() || self.released_in_part.contains_key(&step)
    }

    fn note_released(&mut self, step: u64) {
        let digest = digest(&self.hash);
        // Going back goes forward as well, past steps that may be released under any gradient.
        let index = step as usize;
        if index >= self.released.len() {
            self.released.resize(index + 1, None);
        }
        self.released[index].get_or_insert(digest);
        self.released_in_part.remove(&step);
        self.hash = hash_of_step(&self.digest_key, self.track.step);
    }

    /// Waits for all of a gradient before any of its answer goes out.
    fn hold(
        &mut self,
        step: u64,
        offset: usize,
        pieces: Vec<Bytes>,
        drawn: Option<&DrawnStep>,
    ) -> Result<Taken> {
        self.track.check_next(step)?;
        let length = pieces.iter().map(Bytes::len).sum::<usize>();
        self.track.tiles_of(offset, length)?;
        let total = self.track.resolved.input_layout().byte_len();
        let ends = offset + length == total;
        if ends && drawn.is_none_or(|drawn| drawn.step != step) {
            return Ok(Taken::NeedsNoise);
        }
        // A client that starts again starts with the first byte.
        if offset == 0 {
            self.held.clear();
            if ends {
                return self.apply_whole(step, &pieces, drawn);
            }
            self.held.reserve_exact(total);
        }
        let held = self.held.len();
        if offset != held {
            let why = if self.whole { "and so is every step" } else { "since it was released before" };
            let rule = format!("must be {held}, found {offset}: step {step} is taken as a whole, {why}");
            return Err(Error::invalid("offset", rule));
        }
        pieces.iter().for_each(|piece| self.held.extend_from_slice(piece));
        if !ends {
            return Ok(Taken::Part(Vec::new()));
        }
        let mut gradient = std::mem::take(&mut self.held);
        let taken = self.apply_whole(step, &[&gradient], drawn);
        if self.whole {
            // The next step holds as much.
            gradient.clear();
            self.held = gradient;
        }
        taken
    }

    /// Takes a step of which all of the gradient is there.
    fn apply_whole(
        &mut self,
        step: u64,
        gradient: &[impl AsRef<[u8]>],
        drawn: Option<&DrawnStep>,
    ) -> Result<Taken> {
        if !self.is_same(step, gradient) {
            return Err(Error::Diverged { requested: step, expected: step });
        }
        self.apply_fresh(step, 0, gradient, drawn)
    }

    /// Whether this is the gradient under which the step was released.
    fn is_same(&self, step: u64, gradient: &[impl AsRef<[u8]>]) -> bool {
        let (bytes, expected) = match (self.digest_of(step), self.released_in_part.get(&step)) {
            (Some(expected), _) => (usize::MAX, expected),
            (None, Some(part)) => (part.bytes, part.digest),
            (None, None) => return true,
        };
        let mut hash = hash_of_step(&self.digest_key, step);
        let mut left = bytes;
        for piece in gradient.iter().map(AsRef::as_ref) {
            let piece = &piece[..left.min(piece.len())];
            hash.update(piece);
            left -= piece.len();
        }
        expected == digest(&hash)
    }

    /// Stands before `step` again.
    ///
    /// Steps from `divergence_from` on may be released under other gradients than before.
    pub(super) fn restart_at(&mut self, step: u64, divergence_from: Option<u64>) {
        if self.track.tiles_done > 0 {
            let (bytes, digest) = (self.track.next_offset(), digest(&self.hash));
            self.released_in_part.insert(self.track.step, ReleasedInPart { bytes, digest });
        }
        if let Some(divergence_from) = divergence_from {
            let from = usize::try_from(divergence_from).unwrap_or(usize::MAX).min(self.released.len());
            self.released[from..].fill(None);
            self.released_in_part.split_off(&divergence_from);
        }
        self.held = Vec::new();
        self.track.restart_at(step);
        self.hash = hash_of_step(&self.digest_key, self.track.step);
    }
}

impl std::fmt::Debug for Privatize {
    /// Where it stands: digests are keyed with a secret, and gradients are private.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Privatize").field("step", &self.track.step).finish_non_exhaustive()
    }
}

/// A keyed hash that begins with the step, so that no digest is that of another step. It holds the key.
fn hash_of_step(key: &[u8; 32], step: u64) -> Zeroizing<blake3::Hasher> {
    let mut hash = Zeroizing::new(blake3::Hasher::new_keyed(key));
    hash.update(&step.to_le_bytes());
    hash
}

fn digest(hash: &blake3::Hasher) -> GradientDigest {
    let mut digest = GradientDigest::default();
    hash.finalize_xof().fill(&mut digest);
    digest
}

/// Tells whether all sums are finite.
fn add(
    backend: Backend,
    track: &mut Track,
    tiles: &Range<usize>,
    gradient: &[u8],
    drawn: &DrawnStep,
    output: &mut [u8],
) -> bool {
    let lanes = track.lanes(tiles);
    let resolved = Arc::clone(&track.resolved);
    let precision = resolved.spec.precision;
    let number_bytes = precision.size();
    let sum = Sum {
        backend,
        gradient_layout: resolved.input_layout(),
        gradient,
        noise: &drawn.bytes[lanes.start * number_bytes..lanes.end * number_bytes],
        lanes,
        layout: &resolved.layout,
        output,
        digests: &mut track.digests[tiles.clone()],
    };
    match precision {
        crate::Precision::F32 => sum.run::<f32>(),
        crate::Precision::F64 => sum.run::<f64>(),
    }
}
