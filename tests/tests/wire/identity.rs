//! Who may call a server, and what each may do: tokens, certificates, roles, rights and tenants, over TLS.

use std::collections::BTreeSet;

use bytes::Bytes;
use noised::noise::MasterKey;
use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_client::{Client, CreateOptions, Credential, Error, GivenKey, Tls};
use noised_proto::token::Token;
use noised_server::config::Options;
use noised_tests::noises::{self, KEY, MASTER_KEY, derived, gaussian, given, privatize};
use noised_tests::server::{Server, Transport, within_patience};
use noised_tests::{specs, trees};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt};

use crate::callers::{Callers, assert_denied, assert_unauthenticated, entry, token};

fn plain() -> SessionSpec {
    SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(3, DType::F32).unwrap())
}

fn named(id: &str) -> CreateOptions {
    CreateOptions { id: id.to_owned(), ..CreateOptions::default() }
}

async fn names(client: &Client) -> Vec<String> {
    client.list_sessions().await.unwrap().into_iter().map(|info| info.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_no_good_token_is_told_why() {
    let old = "expires = \"2001-01-01T00:00:00Z\"";
    let later = "expires = \"2999-01-01T00:00:00Z\"";
    let callers = Callers::new(&[entry("a", 1, "trainer", later), entry("old", 2, "trainer", old)]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let stranger = within_patience(callers.builder(&server).connect()).await.unwrap();
    assert_unauthenticated(stranger.list_sessions().await, "carries no token");
    assert_unauthenticated(
        stranger.analysis().materialize(&MatrixSpec::PrefixSum, 2).await,
        "carries no token",
    );
    assert_unauthenticated(callers.client(&server, 9).await.list_sessions().await, "does not know the token");
    assert_unauthenticated(callers.client(&server, 2).await.list_sessions().await, "has expired");
    let client = callers.client(&server, 1).await;
    let mut session = client.create_session(&plain(), named("s")).await.unwrap();
    let ones: Vec<u8> = [1.0_f32; 3].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(session.multiply_next(0, ones.clone().into()).await.unwrap(), ones);
    // Probes need no token, with TLS or without.
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    server.stop().await;
}

/// What a server answers to a call without a message, before its trailers: `None` where it answers the
/// call.
async fn refusal(server: &Server, path: &str, authorization: &[&str]) -> Option<Code> {
    let mut channel = server.channel().await;
    let mut request = http::Request::post(path).version(http::Version::HTTP_2);
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.body(Body::empty()).unwrap();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    Status::from_header_map(answer.headers()).map(|status| status.code())
}

/// Every method that the protocol has, by its path.
fn methods() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(noised_proto::FILE_DESCRIPTOR_SET).unwrap();
    let files = set.file.iter().filter(|file| file.package().starts_with("noised."));
    let services = files.flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    let path = |package: &str, service: &str, method: &str| format!("/{package}.{service}/{method}");
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| path(package, service.name(), method.name()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_for_its_roles_alone() {
    let roles = ["trainer", "analyst", "operator"];
    let entries: Vec<_> = (1..).zip(roles).map(|(i, role)| entry(role, i, role, "")).collect();
    let callers = Callers::new(&entries);
    // Without TLS, as it is on the loopback.
    let options = Options { tls_cert: None, tls_key: None, ..callers.options() };
    let server = Server::start(Transport::Tcp, options).await;
    let methods = methods();
    assert!(methods.len() > 15);
    for path in &methods {
        for (number, role) in (1..).zip(roles) {
            let may = match role {
                "trainer" => true,
                "analyst" => path.contains(".Analysis/"),
                _ => ["GetSession", "ListSessions", "DeleteSession"].iter().any(|name| path.ends_with(name)),
            };
            let code = refusal(&server, path, &[&format!("Bearer {}", token(number).text())]).await;
            let is_denied = code == Some(Code::PermissionDenied);
            assert_eq!(is_denied, !may, "{role} {path}: {code:?}");
            assert_ne!(code, Some(Code::Unauthenticated), "{role} {path}");
        }
        assert_eq!(refusal(&server, path, &[]).await, Some(Code::Unauthenticated), "{path}");
    }
    let good = format!("bearer {}", token(1).text());
    let path = "/noised.v1.Sessions/ListSessions";
    for bad in [&["Bearer x"][..], &[token(1).text()], &["Basic YTpi"], &[&good, &good], &[""]] {
        assert_eq!(refusal(&server, path, bad).await, Some(Code::Unauthenticated), "{bad:?}");
    }
    assert_ne!(refusal(&server, path, &[&good]).await, Some(Code::Unauthenticated));
    assert_eq!(refusal(&server, "/noised.v1.Sessions/Secret", &[&good]).await, Some(Code::PermissionDenied));
    server.stop().await;
}

/// The noise that a session of a `noise_id` gets.
async fn noise(client: &Client, id: &str) -> Bytes {
    let spec = gaussian(derived("run"), specs::noising(), trees::six_tiles());
    client.create_session(&spec, named(id)).await.unwrap().fetch(0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_have_sessions_and_noises_of_their_own() {
    let of = |name: &str, number, tenant: &str| entry(name, number, "trainer", tenant);
    let callers = Callers::new(&[
        of("default", 1, ""),
        of("one", 2, "tenant = \"one\""),
        of("two", 3, "tenant = \"two\""),
        of("two-b", 4, "tenant = \"two\""),
        entry("operator", 5, "operator", ""),
    ]);
    let ledger = Some(callers.path("ledger"));
    let server = Server::start(Transport::Tcp, Options { noise_ledger: ledger, ..callers.options() }).await;
    let mut clients = Vec::new();
    for number in 1..=5 {
        clients.push(callers.client(&server, number).await);
    }
    let [default, one, two, two_b, operator] = &clients[..] else { panic!() };
    let noises = [noise(default, "s").await, noise(one, "s").await, noise(two, "s").await];
    // The bits of the default tenant are those of a server that knows no tenants.
    let spec = gaussian(derived("run"), specs::noising(), trees::six_tiles());
    let fingerprint = spec.clone().resolve().unwrap().noise_fingerprint();
    let key = |tenant| MasterKey::from_bytes(MASTER_KEY).of_tenant(tenant).derive("run", &fingerprint);
    for (tenant, noise) in ["", "one", "two"].into_iter().zip(&noises) {
        assert!(noises::drawn(&spec, key(tenant), 1)[0] == noise, "{tenant}");
    }
    assert!(noises[0] != noises[1] && noises[1] != noises[2] && noises[0] != noises[2]);

    one.create_session(&plain(), named("mine")).await.unwrap();
    for (client, expected) in [
        (default, &["sessions/s"][..]),
        (one, &["sessions/mine", "sessions/s"]),
        (two, &["sessions/s"]),
        (two_b, &["sessions/s"]),
        (
            operator,
            &["sessions/s", "tenants/one/sessions/mine", "tenants/one/sessions/s", "tenants/two/sessions/s"],
        ),
    ] {
        assert_eq!(names(client).await, expected);
    }
    // In every call that names a session, that of another tenant is not there.
    for name in ["mine", "tenants/one/sessions/mine"] {
        let error = two.get_session(name).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        assert!(matches!(two.delete_session(name).await, Err(Error::NotFound { .. })));
        assert!(matches!(two.open_session(name).await, Err(Error::NotFound { .. })));
        let kept = two.keep_state(name, 0, noised_client::WhenFull::Refuse).await;
        assert!(matches!(kept, Err(Error::NotFound { .. })), "{kept:?}");
    }
    // One tenant's noise is still one noise.
    let again = two_b.create_session(&spec, named("other")).await.unwrap_err();
    assert!(matches!(&again, Error::NoiseInUse { message } if message.contains("sessions/s")), "{again:?}");

    let info = operator.get_session("tenants/two/sessions/s").await.unwrap();
    assert_eq!((info.name.as_str(), info.next_step), ("tenants/two/sessions/s", 1));
    operator.delete_session("tenants/two/sessions/s").await.unwrap();
    operator.delete_session("tenants/default/sessions/s").await.unwrap();
    assert!(names(two).await.is_empty() && names(default).await.is_empty());
    let used = two.create_session(&spec, named("s")).await.unwrap_err();
    assert!(matches!(used, Error::NoiseUsed { next_step: Some(1), .. }), "{used:?}");
    assert_denied(operator.create_session(&plain(), named("a")).await, "operator may not call CreateSession");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_a_right_is_refused_without_it() {
    let rights = "rights = [\"allow_divergence\", \"start_noise_over\", \"given_keys\"]";
    let callers = Callers::new(&[entry("a", 1, "trainer", ""), entry("b", 2, "trainer", rights)]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let (without, with) = (callers.client(&server, 1).await, callers.client(&server, 2).await);
    let of_key = gaussian(given(), specs::noising(), trees::six_tiles());
    let of_name = privatize(derived("run"), specs::noising(), trees::six_tiles(), None);
    let keyed = |id: &str| CreateOptions { noise_key: Some(GivenKey::from_bytes(KEY)), ..named(id) };
    let over = |id: &str| CreateOptions { start_noise_over: true, ..named(id) };
    assert_denied(without.create_session(&of_key, keyed("k")).await, "given_keys");
    assert_denied(without.create_session(&of_name, over("n")).await, "start_noise_over");
    let mut session = without.create_session(&of_name, named("n")).await.unwrap();
    let gradients = noises::gradients(&of_name.tree, 2);
    session.privatize(0, gradients[0].clone()).await.unwrap();
    assert_denied(session.rewind(0, true, |_, _| ()).await, "allow_divergence");
    session.rewind(0, false, |_, _| ()).await.unwrap();
    let diverged = session.privatize(0, gradients[1].clone()).await.unwrap_err();
    assert!(matches!(diverged, Error::Diverged { .. }), "{diverged:?}");

    with.create_session(&of_key, keyed("k")).await.unwrap();
    let mut session = with.open_session("n").await.unwrap();
    session.rewind(0, true, |_, _| ()).await.unwrap();
    session.privatize(0, gradients[1].clone()).await.unwrap();
    with.delete_session("n").await.unwrap();
    with.create_session(&of_name, over("n")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_known_by_its_certificate() {
    let of = |name: &str, san: &str, role: &str| {
        format!("[[certificate]]\nsan = \"{san}\"\nname = \"{name}\"\ntenant = \"one\"\nrole = \"{role}\"\n")
    };
    let entries =
        [of("a", "trainer", "trainer"), of("b", "analyst.example", "analyst"), entry("c", 1, "operator", "")];
    let callers = Callers::new(&entries);
    let authority = &callers.authority;
    let options = Options { tls_client_ca: Some(authority.ca()), ..callers.options() };
    let server = Server::start(Transport::Tcp, options).await;
    let with = |name: &str, san: &str| {
        let (cert, key) = authority.sign(name, san);
        callers.builder(&server).tls(Tls { cert: Some(cert), key: Some(key), ..authority.tls() })
    };
    let trainer = within_patience(with("trainer", "trainer").connect()).await.unwrap();
    trainer.create_session(&plain(), named("s")).await.unwrap();
    let analyst = within_patience(with("analyst", "Analyst.example").connect()).await.unwrap();
    analyst.analysis().materialize(&MatrixSpec::PrefixSum, 2).await.unwrap();
    assert_denied(analyst.list_sessions().await, "analyst may not call ListSessions");
    let other = within_patience(with("other", "other.example").connect()).await.unwrap();
    assert_unauthenticated(other.list_sessions().await, "no certificate of a known caller");
    // A token goes before a certificate, also where it is not good.
    let operator = with("trainer", "trainer").token(Credential::Token(token(1)));
    assert_eq!(names(&within_patience(operator.connect()).await.unwrap()).await, ["tenants/one/sessions/s"]);
    let bad = with("trainer", "trainer").token(Credential::Token(Token::from_bytes([9; 32])));
    let bad = within_patience(bad.connect()).await.unwrap();
    assert_unauthenticated(bad.list_sessions().await, "does not know the token");
    server.stop().await;
}

/// A stored session is its tenant's after the server has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_sessions_stay_with_their_tenants() {
    let of = |name: &str, number, tenant: &str| entry(name, number, "trainer", tenant);
    let callers = Callers::new(&[
        of("default", 1, ""),
        of("one", 2, "tenant = \"one\""),
        of("two", 3, "tenant = \"two\""),
    ]);
    let state = callers.path("state").to_str().unwrap().to_owned();
    let options = Options { state: Some(state), ..callers.options() };
    let spec = gaussian(derived("run"), specs::noising(), trees::six_tiles());
    let server = Server::start(Transport::Tcp, options.clone()).await;
    for number in 1..=2 {
        noise(&callers.client(&server, number).await, "s").await;
    }
    server.stop().await;
    let server = Server::start(Transport::Tcp, options).await;
    let fingerprint = spec.clone().resolve().unwrap().noise_fingerprint();
    for (number, tenant) in [(1, ""), (2, "one")] {
        let client = callers.client(&server, number).await;
        let mut session = client.open_session("s").await.unwrap();
        let key = MasterKey::from_bytes(MASTER_KEY).of_tenant(tenant).derive("run", &fingerprint);
        assert!(session.fetch(1).await.unwrap() == noises::drawn(&spec, key, 2)[1], "{tenant}");
    }
    let missing = callers.client(&server, 3).await.open_session("s").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_no_more_than_its_bounds() {
    let of =
        |name: &str, number, tenant: &str| entry(name, number, "trainer", &format!("tenant = \"{tenant}\""));
    let bounds = |name: &str, more: &str| format!("[[tenant]]\nname = \"{name}\"\n{more}\n");
    let callers = Callers::new(&[
        of("a", 1, "few"),
        of("b", 2, "small"),
        of("c", 3, "slow"),
        of("d", 4, "free"),
        bounds("few", "max_sessions = 1"),
        bounds("small", "max_session_bytes = \"64KiB\""),
        bounds("slow", "requests_per_second = 1"),
    ]);
    let server = Server::start(Transport::Tcp, callers.options()).await;
    let exhausted = |error: Error, says: &str| match error {
        Error::ResourceExhausted { message, retry_after } if message.starts_with(says) => retry_after,
        other => panic!("{other:?}"),
    };
    let few = callers.client(&server, 1).await;
    few.create_session(&plain(), named("s")).await.unwrap();
    let error = few.create_session(&plain(), named("t")).await.unwrap_err();
    assert_eq!(exhausted(error, "max_sessions: the tenant may have 1, found 2"), None);
    few.delete_session("s").await.unwrap();
    few.create_session(&plain(), named("t")).await.unwrap();
    let small = callers.client(&server, 2).await;
    small.create_session(&plain(), named("s")).await.unwrap();
    let large = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(100_000, DType::F32).unwrap());
    let error = small.create_session(&large, named("t")).await.unwrap_err();
    assert_eq!(exhausted(error, "max_session_bytes: the tenant may have 65536"), None);
    let slow = callers.client(&server, 3).await;
    let error = within_patience(async {
        loop {
            if let Err(error) = slow.list_sessions().await {
                break error;
            }
        }
    });
    assert!(exhausted(error.await, "requests_per_second: the tenant may have 1").is_some());
    // A client that tries again waits as long as it is told.
    let patient = callers.builder(&server).retry(noised_client::RetryPolicy::default());
    let patient = patient.token(Credential::Token(token(3))).connect().await.unwrap();
    within_patience(patient.list_sessions()).await.unwrap();
    let free = callers.client(&server, 4).await;
    for id in ["s", "t", "u"] {
        free.create_session(&large, named(id)).await.unwrap();
    }
    server.stop().await;
}
