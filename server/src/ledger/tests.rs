//! The ledger as servers use it, and files that are damaged in every place.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use noised::{DType, MatrixSpec, SessionSpec, Tree};
use tempfile::TempDir;

use super::*;
use crate::identity::Tenant;

const MOST: usize = 1 << 20;

fn fingerprint(lanes: u64) -> Fingerprint {
    let tree = Tree::flat(lanes, DType::F32).unwrap();
    SessionSpec::new(MatrixSpec::PrefixSum, tree).resolve().unwrap().fingerprint()
}

/// A key for as long as the tests run.
fn key(name: &str) -> &'static SessionKey {
    Box::leak(Box::new(SessionKey { tenant: Tenant::default(), name: name.into() }))
}

fn wanted(noise_id: &str, lanes: Range<u64>) -> Wanted<'_> {
    Wanted {
        noise_id,
        fingerprint: fingerprint(5),
        lanes,
        holder: key("sessions/a"),
        start_over: false,
        goes_on: false,
    }
}

fn claim(
    ledger: &Arc<Ledger>,
    lanes: Range<u64>,
    session: &str,
    start_over: bool,
) -> Result<Claim, ServiceError> {
    ledger.claim(Wanted { holder: key(session), start_over, ..wanted("run", lanes) })
}

fn used(next_step: impl Into<Option<u64>>) -> ServiceError {
    let next_step = next_step.into();
    ServiceError::NoiseUsed { noise_id: "run".into(), next_step }
}

/// What a file says of lanes of the noise `run`: the error that a new session gets, or none.
fn told(ledger: &Arc<Ledger>, lanes: Range<u64>) -> Option<ServiceError> {
    claim(ledger, lanes, "sessions/asks", false).map(|claim| claim.end(0)).err()
}

/// Opens a ledger's file that nobody else has. A process that another test starts has every file of this one
/// until it executes its program, locks and all: that is waited for.
fn open_alone(path: &Path) -> anyhow::Result<Arc<Ledger>> {
    for _ in 0..1000 {
        if let Some(ledger) = Ledger::open(path, MOST).transpose() {
            return ledger;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("another process keeps {}", path.display());
}

/// A ledger's file, in a directory of its own.
struct Place {
    directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("noise.ledger");
        Self { directory, path }
    }

    fn with(content: &[u8]) -> Self {
        let place = Self::new();
        std::fs::write(&place.path, content).unwrap();
        place
    }

    fn open(&self) -> Arc<Ledger> {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> anyhow::Result<Arc<Ledger>> {
        open_alone(&self.path)
    }

    fn refusal(&self) -> String {
        format!("{:#}", self.try_open().unwrap_err())
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn lines(&self) -> usize {
        String::from_utf8(self.content()).unwrap().lines().count()
    }
}

/// A file of a server that was killed: lanes 0..5 were drawn up to step 7, 6..9 when the server ended, 10..12
/// started over.
fn left_by_a_killed_server() -> Vec<u8> {
    let place = Place::new();
    let ledger = place.open();
    claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
    claim(&ledger, 10..12, "sessions/a", false).unwrap().end(3);
    claim(&ledger, 10..12, "sessions/a", true).unwrap().end(2);
    let _drawn = claim(&ledger, 6..9, "sessions/b", false).unwrap();
    place.content()
}

/// The lines of an earlier server, without versions and checks.
fn earlier(lines: &[(Range<u64>, Option<u64>)]) -> String {
    let fingerprint = fingerprint(5);
    let line = |(lanes, next_step): &(Range<u64>, Option<u64>)| {
        let end = next_step.map_or(String::new(), |step| format!(",\"next_step\":{step}"));
        let Range { start, end: last } = lanes;
        format!(
            "{{\"noise_id\":\"run\",\"fingerprint\":\"{fingerprint}\",\"lanes\":[{start},{last}]{end}}}\n"
        )
    };
    lines.iter().map(line).collect()
}

#[test]
fn a_noise_is_drawn_by_one_session_at_a_time_and_begun_again_on_demand() {
    let ledger = Ledger::in_memory(MOST);
    let first = claim(&ledger, 0..5, "sessions/a", false).unwrap();
    assert!(!first.started_over);
    for start_over in [false, true] {
        assert_eq!(
            claim(&ledger, 4..9, "sessions/b", start_over).unwrap_err(),
            ServiceError::NoiseInUse { noise_id: "run".into(), session: "sessions/a".into() }
        );
    }
    // Another shard, another name, and the same name for something else.
    let shard = claim(&ledger, 5..9, "sessions/b", false).unwrap();
    ledger.claim(wanted("other", 0..5)).unwrap();
    ledger.claim(Wanted { fingerprint: fingerprint(6), ..wanted("run", 0..5) }).unwrap();
    first.end(3);
    shard.end(0);
    assert_eq!(told(&ledger, 0..5), Some(used(3)));
    claim(&ledger, 5..9, "sessions/e", false).unwrap().end(0);
    let again = claim(&ledger, 0..5, "sessions/e", true).unwrap();
    assert!(again.started_over);
    again.end(1);
    assert_eq!(told(&ledger, 0..5), Some(used(3)));
}

/// Whatever lanes sessions draw, those that share a lane with them are refused, and no others.
#[test]
fn lanes_that_overlap_are_the_same_noise() {
    let ranges = || (0..6_u64).flat_map(|start| (start + 1..7).map(move |end| start..end));
    for drawn in ranges() {
        let ledger = Ledger::in_memory(MOST);
        claim(&ledger, drawn.clone(), "sessions/a", false).unwrap().end(2);
        for asked in ranges() {
            let overlap = asked.start < drawn.end && drawn.start < asked.end;
            let expected = overlap.then(|| used(2));
            assert_eq!(told(&ledger, asked.clone()), expected, "{drawn:?} {asked:?}");
        }
    }
}

#[test]
fn a_file_remembers() {
    let place = Place::new();
    let ledger = place.open();
    claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
    claim(&ledger, 5..6, "sessions/a", false).unwrap().end(0);
    let _drawn_when_the_server_was_killed = claim(&ledger, 6..9, "sessions/b", false).unwrap();
    assert!(Ledger::open(&place.path, MOST).unwrap().is_none(), "two servers have one file");
    // What a server that is killed now leaves.
    let left = Place::with(&place.content());
    let mut ledger = left.open();
    assert_eq!(told(&ledger, 0..5), Some(used(7)));
    assert_eq!(told(&ledger, 5..6), None);
    assert_eq!(told(&ledger, 6..9), Some(used(None)));
    // What nobody knows is not learned from what comes after it.
    for released in [0, 2] {
        claim(&ledger, 6..9, "sessions/a", true).unwrap().end(released);
        assert_eq!(told(&ledger, 6..9), Some(used(None)));
        drop(ledger);
        ledger = left.open();
        assert_eq!(told(&ledger, 6..9), Some(used(None)));
    }
}

/// An end whose beginning was cut off, by whoever keeps files short, says how far the noise was drawn.
#[test]
fn an_end_without_its_beginning_counts() {
    let whole = left_by_a_killed_server();
    let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    for cut in 0..lines.len() {
        let place = Place::with(&lines[cut..].concat());
        let ledger = place.open();
        let expected = |lanes: Range<u64>, step, last| (lanes, (cut <= last).then(|| used(step)));
        for (lanes, expected) in [
            expected(0..5, Some(7), 1),
            expected(6..9, None, 6),
            expected(10..12, Some(if cut > 3 { 2 } else { 3 }), 5),
        ] {
            assert_eq!(told(&ledger, lanes.clone()), expected, "{cut} lines are cut off: {lanes:?}");
        }
    }
    let place = Place::with(earlier(&[(0..5, Some(7)), (5..9, Some(0))]).as_bytes());
    let ledger = place.open();
    assert_eq!((told(&ledger, 0..5), told(&ledger, 5..9)), (Some(used(7)), None));
}

/// Whatever a byte of the file becomes, no noise that was drawn begins again unnoticed.
#[test]
fn no_byte_can_change_unnoticed() {
    let whole = left_by_a_killed_server();
    let drawn = [0..5, 6..9, 10..12];
    let place = Place::new();
    for at in 0..whole.len() {
        let was = whole[at];
        for byte in [was ^ 1, was ^ 0x80, b'\n', 0, b'"', b'0'] {
            if byte == was {
                continue;
            }
            let mut changed = whole.clone();
            changed[at] = byte;
            std::fs::write(&place.path, &changed).unwrap();
            match place.try_open() {
                Err(error) => {
                    let error = format!("{error:#}");
                    let named = error.contains("noise.ledger: line ") && error.contains("copy of the file");
                    assert!(named, "byte {at} is {byte}: {error}");
                    assert_eq!(place.content(), changed, "what is refused is left as it is");
                }
                Ok(ledger) => {
                    for lanes in &drawn {
                        assert!(told(&ledger, lanes.clone()).is_some(), "byte {at} is {byte}: {lanes:?}");
                    }
                }
            }
        }
    }
}

/// A file that ends anywhere: a write that was interrupted was not acknowledged, and what was before it
/// counts.
#[test]
fn a_file_that_ends_within_a_record_is_taken_up_to_there() {
    let whole = left_by_a_killed_server();
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').map(|at| at + 1).collect();
    for length in 0..whole.len() {
        let place = Place::with(&whole[..length]);
        let ledger = place.open();
        // Its end of line is all that a record lacks.
        let records = ends.iter().filter(|&&end| end <= length + 1).count();
        assert_eq!(told(&ledger, 0..5).is_some(), records >= 1, "{length}");
        assert_eq!(told(&ledger, 6..9).is_some(), records >= 7, "{length}");
        let made = claim(&ledger, 20..21, "sessions/c", false).unwrap();
        drop(ledger);
        made.end(4);
        assert_eq!(told(&place.open(), 20..21), Some(used(4)), "{length}");
    }
}

#[test]
fn what_an_interrupted_write_leaves_is_passed_over() {
    let (now, before) = (left_by_a_killed_server(), earlier(&[(0..5, None), (0..5, Some(7)), (6..9, None)]));
    let record = String::from_utf8(now.clone()).unwrap().lines().next().unwrap().to_owned();
    let tails: [&[u8]; 12] = [
        b"\0",
        &[0; 5000],
        &[0; 70_000],
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"{\"noise_id\":\"x\xc3",
        b"{\"noise_id\":\"x\",\"finger",
        b"\n",
        b"\0\0\0\n",
        b"\r\n \n",
        b"{",
        &record.as_bytes()[..record.len() - 3],
    ];
    for content in [now.as_slice(), before.as_bytes()] {
        for tail in tails {
            let place = Place::with(&[content, tail].concat());
            for life in 0..3 {
                let ledger = place.open();
                assert_eq!(told(&ledger, 0..5), Some(used(7)), "{life}: {}", tail.escape_ascii());
                assert_eq!(told(&ledger, 6..9), Some(used(None)));
                claim(&ledger, 0..5, "sessions/a", true).unwrap().end(1);
            }
        }
    }
}

/// In the middle of a file, or of a length that a record may have, nothing is passed over.
#[test]
fn damage_is_told_with_its_line_and_rule() {
    let fine = earlier(&[(0..5, None), (0..5, Some(7))]);
    let now = String::from_utf8(left_by_a_killed_server()).unwrap();
    let first = now.lines().next().unwrap();
    let edited = |from: &str, to: &str| format!("{}\n", first.replacen(from, to, 1));
    let backwards = Range { start: 10, end: 0 };
    for (line, rule) in [
        ("{\"noise_id\":\"un\n".to_owned() + &fine, "line 3: "),
        ("\0\n".to_owned() + &fine, "line 3: "),
        (earlier(&[(backwards, None)]), "line 3: lanes: must begin before they end, found [10,0]"),
        (earlier(&[(10..10, None)]), "lanes"),
        (fine.replace("\"run\"", "\"\""), "noise_id: must not be empty"),
        (fine.replacen("\"fingerprint\":\"", "\"fingerprint\":\"z", 1), "64 hexadecimal digits"),
        (fine.replacen("\"lanes\"", "\"lines\"", 1), "lines"),
        (fine.replacen("\"lanes\":[0,5]", "\"lanes\":[0,5],\"next_step\":-1", 1), "-1"),
        (edited("\"run\"", "\"ran\""), "a part of it was changed"),
        (edited(",\"check\"", ",\"chock\""), "unknown field `chock`"),
        (edited(",\"check\":\"", ",\"check\":\"z"), "unknown field `check`"),
        (edited("{\"v\":1", "{\"v\":2"), "a part of it was changed"),
        (format!("{}\n", "x".repeat(100_000)), "line 3: "),
    ] {
        let place = Place::with((fine.clone() + &line).as_bytes());
        let error = place.refusal();
        let told =
            error.contains(rule) && error.contains("noise_ledger: ") && error.contains("noise.ledger: line ");
        assert!(told, "{line}: {error}");
    }
}

/// What is named by mistake is left as it is.
#[test]
fn a_file_of_something_else_is_refused() {
    let key: Vec<u8> = (100..132).collect();
    for content in
        [&key[..], b"max_sessions = 3", b"max_sessions = 3\n", &[0xff; 9000], b"[1]\n", b"\x7fELF\0\0"]
    {
        let place = Place::with(content);
        let error = place.refusal();
        assert!(error.contains("is not a noise ledger") || error.contains("line 1"), "{error}");
        assert_eq!(place.content(), content);
    }
}

#[test]
fn only_a_regular_file_is_a_ledger() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo").arg(&place.path).status().unwrap();
    assert!(made.success());
    let socket = place.directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = place.directory.path().join("link");
    symlink("/dev/null", &link).unwrap();
    for (path, kind) in [
        (place.path.as_path(), "a named pipe"),
        (socket.as_path(), "a socket"),
        (place.directory.path(), "a directory"),
        (Path::new("/dev/null"), "a device"),
        (Path::new("/dev/full"), "a device"),
        (Path::new("/dev/zero"), "a device"),
        (link.as_path(), "a device"),
    ] {
        let error = format!("{:#}", open_alone(path).unwrap_err());
        assert!(error.ends_with(&format!("must be a regular file, found {kind}")), "{error}");
    }
    assert!(!Path::new("/dev/null.lock").exists());
    // A link to a regular file is one.
    let target = place.directory.path().join("target");
    std::fs::remove_file(&link).unwrap();
    symlink(&target, &link).unwrap();
    for life in 0..2 {
        let ledger = open_alone(&link).unwrap();
        assert_eq!(told(&ledger, 0..5).is_some(), life > 0);
        claim(&ledger, 0..5, "sessions/a", true).unwrap().end(3);
    }
    let mode = std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600, "{mode:o}");
}

/// A file that is not where it was is not what the next server reads.
#[test]
fn a_file_that_is_moved_is_noticed() {
    type Deed = fn(&Place);
    let moved = |place: &Place| place.directory.path().join("moved");
    let deeds: [(Deed, &str); 5] = [
        (
            |place| std::fs::rename(&place.path, place.directory.path().join("moved")).unwrap(),
            "not in its place",
        ),
        (|place| std::fs::remove_file(&place.path).unwrap(), "not in its place"),
        (
            |place| {
                std::fs::rename(&place.path, place.directory.path().join("moved")).unwrap();
                std::fs::copy(place.directory.path().join("moved"), &place.path).unwrap();
            },
            "not in its place",
        ),
        (|place| std::fs::write(&place.path, "").unwrap(), "another program"),
        (
            |place| std::fs::write(&place.path, [&place.content()[..], b"{}\n"].concat()).unwrap(),
            "another program",
        ),
    ];
    for (deed, words) in deeds {
        let place = Place::new();
        let ledger = place.open();
        claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
        let drawn = claim(&ledger, 6..9, "sessions/a", false).unwrap();
        deed(&place);
        // Nothing begins, and nobody else has the place meanwhile.
        for (lanes, start_over) in [(20..21, false), (0..5, true)] {
            let refused = claim(&ledger, lanes, "sessions/b", start_over).unwrap_err();
            let ServiceError::LedgerUnavailable { fault, .. } = &refused else { panic!("{refused:?}") };
            assert!(fault.contains(words), "{fault}");
        }
        assert_eq!(told(&ledger, 0..5), Some(used(7)));
        assert!(Ledger::open(&place.path, MOST).unwrap().is_none());
        // Once it is back all goes on.
        if moved(&place).exists() {
            std::fs::rename(moved(&place), &place.path).unwrap();
            claim(&ledger, 20..21, "sessions/b", false).unwrap().end(1);
        }
        drop((ledger, drawn));
    }
}

/// A file in the place of another whose place is not on the disk yet.
#[test]
fn no_record_counts_before_the_place_of_its_file_is_on_the_disk() {
    let place = Place::new();
    let ledger = place.open();
    claim(&ledger, 0..5, "sessions/a", false).unwrap().end(7);
    let directory = place.directory.path().join("later");
    ledger.inner().file.as_mut().unwrap().put_unsynced(directory.join("noise.ledger"));
    let lines = place.lines();
    for lanes in [6..9, 10..12] {
        let refused = claim(&ledger, lanes, "sessions/a", false).unwrap_err();
        assert!(matches!(refused, ServiceError::LedgerUnavailable { .. }), "{refused:?}");
        assert_eq!(place.lines(), lines);
    }
    std::fs::create_dir(&directory).unwrap();
    claim(&ledger, 6..9, "sessions/a", false).unwrap().end(3);
    // It is once: nobody asks again.
    std::fs::remove_dir(&directory).unwrap();
    claim(&ledger, 10..12, "sessions/a", false).unwrap().end(4);
    drop(ledger);
    assert_eq!(told(&place.open(), 6..9), Some(used(3)));
}

#[test]
fn a_file_is_written_anew_where_most_of_it_is_out_of_date() {
    let place = Place::new();
    let ledger = place.open();
    let lines = |ledger: &Ledger| ledger.inner().file.as_ref().unwrap().lines();
    for i in 0..10_u64 {
        claim(&ledger, i..i + 1, "sessions/a", false).unwrap().end(i);
    }
    let drawn = claim(&ledger, 20..30, "sessions/drawn", false).unwrap();
    let mut most = 0;
    for _ in 0..1200 {
        claim(&ledger, 40..50, "sessions/b", false).unwrap().end(0);
        claim(&ledger, 5..6, "sessions/b", true).unwrap().end(1);
        most = most.max(lines(&ledger));
        assert_eq!(lines(&ledger), place.lines());
    }
    assert!(most < 1100, "{most} lines");
    assert!(!place.directory.path().join("noise.ledger.new").exists());
    assert!(Ledger::open(&place.path, MOST).unwrap().is_none(), "the new file is locked as well");
    let killed = Place::with(&place.content());
    drawn.end(8);
    drop(ledger);
    for (place, expected) in [(place, used(8)), (killed, used(None))] {
        let ledger = place.open();
        assert_eq!(told(&ledger, 20..30), Some(expected));
        for i in 0..10 {
            assert_eq!(told(&ledger, i..i + 1), (i > 0).then(|| used(i)));
        }
        assert!(String::from_utf8(place.content()).unwrap().contains("\"started_over\":true"));
    }
}

/// Lines without checks get them when the server starts; a directory that takes no second file is made do
/// with.
#[test]
fn an_earlier_file_goes_on() {
    let text = earlier(&[(0..5, None), (0..5, Some(7)), (6..9, None), (10..11, None), (10..11, Some(0))]);
    let place = Place::with(text.as_bytes());
    let ledger = place.open();
    assert_eq!((told(&ledger, 0..5), told(&ledger, 6..9)), (Some(used(7)), Some(used(None))));
    let text = String::from_utf8(place.content()).unwrap();
    assert!(text.lines().all(|line| line.starts_with("{\"v\":1,") && line.contains("\"check\":")), "{text}");
    drop(ledger);
    let ledger = place.open();
    assert_eq!((told(&ledger, 0..5), told(&ledger, 6..9)), (Some(used(7)), Some(used(None))));
}

#[test]
fn noises_are_counted_and_one_too_many_is_refused() {
    let ledger = Ledger::in_memory(2);
    claim(&ledger, 0..1, "sessions/a", false).unwrap().end(1);
    let second = claim(&ledger, 1..2, "sessions/a", false).unwrap();
    assert_eq!(ledger.memory_bytes(), 2 * NOISE_BYTES);
    let refused = claim(&ledger, 2..3, "sessions/b", false).unwrap_err();
    assert_eq!(refused, ServiceError::NoiseQuota { limit: 2 });
    assert!(refused.to_string().contains("max_noises"), "{refused}");
    // What is remembered may be drawn again; and what nothing was released of is not remembered.
    claim(&ledger, 0..1, "sessions/b", true).unwrap().end(5);
    second.end(0);
    assert_eq!(ledger.memory_bytes(), NOISE_BYTES);
    claim(&ledger, 2..3, "sessions/b", false).unwrap().end(1);
}

/// What a store takes over: who drew which lanes last, in the order of beginnings, and how far each came.
#[test]
fn what_is_remembered_is_told_in_the_order_of_beginnings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("noises");
    let told = |ledger: &Arc<Ledger>| -> Vec<(Range<u64>, Option<String>, u64, bool)> {
        let [Remembered { tenant, noise_id, fingerprint: found, uses }] =
            ledger.remembered().unwrap().try_into().unwrap();
        assert_eq!((tenant.as_str(), noise_id.as_str(), found), ("", "run", fingerprint(5).to_string()));
        let of_use = |used: RememberedUse| (used.lanes, used.session, used.next_step, used.unknown);
        uses.into_iter().map(of_use).collect()
    };
    let by = |session: &str| Some(format!("sessions/{session}"));
    let ledger = Ledger::open(&path, 10).unwrap().unwrap();
    assert!(ledger.remembered().unwrap().is_empty());
    claim(&ledger, 0..10, "sessions/mine", false).unwrap().end(3);
    claim(&ledger, 20..30, "sessions/early", false).unwrap().end(1);
    claim(&ledger, 10..20, "sessions/late", false).unwrap().end(1);
    claim(&ledger, 10..30, "sessions/whole", true).unwrap().end(2);
    claim(&ledger, 0..10, "sessions/other", true).unwrap().end(1);
    let expected = vec![
        (20..30, by("early"), 1, false),
        (10..20, by("late"), 1, false),
        (10..30, by("whole"), 2, false),
        // It is remembered for the furthest that its noise came.
        (0..10, by("other"), 3, false),
    ];
    assert_eq!(told(&ledger), expected);
    {
        let mut inner = ledger.inner();
        let Inner { uses, file } = &mut *inner;
        file.as_mut().unwrap().rewrite(uses);
    }
    drop(ledger);
    let ledger = Ledger::open(&path, 10).unwrap().unwrap();
    assert_eq!(told(&ledger), expected);
    // A server that is killed does not come to note the end.
    std::mem::forget(claim(&ledger, 30..40, "sessions/killed", false).unwrap());
    let copy = directory.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    let found = told(&Ledger::open(&copy, 10).unwrap().unwrap());
    assert_eq!(found[..4], expected);
    assert_eq!(found[4..], [(30..40, by("killed"), 0, true)]);
    assert!(Ledger::in_memory(10).remembered().unwrap().is_empty());
}

/// The noise of a tenant is another noise, also in a file; lines of the default tenant name no tenant.
#[test]
fn tenants_have_noises_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let claim = |ledger: &Arc<Ledger>, tenant: &str| {
        let holder = SessionKey { tenant: Tenant::named(tenant), name: "sessions/a".into() };
        ledger.claim(Wanted { holder: &holder, ..wanted("run", 0..5) })
    };
    let ledger = open_alone(&path).unwrap();
    for (tenant, steps) in [("default", 3), ("one", 7), ("two", 0)] {
        claim(&ledger, tenant).unwrap().end(steps);
    }
    drop(ledger);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = |begins: &str| text.lines().filter(|line| line.starts_with(begins)).count();
    assert_eq!(lines("{\"v\":1,\"noise_id\":"), 2, "{text}");
    assert_eq!(lines("{\"v\":2,\"tenant\":\"one\",\"noise_id\":"), 2, "{text}");
    let ledger = open_alone(&path).unwrap();
    assert_eq!(claim(&ledger, "default").unwrap_err(), used(3));
    assert_eq!(claim(&ledger, "one").unwrap_err(), used(7));
    claim(&ledger, "two").unwrap().end(0);
    claim(&ledger, "three").unwrap().end(0);
}
