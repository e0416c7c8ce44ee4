//! The keys of noises: who gets which.

use std::sync::Arc;

use noised::Error;
use noised::noise::{MasterKey, NoiseKey};
use noised::session::{KeyOrigin, ResolvedSpec, Source};
use noised_proto::ServiceError;
use zeroize::Zeroizing;

use crate::durable::{Durable, Place};
use crate::entry::Entry;
use crate::identity::SessionKey;
use crate::ledger::{Claim, Ledger, Wanted};
use crate::registry::{AskedNoise, Resumed};

/// What keys come from.
#[derive(Debug)]
pub(crate) struct Keys {
    master: Option<MasterKey>,
    ledger: Arc<Ledger>,
}

/// A session's key, and its right to draw with it.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) key: NoiseKey,
    /// Whether a secret of the server gives it, so that others may have it as well.
    pub(crate) is_derived: bool,
    /// Whether the noise was drawn before and begins again.
    pub(crate) started_over: bool,
    /// The claim on the noise, where the ledger has it.
    pub(crate) claim: Option<Claim>,
}

impl Keyed {
    /// A key that no other session has.
    fn own(key: NoiseKey) -> Self {
        Self { key, is_derived: false, started_over: false, claim: None }
    }
}

impl Keys {
    pub(crate) fn new(master: Option<MasterKey>, ledger: Arc<Ledger>) -> Self {
        Self { master, ledger }
    }

    /// Which noises were drawn.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// The key of a session; `None` where the server draws nothing for it. Where sessions are stored, the
    /// store remembers noises in the ledger's place, and the session has a place there.
    ///
    /// The store may have to be asked: call this on a thread that may block.
    pub(crate) fn key_of(
        &self,
        holder: &SessionKey,
        place: Option<(&Durable, &Place)>,
        resolved: &ResolvedSpec,
        asked: AskedNoise,
    ) -> Result<Option<Keyed>, ServiceError> {
        let AskedNoise { lookahead: _, state: _, given_key, start_over, resumed } = asked;
        check_resumable(resolved, resumed.is_some())?;
        check_given(resolved, given_key.as_ref())?;
        let Some(noise) = resolved.spec().source.noise() else {
            return Ok(None);
        };
        let keyed = match (&noise.key, given_key) {
            (KeyOrigin::Given, Some(key)) => Keyed::own(key),
            (KeyOrigin::Fresh | KeyOrigin::Given, _) => Keyed::own(fresh_key()?),
            (KeyOrigin::Derived { noise_id }, _) => {
                let master = self.master.as_ref().ok_or(ServiceError::NoMasterKey)?;
                let fingerprint = resolved.noise_fingerprint();
                let key = master.of_tenant(holder.tenant.name()).derive(noise_id, &fingerprint);
                let lanes = resolved.lanes();
                if resumed.is_some_and(|Resumed { step, proof }| key.proof_of_step(step, &lanes) != proof) {
                    let rule = "must be what KeepState gave for this step of this noise, by a server of this master key";
                    return Err(Error::invalid("resumed_noise.token", rule).into());
                }
                // Going on draws no noise for other gradients than before: it is not begun again.
                let goes_on = resumed.is_some();
                let wanted = Wanted { noise_id, fingerprint, lanes, holder, start_over, goes_on };
                let (started_over, claim) = match place {
                    Some((store, place)) => (store.claim_noise(&wanted, place)?, None),
                    None => self.ledger.claim(wanted).map(|claim| (claim.started_over, Some(claim)))?,
                };
                Keyed { key, is_derived: true, started_over, claim }
            }
        };
        Ok(Some(keyed))
    }

    /// The key of a session of a store, which goes on with its noise; `None` where the server draws nothing
    /// for it. `stored` is the key, where it was stored.
    ///
    /// The store has to be asked: call this on a thread that may block.
    pub(crate) fn key_of_stored(
        &self,
        store: &Durable,
        holder: &SessionKey,
        uid: &str,
        resolved: &ResolvedSpec,
        stored: Option<NoiseKey>,
    ) -> Result<Option<Keyed>, ServiceError> {
        let Some(noise) = resolved.spec().source.noise() else { return Ok(None) };
        let KeyOrigin::Derived { noise_id } = &noise.key else {
            let missing = || Error::damaged("the key of the noise is not stored");
            return Ok(Some(Keyed::own(stored.ok_or_else(missing)?)));
        };
        let master = self.master.as_ref().ok_or(ServiceError::NoMasterKey)?;
        let (fingerprint, lanes) = (resolved.noise_fingerprint(), resolved.lanes());
        let key = master.of_tenant(holder.tenant.name()).derive(noise_id, &fingerprint);
        let (start_over, goes_on) = (false, true);
        let wanted = Wanted { noise_id, fingerprint, lanes, holder, start_over, goes_on };
        store.check_noise(&wanted, uid)?;
        Ok(Some(Keyed { key, is_derived: true, started_over: false, claim: None }))
    }

    /// Checks that a session which is found goes on with the key that is given.
    pub(crate) fn check_same(found: &Entry, given: Option<&NoiseKey>) -> Result<(), ServiceError> {
        check_given(&found.resolved, given)?;
        let differs =
            |key: &NoiseKey| found.noise.as_ref().is_none_or(|noise| noise.key_check != key.check());
        if given.is_some_and(differs) {
            return Err(Error::FingerprintMismatch { field: "noise_key" }.into());
        }
        Ok(())
    }
}

/// What the server can draw again is gone on with, and only where nobody puts it under gradients but whoever
/// had it before.
fn check_resumable(resolved: &ResolvedSpec, is_resumed: bool) -> Result<(), ServiceError> {
    match &resolved.spec().source {
        Source::Gaussian(noise) if matches!(noise.key, KeyOrigin::Derived { .. }) => Ok(()),
        _ if !is_resumed => Ok(()),
        _ => Err(Error::invalid(
            "resumed_noise",
            "must not be set: the source is not gaussian with a noise_id",
        )
        .into()),
    }
}

/// A key is given where the source says so, and only there.
fn check_given(resolved: &ResolvedSpec, given: Option<&NoiseKey>) -> Result<(), ServiceError> {
    let wanted = resolved.spec().source.noise().is_some_and(|noise| noise.key == KeyOrigin::Given);
    let rule = match (wanted, given) {
        (true, None) => "is missing: the key of the session's source is `given`",
        (false, Some(_)) => "must be empty: the key of the session's source is not `given`",
        (true, Some(_)) | (false, None) => return Ok(()),
    };
    Err(Error::invalid("noise_key", rule).into())
}

/// A key that the operating system makes.
fn fresh_key() -> Result<NoiseKey, ServiceError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| {
        tracing::error!(%error, "the operating system gives no random bytes");
        ServiceError::Internal
    })?;
    Ok(NoiseKey::from_bytes(*bytes))
}
