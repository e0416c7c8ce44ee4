//! Which noises were drawn, in the store of the sessions: the noise of a `noise_id` is not begun again from
//! step 0 without somebody saying so.
//!
//! ```text
//! claims/{folder}/{number}       all claims of one noise; the highest number counts
//! ```
//!
//! A claim says which session draws which lanes. It is in the store before the session draws. Whoever adds
//! one makes the object of the next number, with all claims that it read and its own. The store makes an
//! object only under a name that is free. An object of a lower number than the highest, made in the place of
//! a deleted one, does not count, and whoever made it finds that and reads again.
//!
//! Whether a claim still holds is asked of its session's own objects. So nothing is written here when a
//! session is handed over, taken or deleted.

use noised_proto::ServiceError;
use noised_store::{Created, JournalId, StoreError};
use serde::{Deserialize, Serialize};

use super::looking::{LOOK_PAUSE, LOOKS};
use super::making::Place;
use super::objects::{Made, Owner, decode, folder_of, noise_folder};
use super::{Durable, damaged, elsewhere, told};
use crate::identity::SessionKey;
use crate::ledger::{Remembered, RememberedUse, Wanted};

/// Tries to add to the claims of one noise, where others add to them at the same time.
const TRIES: usize = 50;

/// The claims of one noise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    noise_id: String,
    /// In the order in which they were made.
    claims: Vec<Claim>,
}

/// Lanes of a noise that a session draws, or that sessions have drawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// From the first lane to the one behind the last.
    lanes: (u64, u64),
    /// Where the session is made, and its name.
    folder: String,
    uid: String,
    number: u64,
    session: String,
    /// The journal of the server that makes it.
    journal: String,
    /// Until somebody sees that the session has ended.
    open: bool,
    /// Steps that sessions which have ended released of these lanes, as far as is known.
    released: u64,
    /// Whether they may have released more.
    unknown: bool,
    started_over: bool,
}

/// What has become of a session that claimed a noise.
enum Fate {
    Alive,
    Ended {
        released: u64,
        unknown: bool,
    },
    /// A server that is alive is making it.
    BeingMade,
    /// It was never made, and cannot be any more.
    NeverMade,
}

impl Claim {
    fn overlaps(&self, lanes: (u64, u64)) -> bool {
        self.lanes.0 < lanes.1 && lanes.0 < self.lanes.1
    }

    fn is_of(&self, holder: &SessionKey, uid: &str) -> bool {
        // Claims of a ledger that was taken over have no uid.
        if self.uid.is_empty() { self.session == holder.name } else { self.uid == uid }
    }

    fn end(&mut self, released: u64, unknown: bool) {
        self.open = false;
        self.released = self.released.max(released);
        self.unknown |= unknown;
    }

    fn was_drawn(&self) -> bool {
        self.open || self.released > 0 || self.unknown
    }
}

impl Claims {
    /// Whether lanes of the noise may be drawn from step 0 on; tells whether they begin again. All claims of
    /// sessions that have ended are closed.
    fn check(
        &self,
        noise_id: &str,
        lanes: (u64, u64),
        start_over: bool,
        goes_on: bool,
    ) -> Result<bool, ServiceError> {
        let before = || self.claims.iter().filter(|claim| claim.overlaps(lanes) && claim.was_drawn());
        if let Some(other) = before().find(|claim| claim.open) {
            let (noise_id, session) = (noise_id.to_owned(), other.session.clone());
            return Err(ServiceError::NoiseInUse { noise_id, session });
        }
        let Some(released) = before().map(|claim| claim.released).max() else { return Ok(false) };
        if !start_over && !goes_on {
            let is_known = before().all(|claim| !claim.unknown);
            return Err(used(noise_id, is_known.then_some(released)));
        }
        Ok(start_over)
    }

    /// Whether a session was the last to begin any of these lanes; `None` where nobody did.
    fn is_last(&self, lanes: (u64, u64), holder: &SessionKey, uid: &str) -> Option<bool> {
        let last = self.claims.iter().rfind(|claim| claim.overlaps(lanes))?;
        Some(last.is_of(holder, uid))
    }

    /// Takes what a ledger knew of lanes: those that no claim has come before all others, and of the rest the
    /// furthest that their noise came is remembered. Tells whether that changes anything.
    fn take_over(&mut self, known: &[Claim]) -> bool {
        let mut is_new = false;
        let mut before = Vec::new();
        for known in known {
            let Some(claim) = self.claims.iter_mut().find(|claim| claim.lanes == known.lanes) else {
                before.push(known.clone());
                continue;
            };
            is_new |= known.released > claim.released || known.unknown && !claim.unknown;
            claim.released = claim.released.max(known.released);
            claim.unknown |= known.unknown;
            claim.started_over |= known.started_over;
        }
        is_new |= !before.is_empty();
        self.claims.splice(0..0, before);
        is_new
    }

    /// Adds a claim, which takes the place of earlier ones of the same lanes: it remembers the furthest that
    /// their noise ever came.
    fn add(&mut self, lanes: (u64, u64), holder: &SessionKey, place: &Place, started_over: bool) {
        let Place { folder, uid, number, journal, .. } = place.clone();
        let mut claim = Claim {
            lanes,
            folder,
            uid,
            number,
            session: holder.name.clone(),
            journal,
            open: true,
            released: 0,
            unknown: false,
            started_over,
        };
        for same in self.claims.extract_if(.., |claim| claim.lanes == lanes) {
            claim.released = claim.released.max(same.released);
            claim.unknown |= same.unknown;
            claim.started_over |= same.started_over;
        }
        self.claims.push(claim);
    }
}

fn used(noise_id: &str, next_step: Option<u64>) -> ServiceError {
    ServiceError::NoiseUsed { noise_id: noise_id.to_owned(), next_step }
}

fn claims_object(folder: &str, number: u64) -> String {
    format!("{folder}/{number:010}")
}

/// What is to become of the claims of a noise.
enum Change<'a> {
    /// A session that is about to be made claims lanes.
    Claim {
        noise_id: &'a str,
        lanes: (u64, u64),
        holder: &'a SessionKey,
        place: &'a Place,
        start_over: bool,
        goes_on: bool,
    },
    /// All that the store has of a session is about to be deleted.
    Close { uid: &'a str },
    /// A ledger has known these.
    TakeOver { noise_id: &'a str, claims: Vec<Claim> },
}

/// What a change has done.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    /// Whether there is anything to be written.
    is_new: bool,
    /// Whether a noise that was drawn before begins again.
    started_over: bool,
}

impl Durable {
    /// Claims lanes of a noise for a session that is about to be made. Tells whether the noise was drawn
    /// before and begins again.
    ///
    /// Call it on a thread that may block.
    pub(crate) fn claim_noise(&self, wanted: &Wanted<'_>, place: &Place) -> Result<bool, ServiceError> {
        let &Wanted { noise_id, fingerprint, ref lanes, holder, start_over, goes_on } = wanted;
        let folder = noise_folder(holder.tenant.name(), noise_id, &fingerprint.to_string());
        let lanes = (lanes.start, lanes.end);
        let claim = Change::Claim { noise_id, lanes, holder, place, start_over, goes_on };
        self.runtime.block_on(self.change_claims(&folder, claim)).map(|changed| changed.started_over)
    }

    /// Checks that nobody has begun the noise of a session since the session did. A session that was stored
    /// before there were claims makes its own.
    ///
    /// Call it on a thread that may block.
    pub(crate) fn check_noise(&self, wanted: &Wanted<'_>, uid: &str) -> Result<(), ServiceError> {
        let Wanted { noise_id, fingerprint, lanes, holder, .. } = wanted;
        let folder = noise_folder(holder.tenant.name(), noise_id, &fingerprint.to_string());
        let lanes = (lanes.start, lanes.end);
        let claims = self.runtime.block_on(self.last_claims(&folder))?.map(|(_, claims)| claims);
        match claims.and_then(|claims| claims.is_last(lanes, holder, uid)) {
            Some(true) => Ok(()),
            Some(false) => Err(used(noise_id, None)),
            None => {
                // It is made, at whatever number.
                let place = self.place_at(folder_of(holder), uid.to_owned(), u64::MAX);
                self.claim_noise(wanted, &place).map(drop)
            }
        }
    }

    /// Has what a ledger's file knows be in the store as well.
    pub(crate) async fn take_over_ledger(&self, remembered: Vec<Remembered>) -> Result<(), ServiceError> {
        for Remembered { tenant, noise_id, fingerprint, uses } in remembered {
            let claim = |used: &RememberedUse| {
                let session = used.session.clone().unwrap_or_default();
                Claim {
                    lanes: (used.lanes.start, used.lanes.end),
                    folder: folder_of(&SessionKey::named(&tenant, &session)),
                    uid: String::new(),
                    number: 0,
                    journal: String::new(),
                    open: used.session.is_some(),
                    session,
                    released: used.next_step,
                    unknown: used.unknown,
                    started_over: used.started_over,
                }
            };
            let claims = uses.iter().map(claim).collect();
            let noise_id = noise_id.as_str();
            self.change_claims(
                &noise_folder(&tenant, noise_id, &fingerprint),
                Change::TakeOver { noise_id, claims },
            )
            .await?;
        }
        Ok(())
    }

    /// Closes a session's claim, before all that the store has of the session is deleted.
    pub(super) async fn close_claim(&self, folder: &str, uid: &str) -> Result<(), ServiceError> {
        self.change_claims(folder, Change::Close { uid }).await.map(drop)
    }

    async fn apply(
        &self,
        noise: &str,
        claims: &mut Claims,
        change: &Change<'_>,
    ) -> Result<Changed, ServiceError> {
        match change {
            &Change::Claim { noise_id, lanes, holder, place, start_over, goes_on } => {
                let own = claims.claims.iter().find(|claim| claim.open && claim.uid == place.uid);
                if let Some(own) = own {
                    // An earlier try has made it.
                    return Ok(Changed { is_new: false, started_over: start_over && own.started_over });
                }
                // A session that cannot be made any more must not end the making of others.
                if self.last_made(&place.folder).await?.1 > place.number {
                    return Err(elsewhere());
                }
                self.close_ended(noise, claims, lanes, place).await?;
                let started_over = claims.check(noise_id, lanes, start_over, goes_on)?;
                noise_id.clone_into(&mut claims.noise_id);
                claims.add(lanes, holder, place, started_over);
                Ok(Changed { is_new: true, started_over })
            }
            Change::Close { uid } => {
                let own = claims.claims.iter_mut().find(|claim| claim.open && claim.uid == *uid);
                let Some(own) = own else { return Ok(Changed::default()) };
                match self.fate(noise, own).await? {
                    Fate::Alive | Fate::BeingMade => return Ok(Changed::default()),
                    Fate::Ended { released, unknown } => own.end(released, unknown),
                    Fate::NeverMade => own.end(0, false),
                }
                Ok(Changed { is_new: true, started_over: false })
            }
            Change::TakeOver { noise_id, claims: known } => {
                (*noise_id).clone_into(&mut claims.noise_id);
                Ok(Changed { is_new: claims.take_over(known), started_over: false })
            }
        }
    }

    /// Closes the claims of sessions that have ended, and of those whose making broke off.
    async fn close_ended(
        &self,
        noise: &str,
        claims: &mut Claims,
        lanes: (u64, u64),
        place: &Place,
    ) -> Result<(), ServiceError> {
        for claim in claims.claims.iter_mut().filter(|claim| claim.open && claim.overlaps(lanes)) {
            match self.fate(noise, claim).await? {
                Fate::Alive => {}
                // An earlier try to make the same session may still succeed.
                Fate::BeingMade if claim.folder == place.folder => return Err(elsewhere()),
                Fate::BeingMade => {}
                Fate::Ended { released, unknown } => claim.end(released, unknown),
                Fate::NeverMade => {
                    let of = claim.session.as_str();
                    tracing::warn!(of, "a session that was not made has left a claim");
                    if claim.folder == place.folder && claim.number >= place.number {
                        // No session can be made at that number any more, and this one was to be.
                        return Err(elsewhere());
                    }
                    claim.end(0, false);
                }
            }
        }
        Ok(())
    }

    /// What has become of the session of a claim on a noise. One that was not made cannot be made after this.
    async fn fate(&self, noise: &str, claim: &Claim) -> Result<Fate, ServiceError> {
        let Claim { folder, uid, number, session, .. } = claim;
        if uid.is_empty() {
            // Of a ledger that was taken over.
            let of_noise = |made: &Made| made.noise().is_ok_and(|of| of.as_deref() == Some(noise));
            let last = self.last_session(folder).await?.0;
            let last = last.filter(|(made, _, _)| made.name == *session && of_noise(made));
            // What the ledger knew of its end is in the claim.
            let ended = Fate::Ended { released: 0, unknown: false };
            return Ok(last.map_or(ended, |(_, _, owner)| fate_of(&owner)));
        }
        let mut looks = 0;
        loop {
            let (made, next) = self.last_made(folder).await?;
            let is_its = made.is_some_and(|made| made.uid == *uid);
            let owner = self.owner_if_any(folder, uid).await?;
            match &owner {
                Some((_, owner)) if is_its || owner.ended => return Ok(fate_of(owner)),
                // Another session has the name by now. This one has not ended, so it was not made.
                _ if !is_its && next > *number => return Ok(Fate::NeverMade),
                _ => {}
            }
            if looks == 0 && !is_its && self.is_being_made(claim).await? {
                return Ok(Fate::BeingMade);
            }
            looks += 1;
            if looks < LOOKS {
                // Its server may be about to finish it.
                tokio::time::sleep(LOOK_PAUSE).await;
            } else if looks > LOOKS && (is_its || owner.is_some_and(|(number, _)| number > 0)) {
                return Err(damaged(folder, "the session that claims a noise is missing, or its owner"));
            } else if looks > LOOKS && self.break_off(folder, uid, *number).await? {
                return Ok(Fate::NeverMade);
            }
        }
    }

    /// Whether the server is alive that makes a session, as far as it says so.
    async fn is_being_made(&self, claim: &Claim) -> Result<bool, ServiceError> {
        if self.is_making(&claim.uid) {
            return Ok(true);
        }
        let journal = JournalId::parse(&claim.journal).map_err(told)?;
        if *self.journal().id() == journal {
            return Ok(false);
        }
        match self.leases.check_gone(&journal, &claim.session).await {
            Ok(()) => Ok(false),
            Err(ServiceError::SessionElsewhere { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Changes the claims of a noise, as they are once nobody else changes them at the same time.
    async fn change_claims(&self, folder: &str, change: Change<'_>) -> Result<Changed, ServiceError> {
        for _ in 0..TRIES {
            let last = self.last_claims(folder).await?;
            let (number, mut claims) =
                last.map_or_else(Default::default, |(last, claims)| (last + 1, claims));
            let changed = self.apply(folder, &mut claims, &change).await?;
            if !changed.is_new {
                return Ok(changed);
            }
            if self.create(&claims_object(folder, number), &claims).await? == Created::Taken {
                continue;
            }
            if self.last_number(folder).await? != Some(number) {
                continue;
            }
            if let Some(before) = number.checked_sub(1) {
                let before = claims_object(folder, before);
                if let Err(error) = self.store.delete(&before).await {
                    tracing::warn!(%error, before, "an object that nobody needs was not deleted");
                }
            }
            return Ok(changed);
        }
        Err(elsewhere())
    }

    async fn last_number(&self, folder: &str) -> Result<Option<u64>, ServiceError> {
        let listed = self.store.list(folder).await.map_err(told)?;
        let number = |name: &str| name.rsplit('/').next()?.parse().ok();
        Ok(listed.iter().filter_map(|object| number(&object.name)).max())
    }

    async fn last_claims(&self, folder: &str) -> Result<Option<(u64, Claims)>, ServiceError> {
        for _ in 0..TRIES {
            let Some(number) = self.last_number(folder).await? else { return Ok(None) };
            let name = claims_object(folder, number);
            // Whoever makes the next one deletes it.
            if let Some(bytes) = self.store.read(&name).await.map_err(told)? {
                return Ok(Some((number, decode(&name, &bytes).map_err(told)?)));
            }
        }
        Err(damaged(folder, "the claims of a noise are missing"))
    }
}

/// Checks an object of claims.
pub(super) fn check_claims(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    decode::<Claims>(name, bytes).map(drop)
}

fn fate_of(owner: &Owner) -> Fate {
    if !owner.ended {
        return Fate::Alive;
    }
    let (released, is_known) = owner.past.ended_at();
    Fate::Ended { released, unknown: !is_known }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn holder(id: &str) -> SessionKey {
        SessionKey::named("", &format!("sessions/{id}"))
    }

    fn place(id: &str) -> Place {
        Place::new((String::new(), id.to_owned(), 0), "journal", &Arc::default())
    }

    /// A session claims lanes as the store would have it, and ends where `released` says how far it came.
    fn claim(claims: &mut Claims, lanes: (u64, u64), id: &str, start_over: bool, released: Option<u64>) {
        let over = claims.check("run", lanes, start_over, false).unwrap();
        claims.add(lanes, &holder(id), &place(id), over);
        if let Some(released) = released {
            claims.claims.last_mut().unwrap().end(released, false);
        }
    }

    fn known(lanes: (u64, u64), id: &str, released: u64, unknown: bool) -> Claim {
        let SessionKey { tenant: _, name: session } = holder(id);
        let Place { folder, uid, number, journal, .. } = place("");
        Claim {
            lanes,
            folder,
            uid,
            number,
            session,
            journal,
            open: true,
            released,
            unknown,
            started_over: false,
        }
    }

    #[test]
    fn lanes_are_begun_once_unless_somebody_says_so() {
        let mut claims = Claims::default();
        let asked = |claims: &Claims, lanes, over, on| claims.check("run", lanes, over, on);
        claim(&mut claims, (0, 10), "a", false, None);
        let session = "sessions/a".to_owned();
        let in_use = ServiceError::NoiseInUse { noise_id: "run".into(), session };
        assert_eq!(asked(&claims, (9, 12), true, false), Err(in_use));
        assert_eq!(asked(&claims, (10, 12), false, false), Ok(false));
        // Nothing was released of it, so it is free.
        claims.claims[0].end(0, false);
        assert_eq!(asked(&claims, (0, 10), false, false), Ok(false));
        claims.claims[0].end(7, false);
        assert_eq!(asked(&claims, (0, 10), false, false), Err(used("run", Some(7))));
        assert_eq!(asked(&claims, (0, 10), true, false), Ok(true));
        assert_eq!(asked(&claims, (0, 10), false, true), Ok(false));
        // A claim that begins the noise again still says how far the noise came before.
        claim(&mut claims, (0, 10), "b", true, Some(2));
        assert_eq!((claims.claims.len(), claims.claims[0].started_over), (1, true));
        assert_eq!(asked(&claims, (5, 6), false, false), Err(used("run", Some(7))));
        claims.claims[0].end(0, true);
        assert_eq!(asked(&claims, (5, 6), false, false), Err(used("run", None)));
    }

    #[test]
    fn who_began_last_goes_on() {
        let mut claims = Claims::default();
        assert_eq!(claims.is_last((0, 10), &holder("mine"), "mine"), None);
        claim(&mut claims, (0, 10), "mine", false, Some(3));
        claim(&mut claims, (20, 30), "early", false, Some(1));
        claim(&mut claims, (10, 20), "late", false, Some(1));
        claim(&mut claims, (10, 30), "whole", true, Some(2));
        for (lanes, id, is_last) in [
            ((0, 10), "mine", true),
            ((0, 10), "other", false),
            ((20, 30), "early", false),
            ((10, 30), "whole", true),
        ] {
            assert_eq!(claims.is_last(lanes, &holder(id), id), Some(is_last), "{id}");
        }
        claim(&mut claims, (5, 6), "other", true, Some(1));
        assert_eq!(claims.is_last((0, 10), &holder("mine"), "mine"), Some(false));
    }

    /// Each of two ledgers knew a shard, and the store knows a third and one of theirs.
    #[test]
    fn ledgers_are_taken_over_lane_by_lane_and_once() {
        let mut claims = Claims::default();
        claim(&mut claims, (20, 30), "store", false, None);
        claim(&mut claims, (0, 10), "new", false, Some(1));
        let ledgers = [[known((0, 10), "old", 5, false)], [known((10, 20), "shard", 4, true)]];
        for (is_new, ledger) in
            [(true, &ledgers[0]), (true, &ledgers[1]), (false, &ledgers[0]), (false, &ledgers[1])]
        {
            assert_eq!(claims.take_over(ledger), is_new);
        }
        let lanes: Vec<_> = claims.claims.iter().map(|claim| (claim.lanes.0, claim.released)).collect();
        assert_eq!(lanes, [(10, 4), (20, 0), (0, 5)]);
        // A session of a ledger is known by its name alone.
        assert_eq!(claims.is_last((10, 20), &holder("shard"), "of the store"), Some(true));
        assert_eq!(claims.is_last((0, 10), &holder("old"), "of the store"), Some(false));
    }
}
