//! Lengths of time as settings have them.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A length of time, written `500ms`, `20s`, `2m`, `24h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        span(text).map(Self)
    }
}

/// Reads a length of time.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let rule = || format!("`{text}` is not a length of time such as 500ms, 20s, 2m, 24h or 7d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(rule)?);
    let number: u32 = number.parse().map_err(|_| rule())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(60 * u64::from(number))),
        "h" => Ok(Duration::from_secs(3600 * u64::from(number))),
        "d" => Ok(Duration::from_secs(24 * 3600 * u64::from(number))),
        _ => Err(rule()),
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, span) in [
            ("500ms", 500),
            ("20s", 20_000),
            ("2m", 120_000),
            ("3h", 10_800_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(span))));
        }
        for text in ["", "20", "s", "-1s", "1.5s", "1w", "99999999999s", "20 s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
