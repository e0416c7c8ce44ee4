//! What every store promises, over a server that speaks S3: moto, in a Python environment below the target
//! folder.
//!
//! `NOISED_SKIP_S3_TESTS=1` leaves it out, for machines that cannot install from a package index.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]
#![allow(clippy::print_stderr, reason = "a test tells what it did, such as its seed")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noised_store::{Journal, JournalId, SealKey, SealedStore, Store, StoreError, fence};

/// A server, ended with the test.
struct Moto {
    child: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Where moto is installed, once.
fn environment() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
    if !venv.join("installed").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "moto[server]>=5.1"];
        run(Command::new(venv.join("bin/python")).args(install));
        std::fs::write(venv.join("installed"), "").unwrap();
    }
    venv
}

impl Moto {
    fn start() -> Option<Self> {
        if std::env::var_os("NOISED_SKIP_S3_TESTS").is_some() {
            eprintln!("skipped: NOISED_SKIP_S3_TESTS is set");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(environment().join("bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "moto does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request =
            "PUT /bucket HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(moto)
    }

    fn open(&self, url: &str) -> Store {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let options = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_allow_http", "true"),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", "id-of-a-test"),
            ("aws_secret_access_key", "secret-of-a-test"),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Store::open(url, &options).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    let Some(moto) = Moto::start() else { return };
    let store = moto.open("s3://bucket/a/prefix");
    assert_eq!(store.describe(), "s3://bucket/a/prefix");
    assert!(!format!("{store:?}").contains("secret"));
    support::suite(&store).await;
    // Another prefix is another store.
    assert_eq!(moto.open("s3://bucket/b").list("").await, Ok(Vec::new()));
    assert_eq!(moto.open("s3://bucket").folders("").await, Ok(vec!["a".to_owned()]));

    let absent = moto.open("s3://nobucket/a");
    assert!(matches!(absent.put("a", Bytes::new()).await, Err(StoreError::Refused(_))));
    assert!(matches!(absent.read("a").await, Err(StoreError::Refused(_))));

    let sealed = SealedStore::new(moto.open("s3://bucket/journal"), SealKey::derive(&[9; 32]));
    let journal = Journal::begin(sealed.clone(), JournalId::random().unwrap()).await.unwrap();
    for number in 1..20_u64 {
        assert_eq!(journal.commit(Bytes::from(number.to_string())).await, Ok(number));
    }
    journal.fold(10).await.unwrap();
    let past = fence(&sealed, journal.id()).await.unwrap();
    assert_eq!((past.payloads.len(), past.folded_below), (10, 10));
    assert!(journal.commit(Bytes::new()).await.is_err());
}
