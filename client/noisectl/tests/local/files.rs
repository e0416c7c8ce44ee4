//! Files that are read and written: none is lost, none is half there.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::{PREFIX_SUM, command, failure, noisectl, stdout};

/// The names of a directory's files, with their bytes.
pub(crate) fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
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

#[test]
fn a_run_that_fails_leaves_no_file() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("part.npy");
    let past = ["session", "run", "--local", "--seed", "1", "--steps", "9", "--lanes", "4", "--horizon", "3"];
    let line = failure(&[&past[..], &["--matrix", PREFIX_SUM, "--out", out.to_str().unwrap()]].concat(), 1);
    assert!(line.contains("3 of 9 steps are done") && line.contains("part.npy is not written"), "{line}");
    assert_eq!(contents(directory.path()), []);
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
