//! `noisectl` as its users meet it: what it prints and how it ends, without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const PREFIX_SUM: &str = r#"{"kind":"prefix_sum"}"#;

fn noisectl(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noisectl"));
    command.args(args).stdin(Stdio::null());
    for variable in ["NOISED_SERVER", "NOISED_NOISE_KEY_HEX", "COLUMNS", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

/// What a command that succeeds prints.
fn stdout(args: &[&str]) -> String {
    let output = noisectl(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// The one line that a command that fails says.
fn failure(args: &[&str], status: i32) -> String {
    let output = noisectl(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{args:?}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    let line = stderr.strip_prefix("noisectl: ").unwrap_or_else(|| panic!("{args:?}: {stderr}"));
    line.trim_end().to_owned()
}

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
fn runs_in_process_write_their_answers() {
    let dir = TempDir::new().unwrap();
    let (x, y) = (dir.path().join("x.npy"), dir.path().join("y.npy"));
    let (x, y) = (x.to_str().unwrap(), y.to_str().unwrap());
    // f64 as `multiply --out` writes it.
    stdout(&[
        "multiply",
        "--local",
        "--matrix",
        r#"{"kind":"identity"}"#,
        "--x",
        "[[1,2],[3,4],[5,6]]",
        "--out",
        x,
    ]);
    let spec = ["--matrix", PREFIX_SUM, "--lanes", "2", "--dtype", "f64"];
    let run = ["session", "run", "--local", "--input", x, "--out", y, "--format", "json"];
    let summary = json(&[&run[..], &spec[..]].concat());
    assert_eq!((summary["steps"].as_u64(), summary["bytes"].as_u64()), (Some(3), Some(48)));
    let at_y = format!("@{y}");
    let read_back =
        ["multiply", "--local", "--matrix", r#"{"kind":"identity"}"#, "--x", &at_y, "--format", "json"];
    assert_eq!(json(&read_back)["rows"], serde_json::json!([[1, 2], [4, 6], [9, 12]]));

    let seeded = ["session", "run", "--local", "--seed", "7", "--steps", "5", "--format", "json"];
    assert_eq!(json(&[&seeded[..], &spec[..]].concat())["next_step"], 5);
}

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

/// Key, matrix and size of noise that is drawn in process.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BANDED: &str = r#"{"kind":"toeplitz","coef":[1,-0.5,0.25]}"#;
const DRAW: [&str; 12] = [
    "session", "run", "--local", "--source", "gaussian", "--stddev", "2.5", "--lanes", "5000", "--steps",
    "7", "--matrix",
];

/// The elements of what a run writes.
fn written(dir: &TempDir, args: &[&str]) -> Vec<u8> {
    let path = dir.path().join("out.npy");
    stdout(&[args, &["--out", path.to_str().unwrap()]].concat());
    let file = std::fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[header..].to_vec()
}

#[test]
fn noise_is_a_function_of_its_key() {
    let dir = TempDir::new().unwrap();
    let draw = |more: &[&str]| written(&dir, &[&DRAW[..], &[BANDED], more].concat());
    let of_key = draw(&["--noise-key-hex", KEY]);
    assert_eq!(of_key.len(), 7 * 5000 * 4);
    assert!(draw(&["--noise-key-hex", KEY]) == of_key);
    // However it is drawn.
    assert!(draw(&["--noise-key-hex", KEY, "--noise-state", "replayed"]) == of_key);
    assert!(draw(&["--noise-key-hex", KEY, "--noise-state", "kept", "--lookahead", "0"]) == of_key);
    assert!(draw(&["--noise-key-hex", KEY, "--lookahead", "5"]) == of_key);
    let fresh = draw(&[]);
    assert!(fresh != of_key && fresh != draw(&[]));
    let path = dir.path().join("out.npy");
    let args = [&DRAW[..], &[BANDED, "--out", path.to_str().unwrap()]].concat();
    let output = command(&args).env("NOISED_NOISE_KEY_HEX", KEY).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(std::fs::read(&path).unwrap().ends_with(&of_key));
    let check = ["noise", "check", "--matrix", BANDED, "--stddev", "2.5", "--input", path.to_str().unwrap()];
    assert!(stdout(&check).contains("0 of "));
}

#[test]
fn shards_of_noise_are_the_whole() {
    let dir = TempDir::new().unwrap();
    let draw = |more: &[&str]| written(&dir, &[&DRAW[..], &[BANDED, "--noise-key-hex", KEY], more].concat());
    let whole = draw(&[]);
    let shards: Vec<_> = (0..3).map(|i| draw(&["--shard", &format!("{i}/3")])).collect();
    for step in 0..7 {
        let of_step = shards.iter().flat_map(|shard| {
            let bytes = shard.len() / 7;
            shard[step * bytes..][..bytes].iter().copied()
        });
        assert!(of_step.collect::<Vec<_>>() == whole[step * 20_000..][..20_000], "step {step}");
    }
}

#[test]
fn gradients_are_privatized() {
    let dir = TempDir::new().unwrap();
    let floats = |bytes: Vec<u8>| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let run = |more: &[&str]| {
        let run = ["session", "run", "--local", "--lanes", "3000", "--steps", "4", "--matrix"];
        written(&dir, &[&run[..], more].concat())
    };
    let drawn = ["--stddev", "1.5", "--noise-key-hex", KEY];
    let gradients = floats(run(&[r#"{"kind":"identity"}"#, "--seed", "3"]));
    let privatized = run(&[&[BANDED, "--seed", "3", "--source", "privatize"], &drawn[..]].concat());
    let privatized = floats(privatized);
    let noise: Vec<f32> = privatized.iter().zip(&gradients).map(|(sum, gradient)| sum - gradient).collect();
    let variance = noise.iter().map(|noise| noise * noise).sum::<f32>() / noise.len() as f32;
    // The matrix multiplies the variance by 1, 1.25 and, of two steps, 1.3125.
    assert!((variance / (2.25 * 4.875 / 4.0) - 1.0).abs() < 0.1, "{variance}");
    // bf16 goes up, f32 comes down.
    let formats = ["--dtype", "bf16", "--answer-dtype", "f32"];
    let wide = run(&[&[BANDED, "--seed", "3", "--source", "privatize"], &drawn[..], &formats[..]].concat());
    let wide = floats(wide);
    assert_eq!(wide.len(), privatized.len());
    let without =
        floats(run(
            &[&[BANDED, "--seed", "3", "--source", "privatize", "--stddev", "0"], &formats[..]].concat()
        ));
    let near = |a: &f32, b: &f32| (a - b).abs() <= a.abs() / 128.0;
    assert!(gradients.iter().zip(&without).all(|(a, b)| near(a, b)));
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

#[test]
fn what_does_not_go_with_a_source_is_refused_by_name() {
    let run = |more: &[&str]| {
        let run = ["session", "run", "--local", "--lanes", "4", "--steps", "1", "--matrix", PREFIX_SUM];
        failure(&[&run[..], more].concat(), 2)
    };
    let gaussian = |more: &[&str]| run(&[&["--source", "gaussian"], more].concat());
    let drawn = |more: &[&str]| gaussian(&[&["--stddev", "1"], more].concat());
    assert!(gaussian(&[]).starts_with("stddev: "));
    assert!(gaussian(&["--stddev", "-1"]).starts_with("source.stddev: "));
    assert!(gaussian(&["--stddev", "nan"]).starts_with("source.stddev: "));
    assert!(drawn(&["--seed", "1"]).starts_with("seed: "));
    assert!(drawn(&["--input", "x.npy"]).starts_with("input: "));
    assert!(drawn(&["--answer-dtype", "f32"]).starts_with("answer_dtype: "));
    assert!(drawn(&["--noise-id", "a", "--noise-key-hex", KEY]).starts_with("noise_id: "));
    assert!(drawn(&["--noise-id", "a"]).contains("master key"));
    assert!(drawn(&["--noise-id", "a b"]).starts_with("source.key.noise_id: "));
    assert!(drawn(&["--start-noise-over"]).starts_with("start_noise_over: "));
    assert!(drawn(&["--lookahead", "65"]).starts_with("lookahead: "));
    assert!(drawn(&["--noise-state", "replayed"]).starts_with("noise_state: "));
    assert!(run(&["--source", "privatize", "--stddev", "1"]).starts_with("input: "));
    assert!(run(&["--source", "noise"]).contains("--source"));
    for (field, args) in [
        ("stddev", &["--stddev", "1"][..]),
        ("noise_id", &["--noise-id", "a"]),
        ("noise_key_hex", &["--noise-key-hex", KEY]),
        ("start_noise_over", &["--start-noise-over"]),
        ("lookahead", &["--lookahead", "1"]),
        ("noise_state", &["--noise-state", "kept"]),
        ("answer_dtype", &["--answer-dtype", "f32"]),
    ] {
        assert!(run(&[&["--seed", "1"], args].concat()).starts_with(&format!("{field}: ")), "{field}");
    }
}

/// Neither where it is wrong nor where it comes from the environment.
#[test]
fn a_key_is_printed_nowhere() {
    let wrong = format!("{}zz", &KEY[..62]);
    let line = failure(&[&DRAW[..], &[PREFIX_SUM, "--noise-key-hex", &wrong]].concat(), 2);
    assert_eq!(line, "noise_key_hex: must be 64 hexadecimal digits");
    let help = command(&["session", "run", "--help"]).env("NOISED_NOISE_KEY_HEX", KEY).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("NOISED_NOISE_KEY_HEX") && !help.contains(KEY), "{help}");
}

#[test]
fn a_bad_description_is_one_line_with_the_field() {
    let materialize = |matrix: &str| failure(&["materialize", "--local", "--matrix", matrix, "-n", "2"], 2);
    assert!(materialize("nonsense").starts_with("matrix: "));
    assert!(materialize(r#"{"kind":"nonsense"}"#).starts_with("matrix.kind: "));
    assert!(materialize(r#"{"kind":"toeplitz","coef":[1,"a"]}"#).starts_with("matrix.coef[1]: "));
    assert!(materialize(r#"{"kind":"toeplitz","coef":[1,1e999]}"#).starts_with("matrix"));
    assert!(materialize(r#"{"kind":"toeplitz","coef":[]}"#).starts_with("matrix.coef: "));
    let nested = r#"{"kind":"product","factors":[{"kind":"identity"},{"kind":"inverse","matrix":{"kind":"diagonal","diag":[0]}}]}"#;
    assert!(materialize(nested).starts_with("matrix.factors[1].matrix"), "{}", materialize(nested));
    assert!(materialize("@/no/such/file").starts_with("matrix: /no/such/file: "));
}

#[test]
fn other_bad_usage() {
    let prefix_sum = ["--matrix", PREFIX_SUM];
    let with = |args: &[&str]| failure(&[args, &prefix_sum].concat(), 2);
    assert!(with(&["materialize", "--local", "-n", "0"]).starts_with("n: "));
    assert!(with(&["materialize", "--local"]).contains("-n"));
    assert!(with(&["materialize", "--local", "-n", "x"]).contains("-n"));
    assert!(with(&["materialize", "-n", "2", "--server", "nowhere"]).starts_with("server: "));
    assert!(with(&["materialize", "-n", "2", "--server", "https://a:1"]).starts_with("server: "));
    assert!(with(&["multiply", "--local", "--x", "[[1],[2,3]]"]).starts_with("x[1]: "));
    assert!(with(&["describe", "--local", "--lanes", "0"]).starts_with("tree"));
    assert!(with(&["describe", "--local", "--lanes", "4", "--shard", "4/4"]).starts_with("shard.index: "));
    assert!(with(&["describe", "--local", "--lanes", "4", "--shard", "4"]).contains("--shard"));
    assert!(with(&["describe", "--local", "--lanes", "4", "--dtype", "int8"]).contains("int8"));
    assert!(with(&["describe", "--local", "--tree", "/no/such/tree.json"]).starts_with("tree: "));
    assert!(with(&["session", "run", "--local", "--lanes", "4", "--seed", "1"]).starts_with("steps: "));
    assert!(with(&["session", "run", "--local", "--lanes", "4", "--steps", "1"]).contains("--input"));
    assert!(with(&["session", "create", "--lanes", "4", "--horizon", "0"]).contains(": "));
    failure(&["nonsense"], 2);
}

#[test]
fn a_bench_is_refused_by_the_name_of_the_option() {
    for (option, values) in [
        ("--lanes", &["0", "x", "1,,2", "1000,-1", ""][..]),
        ("--steps", &["0", "-1", "x"]),
        ("--duration", &["0s", "10", "fast", ""]),
        ("--warm-up", &["-1"]),
        ("--sessions", &["0", "257", "x"]),
        ("--mode", &["duplex"]),
        ("--dtype", &["int8"]),
        ("--precision", &["bf16"]),
        ("--chunk-bytes", &["0", "33554433"]),
        ("--format", &["yaml"]),
        ("--plot", &["a.gif", "a"]),
    ] {
        for value in values {
            let line = failure(&["bench", &format!("{option}={value}")], 2);
            assert!(line.contains(option), "{option} {value}: {line}");
        }
    }
    assert!(failure(&["bench", "--steps", "3", "--duration", "1s"], 2).contains("--duration"));
    assert!(
        failure(&["bench", "--matrix", r#"{"kind":"toeplitz","coef":[]}"#], 2).starts_with("matrix.coef: ")
    );
    assert!(failure(&["bench", "--lanes", &u64::MAX.to_string()], 2).starts_with("lanes: "));
    assert!(failure(&["bench", "--server", "nowhere"], 2).starts_with("server: "));
    for option in ["--report", "--plot"] {
        assert!(failure(&["bench", option, "/no/such/dir/a.svg"], 1).starts_with("/no/such/dir/a.svg: "));
    }
    let nobody = ["bench", "--retry", "0", "--server", "127.0.0.1:1"];
    assert!(failure(&nobody, 1).starts_with("the server is unavailable: "));
    assert!(stdout(&["bench", "--help"]).contains("latency_ms"));
}

#[test]
fn what_is_no_fault_of_usage_ends_with_1() {
    let there = ["materialize", "-n", "2", "--matrix", PREFIX_SUM, "--retry", "0", "--server", "127.0.0.1:1"];
    assert!(failure(&there, 1).starts_with("the server is unavailable: http://127.0.0.1:1: "));
    assert!(failure(&there, 1).contains("--local"));
    let out = ["multiply", "--local", "--matrix", PREFIX_SUM, "--x", "[1]", "--out", "/no/such/dir/y.npy"];
    assert!(failure(&out, 1).contains("/no/such/dir"));
    let past = ["session", "run", "--local", "--seed", "1", "--steps", "9", "--lanes", "4", "--horizon", "3"];
    assert!(failure(&[&past[..], &["--matrix", PREFIX_SUM]].concat(), 1).contains("horizon"));
}

#[test]
fn a_closed_stdout_is_no_error() {
    let mut child =
        command(&["materialize", "--local", "--matrix", PREFIX_SUM, "-n", "3000", "--format", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Every command, with what it takes before its options.
const COMMANDS: [&[&str]; 25] = [
    &[],
    &["materialize"],
    &["row-norms"],
    &["multiply"],
    &["describe"],
    &["error"],
    &["sensitivity"],
    &["optimize"],
    &["strategy"],
    &["recommend"],
    &["compare"],
    &["account"],
    &["calibrate"],
    &["session"],
    &["session", "create"],
    &["session", "get"],
    &["session", "list"],
    &["session", "delete"],
    &["session", "run"],
    &["session", "keep"],
    &["session", "rewind"],
    &["noise"],
    &["noise", "check"],
    &["noise", "verify"],
    &["bench"],
];

#[test]
fn help_and_version() {
    assert!(stdout(&["--help"]).contains("materialize"));
    assert!(stdout(&["session", "run", "--help"]).contains("--seed"));
    assert!(stdout(&["--version"]).starts_with("noisectl "));
    assert!(stdout(&["help"]).contains("materialize"));
    assert!(stdout(&["help", "session", "run"]).contains("--seed"));
    // Who gives no command is shown which there are.
    for (args, words) in [(&[][..], "materialize"), (&["session"], "rewind"), (&["noise"], "verify")] {
        let output = noisectl(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr.contains("Usage: ") && stderr.contains(words), "{stderr}");
    }
}

#[test]
fn help_fits_the_terminal() {
    for args in COMMANDS {
        for help in ["-h", "--help"] {
            let output = command(args).arg(help).env("COLUMNS", "80").output().unwrap();
            let help = String::from_utf8(output.stdout).unwrap();
            assert!(help.contains("Usage: "), "{args:?}: {help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{args:?}: {line}");
            }
        }
    }
}

#[test]
fn tables_fit_the_terminal() {
    let dense =
        r#"{"kind":"inverse","matrix":{"kind":"toeplitz","coef":[1,-0.123456789,0.3,-0.7,12345.678]}}"#;
    let strategy = "a long name of a strategy={\"kind\":\"toeplitz\",\"coef\":[1,0.5]}";
    let x = "[[1234567.891234,-1234567.891234,0.000012345,1,2,3,4,5,6,7,8,9]]";
    let sweep = ["--strategy", "{\"kind\":\"identity\"}", "--strategy", strategy, "-n", "12345"];
    for args in [
        &["materialize", "--matrix", dense, "-n", "30"][..],
        &["row-norms", "--matrix", dense, "-n", "30"],
        &["multiply", "--matrix", PREFIX_SUM, "--x", x],
        &["describe", "--matrix", dense, "--lanes", "1000000"],
        &["error", "--strategy", "{\"kind\":\"identity\"}", "-n", "100"],
        &[&["compare"][..], &sweep].concat(),
        &["strategy", "--family", "banded_square_root", "--bands", "20"],
        &["recommend", "-n", "12", "--planes", "2"],
        &["calibrate", "--rho", "0.5"],
    ] {
        for columns in [50, 80, 120] {
            let output = command(args).env("COLUMNS", columns.to_string()).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
            let table = String::from_utf8(output.stdout).unwrap();
            for line in table.lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line}\n{table}");
            }
        }
    }
    let shown =
        command(&["multiply", "--matrix", PREFIX_SUM, "--x", x]).env("COLUMNS", "80").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("-1234567.891234") && shown.contains("of 12 lanes"), "{shown}");
}

#[test]
fn nothing_is_coloured_outside_a_terminal() {
    let errors: [&[&str]; 3] = [&["nonsense"], &["materialize", "-n", "x"], &["session"]];
    for args in COMMANDS {
        let output = command(args).arg("--help").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}");
    }
    for args in errors {
        assert!(!noisectl(args).stderr.contains(&0x1b), "{args:?}");
    }
    let run =
        ["session", "run", "--local", "--seed", "1", "--steps", "3", "--lanes", "4", "--matrix", PREFIX_SUM];
    let output = noisectl(&run);
    assert!(!output.stdout.contains(&0x1b) && output.stderr.is_empty());
}

#[test]
fn questions_without_a_session_need_no_server() {
    let strategy = r#"{"kind":"toeplitz","coef":[1,0.5]}"#;
    for args in [
        &["materialize", "--matrix", PREFIX_SUM, "-n", "3"][..],
        &["row-norms", "--matrix", PREFIX_SUM, "-n", "3"],
        &["multiply", "--matrix", PREFIX_SUM, "--x", "[1,2]"],
        &["describe", "--matrix", PREFIX_SUM],
        &["error", "--strategy", strategy, "-n", "3"],
        &["sensitivity", "--strategy", strategy, "-n", "3"],
        &["optimize", "--family", "banded_toeplitz", "--bands", "2", "-n", "4"],
        &["strategy", "--family", "identity"],
        &["recommend", "-n", "4", "--planes", "1"],
        &["compare", "--strategy", strategy, "-n", "3"],
        &["calibrate", "--rho", "0.5"],
    ] {
        let here = stdout(&[args, &["--local"]].concat());
        assert_eq!(stdout(args), here, "{args:?}");
        // An empty variable names no server, and --local goes before one that does.
        let with = |server: &str, more: &[&str]| {
            command(args).args(more).env("NOISED_SERVER", server).output().unwrap()
        };
        for output in [with("", &[]), with("127.0.0.1:1", &["--local"])] {
            assert_eq!(String::from_utf8(output.stdout).unwrap(), here, "{args:?}");
        }
        if args[0] != "strategy" {
            let output = with("127.0.0.1:1", &["--retry", "0"]);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
        }
    }
}

#[test]
fn counts_of_nothing_are_refused() {
    let spec = ["--matrix", PREFIX_SUM, "--lanes", "4"];
    let run = ["session", "run", "--local", "--seed", "1"];
    let strategy = ["--strategy", r#"{"kind":"identity"}"#];
    let none = "[]";
    for (args, option) in [
        ([&run[..], &spec, &["--steps", "0"]].concat(), "steps"),
        ([&run[..], &spec, &["--steps", "1", "--horizon", "0"]].concat(), "horizon"),
        (
            [
                "session", "run", "--local", "--seed", "1", "--steps", "1", "--matrix", PREFIX_SUM,
                "--lanes", "0",
            ]
            .to_vec(),
            "leaves",
        ),
        ([&run[..], &spec, &["--steps", "1", "--shard", "0/0"]].concat(), "shard"),
        (["noise", "verify", "--local", "--steps", "0"].to_vec(), "steps"),
        (["noise", "verify", "--local", "--lanes", "0"].to_vec(), "lanes"),
        (["materialize", "--matrix", PREFIX_SUM, "-n", "0"].to_vec(), "n"),
        (["row-norms", "--matrix", PREFIX_SUM, "-n", "0"].to_vec(), "n"),
        (["multiply", "--matrix", PREFIX_SUM, "--x", none].to_vec(), "x"),
        (["multiply", "--matrix", PREFIX_SUM, "--x", "[[],[]]"].to_vec(), "x"),
        ([&["error", "-n", "0"][..], &strategy].concat(), "n"),
        ([&["sensitivity", "-n", "0"][..], &strategy].concat(), "n"),
        ([&["sensitivity", "-n", "3", "--min-sep", "0"][..], &strategy].concat(), "min_sep"),
        (
            [&["sensitivity", "-n", "3", "--max-participations", "0"][..], &strategy].concat(),
            "max_participations",
        ),
        ([&["sensitivity", "-n", "3", "--epochs", "0"][..], &strategy].concat(), "epochs"),
        ([&["compare", "-n", "0"][..], &strategy].concat(), "n"),
        (["optimize", "--family", "dense", "-n", "0"].to_vec(), "n"),
        (["optimize", "--family", "banded_toeplitz", "-n", "3", "--bands", "0"].to_vec(), "bands"),
        (["optimize", "--family", "banded_inverse_toeplitz", "-n", "3", "--bands", "0"].to_vec(), "bands"),
        (["optimize", "--family", "column_normalized_banded", "-n", "3", "--bands", "0"].to_vec(), "bands"),
        (["optimize", "--family", "buffered_toeplitz", "-n", "3", "--buffers", "0"].to_vec(), "buffers"),
        (["recommend", "-n", "0", "--planes", "1"].to_vec(), "n"),
        (["strategy", "--family", "optimal_max_error", "-n", "0"].to_vec(), "n"),
        (["strategy", "--family", "banded_square_root", "--bands", "0"].to_vec(), "bands"),
        (["strategy", "--family", "blt_from_rational_approximation", "--buffers", "0"].to_vec(), "buffers"),
    ] {
        let line = failure(&args, 2);
        let field = line.split(": ").next().unwrap();
        assert!(field.split('.').any(|part| part.trim_start_matches('-') == option), "{args:?}: {line}");
    }
}

/// The names of a directory's files, with their bytes.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// What is wrong is told before anything is written, under whatever name a file is read and written.
#[test]
fn no_command_writes_over_what_it_reads() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let spec = ["--matrix", PREFIX_SUM, "--lanes", "2", "--dtype", "f64"];
    let identity = r#"{"kind":"identity"}"#;
    stdout(&["multiply", "--matrix", identity, "--x", "[[1,2],[3,4]]", "--out", &path("g.npy")]);
    std::fs::write(path("m.json"), identity).unwrap();
    std::fs::write(path("m.svg"), identity).unwrap();
    std::fs::write(path("t.json"), r#"{"leaves":[{"path":"w","dtype":"f32","shape":[2]}]}"#).unwrap();
    let header = br#"{"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}"#;
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header, &[1; 16]].concat();
    std::fs::write(path("g.safetensors"), tensors).unwrap();
    let index = r#"{"weight_map":{"w":"g.safetensors"}}"#;
    std::fs::write(path("i.json"), index).unwrap();

    let (npy, safetensors) = (path("g.npy"), path("g.safetensors"));
    let (matrix, at_npy) = (format!("@{}", path("m.json")), format!("@{npy}"));
    let at_svg = format!("@{}", path("m.svg"));
    let (tree, index) = (path("t.json"), path("i.json"));
    let run = ["session", "run", "--input", &npy];
    let private = ["--source", "privatize", "--stddev", "1"];
    let nobody = ["--server", "127.0.0.1:1", "--retry", "0"];
    let n = ["-n", "4"];
    // What is run, the file that it reads, and the option that writes.
    let commands: Vec<(Vec<&str>, &str, &str)> = vec![
        ([&run[..], &spec, &["--local"]].concat(), "g.npy", "--out"),
        ([&run[..], &spec, &private, &["--local"]].concat(), "g.npy", "--out"),
        ([&run[..], &spec, &nobody].concat(), "g.npy", "--out"),
        ([&run[..], &spec, &private, &nobody].concat(), "g.npy", "--out"),
        (
            vec![
                "session", "run", "--local", "--seed", "1", "--steps", "1", "--lanes", "2", "--matrix",
                &matrix,
            ],
            "m.json",
            "--out",
        ),
        (
            vec![
                "session", "run", "--local", "--seed", "1", "--steps", "1", "--tree", &tree, "--matrix",
                PREFIX_SUM,
            ],
            "t.json",
            "--out",
        ),
        (
            vec![
                "session", "run", "--local", "--seed", "1", "--steps", "1", "--tree", &index, "--matrix",
                PREFIX_SUM,
            ],
            "g.safetensors",
            "--out",
        ),
        (
            vec![
                "session", "run", "--local", "--seed", "1", "--steps", "1", "--tree", &index, "--matrix",
                PREFIX_SUM,
            ],
            "i.json",
            "--out",
        ),
        (
            vec![
                "session",
                "run",
                "--local",
                "--input",
                &safetensors,
                "--tree",
                &safetensors,
                "--matrix",
                PREFIX_SUM,
            ],
            "g.safetensors",
            "--out",
        ),
        (vec!["multiply", "--matrix", PREFIX_SUM, "--x", &at_npy], "g.npy", "--out"),
        (vec!["multiply", "--matrix", &matrix, "--x", "[1]"], "m.json", "--out"),
        (
            [&["optimize", "--family", "banded_toeplitz", "--bands", "2", "--workload", &matrix][..], &n]
                .concat(),
            "m.json",
            "--save",
        ),
        (
            vec!["strategy", "--family", "banded_square_root", "--bands", "2", "--workload", &matrix],
            "m.json",
            "--save",
        ),
        ([&["recommend", "--planes", "1", "--workload", &matrix][..], &n].concat(), "m.json", "--save"),
        ([&["recommend", "--planes", "1", "--workload", &at_svg][..], &n].concat(), "m.svg", "--plot"),
        ([&["error", "--strategy", &at_svg][..], &n].concat(), "m.svg", "--plot"),
        ([&["error", "--noising-matrix", &at_svg][..], &n].concat(), "m.svg", "--plot"),
        ([&["compare", "--strategy", &at_svg][..], &n].concat(), "m.svg", "--plot"),
        ([&["bench", "--matrix", &matrix][..], &nobody].concat(), "m.json", "--report"),
        ([&["bench", "--matrix", &at_svg][..], &nobody].concat(), "m.svg", "--plot"),
    ];
    let before = contents(directory.path());
    let names = TempDir::new().unwrap();
    for (args, read, option) in commands {
        let ending = Path::new(read).extension().unwrap().to_str().unwrap();
        let link = names.path().join(format!("link.{ending}"));
        let hard = names.path().join(format!("hard.{ending}"));
        let _none = (std::fs::remove_file(&link), std::fs::remove_file(&hard));
        std::os::unix::fs::symlink(path(read), &link).unwrap();
        std::fs::hard_link(path(read), &hard).unwrap();
        let spelled = format!("{}/./{read}", directory.path().display());
        for written in [path(read), spelled, link.to_str().unwrap().into(), hard.to_str().unwrap().into()] {
            let line = failure(&[&args[..], &[option, &written]].concat(), 2);
            assert!(line.contains(&written) && line.starts_with(option.trim_start_matches('-')), "{line}");
            assert!(contents(directory.path()) == before, "{args:?} {written}");
        }
    }
    // Nor do two options write one file.
    let both = path("both.svg");
    let twice = [&["bench", "--report", &both, "--plot", &both][..], &nobody].concat();
    assert!(failure(&twice, 2).contains("--report writes"));
    // Standard input may be a file, too.
    let save =
        ["optimize", "--family", "banded_toeplitz", "--bands", "2", "-n", "4", "--workload", "@-", "--save"];
    let stdin = std::fs::File::open(path("m.json")).unwrap();
    let output = command(&save).arg(path("m.json")).stdin(stdin).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stdin = std::fs::File::open(path("m.json")).unwrap();
    let output = command(&["multiply", "--matrix", "@-", "--x", "@-"]).stdin(stdin).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("standard input already"));
    assert!(contents(directory.path()) == before);
}

/// A pipe and a device take what a file would, and stay what they are.
#[test]
fn outputs_may_be_pipes_and_devices() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let spec = ["--matrix", PREFIX_SUM, "--lanes", "3", "--seed", "1", "--steps", "2", "--local"];
    let run = |out: &str| [&["session", "run", "--out", out][..], &spec].concat().join(" ");
    let args = run(&path("y.npy"));
    stdout(&args.split(' ').collect::<Vec<_>>());
    let whole = std::fs::read(path("y.npy")).unwrap();
    let to_stdout = run("/dev/stdout");
    let output = noisectl(&to_stdout.split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.starts_with(&whole) && output.stdout.len() > whole.len());

    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    let (fifo, to_fifo) = (path("fifo"), run(&path("fifo")));
    let reader = std::thread::spawn(move || std::fs::read(fifo).unwrap());
    stdout(&to_fifo.split(' ').collect::<Vec<_>>());
    assert!(reader.join().unwrap() == whole);
    let kind = std::fs::symlink_metadata(path("fifo")).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));

    let to_null = run("/dev/null");
    stdout(&to_null.split(' ').collect::<Vec<_>>());
    let multiply = ["multiply", "--matrix", PREFIX_SUM, "--x", "[1,2]", "--out", "/dev/stdout"];
    assert!(noisectl(&multiply).stdout.starts_with(b"\x93NUMPY"));
    let save = ["strategy", "--family", "identity", "--save", "/dev/stdout"];
    assert!(stdout(&save).starts_with(r#"{"kind":"inverse""#));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}

/// Waits until a program has taken signals into its own hands.
fn wait_for_handlers(child: &std::process::Child) {
    let status = format!("/proc/{}/status", child.id());
    loop {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        // Signals 2 and 15.
        if u64::from_str_radix(mask, 16).unwrap() & 0x4002 == 0x4002 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn kill(child: &std::process::Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Bytes of the files of a directory that are not finished.
fn unfinished(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let partial = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".partial"));
    // One that is gone meanwhile has none.
    partial.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum()
}

#[test]
fn an_interrupted_run_says_how_far_it_came_and_leaves_no_file() {
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        for source in [&["--seed", "1"][..], &["--source", "gaussian", "--stddev", "1"]] {
            let directory = TempDir::new().unwrap();
            let out = directory.path().join("part.npy");
            std::fs::write(&out, "of an earlier run").unwrap();
            let spec =
                ["--matrix", PREFIX_SUM, "--lanes", "2000", "--steps", "100000000", "--local", "--out"];
            let mut child =
                command(&[&["session", "run"][..], &spec, &[out.to_str().unwrap()], source].concat())
                    .stderr(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
            while unfinished(directory.path()) < 20_000 {
                assert!(child.try_wait().unwrap().is_none());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            kill(&child, signal);
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(status), "{stderr}");
            assert!(output.stdout.is_empty() && stderr.lines().count() == 1, "{stderr}");
            assert!(
                stderr.starts_with("noisectl: interrupted: ") && stderr.contains(" of 100000000 steps"),
                "{stderr}"
            );
            assert!(stderr.contains("part.npy is not written"), "{stderr}");
            assert_eq!(contents(directory.path()), [("part.npy".to_owned(), b"of an earlier run".to_vec())]);
        }
    }
}

#[test]
fn a_run_that_fails_leaves_no_file() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("part.npy");
    let past = ["session", "run", "--local", "--seed", "1", "--steps", "9", "--lanes", "4", "--horizon", "3"];
    let line = failure(&[&past[..], &["--matrix", PREFIX_SUM, "--out", out.to_str().unwrap()]].concat(), 1);
    assert!(line.contains("3 of 9 steps are done") && line.contains("part.npy is not written"), "{line}");
    assert_eq!(contents(directory.path()), []);
}

/// What a command says that is interrupted at once, with what it printed.
fn interrupted(args: &[&str]) -> (String, String) {
    let child = command(args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_handlers(&child);
    kill(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{args:?}: {stderr}");
    assert!(stderr.starts_with("noisectl: interrupted: ") && stderr.lines().count() == 1, "{stderr}");
    (stderr, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn interrupted_work_is_told() {
    let verify = ["noise", "verify", "--local", "--steps", "100000000"];
    // No structure tells the norms of its rows.
    let banded = format!(r#"{{"kind":"toeplitz","coef":[{}]}}"#, vec!["0.5"; 1000].join(","));
    let varying = r#"{"kind":"diagonal","diag":[1,2]}"#;
    let product =
        format!(r#"{{"kind":"product","factors":[{banded},{varying},{banded},{varying},{banded}]}}"#);
    for (args, words) in [
        (&verify[..], "of 100000000 steps were drawn"),
        (&["row-norms", "-n", "10000", "--matrix", &product], "the answer is not complete"),
    ] {
        // A signal may come before the work begins, and then says what is true of any command.
        let early = |told: &str| !told.contains(words) && told.contains("the answer is not complete");
        let (mut told, mut printed) = interrupted(args);
        for _again in 0..20 {
            if early(&told) {
                (told, printed) = interrupted(args);
            }
        }
        assert!(told.contains(words) && printed.is_empty(), "{told}");
    }
}

/// A search gives the best that it has found, and says that this is not its end.
#[test]
fn interrupted_searches_give_what_they_found() {
    let dense =
        ["optimize", "--family", "dense", "-n", "600", "--min-sep", "60", "--max-participations", "10"];
    for args in [&dense[..], &["recommend", "-n", "1000000", "--planes", "8"]] {
        let (told, printed) = interrupted(&[args, &["--format", "json"]].concat());
        if printed.is_empty() {
            // It came within the search, or before the search began.
            let nothing = ["no strategy is given", "the answer is not complete"];
            assert!(nothing.iter().any(|words| told.contains(words)), "{told}");
        } else {
            let printed: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(printed["complete"], false);
            assert!(told.contains("the search was not over"), "{told}");
        }
    }
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

#[test]
fn text_is_read_as_editors_write_it() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        format!("@{}", path.display())
    };
    let ask = |matrix: &str| stdout(&["row-norms", "-n", "3", "--matrix", matrix]);
    let refused = |matrix: &str| failure(&["row-norms", "-n", "3", "--matrix", matrix], 2);
    assert_eq!(ask(&write("bom.json", format!("\u{feff}{PREFIX_SUM}\r\n").as_bytes())), ask(PREFIX_SUM));
    let utf16: Vec<u8> = format!("\u{feff}{PREFIX_SUM}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refused(&write("utf16.json", &utf16)).contains("UTF-16"));
    assert!(refused(&write("latin.json", b"{\"kind\":\"\xe9\"}")).contains("UTF-8"));
    assert!(
        refused(&write("twice.json", br#"{"kind":"prefix_sum","kind":"identity"}"#))
            .starts_with("matrix.kind: ")
    );
    let nested = r#"{"kind":"product","factors":[{"kind":"toeplitz","coef":[1],"coef":[1,1]}]}"#;
    assert!(refused(nested).starts_with("matrix.factors[0].coef: "));
    assert!(refused(&format!("{PREFIX_SUM}{PREFIX_SUM}")).starts_with("matrix: is not JSON"));
}

/// The figures of the documents are those that their own commands give, rounded to the safe side.
#[test]
fn documents_calibrate_with_what_their_commands_print() {
    for document in ["README.md", "docs/strategies.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
        let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
        let commands: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.strip_prefix("noisectl "))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let command = |has: &[&str]| {
            let mut found = commands.iter().filter(|words| has.iter().all(|word| words.contains(word)));
            let words = found.next().unwrap_or_else(|| panic!("{document} has no {has:?}")).clone();
            assert!(found.next().is_none(), "{document} has {has:?} twice");
            words
        };
        let option = |words: &[&str], option: &str| {
            let at = words.iter().position(|word| *word == option).unwrap();
            words[at + 1].to_owned()
        };
        // A figure as a document tells it is not below the command's, nor a unit of its last decimal above.
        let told = |told: &str, is: f64| {
            let decimals = told.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            let above = told.parse::<f64>().unwrap() - is;
            let unit: f64 = format!("1e-{decimals}").parse().unwrap();
            assert!((0.0..=unit).contains(&above), "{document} says {told}, and its command {is}");
        };
        let search = command(&["--save", "noising.json", "--min-sep"]);
        let search: Vec<&str> =
            search.into_iter().filter(|word| !["--save", "noising.json"].contains(word)).collect();
        let found = json(&[&search[..], &["--format", "json"]].concat());
        let best = found.get("candidates").map_or(&found, |candidates| &candidates[0]);
        let calibrate = command(&["calibrate", "--sensitivity"]);
        told(&option(&calibrate, "--sensitivity"), best["sensitivity"].as_f64().unwrap());
        let calibrated = json(&[&calibrate[..], &["--local", "--format", "json"]].concat());
        let run = command(&["run", "--stddev", "@noising.json"]);
        told(&option(&run, "--stddev"), calibrated["stddev"].as_f64().unwrap());
    }
}
