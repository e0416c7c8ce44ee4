//! Trees from files, and what `describe` tells of them.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::{PREFIX_SUM, failure, json, noisectl, stdout};

#[test]
fn describe_tells_of_trees() {
    let blt = r#"{"kind":"inverse","matrix":{"kind":"buffered_toeplitz","buf_decay":[0.9,0.5],"output_scale":[0.1,0.2]}}"#;
    let value = json(&["describe", "--local", "--matrix", blt, "--lanes", "1000", "--format", "json"]);
    assert_eq!(value["planes"], 2);
    assert_eq!(value["toeplitz"], true);
    assert_eq!(value["horizon"], Value::Null);
    // Lanes are held in blocks of 16.
    assert_eq!(value["state_bytes"], 8064);
    assert_eq!(value["step_bytes"], 4000);
    let half =
        ["--lanes", "1000", "--dtype", "bf16", "--shard", "1/2", "--precision", "f64", "--format", "json"];
    let value = json(&[&["describe", "--local", "--matrix", blt], &half[..]].concat());
    assert_eq!((value["lanes"].as_u64(), value["step_bytes"].as_u64()), (Some(500), Some(1000)));
    assert_eq!(value["state_bytes"], 8192);
    let bare = json(&["describe", "--local", "--matrix", blt, "--format", "json"]);
    assert!(bare.get("lanes").is_none());
    assert!(stdout(&["describe", "--local", "--matrix", blt]).contains("toeplitz"));
}

#[test]
fn trees_come_from_json_and_from_safetensors_headers() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree.json");
    std::fs::write(&tree, r#"{"leaves":[{"path":"w","dtype":"f16","shape":[3,5]}]}"#).unwrap();
    let lanes = |path: &Path| {
        let tree = path.to_str().unwrap();
        let output =
            noisectl(&["describe", "--local", "--matrix", PREFIX_SUM, "--tree", tree, "--format", "json"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["lanes"].as_u64().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(lanes(&tree), (15, String::new()));

    let header = br#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "ids":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#;
    let model = dir.path().join("model.safetensors");
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 24]].concat();
    std::fs::write(&model, file).unwrap();
    let (lanes, note) = lanes(&model);
    assert_eq!(lanes, 4);
    assert!(note.contains("`ids`") && note.lines().count() == 1, "{note}");
}

#[test]
fn tensors_without_noise_are_left_out_by_name_alone() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, header: &str, data: usize| {
        let path = directory.path().join(name);
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        std::fs::write(&path, file).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let model = write(
        "model.safetensors",
        r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},
            "q\u001b[2J":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[16,24]}}"#,
        24,
    );
    let describe = ["describe", "--matrix", PREFIX_SUM, "--tree", &model];
    let line = failure(&describe, 2);
    assert!(
        line.starts_with("tree: ") && line.contains("F8_E4M3") && line.contains(r"`q\u{1b}[2J`"),
        "{line}"
    );
    let skipped = json(&[&describe[..], &["--skip", "q\u{1b}[2J", "--format", "json"]].concat());
    assert_eq!(skipped["lanes"], 4);
    assert!(failure(&[&describe[..], &["--skip", "v"]].concat(), 2).starts_with("skip: "));
    let without_tree = ["describe", "--matrix", PREFIX_SUM, "--lanes", "4", "--skip", "v"];
    assert!(failure(&without_tree, 2).contains("--skip"));
    // The note on integers lets no name speak to the terminal.
    let ids = write(
        "ids.safetensors",
        r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},
            "i\u001b]0;\u0007\n\u009b2J":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#,
        24,
    );
    let output = noisectl(&["describe", "--matrix", PREFIX_SUM, "--tree", &ids]);
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && note.lines().count() == 1, "{note}");
    assert!(
        !note.contains(['\u{1b}', '\u{7}', '\u{9b}']) && note.contains(r"`i\u{1b}]0;\u{7}\n\u{9b}2J`"),
        "{note}"
    );
    // A gradient in another format than its leaf is told by that.
    let tree = directory.path().join("t.json");
    std::fs::write(&tree, r#"{"leaves":[{"path":"q\u001b[2J","dtype":"f32","shape":[8]}]}"#).unwrap();
    let run = ["session", "run", "--local", "--matrix", PREFIX_SUM, "--input", &model, "--tree"];
    let line = failure(&[&run[..], &[tree.to_str().unwrap()]].concat(), 2);
    assert!(line.contains("is of F8_E4M3"), "{line}");
}
