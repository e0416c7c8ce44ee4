//! A record of the ledger: one line of JSON, which ends with a check of its own text.
//!
//! ```text
//! {"v":1,"noise_id":"run","fingerprint":"<64 digits>","lanes":[0,5],"session":"sessions/a","check":"<16 digits>"}
//! {"v":1,"noise_id":"run","fingerprint":"<64 digits>","lanes":[0,5],"next_step":7,"check":"<16 digits>"}
//! ```
//!
//! A noise of another tenant than the default one has `"v":2,"tenant":"acme"` in the place of `"v":1`.
//!
//! The check is the first 8 bytes of the BLAKE3 hash of everything before `,"check"`. Earlier servers wrote
//! lines without `v` and `check`; those are read as well.

use std::ops::Range;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// The version of the records of the default tenant.
const VERSION: u32 = 1;

/// The version of the records that have a tenant.
const TENANT_VERSION: u32 = 2;

/// What is between a line's text and the digits of its check, and what is behind them.
const CHECK: &str = ",\"check\":\"";
const END: &str = "\"}";
const CHECK_DIGITS: usize = 16;

/// A line of more bytes is no record.
pub(super) const MAX_BYTES: usize = 4096;

/// A line of fewer bytes is no record. A record that one changed byte cuts in two has a part that is longer.
pub(super) const MIN_BYTES: usize = 50;

/// The name of a noise, and what all shards of it are bound to: the same name with something else is another
/// noise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NoiseName {
    /// Empty for the default tenant.
    pub(super) tenant: String,
    pub(super) noise_id: String,
    pub(super) fingerprint: String,
}

/// What became of some lanes of a noise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) noise: NoiseName,
    pub(super) lanes: Range<u64>,
    pub(super) event: Event,
    /// Whether the noise was, at any time, begun again at step 0 after it was drawn.
    pub(super) started_over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A session begins to draw them.
    Begun { session: String, unix_seconds: u64 },
    /// Nobody draws them any more; `next_step` is the first step that was not released.
    Drawn { next_step: u64 },
}

/// A record as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tenant: String,
    noise_id: String,
    fingerprint: String,
    lanes: (u64, u64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_step: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    started_over: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix_seconds: Option<u64>,
}

impl Record {
    /// The record as a line, with its end.
    pub(super) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let Self { noise, lanes, event, started_over } = self.clone();
        let NoiseName { tenant, noise_id, fingerprint } = noise;
        let (session, unix_seconds, next_step) = match event {
            Event::Begun { session, unix_seconds } => (Some(session), Some(unix_seconds), None),
            Event::Drawn { next_step } => (None, None, Some(next_step)),
        };
        let lanes = (lanes.start, lanes.end);
        let v = Some(if tenant.is_empty() { VERSION } else { TENANT_VERSION });
        let line =
            Line { v, tenant, noise_id, fingerprint, lanes, next_step, started_over, session, unix_seconds };
        let mut text = serde_json::to_string(&line)?;
        text.pop();
        let check = check_of(text.as_bytes());
        text.push_str(CHECK);
        text.push_str(&check);
        text.push_str(END);
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// Reads a line, which is without its end; and tells whether it has a check.
    ///
    /// # Errors
    /// The rule that the line breaks.
    pub(super) fn parse(line: &[u8]) -> anyhow::Result<(Self, bool)> {
        ensure!(line.len() <= MAX_BYTES, "must have at most {MAX_BYTES} bytes, and is longer");
        let text = std::str::from_utf8(line).context("is not text")?;
        let Some((body, check)) = split_check(text) else {
            let line: Line = serde_json::from_str(text).context("is not a record")?;
            ensure!(line.v.is_none(), "has a version and no check: a part of it is missing or changed");
            return Ok((line.try_into()?, false));
        };
        let found = check_of(body.as_bytes());
        ensure!(check == found, "has the check {check}, and its text has {found}: a part of it was changed");
        let line: Line = serde_json::from_str(&format!("{body}}}")).context("is not a record")?;
        let version = line.v.unwrap_or_default();
        let expected = if line.tenant.is_empty() { VERSION } else { TENANT_VERSION };
        ensure!(
            version == expected,
            "v: must be {expected}, found {version}: another version of the server wrote it"
        );
        Ok((line.try_into()?, true))
    }

    /// The record that some bytes begin with, whether it has a check, and its length: a last line whose end
    /// was lost or changed.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub(super) fn parse_prefix(bytes: &[u8]) -> anyhow::Result<(Self, bool, usize)> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
        values.next().context("is empty")?.context("has no end")?;
        let length = values.byte_offset();
        let (record, checked) = Self::parse(bytes.get(..length).unwrap_or_default())?;
        Ok((record, checked, length))
    }
}

impl TryFrom<Line> for Record {
    type Error = anyhow::Error;

    fn try_from(line: Line) -> anyhow::Result<Self> {
        let Line {
            v: _,
            tenant,
            noise_id,
            fingerprint,
            lanes,
            next_step,
            started_over,
            session,
            unix_seconds,
        } = line;
        ensure!(!noise_id.is_empty(), "noise_id: must not be empty");
        let digits = fingerprint.bytes().all(|digit| digit.is_ascii_hexdigit());
        ensure!(
            digits && fingerprint.len() == 64,
            "fingerprint: must be 64 hexadecimal digits, found `{fingerprint}`"
        );
        let (start, end) = lanes;
        ensure!(start < end, "lanes: must begin before they end, found [{start},{end}]");
        let event = match next_step {
            Some(next_step) => Event::Drawn { next_step },
            None => Event::Begun {
                session: session.unwrap_or_default(),
                unix_seconds: unix_seconds.unwrap_or_default(),
            },
        };
        let noise = NoiseName { tenant, noise_id, fingerprint };
        Ok(Self { noise, lanes: start..end, event, started_over })
    }
}

/// A line's text without its check, and the check's digits.
fn split_check(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_suffix(END)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(CHECK_DIGITS)?)?;
    Some((rest.strip_suffix(CHECK)?, digits))
}

fn check_of(text: &[u8]) -> String {
    let mut digits = blake3::hash(text).to_hex().to_string();
    digits.truncate(CHECK_DIGITS);
    digits
}
