//! A session, printed.

use std::fmt::Write;

use noised::session::{KeyOrigin, Noise, NoiseOptions, NoiseState, Rewind, Source};
use noised::{SessionSpec, Shard, ShardCut};
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
        options,
        kept_steps,
        rewinds,
        rewind_count,
        released_steps,
        noise_started_over,
        last_used_unix_seconds,
        owner,
        epoch,
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
        "kept_steps": kept_steps,
        "rewinds": rewinds.iter().map(rewind_to_json).collect::<Vec<_>>(),
        "rewind_count": rewind_count,
        "released_steps": released_steps,
        "noise_started_over": noise_started_over,
        "last_used_unix_seconds": last_used_unix_seconds,
        "owner": owner,
        "epoch": epoch,
        "lookahead": options.map(|options| options.lookahead),
        "noise_state": options.map(|options| name_of(options.state)),
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

fn rewind_to_json(rewind: &Rewind) -> Value {
    let Rewind { from_step, to_step, unix_seconds, allow_divergence } = rewind;
    json!({
        "from_step": from_step,
        "to_step": to_step,
        "unix_seconds": unix_seconds,
        "allow_divergence": allow_divergence,
    })
}

fn to_fields(info: &SessionInfo) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("name", info.name.clone()),
        ("next step", info.next_step.to_string()),
        ("steps released", info.released_steps.to_string()),
        ("lanes", info.lanes.to_string()),
        ("payload of a step", bytes(info.step_bytes)),
        ("memory", bytes(info.memory_bytes)),
        ("fingerprint", hex(&info.fingerprint)),
    ];
    if !info.owner.is_empty() {
        fields.push(("owner", info.owner.clone()));
        fields.push(("epoch", info.epoch.to_string()));
    }
    if info.next_offset > 0 {
        fields.push(("of which applied", bytes(info.next_offset)));
    }
    if !info.kept_steps.is_empty() {
        let steps: Vec<String> = info.kept_steps.iter().map(u64::to_string).collect();
        fields.push(("states kept, of steps", shortened(steps.join(", "))));
    }
    if info.rewind_count > 0 {
        fields.push(("rewinds", info.rewind_count.to_string()));
    }
    if let Some(spec) = &info.spec {
        fields.extend(spec_to_fields(spec));
    }
    if let Some(NoiseOptions { lookahead, state }) = info.options {
        fields.push(("lookahead", lookahead.to_string()));
        fields.push(("noise state", name_of(state).to_owned()));
    }
    if info.noise_started_over {
        fields.push(("noise started over", "yes".to_owned()));
    }
    fields
}

fn spec_to_fields(spec: &SessionSpec) -> Vec<(&'static str, String)> {
    let SessionSpec { matrix, tree, shard, source, precision, horizon } = spec;
    let Shard { index, count, cut } = shard;
    let cut = match cut {
        ShardCut::Lanes => "",
        ShardCut::Leaves => ", whole leaves",
    };
    let mut fields = vec![
        ("matrix", shortened(matrix.to_json())),
        ("leaves", tree.leaves().len().to_string()),
        ("shard", format!("{index}/{count}{cut}")),
        ("precision", precision.to_string()),
        ("horizon", or_none(*horizon)),
        ("source", source.kind().to_owned()),
    ];
    if let Some(Noise { stddev, key }) = source.noise() {
        fields.push(("stddev", stddev.to_string()));
        let key = match key {
            KeyOrigin::Fresh => "fresh".to_owned(),
            KeyOrigin::Derived { noise_id } => format!("of the noise `{noise_id}`"),
            KeyOrigin::Given => "given".to_owned(),
        };
        fields.push(("key", key));
    }
    if let Source::Privatize { noise: _, answer_dtype: Some(dtype) } = source {
        fields.push(("answers", dtype.to_string()));
    }
    fields
}

fn name_of(state: NoiseState) -> &'static str {
    match state {
        NoiseState::Kept => "kept",
        NoiseState::Replayed => "replayed",
    }
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
