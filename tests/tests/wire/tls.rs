//! TLS: who is let in, what others are told, and certificates that change while the server runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use noised::{DType, MatrixSpec, SessionSpec};
use noised_client::{Client, ClientBuilder, CreateOptions, Error, RetryPolicy, Tls};
use noised_server::config::{Options, Span};
use noised_server::{Config, ListenAddr};
use noised_tests::server::{Server, Transport, within_patience};
use noised_tests::trees;
use tokio::io::AsyncReadExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::authority::{Authority, write_private};

fn builder(target: &str, tls: Tls) -> ClientBuilder {
    ClientBuilder::new(target).unwrap().retry(RetryPolicy::NEVER).tls(tls)
}

async fn connect(server: &Server, tls: Tls) -> Result<Client, Error> {
    within_patience(builder(&server.tls_target(), tls).connect()).await
}

#[track_caller]
fn assert_tls<T>(result: Result<T, Error>, says: &str) {
    match result {
        Err(Error::Tls { message }) if message.contains(says) => {}
        Err(other) => panic!("expected a fault of TLS with `{says}`, found {other:?}"),
        Ok(_) => panic!("expected a fault of TLS with `{says}`, found none"),
    }
}

/// Runs some steps and compares them with those of a session in this process.
async fn check_steps(client: &Client) {
    let tree = trees::of_shapes(DType::F32, &[&[3]]);
    let spec = SessionSpec::new(MatrixSpec::PrefixSum, tree);
    let mut session = client.create_session(&spec, CreateOptions::default()).await.unwrap();
    let mut sum = 0.0;
    for step in 0..3 {
        sum += step as f32 + 0.5;
        let input: Vec<u8> = [step as f32 + 0.5; 3].iter().flat_map(|value| value.to_le_bytes()).collect();
        let output: Vec<u8> = [sum; 3].iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
        assert_eq!(session.multiply_next(step, input.into()).await.unwrap(), output);
    }
}

/// Of several addresses, by a list and by a name, each is known by the same certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_servers_are_known_alike() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (cert, key) = authority.sign("named", "localhost");
    let options = Options { tls_cert: Some(cert), tls_key: Some(key), ..Options::default() };
    let server = Server::start(Transport::Tcp, options).await;
    let port = server.target().rsplit(':').next().unwrap().to_owned();
    let list = format!("https://localhost:1,https://localhost:{port}");
    for target in [list, format!("dns+https:///localhost:{port}")] {
        let connect = |tls| within_patience(builder(&target, tls).connect());
        check_steps(&connect(authority.tls()).await.unwrap()).await;
        assert_tls(connect(other.tls()).await, "invalid peer certificate");
        assert!(matches!(connect(Tls::default()).await, Err(Error::Invalid { .. })));
    }
    let plain = builder(&format!("dns:///localhost:{port}"), Tls::default());
    let plain = within_patience(plain.connect()).await.unwrap();
    assert_tls(within_patience(plain.list_sessions()).await, "https");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_knows_its_server_by_the_authority_and_the_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(Transport::Tcp, authority.options(None)).await;
    check_steps(&connect(&server, authority.tls()).await.unwrap()).await;
    assert_tls(connect(&server, other.tls()).await, "invalid peer certificate");
    let key_alone = Tls { key: Some(authority.path("server.key")), ..authority.tls() };
    for (tls, named) in [(Tls::default(), "tls_ca"), (key_alone, "tls_cert")] {
        let refused = connect(&server, tls).await.unwrap_err();
        assert!(matches!(&refused, Error::Invalid { field, .. } if field == named), "{refused:?}");
    }
    let another_name = Tls { server_name: Some("noised.example".into()), ..authority.tls() };
    assert_tls(connect(&server, another_name).await, "not valid for name");
    let absent = Tls { ca: Some(authority.path("absent.pem")), ..Tls::default() };
    assert_tls(connect(&server, absent).await, "absent.pem");
    let no_certificate = Tls { ca: Some(authority.path("server.key")), ..Tls::default() };
    assert_tls(connect(&server, no_certificate).await, "server.key: must have a certificate");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_takes_clients_with_a_certificate_of_its_authority_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(Transport::Tcp, authority.options(Some(authority.ca()))).await;
    let with = |(cert, key)| Tls { cert: Some(cert), key: Some(key), ..authority.tls() };
    check_steps(&connect(&server, with(authority.sign("client", "trainer"))).await.unwrap()).await;
    // Both refusals come after the handshake of the client has ended.
    assert_tls(connect(&server, authority.tls()).await, "CertificateRequired");
    assert_tls(connect(&server, with(other.sign("client", "trainer"))).await, "the server refused");
    // A client that connects later is told at its first call.
    let lazy = builder(&server.tls_target(), authority.tls()).connect_lazy().unwrap();
    assert_tls(within_patience(lazy.list_sessions()).await, "CertificateRequired");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_tls_and_whoever_does_not_are_told_of_each_other() {
    let authority = Authority::new();
    let server = Server::start(Transport::Tcp, authority.options(None)).await;
    let plain = within_patience(builder(&server.target(), Tls::default()).connect()).await.unwrap();
    assert_tls(within_patience(plain.list_sessions()).await, "write https://");
    // A probe that knows no TLS is answered.
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    server.stop().await;
    let server = Server::start(Transport::Tcp, Options::default()).await;
    assert_tls(connect(&server, authority.tls()).await, "write http://");
    let refused = within_patience(builder(&server.target(), authority.tls()).connect()).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { field, .. } if field == "tls"), "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changes_is_shown_and_a_bad_one_is_not() {
    let (authority, next) = (Authority::new(), Authority::new());
    let server = Server::start(Transport::Tcp, authority.options(None)).await;
    let old = connect(&server, authority.tls()).await.unwrap();
    let (cert, key) = (authority.path("server.pem"), authority.path("server.key"));
    // A pair that does not belong together: longer than the server waits between two looks.
    let (new_cert, new_key) = next.sign("server", "127.0.0.1");
    std::fs::copy(&new_cert, &cert).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    check_steps(&connect(&server, authority.tls()).await.unwrap()).await;
    write_private(&key, &std::fs::read_to_string(new_key).unwrap());
    within_patience(async {
        while connect(&server, next.tls()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_tls(connect(&server, authority.tls()).await, "invalid peer certificate");
    // Connections that are open stay.
    check_steps(&old).await;
    server.stop().await;
}

/// Peers that say nothing, or end in the middle, keep neither others nor the server's end waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_has_its_time() {
    let authority = Authority::new();
    let soon =
        Options { handshake_timeout: Some(Span(Duration::from_millis(100))), ..authority.options(None) };
    let server = Server::start(Transport::Tcp, soon).await;
    let mut silent = server.connect().await;
    check_steps(&connect(&server, authority.tls()).await.unwrap()).await;
    let read = within_patience(silent.read_u8()).await;
    assert!(read.is_err(), "the server ends the connection");
    server.stop().await;
    let never =
        Options { handshake_timeout: Some(Span(Duration::from_secs(3600))), ..authority.options(None) };
    let server = Server::start(Transport::Tcp, never).await;
    let silent: Vec<_> = [server.connect().await, server.connect().await].into();
    check_steps(&connect(&server, authority.tls()).await.unwrap()).await;
    server.stop().await;
    drop(silent);
}

#[test]
fn what_is_no_certificate_is_told_before_the_server_starts() {
    let (authority, other) = (Authority::new(), Authority::new());
    let told = |options: Options| format!("{:#}", Config::new(options).unwrap().check_files().unwrap_err());
    let options = authority.options(None);
    Config::new(options.clone()).unwrap().check_files().unwrap();
    let (_, other_key) = other.sign("server", "127.0.0.1");
    let mixed = Options { tls_key: Some(other_key), ..options.clone() };
    assert!(told(mixed).starts_with("tls_cert, tls_key: "));
    let swapped = Options { tls_cert: options.tls_key.clone(), ..options.clone() };
    assert!(told(swapped).contains("must have a certificate in PEM, found none"));
    let no_key = Options { tls_key: options.tls_cert.clone(), ..options.clone() };
    assert!(told(no_key).starts_with("tls_key: "));
    let key = options.tls_key.clone().unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let open = told(options.clone());
    assert!(open.starts_with("tls_key: ") && open.contains("found mode 0640"), "{open}");
    let unix = Options { listen: Some(ListenAddr::Unix("/tmp/a.sock".into())), ..options };
    assert!(Config::new(unix).unwrap_err().to_string().starts_with("tls_cert: "));
}
