//! What every store promises, whichever back end it has.

use bytes::Bytes;
use noised_store::{Created, Listed, Store, StoreError};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn names(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|object| object.name.as_str()).collect()
}

/// All promises. The store must be empty below `suite`.
pub(crate) async fn suite(store: &Store) {
    creates_once(store).await;
    creates_exactly(store).await;
    puts_and_deletes(store).await;
    lists_in_order(store).await;
    one_of_many_creates(store).await;
    readers_see_whole_objects(store).await;
    takes_large_objects(store).await;
    refuses_names(store).await;
}

async fn creates_once(store: &Store) {
    assert_eq!(store.read("suite/once").await, Ok(None));
    assert_eq!(store.create("suite/once", bytes("one")).await, Ok(Created::New));
    assert_eq!(store.create("suite/once", bytes("two")).await, Ok(Created::Taken));
    assert_eq!(store.create("suite/once", bytes("one")).await, Ok(Created::Taken));
    assert_eq!(store.read("suite/once").await, Ok(Some(bytes("one"))));
    assert_eq!(store.create("suite/empty", Bytes::new()).await, Ok(Created::New));
    assert_eq!(store.read("suite/empty").await, Ok(Some(Bytes::new())));
}

async fn creates_exactly(store: &Store) {
    assert_eq!(store.create_exactly("suite/exactly", bytes("mine")).await, Ok(Created::New));
    assert_eq!(store.create_exactly("suite/exactly", bytes("mine")).await, Ok(Created::New));
    assert_eq!(store.create_exactly("suite/exactly", bytes("other")).await, Ok(Created::Taken));
    assert_eq!(store.read("suite/exactly").await, Ok(Some(bytes("mine"))));
}

async fn puts_and_deletes(store: &Store) {
    for text in ["first", "a longer second", "3"] {
        store.put("suite/put", bytes(text)).await.unwrap();
        assert_eq!(store.read("suite/put").await, Ok(Some(bytes(text))));
    }
    for text in ["unsynced", "again"] {
        store.put_unsynced("suite/put", bytes(text)).await.unwrap();
        assert_eq!(store.read("suite/put").await, Ok(Some(bytes(text))));
        store.put_unsynced(&format!("suite/unsynced/{text}"), bytes(text)).await.unwrap();
    }
    assert_eq!(
        names(&store.list("suite/unsynced").await.unwrap()),
        ["suite/unsynced/again", "suite/unsynced/unsynced"]
    );
    assert_eq!(store.create("suite/put", bytes("x")).await, Ok(Created::Taken));
    store.delete("suite/put").await.unwrap();
    assert_eq!(store.read("suite/put").await, Ok(None));
    store.delete("suite/put").await.unwrap();
    store.delete("suite/never/was").await.unwrap();
    assert_eq!(store.create("suite/put", bytes("again")).await, Ok(Created::New));
}

async fn lists_in_order(store: &Store) {
    let wanted =
        ["suite/l/a-b", "suite/l/a.b/x", "suite/l/a/1", "suite/l/a/2/deep", "suite/l/b", "suite/l/c/3"];
    for name in wanted.iter().rev() {
        store.put(name, bytes(name)).await.unwrap();
    }
    store.put("suite/lx/outside", bytes("x")).await.unwrap();
    let listed = store.list("suite/l").await.unwrap();
    assert_eq!(names(&listed), wanted);
    assert!(listed.iter().all(|object| object.size == object.name.len() as u64));
    assert_eq!(names(&store.list("suite/l/a").await.unwrap()), ["suite/l/a/1", "suite/l/a/2/deep"]);
    assert_eq!(store.list("suite/nothing").await, Ok(Vec::new()));
    assert_eq!(store.folders("suite/l").await.unwrap(), ["a", "a.b", "c"]);
    assert_eq!(store.folders("suite/nothing").await, Ok(Vec::new()));
    // A folder without objects is none.
    store.delete("suite/l/c/3").await.unwrap();
    assert_eq!(store.folders("suite/l").await.unwrap(), ["a", "a.b"]);
    assert!(store.folders("").await.unwrap().contains(&"suite".to_owned()));
    assert!(names(&store.list("").await.unwrap()).contains(&"suite/l/b"));
}

async fn one_of_many_creates(store: &Store) {
    for round in 0..5 {
        let name = format!("suite/race/{round}/object");
        let tasks: Vec<_> = (0..32)
            .map(|task| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move {
                    let mine = bytes(&format!("task {task}"));
                    loop {
                        match store.create_exactly(&name, mine.clone()).await {
                            Ok(created) => return (created, mine),
                            Err(error) => assert!(error.is_unavailable(), "{error}"),
                        }
                    }
                })
            })
            .collect();
        let mut new = Vec::new();
        for task in tasks {
            let (created, mine) = task.await.unwrap();
            new.extend((created == Created::New).then_some(mine));
        }
        assert_eq!(new.len(), 1, "round {round}");
        assert_eq!(store.read(&name).await, Ok(Some(new.remove(0))));
    }
}

async fn readers_see_whole_objects(store: &Store) {
    let of = |byte: u8| Bytes::from(vec![byte; 200_000]);
    store.put("suite/whole", of(0)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for byte in 1..20 {
                store.put("suite/whole", of(byte)).await.unwrap();
            }
        })
    };
    let mut last = 0;
    while last < 19 {
        let read = store.read("suite/whole").await.unwrap().unwrap();
        assert!(read[0] >= last && read == of(read[0]), "a mix");
        last = read[0];
    }
    writer.await.unwrap();
}

async fn takes_large_objects(store: &Store) {
    let large: Bytes = (0..20_u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(large.len(), 20 << 20);
    assert_eq!(store.create("suite/large", large.clone()).await, Ok(Created::New));
    assert!(store.read("suite/large").await.unwrap().unwrap() == large);
    assert_eq!(store.list("suite/large").await, Ok(Vec::new()), "an object is no folder");
}

async fn refuses_names(store: &Store) {
    let long = "x".repeat(1000);
    for name in ["", "/", "a/", "/a", "a//b", "../a", "a/./b", ".hidden", "ä", "a b", "a%2fb", &long] {
        let is_invalid = |error: StoreError| matches!(error, StoreError::Invalid { .. });
        assert!(is_invalid(store.create(name, Bytes::new()).await.unwrap_err()), "{name}");
        assert!(is_invalid(store.put(name, Bytes::new()).await.unwrap_err()), "{name}");
        assert!(is_invalid(store.put_unsynced(name, Bytes::new()).await.unwrap_err()), "{name}");
        assert!(is_invalid(store.read(name).await.unwrap_err()), "{name}");
        assert!(is_invalid(store.delete(name).await.unwrap_err()), "{name}");
    }
}
