//! Texts of others that reach a terminal.

use std::borrow::Cow;

/// A text without characters that a terminal obeys: control characters, and those that turn the direction of
/// text, are written as escapes. Names in files and on servers may hold anything.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_obeyed(character) {
            true => shown.extend(character.escape_debug()),
            false => shown.push(character),
        }
    }
    shown.into()
}

pub(crate) fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
