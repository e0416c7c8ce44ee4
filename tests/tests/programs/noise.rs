//! Noise that a server draws for `noisectl`: its bits, its keys, and what is remembered of it.

use std::path::PathBuf;
use std::process::Command;

use noised::noise::MasterKey;
use noised::{DType, SessionSpec, Tree};
use noised_client::{Client, ClientBuilder, CreateOptions, Error, GivenKey, RetryPolicy};
use noised_tests::programs::program;
use noised_tests::{noises, specs};
use tempfile::TempDir;

use super::{Server, run, sessions};

/// A session on a server, to the end of a run, back, and to its end again.
#[test]
fn noise_of_a_server_is_that_of_this_process_also_after_going_back() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let mut command = program("noisectl");
        command.args(arguments).args(["--format", "json"]);
        serde_json::from_str(&run(&mut command)).unwrap()
    };
    let there = |arguments: &[&str]| json(&[arguments, &["--server", &server.target]].concat());
    let hex = noises::hex(&noises::KEY);
    let draw = ["session", "run", "--source", "gaussian", "--stddev", "2", "--noise-key-hex", &hex];
    let draw =
        [&draw[..], &["--lanes", "70000", "--steps", "6", "--matrix", r#"{"kind":"prefix_sum"}"#]].concat();
    let (out, local) = (path("out.npy"), path("local.npy"));
    let named = [&draw[..], &["--id", "test", "--out", &out]].concat();
    let same = || std::fs::read(&out).unwrap() == std::fs::read(&local).unwrap();
    assert_eq!(json(&[&draw[..], &["--local", "--out", &local]].concat())["next_step"], 6);
    assert_eq!(there(&named)["next_step"], 6);
    assert!(same());
    assert_eq!(there(&["session", "keep", "test", "6"])["next_step"], 6);
    assert_eq!(there(&["session", "get", "test"])["source"]["gaussian"]["key"], "given");
    assert_eq!(there(&["session", "rewind", "test", "3"])["next_step"], 3);
    // The first steps are in the file, and the others come again.
    let again = there(&named);
    assert_eq!((&again["steps"], &again["next_step"]), (&3.into(), &6.into()));
    assert!(same());
}

#[test]
fn noise_of_a_server_is_verified_and_its_session_deleted() {
    let server = Server::start();
    let verify = ["noise", "verify", "--lanes", "20000", "--steps", "8", "--server", &server.target];
    assert!(run(program("noisectl").args(verify)).contains("0 of "));
    assert_eq!(sessions(&server), 0);
}

/// A directory with a master key in it, and what makes a server use it and remember.
struct Master {
    directory: TempDir,
    arguments: [String; 4],
}

impl Master {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [key, ledger] = ["master.key", "ledger"].map(|name| directory.path().join(name));
        noises::write_master_key(&key, noises::hex(&noises::MASTER_KEY));
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let arguments =
            ["--master-key-file".to_owned(), path(key), "--noise-ledger".to_owned(), path(ledger)];
        Self { directory, arguments }
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }
}

async fn connect(server: &Server) -> Client {
    ClientBuilder::new(&server.target).unwrap().retry(RetryPolicy::NEVER).connect().await.unwrap()
}

/// A server that is killed does not come to note how far a noise was drawn: whoever begins it again says so.
#[tokio::test]
async fn a_noise_that_was_drawn_when_the_server_was_killed_counts_as_used() {
    let master = Master::new();
    let tree = || Tree::flat(5000, DType::F32).unwrap();
    let spec = noises::gaussian(noises::derived("run"), specs::noising(), tree());
    let unused = noises::gaussian(noises::derived("unused"), specs::noising(), tree());
    let fingerprint = spec.clone().resolve().unwrap().noise_fingerprint();
    let key = || MasterKey::from_bytes(noises::MASTER_KEY).derive("run", &fingerprint);
    let expected = noises::drawn(&spec, key(), 6);
    let again = || CreateOptions { start_noise_over: true, ..CreateOptions::default() };
    let refused = async |client: &Client, spec: &SessionSpec| {
        let refused = client.create_session(spec, CreateOptions::default()).await.unwrap_err();
        assert!(matches!(&refused, Error::NoiseUsed { next_step: None, .. }), "{refused:?}");
    };
    // Released in the first life and the third; not at all in the second, which makes nothing known.
    for (life, steps) in [6, 0, 3, 0].into_iter().enumerate() {
        let server = Server::start_with(&master.arguments());
        let client = connect(&server).await;
        if life > 0 {
            refused(&client, &spec).await;
        }
        let mut session = client.create_session(&spec, again()).await.unwrap();
        assert_eq!(session.info().noise_started_over, life > 0);
        for step in 0..steps {
            assert!(session.fetch(step).await.unwrap() == expected[step as usize]);
        }
        if life == 1 {
            client.delete_session(session.name()).await.unwrap();
            refused(&client, &spec).await;
        }
        let made = client.create_session(&unused, CreateOptions::default()).await.unwrap();
        client.delete_session(made.name()).await.unwrap();
        server.kill();
    }
    // A line that was being written then is passed over.
    let ledger = master.directory.path().join("ledger");
    let text = std::fs::read_to_string(&ledger).unwrap();
    std::fs::write(&ledger, text + "{\"noise_id\":\"un").unwrap();
    let server = Server::start_with(&master.arguments());
    let client = connect(&server).await;
    refused(&client, &spec).await;
    client.create_session(&unused, CreateOptions::default()).await.unwrap();
}

/// Whatever a server is made to tell of what it does, down to the frames on the network, keys are not in it.
#[tokio::test]
async fn keys_are_in_no_log() {
    let master = Master::new();
    let arguments = [&master.arguments()[..], &["--log", "trace"]].concat();
    for format in ["text", "json"] {
        let (lines, log) = std::sync::mpsc::channel();
        let arguments = [&arguments[..], &["--log-format", format]].concat();
        let server = Server::start_logging(&arguments, |log| {
            std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| lines.send(line).unwrap()));
        });
        let client = connect(&server).await;
        let tree = || Tree::flat(5000, DType::F32).unwrap();
        let given = noises::gaussian(noises::given(), specs::noising(), tree());
        let derived = noises::gaussian(noises::derived("run"), specs::noising(), tree());
        let private = noises::privatize(noises::given(), specs::noising(), tree(), None);
        for (id, spec) in [("given", &given), ("derived", &derived), ("private", &private)] {
            let noise_key = (id != "derived").then(|| GivenKey::from_bytes(noises::KEY));
            let options = CreateOptions {
                id: id.into(),
                noise_key,
                start_noise_over: true,
                resume: true,
                ..CreateOptions::default()
            };
            let mut session = client.create_session(spec, options.clone()).await.unwrap();
            for step in 0..3 {
                match id {
                    "private" => {
                        let gradient = noises::gradients(&tree(), step + 1).pop().unwrap();
                        session.privatize(step, gradient).await.unwrap();
                    }
                    _ => drop(session.fetch(step).await.unwrap()),
                }
            }
            session.keep_state(3, noised_client::WhenFull::Refuse).await.unwrap();
            session.rewind(1, false, |_, _| ()).await.unwrap();
            client.create_session(spec, options.clone()).await.unwrap();
            let other = GivenKey::from_bytes([0x5c; 32]);
            let wrong = CreateOptions { noise_key: Some(other), ..options };
            client.create_session(&given, wrong).await.unwrap_err();
            client.delete_session(id).await.unwrap();
        }
        run(Command::new("kill").args(["-TERM", &server.child.id().to_string()]));
        drop(client);
        // Elsewhere, since the connection ends here.
        let lines = tokio::task::spawn_blocking(move || log.iter().collect::<Vec<_>>()).await.unwrap();
        // JSON has two of each backslash.
        let text = lines.join("\n").replace(r"\\", r"\");
        assert!(text.contains("session opened") && text.contains("session rewound"), "{text}");
        for key in [noises::KEY, noises::MASTER_KEY] {
            for trace in noises::traces_of(&key).into_iter().filter_map(|trace| String::from_utf8(trace).ok())
            {
                assert!(!text.contains(&trace), "a key is in the log: {trace}");
            }
        }
        drop(server);
    }
}
