//! What is refused and how, and what needs no server.

use std::process::Stdio;

use crate::{PREFIX_SUM, command, failure, stdout};

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
    assert!(with(&["materialize", "-n", "2", "--server", "ftp://a:1"]).starts_with("server: "));
    assert!(with(&["materialize", "-n", "2", "--server", "https://a:1"]).starts_with("tls_ca: "));
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
