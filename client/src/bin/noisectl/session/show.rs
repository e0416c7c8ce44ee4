//! A session, printed.

use std::fmt::Write;

use noised::{SessionSpec, Shard};
use noised_client::SessionInfo;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Format, bytes, or_none, print_fields, print_json};

/// Longest matrix that a table shows; JSON shows it whole.
const TABLE_MATRIX_CHARS: usize = 100;

pub(super) fn show(info: &SessionInfo, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(&to_json(info)),
        Format::Table => print_fields(to_fields(info)),
    }
}

/// What it was made for is left out where a list does not tell it.
pub(super) fn to_json(info: &SessionInfo) -> Value {
    let SessionInfo {
        name,
        spec,
        fingerprint,
        next_step,
        next_offset,
        lanes,
        step_bytes,
        memory_bytes,
        resumed,
    } = info;
    let mut value = json!({
        "name": name,
        "fingerprint": hex(fingerprint),
        "next_step": next_step,
        "next_offset": next_offset,
        "lanes": lanes,
        "step_bytes": step_bytes,
        "memory_bytes": memory_bytes,
        "resumed": resumed,
    });
    if let Some(SessionSpec { matrix, tree, shard, source, precision, horizon }) = spec {
        value["matrix"] = json!(matrix);
        value["tree"] = json!({ "leaves": tree.leaves() });
        value["shard"] = json!(shard);
        value["source"] = json!(source);
        value["precision"] = json!(precision);
        value["horizon"] = json!(horizon);
    }
    value
}

fn to_fields(info: &SessionInfo) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("name", info.name.clone()),
        ("next step", info.next_step.to_string()),
        ("lanes", info.lanes.to_string()),
        ("payload of a step", bytes(info.step_bytes)),
        ("memory", bytes(info.memory_bytes)),
        ("fingerprint", hex(&info.fingerprint)),
    ];
    if info.next_offset > 0 {
        fields.push(("of which applied", bytes(info.next_offset)));
    }
    if let Some(SessionSpec { matrix, tree, shard: Shard { index, count }, source: _, precision, horizon }) =
        &info.spec
    {
        fields.extend([
            ("matrix", shortened(matrix.to_json())),
            ("leaves", tree.leaves().len().to_string()),
            ("shard", format!("{index}/{count}")),
            ("precision", precision.to_string()),
            ("horizon", or_none(*horizon)),
        ]);
    }
    fields
}

fn shortened(text: String) -> String {
    if text.chars().count() <= TABLE_MATRIX_CHARS {
        return text;
    }
    text.chars().take(TABLE_MATRIX_CHARS).chain("...".chars()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
