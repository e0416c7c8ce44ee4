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
    command.args(args).env_remove("NOISED_SERVER").env_remove("NOISED_NOISE_KEY_HEX");
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

#[test]
fn help_and_version() {
    assert!(stdout(&["--help"]).contains("materialize"));
    assert!(stdout(&["session", "run", "--help"]).contains("--seed"));
    assert!(stdout(&["--version"]).starts_with("noisectl "));
}
