//! Text files as people's editors write them.

use std::fs;
use std::io;
use std::path::Path;

/// The mark that some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads a text file, as [`decode`] does.
///
/// # Errors
/// What the system says of the file, or of kind [`InvalidData`](io::ErrorKind::InvalidData) what [`decode`]
/// says.
pub fn read(path: &Path) -> io::Result<String> {
    decode(fs::read(path)?).map_err(|rule| io::Error::new(io::ErrorKind::InvalidData, rule))
}

/// A text in UTF-8 without the byte order mark that it may begin with.
///
/// # Errors
/// What the bytes are instead: UTF-16, or which byte is no text.
pub fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("must be text in UTF-8, found UTF-16; save the file as UTF-8".to_owned());
    }
    // No text that people write has the character 0, and UTF-16 without a mark has it in every second place.
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        return Err(format!(
            "must be text in UTF-8, found a zero byte at {at}: the file is binary or UTF-16"
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("must be text in UTF-8, found another byte at {at}; save the file as UTF-8")
    })?;
    match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(text) => Ok(text.to_owned()),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_utf8_with_or_without_a_mark() {
        assert_eq!(decode(b"{}".to_vec()), Ok("{}".to_owned()));
        assert_eq!(decode("\u{feff}{}".into()), Ok("{}".to_owned()));
        assert_eq!(decode("é".into()), Ok("é".to_owned()));
        assert_eq!(decode(Vec::new()), Ok(String::new()));
    }

    #[test]
    fn other_bytes_are_told_for_what_they_are() {
        let utf16 = |little: bool| -> Vec<u8> {
            let units = "\u{feff}{}".encode_utf16();
            units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
        };
        for (bytes, words) in [
            (utf16(true), "UTF-16"),
            (utf16(false), "UTF-16"),
            (utf16(true)[2..].to_vec(), "zero byte at 1"),
            (b"ab\xffc".to_vec(), "another byte at 2"),
        ] {
            let rule = decode(bytes).unwrap_err();
            assert!(rule.contains(words), "{rule}");
        }
    }
}
