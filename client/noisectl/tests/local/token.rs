//! `token new`: what it prints, and the file that it adds to.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use noised_proto::token::Token;

use crate::{command, failure, noisectl, stdout};

#[test]
fn a_token_is_printed_once_and_its_hash_goes_into_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.toml");
    let file = path.to_str().unwrap();
    let new = |more: &[&str]| stdout(&[&["token", "new", "--file", file][..], more].concat());
    let first = new(&["--name", "a", "--role", "analyst"]);
    let more =
        ["--tenant", "one", "--right", "given_keys", "--right", "allow_divergence", "--expires-in", "90d"];
    let second = new(&[&["--name", "b", "--role", "trainer"][..], &more].concat());
    assert_ne!(first, second);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let entries = table["token"].as_array().unwrap();
    for (entry, token) in entries.iter().zip([&first, &second]) {
        assert_eq!(token.lines().count(), 1);
        assert!(!text.contains(token.trim_end()));
        assert_eq!(entry["hash"].as_str().unwrap(), Token::parse("token", token).unwrap().hash().to_string());
    }
    assert_eq!(entries[1]["rights"].as_array().unwrap().len(), 2);
    assert!(entries[1]["expires"].as_str().unwrap().ends_with('Z'));
    assert!(entries[0].get("tenant").is_none() && entries[0].get("expires").is_none());

    let refused = |more: &[&str], status| {
        let told = failure(&[&["token", "new", "--file", file][..], more].concat(), status);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{told}");
        told
    };
    assert!(refused(&["--name", "a", "--role", "trainer"], 2).contains("the name `a` already"));
    assert!(refused(&["--name", "a/b", "--role", "trainer"], 2).starts_with("name: must be 1 to 64"));
    assert!(refused(&["--name", "c", "--role", "king"], 2).contains("trainer, analyst, operator"));
    let of_analyst = ["--name", "c", "--role", "analyst", "--right", "given_keys"];
    assert!(refused(&of_analyst, 2).starts_with("rights: must be empty for the role analyst"));
    let forever = ["--name", "c", "--role", "analyst", "--expires-in", "99999y"];
    assert!(refused(&forever, 2).starts_with("expires_in: must end before"));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&["--name", "c", "--role", "analyst"], 2).contains("found mode 0644: chmod 600"));
}

#[test]
fn without_a_file_the_entry_goes_to_standard_error() {
    let output = noisectl(&["token", "new", "--name", "a", "--role", "operator"]);
    assert!(output.status.success());
    let token = Token::parse("token", std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let entry: toml::Table = told.parse().unwrap();
    assert_eq!(entry["token"][0]["hash"].as_str().unwrap(), token.hash().to_string());
}

#[test]
fn a_token_that_is_none_or_would_cross_a_network_is_refused_without_its_text() {
    let list = ["session", "list", "--retry", "0", "--server"];
    let with = |token: &str, server: &str| {
        let mut command = command(&[&list[..], &[server]].concat());
        let output = command.env("NOISED_TOKEN", token).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains(token), "{told}");
        told
    };
    assert!(with("hunter2", "127.0.0.1:1").contains("NOISED_TOKEN: must be a token"));
    let token = Token::from_bytes([1; 32]);
    assert!(with(token.text(), "192.0.2.1:1").contains("token: must not cross a network without TLS"));
    let absent = failure(&[&list[..], &["127.0.0.1:1", "--token-file", "/no/such/token"]].concat(), 2);
    assert!(absent.starts_with("token_file: /no/such/token: "), "{absent}");
}
