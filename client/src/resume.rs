//! Going on with the noise of a session that is gone.

use std::fmt;

/// Where the noise of a session that is gone is gone on with: in
/// [`CreateOptions::resumed_noise`](crate::CreateOptions::resumed_noise).
///
/// The noise of a `gaussian` session with a `noise_id` is a function of the servers' master key, the
/// description, the step and the lane. So a server that has that key and lost the session draws the same
/// noise again. What it wants is a proof that the caller's checkpoint is of that noise: other callers would
/// put it under other gradients.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumedNoise {
    /// The step whose state was kept.
    pub step: u64,
    /// [`Session::resume_token`](crate::Session::resume_token) after that, of every shard in tree order.
    pub tokens: Vec<Vec<u8>>,
}

impl ResumedNoise {
    /// That of one shard. Where there is no token for it, the server says so.
    pub(crate) fn of_shard(&self, index: usize) -> Self {
        Self { step: self.step, tokens: self.tokens.get(index).cloned().into_iter().collect() }
    }

    /// The token of a session that is in one piece.
    pub(crate) fn token(&self) -> &[u8] {
        self.tokens.first().map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for ResumedNoise {
    /// Its step: who has a token goes on with the noise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumedNoise").field("step", &self.step).finish_non_exhaustive()
    }
}
