//! The report that programs read.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::process::Command;

use serde_json::Value;

#[test]
fn peers_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("a/peers.json");
    let program = env!("CARGO_BIN_EXE_noised-bench");
    let args =
        ["peers", "--only", "kernels", "--no-python", "--lanes", "1000,3000", "--rounds", "2", "--report"];
    let run = Command::new(program).args(args).arg(&report).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let rows: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let rows = rows.as_array().unwrap();
    // Eleven matrices at two sizes, each beside the memory.
    assert_eq!(rows.len(), 22);
    for row in rows {
        for number in ["lanes", "noised", "peer", "ratio", "ratio_min", "ratio_max"] {
            assert!(row[number].as_f64().unwrap() > 0.0, "{row}");
        }
        for text in ["measure", "peer_name", "unit"] {
            assert!(!row[text].as_str().unwrap().is_empty(), "{row}");
        }
        assert!(row["ratio_min"].as_f64() <= row["ratio"].as_f64());
        assert!(row["ratio"].as_f64() <= row["ratio_max"].as_f64());
    }
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(table.contains("| BLT inverse, 8 buffers"), "{table}");
}
