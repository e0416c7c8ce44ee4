//! What every store promises, over every back end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

mod support;

use noised_store::{Store, StoreError};

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    support::suite(&Store::open("memory:", &[]).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not/there/yet");
    let store = Store::open(path.to_str().unwrap(), &[]).unwrap();
    support::suite(&store).await;
    // Another process finds the same.
    let other = Store::open(&format!("file://{}", path.display()), &[]).unwrap();
    assert_eq!(other.list("").await, store.list("").await);
}

#[test]
fn other_urls_are_refused() {
    for url in ["", "file:relative", "file://host/path", "file:///a%20b", "ftp://host/path"] {
        let refused = Store::open(url, &[]);
        assert!(matches!(refused, Err(StoreError::Invalid { field: "store", .. })), "{url}");
    }
    let option = [("key".to_owned(), "value".to_owned())];
    assert!(matches!(Store::open("memory:", &option), Err(StoreError::Invalid { .. })));
}
