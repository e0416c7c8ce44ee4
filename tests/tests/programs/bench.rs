//! `noisectl bench` with a server: its report, and that it leaves nothing behind.

use std::process::{Command, Output};

use noised_tests::programs::program;

use super::{MATRIX, Server, run, sessions};

/// `noisectl bench` with a server's answers in JSON.
fn bench(server: &Server, arguments: &[&str]) -> Command {
    let mut command = program("noisectl");
    command.args(["bench", "--format", "json", "--server", &server.target]).args(arguments);
    command
}

#[test]
fn a_bench_reports_every_case_and_leaves_nothing() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (report, svg, png) = (path("report.json"), path("plot.svg"), path("plot.png"));

    let few = ["--lanes", "100,5000", "--sessions", "3", "--steps", "7", "--warm-up", "2", "--dtype", "bf16"];
    for mode in ["stream", "unary"] {
        let more =
            ["--mode", mode, "--precision", "f64", "--matrix", MATRIX, "--report", &report, "--plot", &svg];
        let printed: serde_json::Value =
            serde_json::from_str(&run(&mut bench(&server, &[&few[..], &more].concat()))).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(printed, written);
        assert_eq!(printed["server"], server.target.as_str());
        assert_eq!(printed["version"], env!("CARGO_PKG_VERSION"));
        let started = printed["started"].as_str().unwrap();
        assert!(started.len() == 20 && started.ends_with('Z'), "{started}");
        let cases = printed["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 2);
        for (case, lanes) in cases.iter().zip([100, 5000]) {
            assert_eq!(case["lanes"], lanes);
            assert_eq!(case["step_bytes"], 2 * lanes);
            assert_eq!((&case["dtype"], &case["precision"]), (&"bf16".into(), &"f64".into()));
            assert_eq!(case["matrix"]["kind"], "product");
            assert_eq!((case["mode"].as_str(), case["sessions"].as_u64()), (Some(mode), Some(3)));
            assert_eq!(case["chunk_bytes"].as_u64(), (mode == "stream").then_some(512 << 10));
            assert_eq!((case["warm_up"].as_u64(), case["steps_asked"].as_u64()), (Some(2), Some(7)));
            assert!(case["duration_asked_seconds"].is_null());
            assert_eq!(case["steps"], 3 * 7);
            let number = |name: &str| case[name].as_f64().unwrap();
            let (rate, per_step) = (number("steps_per_second"), number("seconds") / 21.0);
            assert!((rate * per_step - 1.0).abs() < 1e-6);
            assert!((number("lanes_per_second") / rate / number("lanes") - 1.0).abs() < 1e-6);
            assert!((number("gigabytes_per_second") * 1e9 / rate / number("step_bytes") - 1.0).abs() < 1e-6);
            let latency = |name: &str| case["latency_ms"][name].as_f64().unwrap();
            let rising = ["p50", "p90", "p99", "p99.9", "max"].map(latency);
            assert!(rising.is_sorted() && rising[0] > 0.0, "{rising:?}");
            // What a session waited for in all, it waited for within the measurement.
            let under_way = if mode == "stream" { 2.0 } else { 1.0 };
            assert!(latency("mean") * 7.0 / 1e3 <= number("seconds") * under_way * 1.01);
            assert!(latency("mean") <= latency("max"));
        }
        assert_eq!(sessions(&server), 0);
    }
    let svg = std::fs::read_to_string(&svg).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains("5k lanes, unary")
    );

    // A table and a PNG; a case that ends by the clock, and one that ends with the matrix.
    let table = run(program("noisectl").args([
        "bench",
        "--server",
        &server.target,
        "--lanes",
        "300",
        "--duration",
        "50ms",
        "--plot",
        &png,
    ]));
    assert!(table.contains("GB/s each way") && table.contains("unary"), "{table}");
    let png = std::fs::read(&png).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xae\x42\x60\x82"));
    let dense = r#"{"kind":"dense","rows":[[1],[0.5,1],[0.25,0.5,1]]}"#;
    let short = ["--lanes", "10", "--warm-up", "1", "--matrix", dense];
    let ended: serde_json::Value = serde_json::from_str(&run(&mut bench(&server, &short))).unwrap();
    assert_eq!(ended["cases"][0]["steps"], 2);
    assert_eq!(sessions(&server), 0);
}

#[test]
fn a_bench_that_does_not_end_well_leaves_nothing_either() {
    let server = Server::start_with(&["--max-message-bytes", "64KiB"]);
    let fails = |command: &mut Command, status: i32| {
        let Output { status: found, stdout, stderr } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(found.code(), Some(status), "{stderr}");
        assert!(stdout.is_empty() && stderr.lines().count() == 1, "{stderr}");
        stderr
    };
    // Its second case is more than the server takes.
    let unary = ["--mode", "unary", "--lanes", "100,100000", "--steps", "5", "--sessions", "2"];
    fails(&mut bench(&server, &unary), 1);
    assert_eq!(sessions(&server), 0);
    let dense = r#"{"kind":"dense","rows":[[1],[0.5,1],[0.25,0.5,1]]}"#;
    let long = ["--lanes", "10", "--warm-up", "1", "--steps", "3", "--matrix", dense];
    assert!(fails(&mut bench(&server, &long), 2).contains("steps: "));

    for (signal, ended) in [("-INT", 130), ("-TERM", 143)] {
        let arguments = ["--lanes", "1000", "--sessions", "2", "--duration", "10m"];
        let mut child = bench(&server, &arguments).spawn().unwrap();
        while sessions(&server) < 2 {
            assert!(child.try_wait().unwrap().is_none());
        }
        run(Command::new("kill").args([signal, &child.id().to_string()]));
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(ended), "{stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("noisectl: interrupted: 0 of 1 sizes"), "{stderr}");
        assert_eq!(sessions(&server), 0);
    }
}

#[test]
fn a_bench_ends_with_its_server() {
    let server = Server::start();
    let child = bench(&server, &["--lanes", "1000", "--duration", "10m", "--retry", "0"]).spawn().unwrap();
    while sessions(&server) < 1 {}
    drop(server);
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("left on the server: bench-"), "{stderr}");
}
