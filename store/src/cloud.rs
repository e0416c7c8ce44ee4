//! Objects in S3, Google Cloud Storage or Azure, by the crate `object_store`.
//!
//! That crate tries again by itself. A creation whose first try succeeded without an answer is then told to
//! be taken; `Store::create_exactly` compares.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
};

use crate::backend::{Answer, Backend, Created, Listed};
use crate::error::StoreError;
use crate::name;

/// A try to reach the service, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Tries after the first one, and for how long: the caller tries again as well.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Objects of a bucket, below a prefix.
pub(crate) struct Cloud {
    objects: Box<dyn ObjectStore>,
    prefix: String,
    shown: String,
}

impl Cloud {
    pub(crate) fn open(scheme: &str, url: &str, options: &[(String, String)]) -> Result<Self, StoreError> {
        let invalid = |rule: &str| StoreError::invalid("store", rule, format!("{scheme}://"));
        let place = url.split_once("://").map_or("", |(_, place)| place).trim_end_matches('/');
        if place.is_empty() || place.contains(['@', '?', '#', '%']) {
            return Err(invalid(
                "must be a bucket and a prefix; credentials are options or in the environment",
            ));
        }
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        name::check_folder(prefix)?;
        // Of the process; where another part of it has chosen before, that holds.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects = build(scheme, bucket, options)?;
        Ok(Self { objects, prefix: prefix.to_owned(), shown: format!("{scheme}://{place}") })
    }

    fn path(&self, name: &str) -> Path {
        let joined = match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}/{name}"),
        };
        Path::from(joined)
    }

    /// The name of an object of this store; other objects may lie beside them.
    fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let path: &str = path.as_ref();
        let name = match self.prefix.as_str() {
            "" => path,
            prefix => path.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        name::check(name).ok().map(|()| name)
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        self.name(&meta.location).map(|name| Listed { name: name.to_owned(), size: meta.size })
    }
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, backoff: BackoffConfig::default() }
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn client() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT)
}

fn key<K: FromStr>(key: &str) -> Result<K, StoreError> {
    key.parse().map_err(|_| StoreError::invalid("store option", "this store has no such option", key))
}

fn build(
    scheme: &str,
    bucket: &str,
    options: &[(String, String)],
) -> Result<Box<dyn ObjectStore>, StoreError> {
    match scheme {
        #[cfg(feature = "s3")]
        "s3" => {
            let mut builder = object_store::aws::AmazonS3Builder::from_env().with_client_options(client());
            for (option, value) in options {
                builder = builder.with_config(key(option)?, value);
            }
            let built = builder.with_bucket_name(bucket).with_retry(retry()).build();
            built.map(|store| Box::new(store) as _).map_err(|error| explain(&error))
        }
        #[cfg(feature = "gcs")]
        "gs" => {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env();
            let mut builder = builder.with_client_options(client());
            for (option, value) in options {
                builder = builder.with_config(key(option)?, value);
            }
            let built = builder.with_bucket_name(bucket).with_retry(retry()).build();
            built.map(|store| Box::new(store) as _).map_err(|error| explain(&error))
        }
        #[cfg(feature = "azure")]
        "az" => {
            let mut builder = object_store::azure::MicrosoftAzureBuilder::from_env();
            builder = builder.with_client_options(client());
            for (option, value) in options {
                builder = builder.with_config(key(option)?, value);
            }
            let built = builder.with_container_name(bucket).with_retry(retry()).build();
            built.map(|store| Box::new(store) as _).map_err(|error| explain(&error))
        }
        _ => {
            let rule = "this program was built without that kind of object store";
            Err(StoreError::invalid("store", rule, format!("{scheme}://")))
        }
    }
}

impl Backend for Cloud {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    fn create<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, Created> {
        Box::pin(async move {
            match self.objects.put_opts(&self.path(name), bytes.into(), PutMode::Create.into()).await {
                Ok(_) => Ok(Created::New),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Taken),
                Err(error) => Err(explain(&error)),
            }
        })
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let put = self.objects.put_opts(&self.path(name), bytes.into(), PutMode::Overwrite.into()).await;
            put.map(drop).map_err(|error| explain(&error))
        })
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move {
            let found = match self.objects.get(&self.path(name)).await {
                Ok(found) => found.bytes().await,
                Err(error) => Err(error),
            };
            match found {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if is_absence(&error) => Ok(None),
                Err(error) => Err(explain(&error)),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(async move {
            let path = self.path(folder);
            let metas = self.objects.list(Some(&path)).boxed();
            let listed = metas.try_filter_map(|meta| async move { Ok(self.listed(&meta)) });
            let mut listed: Vec<Listed> = listed.try_collect().await.map_err(|error| explain(&error))?;
            listed.sort();
            Ok(listed)
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let found = self.objects.list_with_delimiter(Some(&self.path(folder))).await;
            let found = found.map_err(|error| explain(&error))?;
            let names = found.common_prefixes.iter().filter_map(|path| self.name(path)?.rsplit('/').next());
            let mut folders: Vec<String> = names.map(str::to_owned).collect();
            folders.sort();
            Ok(folders)
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.objects.delete(&self.path(name)).await {
                Err(error) if !is_absence(&error) => Err(explain(&error)),
                _ => Ok(()),
            }
        })
    }
}

/// Whether an object is absent. A bucket that is absent says nothing about its objects.
fn is_absence(error: &Error) -> bool {
    matches!(error, Error::NotFound { source, .. } if !source.to_string().contains("NoSuchBucket"))
}

/// What an error means to whoever asked. Queries of URLs, which may hold signatures, are left out.
fn explain(error: &Error) -> StoreError {
    let words = error.to_string();
    let words: Vec<&str> =
        words.split_whitespace().map(|word| word.split('?').next().unwrap_or("")).collect();
    let what = words.join(" ");
    match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotFound { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Refused(what),
        _ => StoreError::Unavailable(what),
    }
}
