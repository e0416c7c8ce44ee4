//! The file of the ledger: records that are on the disk before anybody acts on them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::record::Record;
use super::scan::{Scanned, scan};
use super::uses::{Key, Uses};

/// For the owner alone: who reads the names of noises knows what is trained here.
const MODE: u32 = 0o600;

/// Others may write to the file.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Lines that are never worth a new file.
const FEW_LINES: usize = 1024;

/// Bytes of what is cut off a file that the log shows.
const SHOWN_BYTES: u64 = 64;

/// Why a record could not be written. The texts are for operators and clients, and name no path.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("is not in its place: its file was moved away, deleted or replaced")]
    Replaced,
    #[error(
        "was changed by another program: its file has {found} bytes, and this server left it at {length}"
    )]
    Changed { found: u64, length: u64 },
    #[error("cannot be written: {0}")]
    Io(#[from] io::Error),
    #[error("cannot be written: {0}")]
    Record(#[from] serde_json::Error),
}

/// The file, which this server alone has.
#[derive(Debug)]
pub(super) struct LedgerFile {
    /// As the operator wrote it; it may be a link.
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
    lines: usize,
    /// With more lines than these the file is written anew.
    most_lines: usize,
    /// Whether a part of a record may be behind `length`.
    torn: bool,
    /// Where the file was put, while it may not be on the disk that it is there.
    unsynced_place: Option<PathBuf>,
    /// Keeps other servers from this path, wherever the ledger itself is moved to.
    _path_lock: Option<File>,
}

impl LedgerFile {
    /// Opens a ledger and reads all of its records; `None` where another server has it.
    ///
    /// # Errors
    /// Where the file is not a regular one, cannot be read or written, or is damaged.
    pub(super) fn open(path: &Path, uses: &mut Uses) -> anyhow::Result<Option<Self>> {
        let Some(path_lock) = lock_path(path)? else { return Ok(None) };
        let file = open_regular(path, OpenOptions::new().read(true).append(true).create(true))?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        let metadata = file.metadata()?;
        if !std::fs::metadata(path).is_ok_and(|there| identity(&there) == identity(&metadata)) {
            // The server that had it wrote it anew in the meantime.
            return Ok(None);
        }
        let path_lock = path_lock.inspect_err(|error| {
            let (path, error) = (path.display(), format!("{error:#}"));
            tracing::warn!(%path, error, "no lock file can be made: a noise ledger that is moved is noticed late");
        });
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            let mode = format!("{:04o}", metadata.mode() & 0o7777);
            tracing::warn!(path = %path.display(), mode, "others may write to the noise ledger: chmod 600 it");
        }
        // Of a link, the place of the file is another one.
        sync_directory(&std::fs::canonicalize(path)?)?;
        let scanned = scan(At { file: &file, offset: 0 }, |record| {
            uses.apply(&record);
            Ok(())
        })?;
        uses.end_unknown();
        let mut this = Self {
            path: path.to_owned(),
            file,
            length: scanned.whole,
            lines: scanned.lines,
            most_lines: due_at(uses),
            torn: false,
            unsynced_place: None,
            _path_lock: path_lock.ok(),
        };
        this.repair(&scanned)?;
        if scanned.unchecked > 0 || this.lines > this.most_lines {
            this.rewrite(uses);
        }
        Ok(Some(this))
    }

    /// Ends the last record's line, and cuts off what is behind it.
    fn repair(&mut self, scanned: &Scanned) -> anyhow::Result<()> {
        let Scanned { whole, lacks_end, tail, lines: _, unchecked: _ } = *scanned;
        if tail == 0 && !lacks_end {
            return Ok(());
        }
        let mut shown = Vec::new();
        At { file: &self.file, offset: whole }.take(SHOWN_BYTES).read_to_end(&mut shown)?;
        tracing::warn!(
            path = %self.path.display(),
            bytes = tail,
            begins_with = %shown.escape_ascii(),
            "the noise ledger ends with a part of a record, which is cut off: a write was interrupted"
        );
        self.file.set_len(whole)?;
        if lacks_end {
            (&self.file).write_all(b"\n")?;
            self.length += 1;
        }
        Ok(self.file.sync_all()?)
    }

    /// Hands every record to `take`.
    ///
    /// # Errors
    /// Those of the file, and of `take`.
    pub(super) fn read(&self, take: impl FnMut(Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
        scan(At { file: &self.file, offset: 0 }.take(self.length), take).map(drop)
    }

    /// Writes a record, which is on the disk when this returns.
    ///
    /// # Errors
    /// Nothing of the record counts then; and the next call finds the file as it was before this one.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), Fault> {
        self.check_place()?;
        self.sync_place()?;
        self.check_length()?;
        let line = record.to_line()?;
        self.torn = true;
        if let Err(error) = (&self.file).write_all(&line).and_then(|()| self.file.sync_data()) {
            // Where that fails too, the next record has to wait until it does not.
            let _torn = self.cut_torn();
            return Err(error.into());
        }
        self.torn = false;
        self.length += line.len() as u64;
        self.lines += 1;
        // A file that was moved away by now is not the one that the next server reads.
        self.check_place()
    }

    /// Whether the file at the path is still the one that is open.
    fn check_place(&self) -> Result<(), Fault> {
        match std::fs::metadata(&self.path) {
            Ok(there) if identity(&there) == identity(&self.file.metadata()?) => Ok(()),
            Ok(_) => Err(Fault::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Replaced),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the place of the file on the disk. Until then a crash brings back the file that was there before,
    /// without the records since.
    fn sync_place(&mut self) -> io::Result<()> {
        if let Some(place) = &self.unsynced_place {
            sync_directory(place)?;
            self.unsynced_place = None;
        }
        Ok(())
    }

    fn check_length(&mut self) -> Result<(), Fault> {
        if self.torn {
            self.cut_torn()?;
        }
        let (found, length) = (self.file.metadata()?.len(), self.length);
        if found == length { Ok(()) } else { Err(Fault::Changed { found, length }) }
    }

    fn cut_torn(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn put_unsynced(&mut self, place: PathBuf) {
        self.unsynced_place = Some(place);
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Writes the file anew where most of its lines say nothing any more.
    pub(super) fn rewrite_where_due(&mut self, uses: &Uses) {
        if self.lines > self.most_lines {
            self.rewrite(uses);
        }
    }

    pub(super) fn rewrite(&mut self, uses: &Uses) {
        let before = self.lines;
        match self.write_anew(uses) {
            Ok(()) => tracing::info!(
                path = %self.path.display(),
                records = self.lines,
                before,
                noises = uses.len(),
                "the noise ledger was written anew"
            ),
            // It goes on as it is, and grows.
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(path = %self.path.display(), error, "the noise ledger cannot be written anew");
            }
        }
        self.most_lines = due_at(uses).max(2 * self.lines);
    }

    /// Writes what is remembered into a file beside this one, which takes its place.
    fn write_anew(&mut self, uses: &Uses) -> anyhow::Result<()> {
        self.check_place()?;
        self.check_length()?;
        let target = std::fs::canonicalize(&self.path)?;
        let beside = with_suffix(&target, ".new");
        // One is left of a server that was killed while it wrote.
        let _absent = std::fs::remove_file(&beside);
        let written = self.write_beside(&beside, uses).and_then(|written| {
            std::fs::rename(&beside, &target)?;
            Ok(written)
        });
        let (file, length, lines) = written.inspect_err(|_| {
            let _absent = std::fs::remove_file(&beside);
        })?;
        (self.file, self.length, self.lines) = (file, length, lines);
        self.unsynced_place = Some(target);
        // Where that fails, the next record waits for it.
        Ok(self.sync_place()?)
    }

    /// A locked and synced file of what is remembered, its length, and its lines.
    fn write_beside(&self, beside: &Path, uses: &Uses) -> anyhow::Result<(File, u64, usize)> {
        let file = open_regular(beside, OpenOptions::new().read(true).append(true).create_new(true))?;
        let owner = self.file.metadata()?;
        if (owner.uid(), owner.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        ensure!(try_lock(&file)?, "another program has {}", beside.display());
        let mut lines_of_all = Vec::new();
        let mut seen = HashSet::new();
        // Names are in the old file alone; what is known of them is in memory.
        scan(At { file: &self.file, offset: 0 }.take(self.length), |Record { noise, lanes, .. }| {
            let key = Key::new(&noise, &lanes);
            if uses.contains(&key) && seen.insert(key) {
                for record in uses.records(&noise, &lanes) {
                    lines_of_all.push((uses.begun(&key), record.to_line()?));
                }
            }
            Ok(())
        })?;
        // In the order of their beginnings: who began what is drawn now comes last.
        lines_of_all.sort_by_key(|(begun, _)| *begun);
        let mut writer = BufWriter::new(&file);
        for (_, line) in &lines_of_all {
            writer.write_all(line)?;
        }
        writer.flush()?;
        drop(writer);
        let length = lines_of_all.iter().map(|(_, line)| line.len() as u64).sum();
        let lines = lines_of_all.len();
        ensure!(seen.len() == uses.len(), "a noise that is remembered is not in the file");
        file.sync_all()?;
        Ok((file, length, lines))
    }
}

/// Lines at which a file is written anew, given what is worth keeping of it: two for each noise and many
/// more.
fn due_at(uses: &Uses) -> usize {
    3 * uses.len() + FEW_LINES
}

/// Locks the path, whatever becomes of the file that is there now; `None` where another server has it. The
/// inner error says why the directory takes no file beside the ledger.
fn lock_path(path: &Path) -> anyhow::Result<Option<anyhow::Result<File>>> {
    check_regular(path)?;
    match open_regular(&with_suffix(path, ".lock"), OpenOptions::new().write(true).create(true)) {
        Ok(file) => Ok(try_lock(&file)?.then_some(Ok(file))),
        Err(error) => Ok(Some(Err(error))),
    }
}

/// Opens a file that is a regular one: a device takes everything and keeps nothing, and a pipe makes its
/// reader wait.
fn open_regular(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    check_regular(path)?;
    // What takes the file's place between the two checks is not waited for.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = options.mode(MODE).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "must be a regular file, found {}", kind_of(&metadata));
    Ok(file)
}

fn check_regular(path: &Path) -> anyhow::Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) => {
            ensure!(metadata.is_file(), "must be a regular file, found {}", kind_of(&metadata));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "something else",
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// That a file is there has to be on the disk as well.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    File::open(directory).and_then(|it| it.sync_all())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Reads a file from a place of its own, for its one position is where others left it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
