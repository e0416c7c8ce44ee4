//! Sessions whose noise the server draws.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use noised::session::{KeyOrigin, Noise, Source, WhenFull};
use noised::{DType, SessionSpec, Shard, ShardCut};
use noised_client::{Answer, CreateOptions, Error, GivenKey, ShardedSession};
use noised_proto::ServiceError;

use crate::network::break_after;
use crate::server::{KEY, OneSession, serve};
use crate::{Collected, client, expected, input, named, session, spec};

fn noise() -> Noise {
    Noise { stddev: 2.0, key: KeyOrigin::Given }
}

/// Noise of the same matrix and tree.
fn gaussian(lanes: u64) -> SessionSpec {
    SessionSpec { source: Source::Gaussian(noise()), ..spec(lanes) }
}

/// Gradients of many formats, answers of one.
fn privatize(lanes: u64) -> SessionSpec {
    let source = Source::Privatize { noise: noise(), answer_dtype: Some(DType::F32) };
    SessionSpec { source, ..spec(lanes) }
}

#[tokio::test]
async fn fetched_steps_survive_cuts() {
    let spec = gaussian(300_000);
    let expected = expected(&spec, 12);
    let server = serve(OneSession::default()).await;
    let (address, connections) = break_after(server, (0..10).map(|i| 200_000 + i * 27_919).collect()).await;
    let client = client(address).connect().await.unwrap();
    let mut session = session(&client, &spec).await;
    let mut collected = Collected::default();
    let take = |answer: Answer| {
        collected.take(&answer);
        Ok::<(), Error>(())
    };
    session.fetch_steps(12, take).await.unwrap();
    assert_eq!((session.next_step(), session.input_bytes()), (12, 0));
    assert!(connections.load(Ordering::Relaxed) > 5);
    assert!(collected.0 == expected);
}

#[tokio::test]
async fn steps_are_fetched_one_by_one() {
    let spec = gaussian(60_000);
    let expected = expected(&spec, 8);
    for unary_bytes in [0, 1 << 20] {
        let server = serve(OneSession::default()).await;
        let (address, _) = break_after(server, (0..5).map(|i| 90_000 + i * 7919).collect()).await;
        let client = client(address).unary_bytes(unary_bytes).connect().await.unwrap();
        let mut session = session(&client, &spec).await;
        let mut kept = vec![0; session.step_bytes()];
        for (step, expected) in expected.iter().enumerate() {
            assert!(session.fetch(step as u64).await.unwrap() == *expected, "step {step}");
            session.fetch_into(step as u64, &mut kept).await.unwrap();
            assert!(kept == *expected, "step {step} again");
        }
        let wrong = session.fetch(3).await;
        assert_eq!(wrong, Err(Error::WrongStep { requested: 3, expected: 8 }));
    }
}

#[tokio::test]
async fn gradients_of_other_formats_survive_cuts() {
    let spec = privatize(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 10);
    let server = serve(OneSession::default()).await;
    let (address, connections) = break_after(server, (0..8).map(|i| 250_000 + i * 17_919).collect()).await;
    let client = client(address).chunk_bytes(30_000).connect().await.unwrap();
    let mut session = session(&client, &spec).await;
    assert!(session.input_bytes() != session.step_bytes());
    let inputs = tokio_stream::iter((0..9).map(|step| Ok::<_, Error>(input(&resolved, step))));
    let mut collected = Collected::default();
    let take = |answer: Answer| {
        collected.take(&answer);
        Ok(())
    };
    session.multiply_steps(inputs, take).await.unwrap();
    assert!(connections.load(Ordering::Relaxed) > 5);
    assert!(collected.0 == expected[..9]);
    assert!(session.privatize(9, input(&resolved, 9)).await.unwrap() == expected[9]);
}

#[tokio::test]
async fn a_session_goes_back() {
    let spec = gaussian(60_000);
    let expected = expected(&spec, 6);
    let service = OneSession::default();
    let client = client(serve(service.clone()).await).connect().await.unwrap();
    let mut session = session(&client, &spec).await;
    for step in 0..5 {
        session.fetch(step).await.unwrap();
    }
    session.keep_state(5, WhenFull::Refuse).await.unwrap();
    assert_eq!(session.info().next_step, 5);
    let past = session.rewind(6, false, |_, _| ()).await;
    assert_eq!(past, Err(Error::PastReleased { requested: 6, released: 5 }));
    // A server that is not ready is asked again.
    let retry_after = Duration::from_millis(10);
    service.refusals.lock().unwrap().push_back(ServiceError::Draining { retry_after });
    let mut progress = Vec::new();
    session.rewind(2, false, |done, total| progress.push((done, total))).await.unwrap();
    assert_eq!(progress, [(1, 2), (2, 2)]);
    assert_eq!((session.next_step(), session.info().next_step), (2, 2));
    // The answer to the step before is not there any more, and nobody misses it.
    let mut stream = session.stream_with_replay();
    for step in 1..6 {
        stream.push(step, Bytes::new()).unwrap();
    }
    let mut collected = Collected(expected[..2].to_vec());
    while let Some(answer) = stream.next().await.unwrap() {
        collected.take(&answer);
    }
    assert!(collected.0 == expected);
    drop(stream);
    assert_eq!(session.next_step(), 2);
    session.refresh().await.unwrap();
    assert_eq!(session.next_step(), 6);
    let kept = session.keep_state(5, WhenFull::Refuse).await;
    assert_eq!(kept, Ok(()), "it is kept already");
    assert!(matches!(session.keep_state(6, WhenFull::Refuse).await, Err(Error::ResourceExhausted { .. })));
}

#[tokio::test]
async fn a_step_that_was_released_takes_no_other_gradient() {
    let spec = privatize(60_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 2);
    for unary_bytes in [0, 1 << 20] {
        let address = serve(OneSession::default()).await;
        let client = client(address).unary_bytes(unary_bytes).chunk_bytes(9000).connect().await.unwrap();
        let mut session = session(&client, &spec).await;
        for step in 0..2 {
            session.privatize(step, input(&resolved, step)).await.unwrap();
        }
        session.rewind(0, false, |_, _| ()).await.unwrap();
        let other = session.privatize(0, input(&resolved, 5)).await;
        assert_eq!(other, Err(Error::Diverged { requested: 0, expected: 0 }));
        // All of the gradient goes up before any of the answer comes down.
        assert!(session.privatize(0, input(&resolved, 0)).await.unwrap() == expected[0]);
    }
}

#[tokio::test]
async fn steps_that_are_not_of_the_source_are_refused_here() {
    let client = client(serve(OneSession::default()).await).connect().await.unwrap();
    let refused = |result: Result<Bytes, Error>| {
        assert!(matches!(result, Err(Error::Invalid { field, .. }) if field == "source"));
    };
    let without_key = client.create_session(&gaussian(6000), named("test", true)).await.map(|_| ());
    assert!(matches!(without_key, Err(Error::Invalid { field, .. }) if field == "noise_key"));
    let mut of_input = session(&client, &spec(6000)).await;
    let payload = input(&spec(6000).resolve().unwrap(), 0);
    refused(of_input.fetch(0).await);
    refused(of_input.privatize(0, payload.clone()).await);
    client.delete_session("test").await.unwrap();
    let mut drawn = session(&client, &gaussian(6000)).await;
    refused(drawn.multiply_next(0, payload.clone()).await);
    refused(drawn.privatize(0, payload).await);
    assert!(drawn.stream().push(0, Bytes::from_static(&[1])).is_err());
}

#[tokio::test]
async fn shards_on_several_servers_are_one_session() {
    for spec in [gaussian(60_000), privatize(60_000)] {
        let spec = SessionSpec { shard: Shard::WHOLE, ..spec };
        let resolved = spec.clone().resolve().unwrap();
        let expected = expected(&spec, 4);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(client(serve(OneSession::default()).await).unary_bytes(0).connect().await.unwrap());
        }
        let options = CreateOptions { noise_key: Some(GivenKey::from_bytes(KEY)), ..named("a", true) };
        let mut session = ShardedSession::create(&clients, &spec, options, ShardCut::Lanes).await.unwrap();
        let ask = async |session: &mut ShardedSession, step| match resolved.input_bytes() {
            0 => session.fetch(step).await,
            // From pieces that end anywhere.
            _ => {
                let (gradient, mut output) = (input(&resolved, step), vec![0; session.step_bytes()]);
                let pieces: Vec<&[u8]> = gradient.chunks(7919).collect();
                let taken = session.multiply_next_pieces_into(step, &pieces, &mut output).await;
                taken.map(|()| output.into())
            }
        };
        assert!(ask(&mut session, 0).await.unwrap() == expected[0]);
        // A crash between the shards leaves one of them a step ahead.
        let mut ahead = clients[1].open_session("test").await.unwrap();
        match resolved.input_bytes() {
            0 => ahead.fetch(1).await.unwrap(),
            _ => {
                let start = session.shards()[0].input_bytes();
                let range = start..start + session.shards()[1].input_bytes();
                ahead.privatize(1, input(&resolved, 1).slice(range)).await.unwrap()
            }
        };
        session.refresh().await.unwrap();
        assert_eq!((session.next_step(), session.shards()[1].next_step()), (1, 2));
        assert!(ask(&mut session, 1).await.unwrap() == expected[1]);
        assert!(ask(&mut session, 2).await.unwrap() == expected[2]);
        let mut last = (0, 0);
        session.rewind(1, false, |done, total| last = (done, total)).await.unwrap();
        assert_eq!((last, session.next_step()), ((6, 6), 1));
        assert!(ask(&mut session, 1).await.unwrap() == expected[1]);

        clients[2].delete_session("test").await.unwrap();
        let failed = session.keep_state(7, WhenFull::Refuse).await.unwrap_err();
        assert!(matches!(&failed, Error::Shard { server, .. } if server.starts_with("http://127.0.0.1:")));
    }
}

/// Two trainers on one session: what one of them was given, the other is refused, however it asks.
#[tokio::test]
async fn noise_that_another_handle_was_given_is_refused() {
    let spec = gaussian(60_000);
    let expected = expected(&spec, 9);
    for unary_bytes in [0, 1 << 20] {
        let client =
            client(serve(OneSession::default()).await).unary_bytes(unary_bytes).connect().await.unwrap();
        let mut one = session(&client, &spec).await;
        let mut two = session(&client, &spec).await;
        assert!(one.fetch(0).await.unwrap() == expected[0]);
        let taken = |requested| Err(Error::TakenByAnother { requested });
        for _ in 0..3 {
            assert_eq!(two.fetch(0).await, taken(0));
            assert_eq!(
                two.fetch_into(0, &mut vec![0; two.step_bytes()]).await.map(|()| Bytes::new()),
                taken(0)
            );
            let mut stream = two.stream();
            stream.push(0, Bytes::new()).unwrap();
            for _ in 0..2 {
                assert_eq!(stream.next().await.map(|_| Bytes::new()), taken(0));
            }
            let handed_out =
                two.fetch_steps(1, |_| Err(Error::Protocol { message: "an answer".into() })).await;
            assert_eq!(handed_out.map(|()| Bytes::new()), taken(0));
        }
        assert_eq!(two.next_step(), 0);
        // The one that was given it may ask again.
        assert!(one.fetch(0).await.unwrap() == expected[0]);
        // The other goes on behind it: then it is the first that is refused.
        two.refresh().await.unwrap();
        assert!(two.fetch(1).await.unwrap() == expected[1]);
        assert!(two.fetch(0).await.is_err());
        assert_eq!(one.fetch(1).await, taken(1));
        // Going back is an explicit act, and so is taking the session up where it stands.
        one.rewind(0, false, |_, _| ()).await.unwrap();
        assert!(one.fetch(0).await.unwrap() == expected[0]);
        assert!(one.fetch(1).await.unwrap() == expected[1]);
        let mut three = client.open_session("test").await.unwrap();
        assert!(three.fetch(1).await.unwrap() == expected[1]);
        assert!(three.fetch(2).await.unwrap() == expected[2]);
        assert_eq!(one.fetch(2).await, taken(2));
        // A refusal took nothing of the session.
        assert_eq!(one.fetch(7).await, Err(Error::WrongStep { requested: 7, expected: 3 }));
        three.fetch(3).await.unwrap();
        one.fetch(3).await.unwrap_err();
        assert_eq!(one.fetch(3).await, taken(3));
    }
}

/// One's own request that is repeated after a cut is answered, though another handle looks on.
#[tokio::test]
async fn the_answer_to_a_request_that_was_cut_off_is_ones_own() {
    let spec = gaussian(60_000);
    let expected = expected(&spec, 8);
    for unary_bytes in [0, 1 << 20] {
        let server = serve(OneSession::default()).await;
        // Answers of every step are cut off once they are computed.
        let (address, connections) = break_after(server, (1..6).map(|i| i * 40_000).collect()).await;
        let client = client(address).unary_bytes(unary_bytes).connect().await.unwrap();
        let mut session = session(&client, &spec).await;
        for (step, expected) in (0..).zip(&expected) {
            // A call that is given up has asked all the same.
            let given_up = tokio::time::timeout(Duration::from_millis(step % 3), session.fetch(step)).await;
            assert!(given_up.is_err() || given_up.unwrap().unwrap() == *expected);
            assert!(session.fetch(step).await.unwrap() == *expected, "step {step}");
        }
        assert!(connections.load(Ordering::Relaxed) > 3);
    }
}

#[tokio::test]
async fn a_shard_that_another_handle_was_given_is_refused() {
    let spec = SessionSpec { shard: Shard::WHOLE, ..gaussian(60_000) };
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(client(serve(OneSession::default()).await).connect().await.unwrap());
    }
    let options = || CreateOptions { noise_key: Some(GivenKey::from_bytes(KEY)), ..named("a", true) };
    let create = || ShardedSession::create(&clients, &spec, options(), ShardCut::Lanes);
    let (mut one, mut two) = (create().await.unwrap(), create().await.unwrap());
    one.fetch(0).await.unwrap();
    let taken = two.fetch(0).await.unwrap_err();
    assert!(
        matches!(&taken, Error::Shard { error, .. } if **error == Error::TakenByAnother { requested: 0 })
    );
    assert!(!taken.is_retryable());
}
