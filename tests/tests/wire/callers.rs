//! Callers whom a server knows by their tokens, for the tests.

use std::path::PathBuf;

use noised_client::{Client, ClientBuilder, Credential, Error, RetryPolicy};
use noised_proto::token::Token;
use noised_server::config::Options;
use noised_tests::noises;
use noised_tests::server::{Server, within_patience};
use tempfile::TempDir;

use crate::authority::{Authority, write_private};

/// The tokens file of a server with a certificate and a master key, and what is needed to call it.
pub(crate) struct Callers {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
}

impl Callers {
    pub(crate) fn new(entries: &[String]) -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap(), authority: Authority::new() };
        this.write(entries);
        noises::write_master_key(&this.path("master.key"), noises::MASTER_KEY);
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path("tokens.toml")
    }

    /// Replaces the tokens file.
    pub(crate) fn write(&self, entries: &[String]) {
        write_private(&self.path("next"), &entries.concat());
        std::fs::rename(self.path("next"), self.file()).unwrap();
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            tokens_file: Some(self.file()),
            master_key_file: Some(self.path("master.key")),
            audit_log: Some(self.path("audit.log")),
            ..self.authority.options(None)
        }
    }

    pub(crate) fn builder(&self, server: &Server) -> ClientBuilder {
        let builder = ClientBuilder::new(&server.tls_target()).unwrap();
        builder.retry(RetryPolicy::NEVER).tls(self.authority.tls())
    }

    /// A client with the token of this number.
    pub(crate) async fn client(&self, server: &Server, number: u8) -> Client {
        let credential = Credential::Token(token(number));
        within_patience(self.builder(server).token(credential).connect()).await.unwrap()
    }
}

/// The token of a number.
pub(crate) fn token(number: u8) -> Token {
    Token::from_bytes([number; 32])
}

/// The entry of the token of a number, with more lines.
pub(crate) fn entry(name: &str, number: u8, role: &str, more: &str) -> String {
    let hash = token(number).hash();
    format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nhash = \"{hash}\"\n{more}\n")
}

#[track_caller]
pub(crate) fn assert_unauthenticated<T>(result: Result<T, Error>, says: &str) {
    match result {
        Err(Error::Unauthenticated { message }) if message.contains(says) => {}
        Err(other) => panic!("expected a caller that is not known, with `{says}`, found {other:?}"),
        Ok(_) => panic!("expected a caller that is not known, with `{says}`, found none"),
    }
}

#[track_caller]
pub(crate) fn assert_denied<T>(result: Result<T, Error>, says: &str) {
    match result {
        Err(Error::PermissionDenied { message }) if message.contains(says) => {}
        Err(other) => panic!("expected a refusal with `{says}`, found {other:?}"),
        Ok(_) => panic!("expected a refusal with `{says}`, found none"),
    }
}
