//! Which journal, and the names of its objects.

use std::fmt;

use crate::error::StoreError;
use crate::name;
use crate::sealed::SealedStore;

const JOURNALS: &str = "journals";
const FOLDED: &str = "folded";
const DIGITS: usize = 20;

/// The id of a journal: a segment of an object's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(String);

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JournalId {
    /// A new id of 32 hexadecimal digits.
    ///
    /// # Errors
    /// `Unavailable` where the system has no random bytes.
    pub fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| StoreError::Unavailable(format!("random bytes of the system: {error}")))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The id that [`as_str`](Self::as_str) gave.
    ///
    /// # Errors
    /// `Invalid` where the text cannot be a segment of an object's name.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        if text.contains('/') {
            return Err(StoreError::invalid("journal id", "must be one segment of a name", text));
        }
        name::check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// The journals of a store, sorted.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn all(store: &SealedStore) -> Result<Vec<Self>, StoreError> {
        let folders = store.folders(JOURNALS).await?;
        Ok(folders.into_iter().map(Self).collect())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of the journal's objects.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{JOURNALS}/{}", self.0)
    }

    pub(super) fn object(&self, number: u64) -> String {
        format!("{JOURNALS}/{}/{number:0DIGITS$}", self.0)
    }

    /// The object that says below which number everything was folded.
    pub(super) fn folded(&self) -> String {
        format!("{JOURNALS}/{}/{FOLDED}", self.0)
    }

    /// The object that says below which number somebody else than the owner has deleted everything. The owner
    /// may still write the other one.
    pub(super) fn retired(&self) -> String {
        format!("{JOURNALS}/{}/retired", self.0)
    }

    /// The numbers of the objects that are there, in order.
    pub(super) async fn numbers(&self, store: &SealedStore) -> Result<Vec<u64>, StoreError> {
        let listed = store.list(&self.folder()).await?;
        let number = |name: &str| {
            let digits = name.rsplit('/').next().filter(|digits| digits.len() == DIGITS)?;
            digits.parse().ok().filter(|number| self.object(*number) == name)
        };
        let mut numbers: Vec<u64> = listed.iter().filter_map(|object| number(&object.name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
