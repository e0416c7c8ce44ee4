//! Which noises were drawn in this process: that of a `noise_id` is drawn by one session at a time, and not
//! begun again from step 0 without somebody saying so.

use std::collections::HashMap;
use std::ops::Range;

use noised::session::{Fingerprint, KeyOrigin, ResolvedSpec};
use noised_proto::ServiceError;

/// Lanes of a noise that others may draw as well.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    noise_id: String,
    /// What all shards of it are bound to: the same name with something else is another noise.
    fingerprint: Fingerprint,
    lanes: Range<u64>,
}

/// The noises that were drawn, and those that are.
#[derive(Debug, Default)]
pub(super) struct Noises(HashMap<(String, Fingerprint), Vec<Use>>);

#[derive(Debug)]
struct Use {
    lanes: Range<u64>,
    /// The session that draws them now.
    session: Option<String>,
    /// The first step that was never released.
    next_step: u64,
}

impl Claim {
    /// What a session draws of a noise that has a name.
    pub(super) fn of(resolved: &ResolvedSpec) -> Option<Self> {
        let KeyOrigin::Derived { noise_id } = &resolved.spec().source.noise()?.key else { return None };
        let (noise_id, lanes) = (noise_id.clone(), resolved.lanes());
        Some(Self { noise_id, fingerprint: resolved.noise_fingerprint(), lanes })
    }

    fn noise(&self) -> (String, Fingerprint) {
        (self.noise_id.clone(), self.fingerprint)
    }
}

impl Noises {
    /// Begins to draw from step 0. Tells whether that was done before.
    pub(super) fn begin(
        &mut self,
        claim: &Claim,
        session: &str,
        start_over: bool,
    ) -> Result<bool, ServiceError> {
        let Claim { noise_id, fingerprint: _, lanes } = claim;
        let uses = self.0.entry(claim.noise()).or_default();
        let overlapping = |other: &&Use| other.lanes.start < lanes.end && lanes.start < other.lanes.end;
        let mut used_up_to = None;
        for Use { lanes: _, session, next_step } in uses.iter().filter(overlapping) {
            if let Some(session) = session.clone() {
                return Err(ServiceError::NoiseInUse { noise_id: noise_id.clone(), session });
            }
            used_up_to = used_up_to.max(Some(*next_step));
        }
        if used_up_to.is_some() && !start_over {
            return Err(ServiceError::NoiseUsed { noise_id: noise_id.clone(), next_step: used_up_to });
        }
        let session = Some(session.to_owned());
        match uses.iter_mut().find(|old| old.lanes == *lanes) {
            // One that is started over is remembered for the furthest that it ever came.
            Some(old) => old.session = session,
            None => uses.push(Use { lanes: lanes.clone(), session, next_step: 0 }),
        }
        Ok(used_up_to.is_some())
    }

    /// Ends the drawing, of which so many steps were released.
    pub(super) fn end(&mut self, claim: &Claim, released_steps: u64) {
        let noise = claim.noise();
        let Some(uses) = self.0.get_mut(&noise) else { return };
        if let Some(ended) = uses.iter_mut().find(|ended| ended.lanes == claim.lanes) {
            ended.session = None;
            ended.next_step = ended.next_step.max(released_steps);
        }
        // A noise of which nothing was released may be begun by anybody.
        uses.retain(|one| one.session.is_some() || one.next_step > 0);
        if uses.is_empty() {
            self.0.remove(&noise);
        }
    }
}
