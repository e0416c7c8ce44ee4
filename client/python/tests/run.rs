//! The tests of the Python package, as one of the workspace's: `check` beside this folder does all of it.

use std::io::Write;
use std::process::{Command, ExitCode};

/// Options of a test runner that are followed by a value.
const TAKE_A_VALUE: [&str; 6] = ["--color", "--format", "--logfile", "--skip", "--test-threads", "-Z"];

fn main() -> ExitCode {
    // This program is one test as a whole, called `python`: none for who lists tests or asks for others.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_filter = |(i, argument): (usize, &String)| {
        let of_an_option = i > 0 && TAKE_A_VALUE.contains(&&*arguments[i - 1]);
        (!argument.starts_with('-') && !of_an_option).then(|| argument.clone())
    };
    let filters: Vec<String> = arguments.iter().enumerate().filter_map(is_filter).collect();
    let is_asked_for = filters.is_empty() || filters.iter().any(|filter| "python".contains(filter.as_str()));
    if !is_asked_for || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let mut check = Command::new("bash");
    check.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/check"));
    // This program lies in `{target directory}/{profile}/deps`.
    let program = std::env::current_exe().ok();
    if let Some(target) = program.as_deref().and_then(|program| program.ancestors().nth(3)) {
        check.env("CARGO_TARGET_DIR", target);
    }
    match check.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _nobody_reads_it = writeln!(std::io::stderr(), "cannot run bash: {error}");
            ExitCode::FAILURE
        }
    }
}
