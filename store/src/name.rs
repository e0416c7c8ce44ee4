//! Which names objects have.
//!
//! A name is segments joined by `/`. Every back end can hold such a name as it is: no escapes, no folder that
//! leads outwards, and no segment that begins with a dot, since a directory's own files do.

use crate::error::StoreError;

/// Bytes of a name, at most. Object stores take 1024 with the prefix of the store.
pub const MAX_NAME_BYTES: usize = 640;

/// Bytes of a segment, at most. File systems take 255, of which the names of temporary files use some.
pub const MAX_SEGMENT_BYTES: usize = 200;

const _: () = assert!(MAX_SEGMENT_BYTES <= MAX_NAME_BYTES);

/// Checks the name of an object.
pub(crate) fn check(name: &str) -> Result<(), StoreError> {
    check_as("object name", name)
}

/// Checks the name of a folder; the empty one is the whole store.
pub(crate) fn check_folder(folder: &str) -> Result<(), StoreError> {
    if folder.is_empty() { Ok(()) } else { check_as("folder name", folder) }
}

fn check_as(field: &'static str, name: &str) -> Result<(), StoreError> {
    let broken = |rule: String| {
        let shown: String = name.chars().take(80).collect();
        Err(StoreError::invalid(field, rule, shown))
    };
    if name.len() > MAX_NAME_BYTES {
        return broken(format!("must have at most {MAX_NAME_BYTES} bytes"));
    }
    for segment in name.split('/') {
        if segment.is_empty() || segment.len() > MAX_SEGMENT_BYTES {
            return broken(format!("every segment must have 1 to {MAX_SEGMENT_BYTES} bytes"));
        }
        if segment.starts_with('.') {
            return broken("no segment may begin with a dot".to_owned());
        }
        if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return broken("segments have letters, digits, '.', '_' and '-' only".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_segments() {
        for good in ["a", "a/b", "sessions/A-1_x.y/00000000000000000001", "a..b", &"x".repeat(200)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long_segment = "x".repeat(201);
        let long_name = vec!["x".repeat(160); 4].join("/");
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/../b",
            ".a",
            "a b",
            "é",
            "a\\b",
            "a\0",
            &long_segment,
            &long_name,
        ] {
            assert!(matches!(check(bad), Err(StoreError::Invalid { .. })), "{bad}");
        }
        assert_eq!(check_folder(""), Ok(()));
        assert!(check_folder("a/").is_err());
    }

    #[test]
    fn an_error_has_field_rule_and_value() {
        let error = check("a//b").unwrap_err().to_string();
        assert_eq!(error, "object name: every segment must have 1 to 200 bytes, found \"a//b\"");
    }
}
