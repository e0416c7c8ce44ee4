//! Digests of gradients as text. A digest is 32 hexadecimal digits. Those of many steps stand one after the
//! other, and 32 hyphens stand for a step without a digest.

use noised::session::GradientDigest;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// A step without a digest.
const NONE: &str = "--------------------------------";

/// A digest as it is written.
pub(crate) fn digits(digest: &GradientDigest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A digest that was written; `None` where it does not read.
pub(super) fn digest(digits: &str) -> Option<GradientDigest> {
    u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == NONE.len()).map(u128::to_be_bytes)
}

/// Writes the digests of steps 0, 1, ...
pub(super) fn serialize<S: Serializer>(
    digests: &[Option<GradientDigest>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(NONE.len() * digests.len());
    for known in digests {
        match known {
            Some(known) => text.push_str(&digits(known)),
            None => text.push_str(NONE),
        }
    }
    serializer.serialize_str(&text)
}

/// Reads them.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Option<GradientDigest>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let unread = || D::Error::custom("digests of gradients do not read");
    let of_step = |part: &[u8]| {
        let part = std::str::from_utf8(part).map_err(|_| unread())?;
        if part == NONE { Ok(None) } else { digest(part).map(Some).ok_or_else(unread) }
    };
    text.as_bytes().chunks(NONE.len()).map(of_step).collect()
}
