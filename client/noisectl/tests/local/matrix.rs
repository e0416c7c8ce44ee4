//! Matrices written out, their row norms and their products.

use std::io::Write;
use std::process::Stdio;

use tempfile::TempDir;

use crate::{PREFIX_SUM, command, json, stdout};

#[test]
fn materialize_prints_full_rows() {
    let printed = stdout(&["materialize", "--local", "--matrix", PREFIX_SUM, "-n", "4", "--format", "json"]);
    assert_eq!(printed, "{\"n\":4,\"rows\":[[1,0,0,0],[1,1,0,0],[1,1,1,0],[1,1,1,1]]}\n");
}

#[test]
fn materialize_keeps_every_digit() {
    let third = 1.0 / 3.0;
    let matrix = format!(r#"{{"kind":"diagonal","diag":[{third}]}}"#);
    let value = json(&["materialize", "--local", "--matrix", &matrix, "-n", "1", "--format", "json"]);
    assert_eq!(value["rows"][0][0].as_f64(), Some(third));
}

#[test]
fn tables_of_large_matrices_are_cut() {
    let printed = stdout(&["materialize", "--local", "--matrix", PREFIX_SUM, "-n", "5000"]);
    assert!(printed.lines().count() < 30, "{printed}");
    assert!(printed.contains("of 5000 rows"), "{printed}");
}

#[test]
fn row_norms() {
    let value = json(&["row-norms", "--local", "-n", "3", "--format", "json", "--matrix", PREFIX_SUM]);
    assert_eq!(value, serde_json::json!({"n": 3, "row_norms_squared": [1, 2, 3]}));
    let decoder = r#"{"kind":"product","factors":[{"kind":"prefix_sum"},
        {"kind":"inverse","matrix":{"kind":"toeplitz","coef":[1.0,0.5]}}]}"#;
    let value = json(&["row-norms", "--local", "-n", "3", "--format", "json", "--matrix", decoder]);
    // The inverse is 1, -1/2, 1/4; its sums are 1, 1/2, 3/4.
    let norms: Vec<f64> = serde_json::from_value(value["row_norms_squared"].clone()).unwrap();
    assert_eq!(norms, [1.0, 1.25, 1.8125]);
    assert!(stdout(&["row-norms", "--local", "-n", "3", "--matrix", PREFIX_SUM]).contains("largest 3"));
}

#[test]
fn matrices_come_from_files_and_from_stdin() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("matrix.json");
    std::fs::write(&path, PREFIX_SUM).unwrap();
    let at_path = format!("@{}", path.display());
    let expected = stdout(&["row-norms", "--local", "-n", "3", "--matrix", PREFIX_SUM]);
    assert_eq!(stdout(&["row-norms", "--local", "-n", "3", "--matrix", &at_path]), expected);

    let mut child = command(&["row-norms", "--local", "-n", "3", "--matrix", "@-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(PREFIX_SUM.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), expected);
}

#[test]
fn multiply_takes_json_and_npy_and_writes_npy() {
    let x = "[[1,2],[3,4],[5,6]]";
    let expected = serde_json::json!({"n": 3, "rows": [[1, 2], [4, 6], [9, 12]]});
    let multiply = |x: &str, more: &[&str]| {
        let args =
            [&["multiply", "--local", "--matrix", PREFIX_SUM, "--x", x, "--format", "json"], more].concat();
        json(&args)
    };
    assert_eq!(multiply(x, &[]), expected);
    let dir = TempDir::new().unwrap();
    let once = dir.path().join("once.npy");
    assert_eq!(multiply(x, &["--out", once.to_str().unwrap()]), expected);
    let twice = multiply(&format!("@{}", once.display()), &[]);
    assert_eq!(twice, serde_json::json!({"n": 3, "rows": [[1, 2], [5, 8], [14, 20]]}));
}
