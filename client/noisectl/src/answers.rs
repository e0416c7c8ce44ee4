//! The answers of a run, in a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use noised::Layout;

use crate::failure::Failure;
use crate::files::{FileId, OutFile};
use crate::npy::Header;
use crate::steps::only_dtype;

/// Answers of a run as an `.npy` of `[steps, lanes]`, each byte written as it comes.
///
/// Under its name the file has all steps. Until then its name ends in `.partial`, and its length says how
/// many of its bytes are there: a byte of a step is written only behind the one before. So no step is there
/// that was not answered, and a run that goes on finds what it needs or says what is missing. A run without
/// `--id` writes to a file with a name of its own, so that it never meets the unfinished answers of another
/// run.
#[derive(Debug)]
pub(crate) struct AnswerFile {
    out: OutFile,
    target: Target,
    /// The whole file's bytes, and those of its header and of a step.
    end: u64,
    data_start: u64,
    step_bytes: u64,
    /// The bytes up to here were answered before this run.
    answered: u64,
    /// Whether a run that does not come to its end leaves what it has.
    keep: bool,
}

#[derive(Debug)]
enum Target {
    /// A file under another name than its own.
    Partial { file: File, path: PathBuf, len: u64 },
    /// A pipe or the like.
    Stream { file: File, len: u64 },
    /// The file is there already, whole.
    Done,
}

impl AnswerFile {
    /// Makes a file for `steps` steps; or, for a run that goes on at `next_step`, takes the one that has the
    /// steps before. With `keep`, a run that ends early leaves its unfinished file for the run that goes on,
    /// and a file that another run left there is refused.
    pub(crate) fn open(
        out: OutFile,
        layout: &Layout,
        steps: u64,
        next_step: u64,
        keep: bool,
    ) -> Result<Self, Failure> {
        let several = || Failure::usage("out", "an .npy file holds one format, and the tree has several");
        let dtype = only_dtype(layout).ok_or_else(several)?;
        let header = Header::new(dtype, vec![steps, layout.lanes() as u64]);
        let step_bytes = layout.byte_len() as u64;
        let at = |step: u64| step.checked_mul(step_bytes)?.checked_add(header.data_start);
        let (Some(end), Some(answered)) = (at(steps), at(next_step.min(steps))) else {
            return Err(Failure::usage("steps", format_args!("{steps} are more than a file holds")));
        };
        let target = Target::open(&out, &header.to_bytes(), step_bytes, next_step, steps, keep)?;
        let file = Self { out, target, end, data_start: header.data_start, step_bytes, answered, keep };
        if next_step > 0
            && let Target::Partial { len, .. } = file.target
        {
            // The last step's answer may have been lost with the run that asked for it, and comes again.
            let needed = answered.saturating_sub(step_bytes);
            if len < needed {
                let there = (len - header.data_start) / step_bytes;
                let rule = format!(
                    "{} has the answers to {there} steps, and the session is at step {next_step}: those between are \
                     gone. Go back with `noisectl session rewind`, or write to another file without those",
                    file.out.partial().display()
                );
                return Err(Failure::usage("out", rule));
            }
        }
        Ok(file)
    }

    /// Writes part of a step's answer.
    pub(crate) fn write(&mut self, step: u64, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        let at = self.data_start + step * self.step_bytes + offset as u64;
        let failed = |e: io::Error| self.out.failed(e);
        let end = at + bytes.len() as u64;
        let gap = |len: u64| {
            let rule =
                format_args!("the answer to step {step} comes at byte {at}, and the file ends at {len}");
            Failure::failed(self.out.display(), rule)
        };
        match &mut self.target {
            Target::Partial { file, len, .. } => {
                if at > *len {
                    return Err(gap(*len));
                }
                check_again(file, at, bytes, self.answered.min(*len)).map_err(failed)?;
                file.write_all_at(bytes, at).map_err(failed)?;
                *len = (*len).max(end);
            }
            Target::Stream { file, len } => {
                if at != *len {
                    return Err(gap(*len));
                }
                file.write_all(bytes).map_err(failed)?;
                *len = end;
            }
            Target::Done => {}
        }
        Ok(())
    }

    /// Gives the file its name, once all of it is there. Where that fails the answers stay where they are.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        // What is dropped below has nothing to clean up.
        let target = std::mem::replace(&mut self.target, Target::Done);
        match target {
            Target::Partial { file, path, len } if len == self.end => {
                let named = self.out.finish(&file).and_then(|()| fs::rename(&path, self.out.target()));
                let kept = path.display();
                named.map_err(|e| self.out.failed(format_args!("{e}; all of the answers are in {kept}")))
            }
            Target::Partial { file, path, len } => {
                let rule = format_args!("the answers end at byte {len} of {}", self.end);
                let failure = Failure::failed(self.out.display(), rule);
                self.target = Target::Partial { file, path, len };
                Err(failure)
            }
            Target::Stream { mut file, .. } => file.flush().map_err(|e| self.out.failed(e)),
            Target::Done => Ok(()),
        }
    }
}

impl Drop for AnswerFile {
    fn drop(&mut self) {
        if let Target::Partial { path, .. } = &self.target
            && !self.keep
        {
            // Whoever finds it finds by its name that it is not finished.
            let _left = fs::remove_file(path);
        }
    }
}

impl Target {
    fn open(
        out: &OutFile,
        header: &[u8],
        step_bytes: u64,
        next_step: u64,
        steps: u64,
        keep: bool,
    ) -> Result<Self, Failure> {
        let failed = |e: io::Error| out.failed(e);
        if out.is_stream() {
            if next_step > 0 {
                let rule =
                    format_args!("the session is at step {next_step}: a run that goes on needs a file");
                return Err(Failure::usage("out", format_args!("{}: {rule}", out.display())));
            }
            let mut file = out.open_stream().map_err(failed)?;
            file.write_all(header).map_err(failed)?;
            return Ok(Self::Stream { file, len: header.len() as u64 });
        }
        if !keep && next_step == 0 {
            let beside = out.beside().map_err(failed)?;
            beside.as_file().write_all_at(header, 0).map_err(failed)?;
            let (file, path) = beside.keep().map_err(|e| failed(e.error))?;
            return Ok(Self::Partial { file, path, len: header.len() as u64 });
        }
        let path = out.partial();
        let open_unused = || {
            let file = open_alone(out, &path)?;
            if !has_answers(&file, header, step_bytes).map_err(failed)? {
                return Ok(file);
            }
            let rule = format!(
                "{} has answers of a run that is not finished, and this session is at step {next_step}; \
                 remove it, or name another file",
                path.display()
            );
            Err(Failure::usage("out", rule))
        };
        if next_step == 0 {
            let file = open_unused()?;
            file.set_len(0).and_then(|()| file.write_all_at(header, 0)).map_err(failed)?;
            return Ok(Self::Partial { file, path, len: header.len() as u64 });
        }
        if has_header(&path, header) {
            let file = open_alone(out, &path)?;
            let len = file.metadata().map_err(failed)?.len();
            return Ok(Self::Partial { file, path, len });
        }
        if !has_header(out.target(), header) {
            let rule = format!("the session is at step {next_step}, and this file is not of the same run");
            return Err(Failure::usage("out", format_args!("{}: {rule}", out.display())));
        }
        if next_step >= steps {
            return Ok(Self::Done);
        }
        // The session went back: the file stays until the answers that come now are all there.
        let file = open_unused()?;
        let copied = fs::copy(out.target(), &path).map_err(failed)?;
        Ok(Self::Partial { file, path, len: copied })
    }
}

/// Opens an unfinished file that no other run writes.
fn open_alone(out: &OutFile, path: &Path) -> Result<File, Failure> {
    let failed = |e: io::Error| Failure::failed(path.display(), e);
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Failure::failed(path.display(), "is not a file; remove it"));
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(failed)?;
    lock(out, path, &file)?;
    Ok(file)
}

/// Takes an open file for this run alone.
fn lock(out: &OutFile, path: &Path, file: &File) -> Result<(), Failure> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(out.failed("another run writes it")),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    // A run that had the lock until now may have given the file its name: what is open is then a whole file.
    match FileId::of_open(file) == FileId::of(path) {
        true => Ok(()),
        false => Err(out.failed("another run has finished it meanwhile")),
    }
}

/// Whether a file has bytes that a run which begins would destroy: answers to a step of a run like this one,
/// or anything else but a header. A run that was ended in its first step, which the session does not count as
/// done, begins again.
fn has_answers(mut file: &File, header: &[u8], step_bytes: u64) -> io::Result<bool> {
    let len = file.metadata()?.len();
    let header_bytes = header.len() as u64;
    let mut found = Vec::new();
    file.take(header_bytes).read_to_end(&mut found)?;
    if header.starts_with(&found) {
        return Ok(len >= header_bytes + step_bytes);
    }
    file.rewind()?;
    Ok(!Header::read(&mut file).is_ok_and(|other| other.data_start == len))
}

fn has_header(path: &Path, header: &[u8]) -> bool {
    let mut found = vec![0; header.len()];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut found, 0));
    read.is_ok() && found == header
}

/// Refuses an answer that was in the file before and comes again with other bytes: the file is of another
/// session.
fn check_again(file: &File, at: u64, bytes: &[u8], answered: u64) -> io::Result<()> {
    let again = usize::try_from(answered.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    let mut found = vec![0; again];
    file.read_exact_at(&mut found, at)?;
    match found == bytes[..again] {
        true => Ok(()),
        false => Err(io::Error::other("has other answers than the session: it is of another session")),
    }
}

#[cfg(test)]
mod tests {
    use noised::DType;
    use tempfile::TempDir;

    use super::*;
    use crate::files::Files;
    use crate::npy::Array;

    const STEPS: u64 = 3;

    /// A place for steps of two lanes.
    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("y.npy")
        }

        fn open_for(&self, steps: u64, next_step: u64, keep: bool) -> Result<AnswerFile, Failure> {
            let out = Files::default().output("out", &self.path())?;
            AnswerFile::open(out, &Layout::flat(2, DType::F32), steps, next_step, keep)
        }

        fn open(&self, next_step: u64) -> Result<AnswerFile, Failure> {
            self.open_for(STEPS, next_step, true)
        }

        fn values(&self) -> Vec<f64> {
            Array::read(&mut File::open(self.path()).unwrap()).unwrap().values
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn answer(step: u64) -> [u8; 8] {
        let lanes = [step as f32 + 0.25, step as f32 + 0.5];
        lanes.map(f32::to_le_bytes).concat().try_into().unwrap()
    }

    fn write(file: &mut AnswerFile, steps: std::ops::Range<u64>) {
        for step in steps {
            file.write(step, 0, &answer(step)[..4]).unwrap();
            file.write(step, 4, &answer(step)[4..]).unwrap();
        }
    }

    fn message<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Usage(message) | Failure::Failed(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    const ALL: [f64; 6] = [0.25, 0.5, 1.25, 1.5, 2.25, 2.5];

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let place = Place::new();
        let mut file = place.open(0).unwrap();
        write(&mut file, 0..STEPS);
        assert_eq!(place.names(), ["y.npy.partial"]);
        file.finish().unwrap();
        assert_eq!((place.names(), place.values()), (vec!["y.npy".to_owned()], ALL.to_vec()));
        // A run that fails leaves the file of the last one.
        let mut file = place.open_for(STEPS, 0, false).unwrap();
        write(&mut file, 0..1);
        assert!(message(file.finish()).contains("end at byte"));
        assert_eq!((place.names(), place.values()), (vec!["y.npy".to_owned()], ALL.to_vec()));
    }

    #[test]
    fn answers_that_cannot_get_their_name_are_told_where_they_are() {
        for keep in [true, false] {
            let place = Place::new();
            let mut file = place.open_for(STEPS, 0, keep).unwrap();
            write(&mut file, 0..STEPS);
            let names = place.names();
            // A directory has taken the place meanwhile.
            fs::create_dir(place.path()).unwrap();
            let told = message(file.finish());
            let [partial] = &names[..] else { panic!("{names:?}") };
            let partial = place.0.path().join(partial);
            let end = format!("; all of the answers are in {}", partial.display());
            assert!(told.ends_with(&end), "{told}");
            assert_eq!(Array::read(&mut File::open(partial).unwrap()).unwrap().values, ALL);
            if keep {
                fs::remove_dir(place.path()).unwrap();
                place.open(STEPS).unwrap().finish().unwrap();
                assert_eq!(place.values(), ALL);
            }
        }
    }

    /// What a run left, whatever run comes to the same place.
    #[test]
    fn unfinished_answers_of_another_run_stay() {
        let place = Place::new();
        let partial = place.0.path().join("y.npy.partial");
        let mut file = place.open(0).unwrap();
        write(&mut file, 0..2);
        drop(file);
        let left = fs::read(&partial).unwrap();
        // A run that nobody named has a name of its own, whether it is finished or not.
        for steps in [0, STEPS] {
            let mut file = place.open_for(STEPS, 0, false).unwrap();
            write(&mut file, 0..steps);
            assert_eq!((place.names().len(), file.finish().is_ok()), (2, steps == STEPS));
            assert!(fs::read(&partial).unwrap() == left);
        }
        assert_eq!(
            (place.names(), place.values()),
            (vec!["y.npy".into(), "y.npy.partial".into()], ALL.to_vec())
        );
        // A named run is refused, whatever the file holds: answers to its own steps or to others, or notes.
        let mut foreign = vec![(left.clone(), STEPS), (left.clone(), 4), (b"notes".to_vec(), STEPS)];
        foreign.push((left[..left.len() - 8].to_vec(), STEPS));
        foreign.push((left[..left.len() - 15].to_vec(), 4));
        for (bytes, steps) in foreign {
            fs::write(&partial, &bytes).unwrap();
            let told = message(place.open_for(steps, 0, true));
            let beginning = format!("out: {} has answers of a run that is not finished", partial.display());
            assert!(told.starts_with(&beginning), "{told}");
            assert!(fs::read(&partial).unwrap() == bytes);
        }
        // So is one that went back with its whole file there.
        let other = place.0.path().join("other");
        fs::rename(&partial, &other).unwrap();
        write(&mut place.open_for(4, 0, true).unwrap(), 0..2);
        let bytes = fs::read(&partial).unwrap();
        assert!(message(place.open(1)).contains("this session is at step 1; remove it"));
        assert!(fs::read(&partial).unwrap() == bytes && place.values() == ALL);
        // Where there is no answer yet, there is nothing to lose.
        for (bytes, steps) in
            [(0, STEPS), (9, STEPS), (left.len() - 16, STEPS), (left.len() - 9, STEPS), (left.len() - 16, 4)]
        {
            fs::write(&partial, &left[..bytes]).unwrap();
            let mut file = place.open_for(steps, 0, true).unwrap();
            write(&mut file, 0..steps);
            file.finish().unwrap();
            assert_eq!(place.values()[..6], ALL);
        }
    }

    /// Another run ends between the moments in which this one opens the file and takes it.
    #[test]
    fn a_file_that_got_its_name_meanwhile_is_not_written() {
        let place = Place::new();
        let out = Files::default().output("out", &place.path()).unwrap();
        drop(place.open(0).unwrap());
        let partial = out.partial();
        let open = || OpenOptions::new().read(true).write(true).open(&partial).unwrap();
        let file = open();
        lock(&out, &partial, &file).unwrap();
        fs::rename(&partial, place.path()).unwrap();
        assert!(message(lock(&out, &partial, &file)).contains("finished it meanwhile"));
        // Nor where the next run has begun.
        fs::write(&partial, "").unwrap();
        assert!(message(lock(&out, &partial, &file)).contains("finished it meanwhile"));
        lock(&out, &partial, &open()).unwrap();
    }

    #[test]
    fn a_run_that_goes_on_has_the_steps_before() {
        let place = Place::new();
        // After each byte, the last answer again or not.
        for cut in 0..=8 {
            let mut file = place.open(0).unwrap();
            write(&mut file, 0..1);
            file.write(1, 0, &answer(1)[..cut]).unwrap();
            drop(file);
            let mut file = place.open(2).unwrap();
            write(&mut file, 1..STEPS);
            file.finish().unwrap();
            assert_eq!(place.values(), ALL);
            fs::remove_file(place.path()).unwrap();
        }
    }

    #[test]
    fn steps_that_nobody_wrote_are_no_zeros() {
        let place = Place::new();
        let mut file = place.open(0).unwrap();
        assert!(message(file.write(1, 0, &answer(1))).contains("comes at byte"));
        write(&mut file, 0..1);
        assert!(message(file.write(1, 4, &answer(1)[4..])).contains("comes at byte"));
        drop(file);
        // The session went on without this file.
        assert!(message(place.open(3)).contains("has the answers to 1 steps"));
        let mut file = place.open(2).unwrap();
        assert!(message(file.write(2, 0, &answer(2))).contains("comes at byte"));
    }

    #[test]
    fn files_are_taken_up_by_the_same_run_alone() {
        let place = Place::new();
        assert!(message(place.open(1)).contains("not of the same run"));
        let mut file = place.open(0).unwrap();
        write(&mut file, 0..2);
        assert!(message(place.open(0)).contains("another run writes it"));
        drop(file);
        assert!(message(place.open_for(4, 1, true)).contains("not of the same run"));
        let mut file = place.open(2).unwrap();
        assert!(message(file.write(1, 0, &answer(7))).contains("another session"));
        write(&mut file, 1..STEPS);
        file.finish().unwrap();
        // At its end there is nothing to do.
        let mut file = place.open(STEPS).unwrap();
        file.write(2, 0, &answer(2)).unwrap();
        file.finish().unwrap();
        assert_eq!(place.values(), ALL);
        // After going back, other answers take the places of the old ones, once all are there.
        let mut file = place.open(1).unwrap();
        file.write(0, 0, &answer(0)).unwrap();
        file.write(1, 0, &answer(5)).unwrap();
        assert_eq!(place.values(), ALL);
        file.write(2, 0, &answer(6)).unwrap();
        file.finish().unwrap();
        assert_eq!(place.values(), [0.25, 0.5, 5.25, 5.5, 6.25, 6.5]);
    }
}
