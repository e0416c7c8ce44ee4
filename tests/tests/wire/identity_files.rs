//! Tokens that change while a server and its clients run, tokens files with mistakes, and the audit log.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_client::{CreateOptions, Credential, Error, RetryPolicy};
use noised_proto::token::Token;
use noised_server::Config;
use noised_server::config::Options;
use noised_tests::server::{Server, Transport, within_patience};
use serde_json::Value;

use crate::authority::write_private;
use crate::callers::{Callers, assert_denied, assert_unauthenticated, entry, token};

fn plain() -> SessionSpec {
    SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(3, DType::F32).unwrap())
}

fn ones() -> bytes::Bytes {
    [1.0_f32; 3].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

fn named(id: &str) -> CreateOptions {
    CreateOptions { id: id.to_owned(), ..CreateOptions::default() }
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    within_patience(async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tokens_file_is_read_again_and_a_bad_one_changes_nothing() {
    let callers = Callers::new(&[entry("a", 1, "trainer", "")]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let (first, second) = (callers.client(&server, 1).await, callers.client(&server, 2).await);
    first.list_sessions().await.unwrap();
    assert_unauthenticated(second.list_sessions().await, "does not know");
    callers.write(&[entry("a", 1, "trainer", ""), entry("b", 2, "trainer", "")]);
    until(async || second.list_sessions().await.is_ok()).await;
    // The log says when the server has looked at the bad file.
    callers.write(&[entry("a", 1, "king", "")]);
    until(async || std::fs::read_to_string(callers.path("audit.log")).unwrap().contains("FAILED")).await;
    first.list_sessions().await.unwrap();
    second.list_sessions().await.unwrap();
    callers.write(&[entry("b", 2, "analyst", "")]);
    until(async || first.list_sessions().await.is_err()).await;
    assert_unauthenticated(first.list_sessions().await, "does not know");
    assert_denied(second.list_sessions().await, "analyst");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_with_the_token_that_its_file_has_now() {
    let callers = Callers::new(&[entry("a", 1, "trainer", "")]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let file = callers.path("token");
    write_private(&file, token(1).text());
    let builder = callers.builder(&server).retry(RetryPolicy::default());
    let client = within_patience(builder.token(Credential::File(file.clone())).connect()).await.unwrap();
    let mut session = client.create_session(&plain(), named("s")).await.unwrap();
    session.multiply_next(0, ones()).await.unwrap();
    write_private(&file, &format!("{}\n", token(2).text()));
    callers.write(&[entry("a", 2, "trainer", "")]);
    let old = callers.client(&server, 1).await;
    until(async || old.list_sessions().await.is_err()).await;
    // On the same connection, as one call and as a stream.
    within_patience(session.multiply_next(1, ones())).await.unwrap();
    write_private(&file, token(3).text());
    callers.write(&[entry("a", 3, "trainer", "")]);
    let old = callers.client(&server, 2).await;
    until(async || old.list_sessions().await.is_err()).await;
    let inputs = tokio_stream::iter([Ok::<_, Error>(ones()), Ok(ones())]);
    within_patience(session.multiply_steps(inputs, |_| Ok(()))).await.unwrap();
    assert_eq!(session.next_step(), 4);
    // A token that was not replaced is told.
    callers.write(&[entry("b", 4, "trainer", "")]);
    until(async || matches!(client.list_sessions().await, Err(Error::Unauthenticated { .. }))).await;
    std::fs::remove_file(&file).unwrap();
    let absent = callers.builder(&server).token(Credential::File(file)).connect().await.unwrap_err();
    assert!(matches!(&absent, Error::Invalid { field, .. } if field == "token_file"), "{absent:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_takes_tokens_without_tls() {
    let callers = Callers::new(&[entry("a", 1, "trainer", "")]);
    let options = Options { tls_cert: None, tls_key: None, ..callers.options() };
    let server = Server::start(Transport::Unix, options).await;
    let with = server.builder().retry(RetryPolicy::NEVER).token(Credential::Token(token(1)));
    with.connect().await.unwrap().list_sessions().await.unwrap();
    assert_unauthenticated(server.client().await.list_sessions().await, "carries no token");
    server.stop().await;
}

#[test]
fn a_mistake_in_the_file_is_told_before_the_server_starts() {
    let callers = Callers::new(&[entry("a", 1, "trainer", "")]);
    let options = callers.options();
    let told = || format!("{:#}", Config::new(options.clone()).unwrap().check_files().unwrap_err());
    Config::new(options.clone()).unwrap().check_files().unwrap();
    callers.write(&[entry("a", 1, "trainer", ""), entry("a", 2, "trainer", "")]);
    let twice = told();
    assert!(
        twice.starts_with("tokens_file: ") && twice.contains("token[1]: name: must be there once"),
        "{twice}"
    );
    callers.write(&[entry("a", 1, "trainer", "")]);
    std::fs::set_permissions(callers.file(), Permissions::from_mode(0o640)).unwrap();
    let open = told();
    assert!(open.starts_with("tokens_file: ") && open.contains("found mode 0640"), "{open}");
    std::fs::remove_file(callers.file()).unwrap();
    assert!(told().starts_with("tokens_file: "));
    // A token must not cross a network in clear, so the server wants TLS there.
    let listen = Some("0.0.0.0:0".parse().unwrap());
    let reached = Options { listen, tls_cert: None, tls_key: None, ..options };
    assert!(Config::new(reached).unwrap_err().to_string().starts_with("listen: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_tells_who_did_what() {
    let of_one = "tenant = \"one\"\nrights = [\"allow_divergence\"]";
    let callers = Callers::new(&[
        entry("ann", 1, "trainer", of_one),
        entry("bob", 2, "operator", ""),
        entry("cid", 3, "trainer", ""),
    ]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let [ann, bob, cid] = [
        callers.client(&server, 1).await,
        callers.client(&server, 2).await,
        callers.client(&server, 3).await,
    ];
    let mut session = ann.create_session(&plain(), named("s")).await.unwrap();
    session.multiply_next(0, ones()).await.unwrap();
    session.rewind(0, true, |_, _| ()).await.unwrap();
    bob.delete_session("tenants/one/sessions/s").await.unwrap();
    let mut session = cid.create_session(&plain(), named("t")).await.unwrap();
    assert_denied(session.rewind(0, true, |_, _| ()).await, "allow_divergence");
    assert_denied(bob.create_session(&plain(), named("u")).await, "operator");
    assert_unauthenticated(callers.client(&server, 9).await.list_sessions().await, "does not know");
    server.stop().await;
    let text = std::fs::read_to_string(callers.path("audit.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |line: &Value| {
        let of = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        assert!(of("time").ends_with('Z') && of("peer").starts_with("127.0.0.1:"), "{line}");
        ["what", "name", "tenant", "role", "session", "outcome"].map(of).join(" ")
    };
    let expected = [
        "session_made ann one trainer one/sessions/s ok",
        "session_rewound ann one trainer one/sessions/s ok",
        "session_deleted bob default operator one/sessions/s ok",
        "session_made cid default trainer sessions/t ok",
        "session_rewound cid default trainer sessions/t PERMISSION_DENIED",
        "call bob default operator - PERMISSION_DENIED",
        "call - - - - UNAUTHENTICATED",
    ];
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(lines[1]["more"]["allow_divergence"], true);
    assert_eq!(lines[6]["more"]["why"], "UNKNOWN_TOKEN");
    for number in [1, 2, 3, 9] {
        assert!(
            !text.contains(token(number).text()) && !text.contains(Token::from_bytes([number; 32]).text())
        );
    }
}
