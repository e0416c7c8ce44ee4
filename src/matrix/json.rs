//! Reading a [`MatrixSpec`] from JSON with errors that name the path of the field at fault.
//!
//! serde's derived reader for tagged enums loses the path inside nested matrices, and the path is what a
//! person who typed the JSON needs.

use serde_json::{Map, Value};

use super::spec::MatrixSpec;
use crate::error::{Error, Result};
use crate::limits::MAX_NESTING;

const KINDS: &str = "identity, prefix_sum, diagonal, momentum_sgd, toeplitz, buffered_toeplitz, \
                     column_normalized_banded, dense, product, scaled, inverse";

/// Reads JSON text; does not validate.
pub(super) fn parse(text: &str) -> Result<MatrixSpec> {
    from_value(crate::json::from_str(text, "matrix")?, "matrix", 0)
}

/// Reads a JSON value that stands at `path`.
pub(super) fn from_value(value: Value, path: &str, depth: usize) -> Result<MatrixSpec> {
    if depth > MAX_NESTING {
        return Err(Error::invalid(path, format!("matrices nest at most {MAX_NESTING} deep")));
    }
    let Value::Object(map) = value else {
        return Err(Error::invalid(path, "must be an object with a `kind`"));
    };
    let mut fields = Fields { map, path, depth };
    let kind = match fields.map.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => {
            return Err(Error::invalid(fields.at("kind"), format!("must be one of {KINDS}")));
        }
        None => {
            return Err(Error::invalid(fields.at("kind"), format!("is missing; it must be one of {KINDS}")));
        }
    };
    let spec = match kind.as_str() {
        "identity" => MatrixSpec::Identity,
        "prefix_sum" => MatrixSpec::PrefixSum,
        "diagonal" => MatrixSpec::Diagonal { diag: fields.numbers("diag")? },
        "momentum_sgd" => MatrixSpec::MomentumSgd {
            momentum: fields.required("momentum", number)?,
            learning_rates: fields.optional("learning_rates", numbers)?,
        },
        "toeplitz" => MatrixSpec::Toeplitz {
            coef: fields.numbers("coef")?,
            column_normalize_for_n: fields.optional("column_normalize_for_n", integer)?,
        },
        "buffered_toeplitz" => MatrixSpec::BufferedToeplitz {
            buf_decay: fields.numbers("buf_decay")?,
            output_scale: fields.numbers("output_scale")?,
        },
        "column_normalized_banded" => {
            MatrixSpec::ColumnNormalizedBanded { params: fields.required("params", rows)? }
        }
        "dense" => MatrixSpec::Dense { rows: fields.required("rows", rows)? },
        "product" => MatrixSpec::Product { factors: fields.matrices("factors")? },
        "scaled" => MatrixSpec::Scaled {
            matrix: Box::new(fields.matrix("matrix")?),
            row_scale: fields.optional("row_scale", numbers)?,
            col_scale: fields.optional("col_scale", numbers)?,
        },
        "inverse" => MatrixSpec::Inverse { matrix: Box::new(fields.matrix("matrix")?) },
        other => {
            return Err(Error::invalid(fields.at("kind"), format!("`{other}` is not one of {KINDS}")));
        }
    };
    match fields.map.keys().next() {
        Some(unknown) => Err(Error::invalid(fields.at(unknown), format!("is not a field of `{kind}`"))),
        None => Ok(spec),
    }
}

/// The fields of one object that are not read yet.
struct Fields<'a> {
    map: Map<String, Value>,
    path: &'a str,
    depth: usize,
}

impl Fields<'_> {
    fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn take(&mut self, name: &str) -> Result<Value> {
        self.map.remove(name).ok_or_else(|| Error::invalid(self.at(name), "is missing"))
    }

    fn required<T>(&mut self, name: &str, read: fn(Value, &str) -> Result<T>) -> Result<T> {
        read(self.take(name)?, &self.at(name))
    }

    /// A field that may be absent or null.
    fn optional<T>(&mut self, name: &str, read: fn(Value, &str) -> Result<T>) -> Result<Option<T>> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value, &self.at(name)).map(Some),
        }
    }

    fn numbers(&mut self, name: &str) -> Result<Vec<f64>> {
        self.required(name, numbers)
    }

    fn matrix(&mut self, name: &str) -> Result<MatrixSpec> {
        from_value(self.take(name)?, &self.at(name), self.depth + 1)
    }

    fn matrices(&mut self, name: &str) -> Result<Vec<MatrixSpec>> {
        let depth = self.depth + 1;
        let path = self.at(name);
        each(self.take(name)?, &path, "must be a list of matrices", |value, path| {
            from_value(value, path, depth)
        })
    }
}

fn number(value: Value, path: &str) -> Result<f64> {
    value.as_f64().ok_or_else(|| Error::invalid(path, "must be a number"))
}

fn integer(value: Value, path: &str) -> Result<u64> {
    value.as_u64().ok_or_else(|| Error::invalid(path, "must be a whole number, not negative"))
}

fn numbers(value: Value, path: &str) -> Result<Vec<f64>> {
    each(value, path, "must be a list of numbers", number)
}

fn rows(value: Value, path: &str) -> Result<Vec<Vec<f64>>> {
    each(value, path, "must be a list of lists of numbers", numbers)
}

fn each<T>(
    value: Value,
    path: &str,
    rule: &str,
    mut read: impl FnMut(Value, &str) -> Result<T>,
) -> Result<Vec<T>> {
    let Value::Array(items) = value else {
        return Err(Error::invalid(path, rule));
    };
    items.into_iter().enumerate().map(|(i, item)| read(item, &format!("{path}[{i}]"))).collect()
}
