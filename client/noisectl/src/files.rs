//! The files that a command reads and writes.
//!
//! A command notes every file that it reads and prepares every file that it is to write before it does its
//! work. So no command writes over a file that it reads, and a place that cannot be written is told at once.
//! What is written goes into a file beside its place, which gets the name when it is whole: under the name is
//! the old file or the new one.

use std::cell::RefCell;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use noised_client::text_file;
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// What `@-` reads.
const STDIN: &str = "/dev/stdin";
/// Links that are followed, as Linux does.
const MAX_LINKS: usize = 40;
/// What the name of an unfinished file ends in.
const PARTIAL: &str = ".partial";
/// Permissions of a new file, of which the umask takes away.
const NEW_FILE: u32 = 0o666;

/// The files that one command uses.
#[derive(Debug, Default)]
pub(crate) struct Files {
    used: RefCell<Vec<Used>>,
}

/// A file, the option that named it, and what for.
#[derive(Debug)]
struct Used {
    field: String,
    role: Role,
    /// Where it is, every link followed.
    place: PathBuf,
    id: Option<FileId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Input,
    Output,
}

/// A regular file under whatever name: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().and_then(Self::from_metadata)
    }

    pub(crate) fn of_open(file: &File) -> Option<Self> {
        file.metadata().ok().and_then(Self::from_metadata)
    }

    fn from_metadata(metadata: Metadata) -> Option<Self> {
        Some(metadata).filter(Metadata::is_file).map(|file| Self(file.dev(), file.ino()))
    }
}

impl Files {
    /// Notes that the option `field` reads a file.
    pub(crate) fn input(&self, field: &str, path: &Path) -> Result<(), Failure> {
        self.note(field, Role::Input, path, path.to_owned(), FileId::of(path))
    }

    /// The text itself, or that of the file that it names with `@`, or of stdin for `@-`.
    pub(crate) fn text(&self, field: &str, text: &str) -> Result<String, Failure> {
        let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
        if path == "-" {
            let taken = |used: &Used| used.role == Role::Input && used.place == Path::new(STDIN);
            if let Some(other) = self.used.borrow().iter().find(|used| taken(used)) {
                let rule =
                    format_args!("--{} reads standard input already; give a file or JSON", other.field);
                return Err(Failure::usage(field, rule));
            }
            self.input(field, Path::new(STDIN))?;
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(|e| Failure::usage(field, e))?;
            return text_file::decode(bytes).map_err(|rule| Failure::usage(field, rule));
        }
        let path = Path::new(path);
        self.input(field, path)?;
        text_file::read(path).map_err(|e| unreadable(field, path, &e))
    }

    /// A file for the option `field` to write, once it is clear that it can be.
    pub(crate) fn output(&self, field: &str, path: &Path) -> Result<OutFile, Failure> {
        let failed = |e: io::Error| Failure::failed(path.display(), e);
        let place = Place::of(path).map_err(failed)?;
        let (target, kind) = match place {
            Place::Stream(target) => (target, Kind::Stream),
            Place::File(target) => {
                let kind = match fs::metadata(&target) {
                    Ok(found) if found.is_dir() => {
                        return Err(Failure::failed(path.display(), "is a directory"));
                    }
                    Ok(found) if found.is_file() => {
                        // The right to replace a file is its directory's to give; a file that is read-only
                        // stays.
                        OpenOptions::new().write(true).open(&target).map_err(failed)?;
                        Kind::File(Some(found.permissions()))
                    }
                    Ok(_) => Kind::Stream,
                    Err(_) => Kind::File(None),
                };
                (target, kind)
            }
        };
        self.note(field, Role::Output, path, target.clone(), FileId::of(&target))?;
        let out = OutFile { named: path.to_owned(), target, kind };
        if let Some(id) = FileId::of(&out.partial()) {
            self.check(field, Role::Output, &out.partial(), &out.partial(), Some(id))?;
        }
        if !out.is_stream() {
            // What cannot be made now cannot be made after the work. The file is gone at once.
            let unmade = |e| format!("no file can be made beside it, where one is until it is whole: {e}");
            out.beside().map_err(|e| out.failed(unmade(e)))?;
        }
        Ok(out)
    }

    fn note(
        &self,
        field: &str,
        role: Role,
        named: &Path,
        place: PathBuf,
        id: Option<FileId>,
    ) -> Result<(), Failure> {
        self.check(field, role, named, &place, id)?;
        self.used.borrow_mut().push(Used { field: field.to_owned(), role, place, id });
        Ok(())
    }

    /// Two options may read one file; a file that is written is of no other use.
    fn check(
        &self,
        field: &str,
        role: Role,
        named: &Path,
        place: &Path,
        id: Option<FileId>,
    ) -> Result<(), Failure> {
        let used = self.used.borrow();
        let clash = used.iter().find(|used| {
            let same = (id.is_some() && used.id == id) || used.place == place;
            match (used.role, role) {
                (Role::Input, Role::Input) => false,
                // Several outputs may go to one terminal or pipe, one after the other.
                (Role::Output, Role::Output) => same && !is_stream(place),
                (Role::Input, Role::Output) | (Role::Output, Role::Input) => id.is_some() && used.id == id,
            }
        });
        let Some(Used { field: other, role: other_role, .. }) = clash else { return Ok(()) };
        let does = match other_role {
            Role::Input => "reads",
            Role::Output => "writes",
        };
        let rule = format_args!(
            "{} is the file that --{other} {does}; name another file, so that none is written over",
            named.display()
        );
        Err(Failure::usage(field, rule))
    }
}

/// A file that was named cannot be read.
pub(crate) fn unreadable(field: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::usage(field, format_args!("{}: {error}", path.display()))
}

/// Where a name leads, its links followed.
enum Place {
    /// A file, or where there may be one.
    File(PathBuf),
    /// Something that is open already, such as standard output under one of its names.
    Stream(PathBuf),
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            let missing = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => io::Error::other("there is no such directory"),
                _ => e,
            };
            let parent = fs::canonicalize(parent).map_err(missing)?;
            let Some(name) = path.file_name() else { return Ok(Self::File(parent)) };
            path = parent.join(name);
            // What is below is not a link by its name: its text is no path.
            if path.starts_with("/proc") {
                return Ok(Self::Stream(path));
            }
            match fs::read_link(&path) {
                Ok(link) => path = parent.join(link),
                Err(_) => return Ok(Self::File(path)),
            }
        }
        Err(io::Error::other("too many links lead from it to each other"))
    }
}

fn is_stream(path: &Path) -> bool {
    path.starts_with("/proc") || fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(crate) struct OutFile {
    named: PathBuf,
    target: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A file, with the permissions of the one that is there. Other hard links to that one keep it.
    File(Option<Permissions>),
    /// A pipe, a terminal or the like, which cannot be replaced.
    Stream,
}

impl OutFile {
    /// As it was named, for people.
    pub(crate) fn display(&self) -> std::path::Display<'_> {
        self.named.display()
    }

    /// Whether it takes bytes in their order alone.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream)
    }

    /// The file itself, which need not exist.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// A new file beside it, under a name that no other file has. The file is deleted with this value unless
    /// it gets another name.
    pub(crate) fn beside(&self) -> io::Result<NamedTempFile> {
        let directory = self.target.parent().unwrap_or(Path::new("."));
        let mut prefix = self.target.file_name().unwrap_or_default().to_owned();
        prefix.push(".");
        tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(PARTIAL)
            .permissions(Permissions::from_mode(NEW_FILE))
            .tempfile_in(directory)
    }

    /// Where an unfinished file stays for a later run to go on with.
    pub(crate) fn partial(&self) -> PathBuf {
        let mut name = self.target.as_os_str().to_owned();
        name.push(PARTIAL);
        name.into()
    }

    /// Writes the whole of it.
    pub(crate) fn write(
        &self,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.try_write(write).map_err(|e| self.failed(e))
    }

    fn try_write(&self, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
        let through = |file: &File| {
            let mut buffered = BufWriter::new(file);
            write(&mut buffered)?;
            buffered.flush()
        };
        if self.is_stream() {
            return through(&self.open_stream()?);
        }
        let beside = self.beside()?;
        through(beside.as_file())?;
        self.finish(beside.as_file())?;
        beside.persist(&self.target).map(drop).map_err(|e| e.error)
    }

    /// Opens what takes bytes in their order.
    pub(crate) fn open_stream(&self) -> io::Result<File> {
        // Where the shell sent standard output to a file, both write at one place in it.
        let own = |number: &str| {
            fs::canonicalize("/proc/self/fd").is_ok_and(|directory| directory.join(number) == self.target)
        };
        if own("1") {
            return io::stdout().as_fd().try_clone_to_owned().map(File::from);
        }
        if own("2") {
            return io::stderr().as_fd().try_clone_to_owned().map(File::from);
        }
        OpenOptions::new().append(true).open(&self.named)
    }

    /// Makes a file that is written whole ready for its name.
    pub(crate) fn finish(&self, file: &File) -> io::Result<()> {
        if let Kind::File(Some(permissions)) = &self.kind {
            file.set_permissions(permissions.clone())?;
        }
        // A crash must not leave the name on a file whose bytes are not there.
        file.sync_all()
    }

    pub(crate) fn failed(&self, error: impl std::fmt::Display) -> Failure {
        Failure::failed(self.display(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn usage<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A directory with a file `a` under many names.
    fn names() -> (TempDir, Vec<PathBuf>) {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        let file = root.join("a");
        fs::write(&file, "old").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        symlink(&file, root.join("link")).unwrap();
        symlink("link", root.join("link2")).unwrap();
        symlink(root, root.join("d/up")).unwrap();
        fs::hard_link(&file, root.join("hard")).unwrap();
        let names = ["a", "link", "link2", "hard", "./d/../a", "d/up/a", "d/up/d/up/link"];
        let names = names.map(|name| root.join(name)).to_vec();
        (directory, names)
    }

    #[test]
    fn what_is_read_is_not_written_under_any_name() {
        let (_directory, names) = names();
        for read in &names {
            for written in &names {
                let files = Files::default();
                files.input("input", read).unwrap();
                let message = usage(files.output("out", written));
                assert!(message.starts_with("out: ") && message.contains("--input reads"), "{message}");
                // In whichever order they are noted.
                let files = Files::default();
                files.output("out", written).unwrap();
                let message = usage(files.input("input", read));
                assert!(message.starts_with("input: ") && message.contains("--out writes"), "{message}");
                let files = Files::default();
                files.output("report", read).unwrap();
                assert!(usage(files.output("plot", written)).contains("--report writes"));
            }
        }
        assert_eq!(fs::read_to_string(&names[0]).unwrap(), "old");
    }

    #[test]
    fn outputs_that_are_not_there_yet_are_told_apart_by_their_place() {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        symlink("new", root.join("dangling")).unwrap();
        let files = Files::default();
        files.output("report", &root.join("new")).unwrap();
        assert!(usage(files.output("plot", &root.join("./new"))).contains("--report writes"));
        assert!(usage(files.output("plot", &root.join("dangling"))).contains("--report writes"));
        files.output("plot", &root.join("other")).unwrap();
    }

    #[test]
    fn an_unfinished_file_that_is_read_is_not_written_either() {
        let directory = TempDir::new().unwrap();
        let partial = directory.path().join("y.npy.partial");
        fs::write(&partial, "").unwrap();
        let files = Files::default();
        files.input("input", &partial).unwrap();
        assert!(usage(files.output("out", &directory.path().join("y.npy"))).contains("y.npy.partial"));
    }

    #[test]
    fn one_file_may_be_read_twice_and_devices_be_read_and_written() {
        let (_directory, names) = names();
        let files = Files::default();
        files.input("matrix", &names[0]).unwrap();
        files.input("workload", &names[1]).unwrap();
        files.input("input", Path::new("/dev/null")).unwrap();
        for device in ["/dev/null", "/dev/stdout"] {
            let out = files.output("out", Path::new(device)).unwrap();
            assert!(out.is_stream(), "{device}");
            files.output("report", Path::new(device)).unwrap();
        }
        files.output("out", Path::new("/dev/null")).unwrap().write(|out| out.write_all(b"x")).unwrap();
    }

    #[test]
    fn files_are_replaced_when_they_are_whole() {
        let (directory, names) = names();
        fs::set_permissions(&names[0], Permissions::from_mode(0o640)).unwrap();
        let out = Files::default().output("out", &names[2]).unwrap();
        let error = out.write(|out| {
            out.write_all(b"new")?;
            out.flush()?;
            assert_eq!(fs::read_to_string(&names[0])?, "old");
            Err(io::Error::other("no more"))
        });
        assert!(matches!(error, Err(Failure::Failed(message)) if message.ends_with("no more")));
        assert_eq!(fs::read_to_string(&names[0]).unwrap(), "old");
        let entries = || fs::read_dir(directory.path()).unwrap().count();
        let before = entries();
        out.write(|out| out.write_all(b"new")).unwrap();
        // The links lead to the new file, and the other hard link keeps the old one.
        let read = |i: usize| fs::read_to_string(&names[i]).unwrap();
        assert_eq!((read(0), read(2), read(3)), ("new".into(), "new".into(), "old".into()));
        assert!(fs::symlink_metadata(&names[2]).unwrap().is_symlink());
        assert_eq!((mode(&names[0]), entries()), (0o640, before));

        let fresh = directory.path().join("fresh");
        Files::default().output("out", &fresh).unwrap().write(|out| out.write_all(b"x")).unwrap();
        let usual = directory.path().join("usual");
        fs::write(&usual, "x").unwrap();
        assert_eq!(mode(&fresh), mode(&usual));
    }

    #[test]
    fn places_that_cannot_be_written_are_told_at_once() {
        let (directory, _) = names();
        let root = directory.path();
        symlink("loop2", root.join("loop1")).unwrap();
        symlink("loop1", root.join("loop2")).unwrap();
        let long = "y".repeat(250);
        for (place, words) in [
            (root.join("d"), "is a directory"),
            (root.join(""), "is a directory"),
            (root.join("no/such/file"), "no such directory"),
            (root.join("loop1"), "links"),
            // There is room for its own name, and none for that of a file beside it.
            (root.join(long), "no file can be made beside it"),
            // Nobody makes a file there, whatever the rights.
            (PathBuf::from("/sys/kernel/y.npy"), "no file can be made beside it"),
        ] {
            let Err(Failure::Failed(message)) = Files::default().output("out", &place) else {
                panic!("{} was taken", place.display());
            };
            let told = message.strip_prefix(&format!("{}: ", place.display())).unwrap();
            assert!(told.contains(words), "{message}");
        }
        // The file may be written, but its directory takes no new file. Root is not bound by these rights.
        let closed = root.join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("y.npy"), "old").unwrap();
        fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
        let refused = Files::default().output("out", &closed.join("y.npy"));
        assert_eq!(refused.is_err(), File::create(closed.join("other")).is_err());
        fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
        // A place that can be written is left as it was.
        let before = fs::read_dir(root).unwrap().count();
        Files::default().output("out", &root.join("y.npy")).unwrap();
        assert_eq!(fs::read_dir(root).unwrap().count(), before);
    }
}
