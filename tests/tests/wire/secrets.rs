//! Keys are in no answer and in no error.

use bytes::Bytes;
use noised::SessionSpec;
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::noises::{self, KEY, MASTER_KEY, derived, gaussian, given, privatize};
use noised_tests::server::{Server, on_both};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire;
use prost::Message;
use tonic::Status;

/// All that a server said.
#[derive(Default)]
struct Said(Vec<Vec<u8>>);

impl Said {
    fn hear<M: Message>(&mut self, answer: Result<M, Status>) -> Option<M> {
        match answer {
            Ok(answer) => {
                self.0.push(answer.encode_to_vec());
                Some(answer)
            }
            Err(status) => {
                let mut text = format!("{status:?}\n{status}\n{}", status.message()).into_bytes();
                text.extend_from_slice(status.details());
                for entry in status.metadata().iter() {
                    text.extend_from_slice(format!("{entry:?}").as_bytes());
                }
                self.0.push(text);
                None
            }
        }
    }

    fn assert_silent_on(&self, key: &[u8; 32]) {
        for trace in noises::traces_of(key) {
            for said in &self.0 {
                let found = said.windows(trace.len()).any(|window| window == trace);
                assert!(!found, "{} has a key in it", String::from_utf8_lossy(said));
            }
        }
    }
}

fn with_key(id: &str, spec: &SessionSpec, noise_key: &[u8]) -> v1::CreateSessionRequest {
    let noise_key = noise_key.to_vec();
    v1::CreateSessionRequest { noise_key, ..wire::create_request(id, spec) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_in_nothing_that_a_server_says() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("master.key");
    noises::write_master_key(&file, MASTER_KEY);
    let options = Options { master_key_file: Some(file), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let mut said = Said::default();
        let matrix = specs::noising;
        let input = SessionSpec::new(matrix(), trees::mixed());
        for (id, spec) in [
            ("given", gaussian(given(), matrix(), trees::mixed())),
            ("derived", gaussian(derived("run"), matrix(), trees::mixed())),
            ("private", privatize(given(), matrix(), trees::mixed(), None)),
        ] {
            let gradient = match id {
                "private" => noises::gradients(&spec.tree, 1).swap_remove(0),
                _ => Bytes::new(),
            };
            let made = client.create_session(noises::request(id, &spec)).await;
            let name = said.hear(made.map(tonic::Response::into_inner)).unwrap().name;
            for step in 0..3 {
                said.hear(wire::unary(&mut client, &name, step, gradient.clone()).await).unwrap();
            }
            said.hear(noises::keep(&mut client, &name, 3, v1::WhenFull::Refuse).await).unwrap();
            for step in [2, 9] {
                match noises::rewind(&mut client, &name, step, false).await {
                    Ok(told) => told.into_iter().for_each(|told| drop(said.hear(Ok(told)))),
                    Err(status) => drop(said.hear::<v1::Session>(Err(status))),
                }
            }
            let (answers, status) =
                wire::exchange(&mut client, vec![wire::frame(&name, 2, 0, gradient), noises::ask("", 9, 0)])
                    .await;
            answers.into_iter().for_each(|answer| drop(said.hear(Ok(answer))));
            said.hear::<v1::Session>(Err(status.unwrap()));
            said.hear(wire::get(&mut client, &name).await).unwrap();
            // Every way to be refused with a key at hand.
            let mut other = KEY;
            other[31] ^= 1;
            for key in [&KEY[..], &KEY[..31], &other, &[KEY, KEY].concat(), &[]] {
                for (id, spec) in [(id, &spec), (id, &input), ("bad/name", &spec), ("other", &input)] {
                    for resume in [false, true] {
                        let request = v1::CreateSessionRequest { resume, ..with_key(id, spec, key) };
                        let made = client.create_session(request).await;
                        said.hear(made.map(tonic::Response::into_inner));
                    }
                }
            }
        }
        let page = client.list_sessions(v1::ListSessionsRequest::default()).await;
        said.hear(page.map(tonic::Response::into_inner)).unwrap();
        assert!(said.0.len() > 100);
        said.assert_silent_on(&KEY);
        said.assert_silent_on(&MASTER_KEY);
    })
    .await;
}
