//! `noisectl account`, and `noisectl calibrate` with sampling.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::process::{Command, Output};

use serde_json::Value;

fn noisectl(args: &str) -> Output {
    let args = args.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_noisectl")).args(args).env_remove("NOISED_SERVER").output().unwrap()
}

fn json(args: &str) -> Value {
    let output = noisectl(&format!("{args} --local --format json"));
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_between(value: &Value, least: f64, most: f64) {
    let found = value.as_f64().unwrap();
    assert!((least..=most).contains(&found), "{found}");
}

#[test]
fn epsilon_and_delta_of_sampled_steps() {
    let poisson = "account --sampling poisson -n 10000 --noise-multiplier 1";
    let found = json(&format!("{poisson} --sampling-probability 0.01 --delta 1e-5"));
    // dp_accounting 0.6.0 tells 6.187713.
    assert_between(&found["epsilon"], 6.187, 6.187713 * 1.001);
    assert_between(&found["lower"], 6.18, 6.187713);
    assert_eq!((found["method"].as_str(), found["adjacency"].as_str()), (Some("pld"), Some("add_or_remove")));
    assert_eq!((found["delta"].as_f64(), found["confidence"].as_f64()), (Some(1e-5), Some(1.0)));
    assert_eq!(found, json(&format!("{poisson} --batch-size 600 --examples 60000 --delta 1e-5")));
    let back = json(&format!("{poisson} --sampling-probability 0.01 --epsilon 6.188"));
    assert_between(&back["delta"], 0.98e-5, 1.01e-5);

    let banded = r#"--strategy {"kind":"toeplitz","coef":[3,4]}"#;
    let cyclic = "account --sampling cyclic_poisson -n 200 --batch-size 10 --examples 2000 --delta 1e-6";
    let found = json(&format!("{cyclic} --noise-multiplier 1 {banded}"));
    let same = json(
        "account --sampling poisson -n 100 --sampling-probability 0.01 --noise-multiplier 1 --delta 1e-6",
    );
    assert_eq!(found["epsilon"], same["epsilon"]);
    assert_between(&found["sensitivity"], 5.0, 5.00001);

    let fixed = "account --sampling fixed_size -n 100 --batch-size 10 --examples 1000 --noise-multiplier 4";
    let found = json(&format!("{fixed} --delta 1e-6"));
    assert_eq!((found["method"].as_str(), found["adjacency"].as_str()), (Some("rdp"), Some("replace")));

    let none = json("account -n 100 --noise-multiplier 2 --delta 1e-6");
    assert_eq!(none["epsilon"], json("calibrate --noise-multiplier 2 --delta 1e-6")["epsilon"]);
    assert_eq!(none["method"].as_str(), Some("gaussian"));
}

#[test]
fn calibration_with_sampling_reaches_its_target() {
    let sampling = "--sampling cyclic_poisson -n 200 --sampling-probability 0.05";
    let banded = r#"--strategy {"kind":"toeplitz","coef":[3,4]}"#;
    let found = json(&format!("calibrate {sampling} {banded} --epsilon 2 --delta 1e-6"));
    assert_between(&found["epsilon"], 1.9999, 2.0);
    let multiplier = found["noise_multiplier"].as_f64().unwrap();
    assert_between(&found["stddev"], 5.0 * multiplier, 5.00001 * multiplier);
    let back = json(&format!("account {sampling} {banded} --noise-multiplier {multiplier} --delta 1e-6"));
    assert_eq!(back["epsilon"], found["epsilon"]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let blt = r#"{"kind":"buffered_toeplitz","buf_decay":[0.9],"output_scale":[0.5]}"#;
    let poisson = "account --sampling poisson --noise-multiplier 1 --delta 1e-6";
    let cyclic = "account --sampling cyclic_poisson -n 20 --noise-multiplier 1 --delta 1e-6";
    let cases = [
        (format!("{poisson} -n 20 --sampling-probability 0"), "sampling_probability: must be greater than 0"),
        (format!("{poisson} -n 20 --sampling-probability 1.5"), "found 1.5"),
        (format!("{poisson} -n 20"), "sampling_probability: is missing"),
        (format!("{poisson} --sampling-probability 0.1"), "n: is missing"),
        (format!("{poisson} -n 20 --batch-size 11 --examples 10"), "batch_size: must be"),
        (format!("{poisson} -n 20 --sampling-probability 0.1 --bands 2"), "bands: is not for"),
        (format!("{cyclic} --sampling-probability 0.1 --bands 21"), "bands: must be"),
        (format!("{cyclic} --sampling-probability 0.1"), "bands: is missing"),
        (format!("{cyclic} --sampling-probability 0.1 --bands 4 --strategy {blt}"), "what fits"),
        (
            format!("{cyclic} --sampling-probability 0.1 --bands 4 --strategy {blt} --min-sep 4"),
            "participation",
        ),
        ("account -n 20 --noise-multiplier 0 --delta 1e-6".to_owned(), "noise_multiplier: must be"),
        ("calibrate -n 20 --rho 1".to_owned(), "epsilon: is missing"),
    ];
    for (args, expected) in cases {
        let output = noisectl(&format!("{args} --local"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {stderr}");
        assert!(stderr.contains(expected) && stderr.trim_end().lines().count() == 1, "{args}: {stderr}");
    }
}
