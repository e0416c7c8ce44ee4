//! A store whose objects are sealed.

use bytes::Bytes;

use crate::backend::{Created, Listed};
use crate::blocking::blocking;
use crate::error::StoreError;
use crate::seal::SealKey;
use crate::store::Store;

/// From here on sealing and opening leaves the async threads; below, it takes less than a millisecond.
const BLOCKING_BYTES: usize = 512 << 10;

/// A store whose objects are sealed. Names, and the lengths of objects, are not secret.
#[derive(Clone, Debug)]
pub struct SealedStore {
    store: Store,
    key: SealKey,
}

impl SealedStore {
    /// The store, sealed with that key.
    #[must_use]
    pub fn new(store: Store, key: SealKey) -> Self {
        Self { store, key }
    }

    /// The store below, whose objects are read and written as they are.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &SealKey {
        &self.key
    }

    /// Seals the bytes for a name: what [`Store::create_exactly`] takes again and again until it has an
    /// answer.
    ///
    /// # Errors
    /// Those of [`SealKey::seal`].
    pub async fn seal(&self, name: &str, plain: Bytes) -> Result<Bytes, StoreError> {
        if plain.len() < BLOCKING_BYTES {
            return self.key.seal(name, &plain);
        }
        let (key, name) = (self.key.clone(), name.to_owned());
        blocking(move || key.seal(&name, &plain)).await
    }

    /// Creates a sealed object, as [`Store::create_exactly`] does: `Taken` where it is another writer's.
    ///
    /// # Errors
    /// Those of the store. After any error but `Invalid` the object may be there, or may come to be there.
    /// Two calls seal the same bytes differently, so only the bytes of one [`seal`](Self::seal) can be
    /// recognised.
    pub async fn create(&self, name: &str, plain: Bytes) -> Result<Created, StoreError> {
        let sealed = self.seal(name, plain).await?;
        self.store.create_exactly(name, sealed).await
    }

    /// Writes a sealed object in the place of the one that may be there.
    ///
    /// # Errors
    /// Those of [`Store::put`].
    pub async fn put(&self, name: &str, plain: Bytes) -> Result<(), StoreError> {
        let sealed = self.seal(name, plain).await?;
        self.store.put(name, sealed).await
    }

    /// Writes a sealed object as [`Store::put_unsynced`] does.
    ///
    /// # Errors
    /// Those of [`Store::put_unsynced`].
    pub async fn put_unsynced(&self, name: &str, plain: Bytes) -> Result<(), StoreError> {
        let sealed = self.seal(name, plain).await?;
        self.store.put_unsynced(name, sealed).await
    }

    /// The plain bytes of an object, whose memory is overwritten when the last handle to them is dropped;
    /// `None` where the object is absent.
    ///
    /// # Errors
    /// Those of the store; `Damaged` and `OtherKey` where the object does not open.
    pub async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(sealed) = self.store.read(name).await? else { return Ok(None) };
        if sealed.len() < BLOCKING_BYTES {
            return self.key.open(name, &sealed).map(Some);
        }
        let (key, name) = (self.key.clone(), name.to_owned());
        blocking(move || key.open(&name, &sealed)).await.map(Some)
    }

    /// As [`Store::list`]. Sizes are those of the sealed objects.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.list(folder).await
    }

    /// As [`Store::folders`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.store.folders(folder).await
    }

    /// As [`Store::delete`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}
