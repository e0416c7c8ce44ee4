//! A directory of objects: crashes, leftovers, full disks, modes, and two processes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a failed test"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noised_store::{Created, Store, StoreError};

/// The directory in which this program, started again by a test, creates objects until it is killed.
const CHILD: &str = "NOISED_STORE_TEST_CHILD";

fn open(path: &Path) -> Store {
    Store::open(path.to_str().unwrap(), &[]).unwrap()
}

/// An object tells by itself whether it is whole.
fn object(life: u64, number: u64) -> Bytes {
    let length = usize::try_from(number * 7919 % 60_000).unwrap();
    let mut bytes = vec![u8::try_from(number % 251).unwrap(); length];
    bytes.extend_from_slice(format!("|{life}|{number}|{length}").as_bytes());
    bytes.into()
}

#[tokio::test]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let (path, life) = path.rsplit_once(':').unwrap();
    let store = open(Path::new(path));
    let life: u64 = life.parse().unwrap();
    for number in 0.. {
        let name = format!("life-{life}/{:06}/{number:010}", number / 10);
        assert_eq!(store.create(&name, object(life, number)).await, Ok(Created::New));
        store.put("latest", object(life, number)).await.unwrap();
        println!("done {number}");
        std::io::stdout().flush().unwrap();
    }
}

/// Kills a process that creates objects: everything that it was told to be there is there and whole.
#[tokio::test]
async fn killed_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let lives = 30;
    for life in 0..lives {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{}:{life}", folder.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let done = |line: std::io::Result<String>| {
                line.ok()?.split_once("done ").and_then(|(_, number)| number.parse::<u64>().ok())
            };
            out.lines().filter_map(done).last()
        });
        std::thread::sleep(Duration::from_millis(60 + life * 7 % 90));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = reader.join().unwrap();
        let store = open(folder.path());
        let listed = store.list(&format!("life-{life}")).await.unwrap();
        let expected = last.map_or(0, |last| last + 1);
        assert!(listed.len() as u64 >= expected, "life {life}: {} of {expected}", listed.len());
        for (number, listed) in (0..).zip(&listed) {
            let read = store.read(&listed.name).await.unwrap().unwrap();
            assert!(read == object(life, number), "{}", listed.name);
        }
        if last.is_some() {
            let latest = store.read("latest").await.unwrap().unwrap();
            let whole =
                (expected.saturating_sub(1)..expected + 2).any(|number| latest == object(life, number));
            assert!(whole, "life {life}");
        }
    }
    assert_eq!(temporary_folders(folder.path()), 0, "the last store was closed");
}

fn temporary_folders(root: &Path) -> usize {
    std::fs::read_dir(root.join(".temporary")).unwrap().count()
}

#[tokio::test]
async fn leftovers_go_and_the_files_of_living_stores_stay() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let dead = folder.path().join(".temporary/dead");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("1"), "half an obj").unwrap();
    assert_eq!(first.list("").await, Ok(Vec::new()));
    let second = open(folder.path());
    assert!(!dead.exists());
    assert_eq!(temporary_folders(folder.path()), 2);
    assert_eq!(first.create("a", Bytes::from_static(b"1")).await, Ok(Created::New));
    assert_eq!(second.create("a", Bytes::from_static(b"2")).await, Ok(Created::Taken));
    second.put("a", Bytes::from_static(b"3")).await.unwrap();
    assert_eq!(first.read("a").await, Ok(Some(Bytes::from_static(b"3"))));
}

#[tokio::test]
async fn everything_is_the_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let store = open(&root);
    store.create("a/b", Bytes::new()).await.unwrap();
    store.put("a/c", Bytes::new()).await.unwrap();
    for (path, mode) in [("", 0o700), ("a", 0o700), (".temporary", 0o700), ("a/b", 0o600), ("a/c", 0o600)] {
        let found = std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_is_not_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let store = open(&root);
    store.create("a/b", Bytes::new()).await.unwrap();
    std::fs::rename(&root, folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let away = |error: StoreError| error.is_unavailable();
    assert!(away(store.read("a/b").await.unwrap_err()));
    assert!(away(store.list("").await.unwrap_err()));
    assert!(away(store.create("a/c", Bytes::new()).await.unwrap_err()));
    std::fs::remove_dir_all(&root).unwrap();
    assert!(away(store.read("a/b").await.unwrap_err()));
    std::fs::rename(folder.path().join("elsewhere"), &root).unwrap();
    assert_eq!(store.read("a/b").await, Ok(Some(Bytes::new())));
}

#[tokio::test]
async fn an_object_is_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.create("a", Bytes::new()).await.unwrap();
    assert!(matches!(store.create("a/b", Bytes::new()).await, Err(StoreError::Invalid { .. })));
    assert_eq!(store.read("a/b").await, Ok(None));
    store.create("c/d", Bytes::new()).await.unwrap();
    for refused in [store.create("c", Bytes::new()).await.err(), store.put("c", Bytes::new()).await.err()] {
        assert!(matches!(refused, Some(StoreError::Invalid { .. })));
    }
    assert_eq!(store.read("c").await, Ok(None));
}

/// A small file system of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    };
    let store = open(disk.0.path());
    let part = Bytes::from(vec![7; 300 << 10]);
    let mut written = Vec::new();
    let error = loop {
        let name = format!("objects/{}", written.len());
        match store.create(&name, part.clone()).await {
            Ok(created) => assert_eq!(created, Created::New),
            Err(error) => break error,
        }
        written.push(name);
    };
    assert!(error.is_unavailable(), "{error}");
    assert!(!written.is_empty());
    let listed = store.list("").await.unwrap();
    assert_eq!(
        listed.iter().map(|object| &object.name).collect::<Vec<_>>(),
        written.iter().collect::<Vec<_>>()
    );
    assert!(listed.iter().all(|object| object.size == 300 << 10));
    // One that is taken is told so on a full disk too, and one is replaced or stays.
    assert_eq!(store.create(&written[0], part.clone()).await, Ok(Created::Taken));
    let larger = Bytes::from(vec![8; 1 << 20]);
    assert!(store.put(&written[0], larger).await.unwrap_err().is_unavailable());
    assert_eq!(store.read(&written[0]).await, Ok(Some(part.clone())));
    let next = format!("objects/{}", written.len());
    store.delete(&written[0]).await.unwrap();
    // The system may take a moment to give the space back.
    let begun = Instant::now();
    loop {
        match store.create(&next, part.clone()).await {
            Ok(created) => {
                assert_eq!(created, Created::New);
                break;
            }
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the space does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.read(&next).await, Ok(Some(part)));
}
