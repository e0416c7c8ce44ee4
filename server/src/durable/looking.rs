//! Which session has a name, and who has the session: read where others may change both.

use std::time::Duration;

use noised_store::{SealedStore, StoreError};

use super::objects::{Made, Owner, decode, made_number, made_object, owner_number, owner_object};

/// Looks, where objects change meanwhile.
pub(super) const LOOKS: usize = 10;

/// Between two of them.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A session, and its last owner with the owner's number.
pub(super) type Held = (Made, u64, Owner);

/// The last session that was made of a name, and the number that the next one gets.
pub(super) async fn last_made(store: &SealedStore, folder: &str) -> Result<(Option<Made>, u64), StoreError> {
    for _ in 0..LOOKS {
        let listed = store.list(folder).await?;
        let last = listed.iter().filter_map(|object| made_number(folder, &object.name)).max();
        let Some(number) = last else { return Ok((None, 0)) };
        let name = made_object(folder, number);
        if let Some(bytes) = store.read(&name).await? {
            return Ok((decode(&name, &bytes)?, number + 1));
        }
        // The server that makes the next session of that name deletes this object afterwards.
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(damaged(folder, "the session of the name is missing"))
}

/// The same with the session's last owner.
pub(super) async fn last_session(
    store: &SealedStore,
    folder: &str,
) -> Result<(Option<Held>, u64), StoreError> {
    for _ in 0..LOOKS {
        let (made, next) = last_made(store, folder).await?;
        let Some(made) = made else { return Ok((None, next)) };
        if let Some((number, owner)) = owner_if_any(store, folder, &made.uid).await? {
            return Ok((Some((made, number, owner)), next));
        }
        // Its objects are deleted once the next session of the name is there.
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(damaged(folder, "nobody is known to have had the session of the name"))
}

/// The last owner of a session, with its number; `None` where there never was one.
pub(super) async fn owner_if_any(
    store: &SealedStore,
    folder: &str,
    uid: &str,
) -> Result<Option<(u64, Owner)>, StoreError> {
    let within = format!("{folder}/{uid}");
    for _ in 0..LOOKS {
        let listed = store.list(&within).await?;
        let last = listed.iter().filter_map(|object| owner_number(&object.name)).max();
        let Some(number) = last else { return Ok(None) };
        let object = owner_object(folder, uid, number);
        if let Some(bytes) = store.read(&object).await? {
            return Ok(Some((number, decode(&object, &bytes)?)));
        }
        // The owner deletes this object after it has made the next one.
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(damaged(&within, "the owner of the session is missing"))
}

pub(super) fn damaged(name: &str, what: &str) -> StoreError {
    StoreError::Damaged { name: name.to_owned(), what: what.to_owned() }
}
