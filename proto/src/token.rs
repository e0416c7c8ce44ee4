//! Tokens: secrets by which a server knows who calls it, and what a server keeps in the place of one.
//!
//! A token is `noised_` and the 256 random bits of its maker as 43 characters of url-safe base64. A call
//! carries the token in its metadata: `authorization: Bearer noised_...`. A server keeps the hash of a
//! token. Nobody can try out 256 random bits, so a fast hash hides a token as well as a slow one would.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use noised::{Error, Result};
use zeroize::{Zeroize, Zeroizing};

/// How every token begins, so that people and scanners for secrets know one.
pub const PREFIX: &str = "noised_";

/// The metadata key of a call that carries a token.
pub const METADATA_KEY: &str = "authorization";

/// What stands before the token in the value of [`METADATA_KEY`].
pub const SCHEME: &str = "Bearer";

/// Random bytes of a token.
const SECRET_BYTES: usize = 32;

/// Characters of the random bytes in base64.
const DIGITS: usize = 43;

const OF_HASH: &str = "noised 2026 hash of a token";

/// A secret by which a server knows who calls it. Its memory is wiped when it is dropped, and its `Debug`
/// shows nothing of it.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The token of these bytes, which the operating system's generator has made. The array is wiped.
    pub fn from_bytes(mut bytes: [u8; SECRET_BYTES]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + DIGITS));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        bytes.zeroize();
        Self(text)
    }

    /// Reads a token. White space around it is left out, as a file has it behind its last line.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field`, without the text.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let text = text.trim_ascii();
        let rule = || {
            let found =
                if text.starts_with(PREFIX) { "with another length" } else { "without that beginning" };
            let rule = format!(
                "must be a token, which is `{PREFIX}` and {DIGITS} of A-Z, a-z, 0-9, '-', '_'; found a \
                 text of {} bytes {found}",
                text.len()
            );
            Error::invalid(field, rule)
        };
        let digits = text.strip_prefix(PREFIX).ok_or_else(rule)?;
        let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
            return Err(rule());
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, for who sends the token or hands it to its owner.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What a server keeps of the token.
    pub fn hash(&self) -> TokenHash {
        let mut hash = blake3::Hasher::new_derive_key(OF_HASH);
        hash.update(self.0.as_bytes());
        let done = TokenHash(hash.finalize());
        hash.zeroize();
        done
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The hash of a token: 256 bits, written as 64 hexadecimal digits. To compare two takes the same time
/// wherever they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl FromStr for TokenHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule =
            || Error::invalid("hash", format!("must be 64 hexadecimal digits, found {} bytes", text.len()));
        blake3::Hash::from_hex(text).map(Self).map_err(|_| rule())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "noised_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

    #[test]
    fn a_token_is_its_bytes_and_a_beginning() {
        let token = Token::from_bytes([7; 32]);
        assert_eq!(token.text(), TEXT);
        assert_eq!(Token::parse("token", &format!(" {TEXT}\n")).unwrap().text(), TEXT);
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    /// Files of servers hold hashes, so a hash never changes.
    #[test]
    fn a_hash_stays_what_it_is() {
        let hash = Token::parse("token", TEXT).unwrap().hash();
        assert_eq!(hash.to_string(), HASH);
        assert_eq!(HASH.parse(), Ok(hash));
        assert_ne!(Token::from_bytes([8; 32]).hash(), hash);
        for text in ["", "ab", &"g".repeat(64), &HASH[1..]] {
            assert!(text.parse::<TokenHash>().is_err(), "{text}");
        }
    }

    const HASH: &str = "967d94404e32ff2aa8ff83a58593754b7d7cb3098dff03a7d2fc77369f6e89df";

    #[test]
    fn what_is_no_token_is_told_without_its_text() {
        let long = format!("{TEXT}x");
        for text in ["", "hunter2", "noised_", &TEXT[1..], &TEXT[..49], &long, &TEXT.replace("Bw", "B ")] {
            let error = Token::parse("token", text).unwrap_err().to_string();
            let shows = !text.is_empty() && text != PREFIX && error.contains(text);
            assert!(error.starts_with("token: must be a token") && !shows, "{error}");
        }
    }
}
