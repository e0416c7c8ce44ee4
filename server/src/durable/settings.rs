//! Which store a server keeps its sessions in, and what it seals them with.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use noised::noise::MasterKey;
use noised_store::{SealKey, SealedStore, Store};
use zeroize::Zeroizing;

use crate::config::{Advertise, SnapshotEvery, StateSettings};
use crate::secrets;

/// Where the master key of a directory lies, where no other is set.
const KEY_FILE: &str = "master.key";

/// A store that is open.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: SealedStore,
    pub(crate) snapshot_every: SnapshotEvery,
    /// Objects of a journal after which it is folded.
    pub(crate) fold_after: u64,
    /// The address by which clients reach this server, where others share the store.
    pub(crate) advertise: Option<Advertise>,
    pub(crate) lease: Duration,
    /// The master key, which lies in the store's directory where no other is set.
    pub(crate) master_key: MasterKey,
    /// Where the noise ledger lies, where no other place is set.
    pub(crate) ledger: Option<PathBuf>,
}

impl State {
    /// Whether servers that know of this one may have the store at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        self.advertise.is_some()
    }

    /// Opens the store. A directory gets a master key where none is set.
    ///
    /// # Errors
    /// Where the store cannot be opened, or has no master key and cannot have one made.
    pub(crate) fn open(settings: &StateSettings, master_key: Option<MasterKey>) -> anyhow::Result<Self> {
        let StateSettings { url, options, snapshot_every, fold_after, advertise, lease } = settings;
        let store = Store::open(url, options).context("state")?;
        let directory = store.directory().map(Path::to_owned);
        let master_key = match (master_key, &directory) {
            (Some(key), _) => key,
            (None, Some(directory)) => key_in(directory)?,
            (None, None) => {
                anyhow::bail!(
                    "state: {} is sealed with a master key: set master_key_file or NOISED_MASTER_KEY",
                    store.describe()
                )
            }
        };
        let seal = SealKey::derive(&master_key.sealing_secret());
        tracing::info!(store = store.describe(), "sessions are kept in a store");
        let ledger = directory.map(|directory| directory.join("noises"));
        Ok(Self {
            store: SealedStore::new(store, seal),
            snapshot_every: *snapshot_every,
            fold_after: *fold_after,
            advertise: advertise.clone(),
            lease: *lease,
            master_key,
            ledger,
        })
    }
}

/// Opens a store to look at it: nothing is made.
///
/// # Errors
/// Where there is no such directory, the store cannot be opened, or no master key is known.
pub(crate) fn open_to_look(
    settings: &StateSettings,
    master_key: Option<MasterKey>,
) -> anyhow::Result<SealedStore> {
    let StateSettings { url, options, .. } = settings;
    let path = Path::new(url.strip_prefix("file://").unwrap_or(url));
    ensure!(
        url.contains("://") && !url.starts_with("file://") || path.is_dir(),
        "state: {url} is no directory"
    );
    let store = Store::open(url, options).context("state")?;
    let master_key = match (master_key, store.directory()) {
        (Some(key), _) => key,
        (None, Some(directory)) => secrets::key_of_file(&directory.join(KEY_FILE))?,
        (None, None) => anyhow::bail!(
            "state: {} is sealed with a master key: set master_key_file or NOISED_MASTER_KEY",
            store.describe()
        ),
    };
    Ok(SealedStore::new(store, SealKey::derive(&master_key.sealing_secret())))
}

/// The master key of a directory, which is made where there is none.
fn key_in(directory: &Path) -> anyhow::Result<MasterKey> {
    let path = directory.join(KEY_FILE);
    if !path.exists() {
        make_key(directory, &path).with_context(|| format!("state: cannot make {}", path.display()))?;
    }
    secrets::key_of_file(&path)
}

/// Writes a key that is there as a whole or not at all, whichever of two servers comes first.
fn make_key(directory: &Path, path: &Path) -> anyhow::Result<()> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key)?;
    ensure!(*key != [0; 32], "the operating system gives no random bytes");
    let part = directory.join(format!(".master.key.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&*key)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&part, path);
    std::fs::remove_file(&part)?;
    match linked {
        Ok(()) => {
            File::open(directory)?.sync_all()?;
            tracing::warn!(
                path = %path.display(),
                "made a master key: without it nothing of the store can be read, so keep a copy elsewhere"
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}
