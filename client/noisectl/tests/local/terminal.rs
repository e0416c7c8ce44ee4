//! Help, tables and colours.

use crate::{PREFIX_SUM, command, noisectl, stdout};

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
