//! `noise check` and `noise verify`.

use serde_json::Value;
use tempfile::TempDir;

use crate::{BANDED, KEY, PREFIX_SUM, failure, json, noisectl, stdout};

/// Writes noise of the deviation 1 that a matrix correlates, from a seed.
fn write_noise(path: &str, matrix: &str, dtype: &str) {
    let spec = ["--matrix", matrix, "--lanes", "20000", "--dtype", dtype];
    let run = ["session", "run", "--local", "--seed", "3", "--steps", "6", "--out", path];
    stdout(&[&run[..], &spec[..]].concat());
}

#[test]
fn noise_is_checked() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("y.npy");
    let path = path.to_str().unwrap();
    let identity = r#"{"kind":"identity"}"#;
    for dtype in ["f32", "f64"] {
        write_noise(path, PREFIX_SUM, dtype);
        let check = ["noise", "check", "--input", path, "--matrix", PREFIX_SUM, "--stddev", "1"];
        let report = json(&[&check[..], &["--format", "json"]].concat());
        assert_eq!((report["passed"].as_bool(), report["level"].as_f64()), (Some(true), Some(1e-6)));
        let checks = report["checks"].as_array().unwrap();
        let values = checks.iter().find(|check| check["name"] == "values").unwrap();
        assert_eq!(values["statistic"], 120_000.0);
        assert_eq!((&values["verdict"], &values["p_value"]), (&Value::from("pass"), &Value::Null));
        assert!(stdout(&check).contains("0 of "));

        // Another matrix, and another deviation.
        let failed = |matrix: &str, stddev: &str| {
            let check = ["noise", "check", "--input", path, "--matrix", matrix, "--stddev", stddev];
            let output = noisectl(&[&check[..], &["--format", "json"]].concat());
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["passed"], false);
            assert!(
                stderr.starts_with("noisectl: the noise is not ") && stderr.lines().count() == 1,
                "{stderr}"
            );
            stderr
        };
        assert!(failed(identity, "1").contains("steps 1 apart"));
        let scaled = failed(PREFIX_SUM, "1.05");
        assert!(scaled.contains("variance") && !scaled.contains("apart"), "{scaled}");
    }
}

#[test]
fn what_is_no_noise_to_check_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (noise, half) = (path("noise.npy"), path("half.npy"));
    write_noise(&noise, PREFIX_SUM, "f32");
    write_noise(&half, PREFIX_SUM, "f16");
    let check = |input: &str, matrix: &str, stddev: &str| {
        failure(&["noise", "check", "--input", input, "--matrix", matrix, "--stddev", stddev], 2)
    };
    assert!(check("/no/such/file.npy", PREFIX_SUM, "1").starts_with("input: /no/such/file.npy: "));
    assert!(check(&half, PREFIX_SUM, "1").contains("f16"));
    assert!(check(&noise, r#"{"kind":"nonsense"}"#, "1").starts_with("matrix.kind: "));
    assert!(check(&noise, r#"{"kind":"dense","rows":[[1]]}"#, "1").contains("6 steps"));
    for stddev in ["0", "inf", "nan"] {
        assert!(check(&noise, PREFIX_SUM, stddev).starts_with("stddev: "), "{stddev}");
    }
    let flat = path("flat.npy");
    stdout(&["multiply", "--local", "--matrix", PREFIX_SUM, "--x", "[1,2]", "--out", &flat]);
    assert!(check(&flat, PREFIX_SUM, "1").contains("two axes"));
    let level =
        ["noise", "check", "--input", &noise, "--matrix", PREFIX_SUM, "--stddev", "1", "--level", "2"];
    assert!(failure(&level, 2).starts_with("level: "));
    assert!(failure(&["noise", "check", "--matrix", PREFIX_SUM], 2).contains("--input"));
}

#[test]
fn drawn_noise_is_verified() {
    let size = ["--lanes", "20000", "--steps", "8", "--format", "json"];
    let verify = |more: &[&str]| json(&[&["noise", "verify", "--local"], &size[..], more].concat());
    for more in [
        &["--noise-key-hex", KEY][..],
        &["--matrix", BANDED, "--stddev", "0.01", "--noise-state", "replayed"],
        &["--dtype", "f64", "--matrix", PREFIX_SUM],
    ] {
        let report = verify(more);
        assert_eq!(report["passed"], true, "{report}");
        let values = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "values");
        assert_eq!(values.unwrap()["statistic"], 160_000.0);
    }
    let refused = |more: &[&str]| failure(&[&["noise", "verify", "--local"], more].concat(), 2);
    assert!(refused(&["--steps", "0"]).starts_with("steps: "));
    assert!(refused(&["--lanes", "0"]).starts_with("lanes: "));
    assert!(refused(&["--dtype", "bf16"]).starts_with("dtype: "));
    assert!(refused(&["--stddev", "0"]).starts_with("stddev: "));
    assert!(refused(&["--stddev", "-1"]).starts_with("source.stddev: "));
    assert!(refused(&["--noise-id", "a"]).starts_with("noise_id: "));
    assert!(refused(&["--noise-key-hex", "12"]).starts_with("noise_key_hex: "));
    assert!(refused(&["--matrix", r#"{"kind":"dense","rows":[[1]]}"#]).starts_with("steps: "));
    assert!(refused(&["--noise-state", "replayed", "--matrix", PREFIX_SUM]).starts_with("noise_state: "));
    let nobody = ["noise", "verify", "--retry", "0", "--server", "127.0.0.1:1"];
    assert!(failure(&nobody, 1).starts_with("the server is unavailable: "));
}
