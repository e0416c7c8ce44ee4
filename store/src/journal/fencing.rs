//! Everybody else's side of a journal: to fence it, and to read it.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::entry::{Entry, decode_number, encode_number};
use super::id::JournalId;
use crate::backend::Created;
use crate::error::StoreError;
use crate::sealed::SealedStore;

/// Tries to get ahead of an owner that goes on writing.
const TRIES: usize = 1000;

/// Tries to read a journal between two folds of its owner.
const INSPECTIONS: usize = 10;

/// Objects that are read at once.
const READ_AHEAD: usize = 16;

/// What a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The payloads that were not folded, in order, each with the number that its commit returned.
    pub payloads: Vec<(u64, Bytes)>,
    /// The number of the last fold; 0 where nothing was folded.
    pub folded_below: u64,
    /// The number that comes next; of a fenced journal, the fence's.
    pub end: u64,
    /// Whether the owner can commit nothing more.
    pub fenced: bool,
}

/// Fences a journal, and gives what was committed. When this returns, every commit that was acknowledged is
/// among the payloads or below the fold, and the owner can commit nothing more. Anybody may call it, any
/// number of times; a journal that never began is fenced too.
///
/// # Errors
/// Those of the store: call it again. `Damaged` where an object is, or where one is missing that no fold
/// explains.
pub async fn fence(store: &SealedStore, id: &JournalId) -> Result<Past, StoreError> {
    for _ in 0..TRIES {
        let last = id.numbers(store).await?.last().copied();
        match last {
            Some(last) => match read(store, id, last).await? {
                // The fence holds where the owner never went past its number: it would have to have deleted
                // it.
                Some(Entry::Fence) if folded(store, id).await? <= last => {
                    let (payloads, folded_below) = down_from(store, id, last).await?;
                    return Ok(Past { payloads, folded_below, end: last, fenced: true });
                }
                Some(Entry::Fence) | None => {}
                Some(Entry::Begun | Entry::Batch(_) | Entry::Fold(_)) => {
                    create_fence(store, id, last + 1).await?;
                }
            },
            None => {
                create_fence(store, id, 0).await?;
            }
        }
    }
    Err(StoreError::Unavailable(format!("journal {id}: its owner wrote faster than it could be fenced")))
}

/// Fences a journal whose payloads nobody needs any more, and deletes them. The fence stays, so that the
/// owner stays fenced, however late it wakes. Gives the number of objects that were deleted.
///
/// # Errors
/// Those of [`fence`], and of deleting. It may be called again.
pub async fn retire(store: &SealedStore, id: &JournalId) -> Result<u64, StoreError> {
    let end = fence(store, id).await?.end;
    // Whoever reads the journal after this reads none of what is about to be deleted.
    store.put(&id.retired(), encode_number(end)).await?;
    let mut deleted = 0;
    for number in id.numbers(store).await?.into_iter().take_while(|&number| number < end) {
        store.delete(&id.object(number)).await?;
        deleted += 1;
    }
    Ok(deleted)
}

/// Gives what a journal holds, and leaves it as it is. Its owner may go on meanwhile.
///
/// # Errors
/// As of [`fence`].
pub async fn inspect(store: &SealedStore, id: &JournalId) -> Result<Past, StoreError> {
    let mut tries = 0;
    loop {
        let before = folded(store, id).await?;
        let Some(last) = id.numbers(store).await?.last().copied() else {
            return Ok(Past { payloads: Vec::new(), folded_below: 0, end: 0, fenced: false });
        };
        let fenced = read(store, id, last).await? == Some(Entry::Fence);
        let end = if fenced { last } else { last + 1 };
        tries += 1;
        match down_from(store, id, end).await {
            Ok((payloads, folded_below)) => return Ok(Past { payloads, folded_below, end, fenced }),
            // The owner has folded what was about to be read.
            Err(StoreError::Damaged { .. }) if tries < INSPECTIONS && folded(store, id).await? != before => {}
            Err(error) => return Err(error),
        }
    }
}

async fn create_fence(store: &SealedStore, id: &JournalId, number: u64) -> Result<Created, StoreError> {
    store.create(&id.object(number), Entry::Fence.encode()?).await
}

async fn read(store: &SealedStore, id: &JournalId, number: u64) -> Result<Option<Entry>, StoreError> {
    let name = id.object(number);
    let bytes = store.read(&name).await?;
    bytes.map(|bytes| Entry::decode(&name, bytes)).transpose()
}

async fn folded(store: &SealedStore, id: &JournalId) -> Result<u64, StoreError> {
    number_in(store, id.folded()).await
}

async fn number_in(store: &SealedStore, name: String) -> Result<u64, StoreError> {
    store.read(&name).await?.map_or(Ok(0), |bytes| decode_number(&name, bytes))
}

/// All payloads below a number and not folded, in order; and the number of the last fold. Entries are read
/// from the last one down, since the last fold says where to stop.
async fn down_from(
    store: &SealedStore,
    id: &JournalId,
    end: u64,
) -> Result<(Vec<(u64, Bytes)>, u64), StoreError> {
    let mut payloads = Vec::new();
    let mut floor = folded(store, id).await?.max(number_in(store, id.retired()).await?);
    let numbers = stream::iter((0..end).rev());
    let mut entries =
        numbers.map(|number| async move { (number, read(store, id, number).await) }).buffered(READ_AHEAD);
    while let Some((number, entry)) = entries.next().await {
        if number < floor {
            break;
        }
        match entry? {
            Some(Entry::Batch(batch)) => {
                payloads.extend(batch.into_iter().rev().map(|payload| (number, payload)));
            }
            Some(Entry::Fold(below)) => floor = floor.max(below),
            Some(Entry::Begun) if number == 0 => {}
            Some(Entry::Begun | Entry::Fence) => {
                return Err(StoreError::damaged(&id.object(number), "not where such an entry can be"));
            }
            None => return Err(StoreError::damaged(&id.object(number), "missing, and no fold explains it")),
        }
    }
    payloads.reverse();
    Ok((payloads, floor))
}
