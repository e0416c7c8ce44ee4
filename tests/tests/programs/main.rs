//! The two programs together: `noisectl` asks a `noised` of its own, and is killed in the middle of its work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod bench;
mod noise;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output};

use noised_client::{ClientBuilder, RetryPolicy};
use noised_tests::programs::program;
use tempfile::TempDir;

/// A server of its own, killed with the test.
struct Server {
    child: Child,
    target: String,
    _directory: TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        // It must not stop at a full pipe.
        Self::start_logging(arguments, |lines| drop(std::thread::spawn(move || lines.for_each(drop))))
    }

    /// One whose log lines from then on that it serves are taken.
    fn start_logging(arguments: &[&str], take: impl FnOnce(Lines)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = format!("unix://{}", directory.path().join("noised.sock").display());
        let mut child =
            program("noised").args(["serve", "--listen", &target]).args(arguments).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines();
        assert!(lines.any(|line| line.unwrap().contains("serving")), "the server has ended");
        take(lines);
        Self { child, target, _directory: directory }
    }

    /// Gives it no chance to note anything.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What is left of a server's log.
type Lines = std::io::Lines<BufReader<std::process::ChildStderr>>;

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// How `noisectl` refuses something: its exit code, and what it says.
fn refusal(arguments: &[&str], place: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = program("noisectl").args(arguments).args(place).output().unwrap();
    assert!(stdout.is_empty(), "{arguments:?}");
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn sessions(server: &Server) -> usize {
    let list =
        run(program("noisectl").args(["session", "list", "--format", "json", "--server", &server.target]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    list["sessions"].as_array().unwrap().len()
}

const MATRIX: &str = r#"{"kind":"product","factors":[{"kind":"prefix_sum"},
    {"kind":"inverse","matrix":{"kind":"buffered_toeplitz","buf_decay":[0.9,0.5],"output_scale":[0.1,0.2]}}]}"#;

#[test]
fn a_server_gives_what_noisectl_computes_by_itself() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree.json");
    let leaves =
        r#"{"leaves":[{"path":"a","dtype":"f32","shape":[7,300]},{"path":"b","dtype":"bf16","shape":[5]}]}"#;
    std::fs::write(&tree, leaves).unwrap();
    let tree = tree.to_str().unwrap();
    let toeplitz = r#"{"kind":"inverse","matrix":{"kind":"toeplitz","coef":[1,0.5]}}"#;
    let dense = r#"{"kind":"dense","rows":[[1],[0.5,1],[0.25,0.5,1]]}"#;
    let mut commands: Vec<Vec<&str>> = Vec::new();
    for matrix in [MATRIX, toeplitz, dense] {
        for format in ["json", "table"] {
            let common = ["--matrix", matrix, "--format", format];
            for command in ["materialize", "row-norms"] {
                commands.push([&[command, "-n", "3"][..], &common].concat());
            }
            commands.push([&["describe", "--tree", tree][..], &common].concat());
            commands.push([&["describe"][..], &common].concat());
            commands.push(
                [&["describe", "--lanes", "1000", "--dtype", "f64", "--shard", "1/3"][..], &common].concat(),
            );
        }
    }
    for arguments in commands {
        let here = run(program("noisectl").args(&arguments).arg("--local"));
        let there = run(program("noisectl").args(&arguments).args(["--server", &server.target]));
        assert_eq!(here, there, "{arguments:?}");
        assert!(!here.is_empty());
    }
    // What is refused is refused alike.
    for arguments in [
        &["materialize", "-n", "4", "--matrix", dense][..],
        &["materialize", "-n", "0", "--matrix", MATRIX],
        &["row-norms", "-n", "2", "--matrix", r#"{"kind":"toeplitz","coef":[]}"#],
        &["describe", "--matrix", r#"{"kind":"circulant"}"#],
    ] {
        let here = refusal(arguments, &["--local"]);
        assert_eq!(here.0, Some(2), "{here:?}");
        assert_eq!(here.1.trim_end().lines().count(), 1, "{here:?}");
        assert_eq!(refusal(arguments, &["--server", &server.target]), here, "{arguments:?}");
    }
}

/// The example checks what it shows, so it is enough that it ends well: on leaves of every format.
#[test]
fn the_example_finds_nothing_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree.json");
    let leaves = r#"{"leaves":[{"path":"a","dtype":"f32","shape":[70,300]},{"path":"b","dtype":"bf16","shape":[5]},
        {"path":"c","dtype":"f16","shape":[3,700]},{"path":"d","dtype":"f64","shape":[1025]}]}"#;
    std::fs::write(&tree, leaves).unwrap();
    for steps in ["1", "7"] {
        let report = run(program("examples/stream_model").arg("--tree").arg(&tree).args(["--steps", steps]));
        assert!(report.ends_with("All checks passed.\n"), "{report}");
    }
    let Output { status, stdout, .. } =
        program("examples/stream_model").arg("--tree").arg(directory.path().join("none")).output().unwrap();
    assert!(!status.success() && stdout.is_empty());
}

/// A client is killed again and again, without a chance to say good-bye, and goes on where it was.
#[test]
fn a_client_that_is_killed_loses_nothing() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let (here, there) = (directory.path().join("here.npy"), directory.path().join("there.npy"));
    let steps = 40;
    let session = |out: &Path| {
        let mut command = program("noisectl");
        command.args(["session", "run", "--matrix", MATRIX, "--lanes", "400000", "--seed", "7"]);
        command.args(["--steps", &steps.to_string(), "--format", "json", "--out", out.to_str().unwrap()]);
        command
    };
    run(session(&here).arg("--local"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = ClientBuilder::new(&server.target).unwrap().retry(RetryPolicy::NEVER);
    let client = runtime.block_on(client.connect()).unwrap();
    let position = || runtime.block_on(client.get_session("run")).map_or(0, |session| session.next_step);
    for life in [4, 9, 17, 18, 30] {
        let mut child = session(&there).args(["--id", "run", "--server", &server.target]).spawn().unwrap();
        while position() < life && child.try_wait().unwrap().is_none() {}
        child.kill().unwrap();
        child.wait().unwrap();
        // It may have been killed at any byte, and the session stands.
        assert!((life..=steps).contains(&position()));
    }
    run(session(&there).args(["--id", "run", "--server", &server.target]));
    assert_eq!(position(), steps);
    assert!(std::fs::read(here).unwrap() == std::fs::read(there).unwrap(), "the answers differ");
}

#[test]
fn sessions_are_made_shown_listed_and_ended() {
    let server = Server::start();
    let noisectl = |arguments: &[&str]| {
        let mut command = program("noisectl");
        command.args(arguments).args(["--server", &server.target, "--format", "json"]);
        command
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(&mut noisectl(arguments))).unwrap()
    };
    let create = ["session", "create", "--id", "a", "--matrix", MATRIX, "--lanes", "1000", "--horizon", "5"];
    let made = json(&create);
    assert_eq!(made["name"], "sessions/a");
    assert_eq!(json(&["session", "get", "a"]), made);
    let taken = noisectl(&create).output().unwrap();
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
    json(&[&create[..], &["--resume"]].concat());
    let others: &[&str] =
        &["session", "create", "--id", "a", "--resume", "--matrix", MATRIX, "--lanes", "1001"];
    let refused = noisectl(others).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tree"), "{refused:?}");
    run(&mut noisectl(&[
        "session",
        "run",
        "--id",
        "a",
        "--matrix",
        MATRIX,
        "--lanes",
        "1000",
        "--horizon",
        "5",
        "--seed",
        "1",
    ]));
    assert_eq!(json(&["session", "get", "a"])["next_step"], 5);
    let list = run(&mut noisectl(&["session", "list"]));
    assert!(list.contains("sessions/a"), "{list}");
    run(program("noisectl").args(["session", "delete", "a", "--server", &server.target]));
    assert_eq!(noisectl(&["session", "get", "a"]).output().unwrap().status.code(), Some(1));
    assert!(!run(&mut noisectl(&["session", "list"])).contains("sessions/a"));
}

/// Bytes of the files of a directory that are not finished.
fn unfinished(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let partial = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".partial"));
    // One that is gone meanwhile has none.
    partial.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum()
}

/// A session that nobody named is gone with the run that made it; one with a name stays, with what there is
/// of its file.
#[test]
fn a_run_deletes_the_session_that_it_made_up() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let session = |more: &[&str]| {
        let mut command = program("noisectl");
        command.args(["session", "run", "--matrix", MATRIX, "--lanes", "5000", "--seed", "7"]);
        command.args(["--server", &server.target]).args(more);
        command
    };
    run(&mut session(&["--steps", "5"]));
    assert_eq!(sessions(&server), 0);
    let (past, out) = (["--steps", "5", "--horizon", "3"], path("y.npy"));
    let failed = session(&[&past[..], &["--out", &out]].concat()).output().unwrap();
    assert_eq!((failed.status.code(), sessions(&server)), (Some(1), 0), "{failed:?}");
    assert!(!Path::new(&out).exists() && !Path::new(&format!("{out}.partial")).exists());
    // What reads and writes one file makes no session.
    run(program("noisectl").args(["session", "run", "--local", "--matrix", MATRIX, "--lanes", "9"]).args([
        "--seed",
        "1",
        "--steps",
        "3",
        "--out",
        &path("g.npy"),
    ]));
    let gradients = std::fs::read(path("g.npy")).unwrap();
    let over =
        ["session", "run", "--id", "over", "--lanes", "9", "--matrix", MATRIX, "--server", &server.target];
    for source in [&[][..], &["--source", "privatize", "--stddev", "1"]] {
        let files = ["--input", &path("g.npy"), "--out", &path("g.npy")];
        let refused = program("noisectl").args(over).args(source).args(files).output().unwrap();
        assert_eq!((refused.status.code(), sessions(&server)), (Some(2), 0), "{refused:?}");
        assert!(std::fs::read(path("g.npy")).unwrap() == gradients);
    }

    for (signal, ended) in [("-INT", 130), ("-TERM", 143)] {
        for id in [None, Some("named")] {
            let named: Vec<&str> = id.iter().flat_map(|id| ["--id", id]).collect();
            let arguments = [&["--steps", "1000000", "--out", &out][..], &named].concat();
            let mut child = session(&arguments).spawn().unwrap();
            let partial = format!("{out}.partial");
            while unfinished(directory.path()) < 100_000 {
                assert!(child.try_wait().unwrap().is_none());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            run(Command::new("kill").args([signal, &child.id().to_string()]));
            let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(ended), "{stderr}");
            assert!(stdout.is_empty() && stderr.contains(" of 1000000 steps are done"), "{stderr}");
            assert!(!Path::new(&out).exists());
            assert_eq!(unfinished(directory.path()) > 0, id.is_some(), "{stderr}");
            assert_eq!(Path::new(&partial).exists(), id.is_some(), "{stderr}");
            assert_eq!(stderr.contains("goes on from there"), id.is_some(), "{stderr}");
            assert_eq!(sessions(&server), usize::from(id.is_some()));
        }
        // No other run touches its answers, and one with a name of its own says why it does not begin.
        let partial = format!("{out}.partial");
        let left = std::fs::read(&partial).unwrap();
        let here = ["session", "run", "--local", "--matrix", MATRIX, "--lanes", "9", "--seed", "1"];
        run(program("noisectl").args(here).args(["--steps", "3", "--out", &out]));
        run(&mut session(&["--steps", "3", "--out", &out]));
        for steps in ["3", "1000000"] {
            let Output { status, stderr, .. } =
                session(&["--id", "other", "--steps", steps, "--out", &out]).output().unwrap();
            let stderr = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("has answers of a run that is not finished"), "{stderr}");
        }
        assert!(std::fs::read(&partial).unwrap() == left, "the answers are others");
        for id in ["named", "other"] {
            run(program("noisectl").args(["session", "delete", id, "--server", &server.target]));
        }
        // The next run is to be found at its own work.
        std::fs::remove_file(&out).unwrap();
        std::fs::remove_file(&partial).unwrap();
    }
    // A named run that is interrupted goes on, and has what one run has.
    let whole = ["--steps", "400", "--id", "whole", "--out", &out];
    let mut child = session(&whole).spawn().unwrap();
    while sessions(&server) < 1 {
        assert!(child.try_wait().unwrap().is_none());
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    child.wait().unwrap();
    run(&mut session(&whole));
    run(program("noisectl")
        .args(["session", "run", "--local", "--matrix", MATRIX, "--lanes", "5000"])
        .args(["--seed", "7", "--steps", "400", "--out", &path("here.npy")]));
    assert!(std::fs::read(&out).unwrap() == std::fs::read(path("here.npy")).unwrap());
}

/// What programs call, in process and of a server.
#[test]
fn strategies_are_designed_and_judged_alike_here_and_there() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("noising.json");
    let saved = saved.to_str().unwrap();
    let at_saved = format!("@{saved}");
    let strategy = r#"{"kind":"toeplitz","coef":[1,0.5]}"#;
    let named = format!("two bands={strategy}");
    let min_sep = ["--min-sep", "4", "--max-participations", "3"];
    let optimize = ["optimize", "-n", "16", "--objective", "mean", "--family"];
    let commands: Vec<Vec<&str>> = vec![
        vec!["error", "--strategy", strategy, "-n", "9"],
        vec!["error", "--strategy", strategy, "-n", "9", "--workload", r#"{"kind":"identity"}"#],
        vec!["sensitivity", "--strategy", strategy, "-n", "9"],
        [&["sensitivity", "--strategy", strategy, "-n", "9"][..], &min_sep].concat(),
        vec!["sensitivity", "--strategy", strategy, "-n", "9", "--epochs", "3"],
        [&optimize[..], &["banded_toeplitz", "--bands", "3", "--save", saved]].concat(),
        vec!["error", "--noising-matrix", &at_saved, "-n", "9"],
        [&optimize[..], &["banded_inverse_toeplitz", "--bands", "3"], &min_sep].concat(),
        [&optimize[..], &["buffered_toeplitz", "--buffers", "2"]].concat(),
        [&optimize[..], &["column_normalized_banded", "--bands", "3"]].concat(),
        [&optimize[..], &["dense"]].concat(),
        vec!["strategy", "--family", "banded_square_root", "--bands", "4"],
        vec!["recommend", "-n", "12", "--planes", "2"],
        vec!["compare", "-n", "12", "--strategy", strategy, "--strategy", &named],
        vec!["calibrate", "--epsilon", "2", "--delta", "1e-6", "--sensitivity", "3"],
        vec!["calibrate", "--rho", "0.5"],
    ];
    for arguments in &commands {
        for format in ["json", "table"] {
            let asked = |place: &[&str]| {
                run(program("noisectl").args(arguments).args(["--format", format]).args(place))
            };
            let here = asked(&["--local"]);
            assert_eq!(here, asked(&["--server", &server.target]), "{arguments:?}");
            assert!(!here.is_empty());
        }
    }
    // What is refused is refused alike.
    for (arguments, field) in [
        (&["error", "--strategy", r#"{"kind":"toeplitz","coef":[0,1]}"#, "-n", "3"][..], "strategy.coef[0]"),
        (&["error", "--strategy", r#"{"kind":"toeplitz","coef":[1e999]}"#, "-n", "3"], "strategy"),
        (&["error", "--strategy", strategy, "-n", "0"], "n"),
        (&["error", "--strategy", strategy, "-n", "16777217"], "n"),
        (&["sensitivity", "--strategy", strategy, "-n", "3", "--min-sep", "0"], "min_sep"),
        (&["sensitivity", "--strategy", strategy, "-n", "3", "--min-sep", "4"], "min_sep"),
        (
            &["sensitivity", "--strategy", strategy, "-n", "3", "--max-participations", "0"],
            "max_participations",
        ),
        (&["optimize", "--family", "banded_toeplitz", "-n", "3"], "--bands"),
        (&["optimize", "--family", "dense", "--buffers", "3", "-n", "3"], "--buffers"),
        (&["calibrate", "--epsilon", "-1", "--delta", "1e-5"], "epsilon"),
        (&["calibrate", "--epsilon", "1", "--delta", "1"], "delta"),
        (&["strategy", "--family", "lambda_cgd", "--lambda", "1", "-n", "3"], "lambda"),
    ] {
        let here = refusal(arguments, &["--local"]);
        assert_eq!(here.0, Some(2), "{here:?}");
        assert!(here.1.starts_with(&format!("noisectl: {field}")), "{here:?}");
        assert_eq!(refusal(arguments, &["--server", &server.target]), here, "{arguments:?}");
    }
}

/// Somebody who follows the documents has nothing to commit, and nothing that would be packed.
#[test]
fn what_the_steps_of_the_documents_leave_is_ignored_by_git() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if !root.join(".git").exists() {
        return;
    }
    let writing = ["--out", "--save", "--report", "--plot", "--noise-ledger", "--master-key-file"];
    let mut found = 0;
    for document in
        ["README.md", "docs/noise.md", "docs/performance.md", "docs/strategies.md", "docs/training.md"]
    {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        for file in words.windows(2).filter(|pair| writing.contains(&pair[0])).map(|pair| pair[1]) {
            let file = file.trim_matches(['`', ')', ',', '.', ';']);
            if !file.contains('.') || file.starts_with(['$', '/', '"', '<']) {
                continue;
            }
            let ignored =
                Command::new("git").arg("-C").arg(root).args(["check-ignore", "--quiet", file]).status();
            assert!(ignored.unwrap().success(), "{document}: {file} is not ignored");
            found += 1;
        }
    }
    assert!(found > 5, "{found} files are written");
}

/// The tool makes tokens, a server that reads them knows who has one, and the tool shows one to the server.
#[test]
fn a_server_knows_who_has_a_token_that_noisectl_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let tokens = path("tokens.toml");
    let new = |name: &str, role: &str, more: &[&str]| {
        let mut command = program("noisectl");
        command.args(["token", "new", "--file", &tokens, "--name", name, "--role", role]).args(more);
        let token = run(&mut command);
        std::fs::write(path(name), &token).unwrap();
        token
    };
    let of_trainer = new("trainer", "trainer", &["--tenant", "one", "--expires-in", "1h"]);
    new("operator", "operator", &[]);
    let audit = path("audit.log");
    let server = Server::start_with(&["--tokens-file", &tokens, "--audit-log", &audit]);
    let session = |arguments: &[&str]| {
        let mut command = program("noisectl");
        command.arg("session").args(arguments).args(["--server", &server.target]);
        command
    };
    let create = ["create", "--id", "a", "--matrix", MATRIX, "--lanes", "3"];
    let refused = session(&create).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("carries no token"));
    run(session(&create).args(["--token-file", &path("trainer")]));
    let list = run(session(&["list"]).env("NOISED_TOKEN", of_trainer.trim_end()));
    assert!(list.contains("sessions/a") && !list.contains("tenants/"), "{list}");
    let list = run(session(&["list"]).env("NOISED_TOKEN_FILE", path("operator")));
    assert!(list.contains("tenants/one/sessions/a"), "{list}");
    run(session(&["delete", "tenants/one/sessions/a"]).args(["--token-file", &path("operator")]));
    let noted = std::fs::read_to_string(audit).unwrap();
    assert_eq!(noted.lines().count(), 3, "{noted}");
    assert!(!noted.contains(of_trainer.trim_end()));
}
