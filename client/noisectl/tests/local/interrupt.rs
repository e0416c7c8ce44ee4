//! Ctrl-C and SIGTERM.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::files::contents;
use crate::{PREFIX_SUM, command};

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
