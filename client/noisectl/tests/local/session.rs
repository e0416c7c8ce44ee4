//! `session run --local`: answers, noise of a key, shards, gradients, and what is refused.

use tempfile::TempDir;

use crate::{BANDED, KEY, PREFIX_SUM, command, failure, json, stdout};

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

/// A run that draws noise of a matrix, which follows.
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
