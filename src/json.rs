//! JSON that says each thing once: an object that has a key twice is refused.
//!
//! `serde_json` takes the last of two values. What a person reads in a file and what a program takes from it
//! then differ.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Reads a text of JSON. `name` is what errors call it, such as `matrix`.
///
/// # Errors
/// [`Error::Invalid`] on `name` where the text is no JSON or goes on behind it, and on the key's path, such
/// as `matrix.factors[1].coef`, where an object has a key twice.
pub fn from_str(text: &str, name: &str) -> Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let twice = RefCell::new(None);
    let root = Path::Root(name);
    let read = Once { path: &root, twice: &twice }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| match twice.take() {
        Some(path) => Error::invalid(path, "is given twice"),
        None => Error::invalid(name, format!("is not JSON: {error}")),
    })
}

/// Reads a value of JSON from any deserializer, with the same rule.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    name: &str,
) -> std::result::Result<Value, D::Error> {
    Once { path: &Path::Root(name), twice: &RefCell::new(None) }.deserialize(deserializer)
}

/// Where a value stands. It is written out only for an error.
enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value at a path. A path that is there twice is noted, since serde's errors are text.
#[derive(Clone, Copy)]
struct Once<'a> {
    path: &'a Path<'a>,
    twice: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Once<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            match list.next_element_seed(Once { path: &path, twice: self.twice })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if object.contains_key(&key) {
                let path = path.to_string();
                let error = A::Error::custom(format_args!("{path}: is given twice"));
                *self.twice.borrow_mut() = Some(path);
                return Err(error);
            }
            let value = map.next_value_seed(Once { path: &path, twice: self.twice })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            "null",
            "true",
            "-7",
            "18446744073709551615",
            "1e-320",
            "0.1",
            "-0.0",
            "123456789012345678901234567890",
            r#""a\u0000b""#,
            "[]",
            "{}",
            r#" {"a": [1, {"b": null, "c": [[2.5]]}], "d": {"a": false}} "#,
        ] {
            assert_eq!(from_str(text, "x").unwrap(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn keys_are_there_once() {
        for (text, path) in [
            (r#"{"a":1,"a":1}"#, "x.a"),
            (r#"{"a":1,"b":{"c":[0,{"d":1,"d":2}]}}"#, "x.b.c[1].d"),
            (r#"[[],{"k":{},"k":{}}]"#, "x[1].k"),
            // The same key, written in two ways.
            (r#"{"ab":1,"\u0061b":2}"#, "x.ab"),
        ] {
            assert_eq!(from_str(text, "x"), Err(Error::invalid(path, "is given twice")), "{text}");
        }
        assert!(from_str(r#"{"a":{"a":1},"b":{"a":1}}"#, "x").is_ok());
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1,]", "1 2", r#"{"a":1} {"a":1}"#, "{}x", "nan", "1e999"] {
            let Err(Error::Invalid { field, rule }) = from_str(text, "x") else { panic!("{text} was taken") };
            assert!(field == "x" && rule.starts_with("is not JSON"), "{text}: {field}: {rule}");
        }
        let deep = "[".repeat(100_000);
        assert!(from_str(&deep, "x").is_err());
    }
}
