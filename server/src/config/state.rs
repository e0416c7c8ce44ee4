//! Where sessions are kept, as it is set.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::advertise::Advertise;
use super::span::span;

/// Where sessions are kept, as it is set.
#[derive(Clone, Debug)]
pub struct StateSettings {
    /// A directory, or the address of an object store.
    pub url: String,
    /// What the object store needs to be told.
    pub options: Vec<(String, String)>,
    /// How often the state of a client's input is stored.
    pub snapshot_every: SnapshotEvery,
    /// Objects of a server's journal after which it is folded.
    pub fold_after: u64,
    /// The address by which clients reach this server, where others share the store.
    pub advertise: Option<Advertise>,
    /// How long a server that shares the store may be silent before another one takes its sessions.
    pub lease: Duration,
}

/// How often the state of a session of the client's input is stored: every so many steps, or at most so
/// often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SnapshotEvery {
    /// After every step whose number is a multiple of this. With 1, a step is stored before it is answered.
    Steps(u64),
    /// After a step that ends so long after the last state was stored; and later, where storing takes more
    /// than a twentieth of the time.
    Time(Duration),
}

impl Default for SnapshotEvery {
    fn default() -> Self {
        Self::Time(Duration::from_secs(10))
    }
}

impl FromStr for SnapshotEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is neither a number of steps, such as 1, nor a time, such as 10s");
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().filter(|&steps| steps > 0).map(Self::Steps).ok_or_else(rule);
        }
        span(text).map(Self::Time).map_err(|_| rule())
    }
}

impl TryFrom<String> for SnapshotEvery {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often() {
        let parsed = |text: &str| text.parse::<SnapshotEvery>();
        assert_eq!(parsed("1"), Ok(SnapshotEvery::Steps(1)));
        assert_eq!(parsed("2m"), Ok(SnapshotEvery::Time(Duration::from_secs(120))));
        for text in ["0", "", "-1", "x", "99999999999999999999"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
