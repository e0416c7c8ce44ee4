//! Objects by name, whichever back end keeps them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Backend, Created, Listed};
use crate::directory::Directory;
use crate::error::StoreError;
use crate::memory::Memory;
use crate::name;

/// Objects by name. A clone is another handle to the same objects.
///
/// A name is segments of letters, digits, `.`, `_` and `-`, joined by `/`; no segment begins with a dot. No
/// name may be a folder of another one: a directory cannot hold both `a` and `a/b`.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.describe()).finish()
    }
}

impl Store {
    /// Opens the store of a URL:
    ///
    /// - a path, or `file:///path`: a directory, which is made, for its owner alone, where it is absent;
    /// - `memory:`: the memory of this process;
    /// - `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`: an object store, with the
    ///   options and the environment variables of the crate `object_store` (features `s3`, `gcs`, `azure`).
    ///   It need not be reachable yet.
    ///
    /// # Errors
    /// `Invalid` where the URL or an option is; those of the directory.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self, StoreError> {
        let invalid = |rule: &str| Err(StoreError::invalid("store", rule, url));
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if let Some(scheme @ ("s3" | "gs" | "az")) = scheme {
            return Self::in_cloud(scheme, url, options);
        }
        if let Some((key, _)) = options.first() {
            return Err(StoreError::invalid("store option", "this store takes no options", key));
        }
        match scheme {
            Some("file") => match url.strip_prefix("file://") {
                Some(path) if path.starts_with('/') && !path.contains(['%', '?', '#']) => {
                    Self::in_directory(path)
                }
                _ => invalid("must be file:///path without escapes; else give the path itself"),
            },
            // A URL of another kind may hold a secret.
            Some(scheme) if !scheme.contains('/') => Err(StoreError::invalid(
                "store",
                "must be a path, file:///path, memory:, s3://bucket/prefix, gs://… or az://…",
                format!("{scheme}://"),
            )),
            _ if url == "memory:" => Ok(Self::memory()),
            _ if url.is_empty() || url.starts_with("file:") => invalid("must be a path or a URL"),
            _ => Self::in_directory(url),
        }
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    fn in_cloud(scheme: &str, url: &str, options: &[(String, String)]) -> Result<Self, StoreError> {
        crate::cloud::Cloud::open(scheme, url, options).map(Self::of)
    }

    #[cfg(not(any(feature = "s3", feature = "gcs", feature = "azure")))]
    fn in_cloud(scheme: &str, _url: &str, _options: &[(String, String)]) -> Result<Self, StoreError> {
        Err(StoreError::invalid(
            "store",
            "this program was built without object stores",
            format!("{scheme}://"),
        ))
    }

    fn in_directory(path: &str) -> Result<Self, StoreError> {
        Directory::open(path.into()).map(Self::of)
    }

    /// A new store in the memory of this process.
    #[must_use]
    pub fn memory() -> Self {
        Self::of(Memory::default())
    }

    pub(crate) fn of(backend: impl Backend + 'static) -> Self {
        Self { backend: Arc::new(backend) }
    }

    /// The store in words, for logs: never credentials.
    #[must_use]
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// The directory that holds the objects, where a directory does.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.backend.directory()
    }

    /// Creates an object, which is durable when this returns; never replaces one.
    ///
    /// `Taken` also where the object is the caller's own, from a try whose acknowledgement was lost.
    ///
    /// # Errors
    /// After any error but `Invalid` the object may be there, or may come to be there.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, StoreError> {
        name::check(name)?;
        self.backend.create(name, bytes).await
    }

    /// Creates an object as [`create`](Self::create) does, and says `New` also where the object was there
    /// with exactly these bytes. Sealed objects have random content, so equal bytes are the caller's own.
    ///
    /// # Errors
    /// Those of [`create`](Self::create). The same call may be made again until it has an answer.
    pub async fn create_exactly(&self, name: &str, bytes: Bytes) -> Result<Created, StoreError> {
        if self.create(name, bytes.clone()).await? == Created::New {
            return Ok(Created::New);
        }
        match self.read(name).await? {
            Some(found) if found == bytes => Ok(Created::New),
            Some(_) => Ok(Created::Taken),
            None => Err(StoreError::Unavailable(format!("object {name}: another creation is under way"))),
        }
    }

    /// Writes an object in the place of the one that may be there; durable when this returns. A reader gets
    /// the old bytes or the new ones, never a mix.
    ///
    /// # Errors
    /// After any error but `Invalid`, the object may be the old one or the new one.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        name::check(name)?;
        self.backend.put(name, bytes).await
    }

    /// Writes an object as [`put`](Self::put) does, without waiting until it is durable: after the machine
    /// lost its power, the object may be the old one, the new one, or damaged. For what is written again
    /// soon.
    ///
    /// # Errors
    /// Those of [`put`](Self::put).
    pub async fn put_unsynced(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        name::check(name)?;
        self.backend.put_unsynced(name, bytes).await
    }

    /// The bytes of an object; `None` where it is absent.
    ///
    /// # Errors
    /// Those of the back end.
    pub async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        name::check(name)?;
        self.backend.read(name).await
    }

    /// All objects below a folder, at any depth, sorted by name. The folder `""` is the whole store.
    ///
    /// Objects that are created or deleted meanwhile may be there or not.
    ///
    /// # Errors
    /// Those of the back end.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        name::check_folder(folder)?;
        self.backend.list(folder).await
    }

    /// The folders directly in a folder that have objects below them, sorted.
    ///
    /// # Errors
    /// Those of the back end.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        name::check_folder(folder)?;
        self.backend.folders(folder).await
    }

    /// Deletes an object; one that is absent is fine. In a directory, the object may be back after the
    /// machine lost its power.
    ///
    /// # Errors
    /// After an error the object may be there or not.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check(name)?;
        self.backend.delete(name).await
    }
}
