//! Where the master key comes from, and what keeps secrets within the process.

use std::fs::Metadata;
use std::io::{Read, Write, stdin};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use noised::noise::MasterKey;
use rustix::process::{DumpableBehavior, Resource, Rlimit, geteuid, set_dumpable_behavior, setrlimit};
use zeroize::Zeroizing;

/// Holds the digits of the master key, where no file does; or [`STANDARD_INPUT`].
pub(crate) const VARIABLE: &str = "NOISED_MASTER_KEY";

/// What the variable says where the key is read from the standard input.
const STANDARD_INPUT: &str = "-";

/// The key that was read from the standard input.
static READ: OnceLock<MasterKey> = OnceLock::new();

/// No master key is longer, with all white space around its digits. A pipe takes as much without a reader.
const MAX_BYTES: usize = 4096;

/// No file of keys or tokens is longer.
const MOST_PRIVATE_BYTES: u64 = 1 << 20;

/// The group, and everybody.
const OTHERS: u32 = 0o077;

/// Keeps the memory of this process from other processes of its user, and out of core dumps.
///
/// # Errors
/// Those of the system.
pub fn keep_memory_private() -> anyhow::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot make the process undumpable")?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("cannot switch core dumps off")
}

/// Starts this program again without the master key in its environment, where other programs of the user
/// could read it for as long as the server runs. The new program has the same process id and arguments, and
/// gets the key through a pipe.
///
/// # Errors
/// Where the program cannot be started again. This does not return where it can.
pub fn take_key_from_environment() -> anyhow::Result<()> {
    let text = Zeroizing::new(std::env::var_os(VARIABLE).unwrap_or_default().into_encoded_bytes());
    if text.is_empty() || *text == STANDARD_INPUT.as_bytes() || text.len() > MAX_BYTES {
        return Ok(());
    }
    let (reader, mut writer) = std::io::pipe().with_context(what)?;
    writer.write_all(&text).with_context(what)?;
    drop(writer);
    let mut arguments = std::env::args_os();
    let mut program = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    let error = program.args(arguments).env(VARIABLE, STANDARD_INPUT).stdin(reader).exec();
    Err(error).with_context(what)
}

fn what() -> String {
    format!("{VARIABLE}: cannot be taken out of the environment")
}

/// The master key of the environment, where there is one.
pub(crate) fn key_of_environment() -> anyhow::Result<Option<MasterKey>> {
    let text = Zeroizing::new(std::env::var_os(VARIABLE).unwrap_or_default().into_encoded_bytes());
    match text.as_slice() {
        [] => Ok(None),
        text if text == STANDARD_INPUT.as_bytes() => {
            // The settings may be read again, and the standard input only once.
            if let Some(key) = READ.get() {
                return Ok(Some(key.clone()));
            }
            let key = MasterKey::parse(VARIABLE, &read_all(stdin().lock()).context(VARIABLE)?)?;
            Ok(Some(READ.get_or_init(|| key).clone()))
        }
        text => Ok(Some(MasterKey::parse(VARIABLE, text)?)),
    }
}

/// The master key of a file.
///
/// # Errors
/// Where the file is the server's own and others may read or write it, or what it has is no key.
pub(crate) fn key_of_file(path: &Path) -> anyhow::Result<MasterKey> {
    let what = || format!("master_key_file: {}", path.display());
    let file = std::fs::File::open(path).with_context(what)?;
    check_private("master_key_file", &file.metadata().with_context(what)?, path)?;
    let content = read_all(file).with_context(what)?;
    Ok(MasterKey::parse("master_key_file", &content)?)
}

/// The content of a file that is for its owner alone.
///
/// # Errors
/// Where the file cannot be read, is longer than 1 MiB, or is the server's own and others may read or write
/// it.
pub(crate) fn read_private(field: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("{field}: {}", path.display());
    let file = std::fs::File::open(path).with_context(what)?;
    check_private(field, &file.metadata().with_context(what)?, path)?;
    let mut bytes = Vec::new();
    file.take(MOST_PRIVATE_BYTES + 1).read_to_end(&mut bytes).with_context(what)?;
    let path = path.display();
    ensure!(
        bytes.len() as u64 <= MOST_PRIVATE_BYTES,
        "{field}: {path}: must have at most {MOST_PRIVATE_BYTES} bytes, and is longer"
    );
    Ok(bytes)
}

/// The rule of ssh for its keys. A file of another user is as private as that user makes it: containers are
/// given secrets that belong to root and that everybody in them may read.
fn check_private(field: &str, metadata: &Metadata, path: &Path) -> anyhow::Result<()> {
    let mode = metadata.mode() & 0o7777;
    let open = metadata.is_file() && mode & OTHERS != 0;
    let path = path.display();
    ensure!(
        !open || metadata.uid() != geteuid().as_raw(),
        "{field}: {path}: must be for its owner alone, found mode {mode:04o}: chmod 600 {path}"
    );
    Ok(())
}

/// What there is to read, which may not be more than a key. The memory is wiped, and does not grow.
fn read_all(source: impl Read) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_BYTES));
    source.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= MAX_BYTES, "is longer than a key: it has more than {MAX_BYTES} bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        std::fs::write(&path, [7; 32]).unwrap();
        for mode in 0..0o1000 {
            // Who owns a file may read it here, so that only the rule is asked.
            let mode = mode | 0o400;
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = key_of_file(&path);
            if mode & 0o077 == 0 {
                read.unwrap();
                continue;
            }
            let error = format!("{:#}", read.unwrap_err());
            let told = format!("found mode {mode:04o}: chmod 600 {}", path.display());
            assert!(error.starts_with("master_key_file: ") && error.ends_with(&told), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_truly() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let told = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            format!("{:#}", key_of_file(&path).unwrap_err())
        };
        for length in [0, 1, 31, 33, 63, 65, 128] {
            for byte in [0xff, b'a', b'z'] {
                let error = told(&vec![byte; length]);
                let found = format!("found {length} bytes");
                assert!(
                    error.contains("32 bytes, or 64 hexadecimal digits") && error.ends_with(&found),
                    "{error}"
                );
            }
        }
        assert!(told(&[b'z'; 64]).contains("a byte that is no digit"));
        assert!(told(&vec![b'a'; MAX_BYTES + 1]).contains("longer than a key"));
        assert!(told(&[0; 32]).contains("zero"));
        std::fs::write(&path, format!("\n{}\t\n ", "5a".repeat(32))).unwrap();
        key_of_file(&path).unwrap();
    }
}
