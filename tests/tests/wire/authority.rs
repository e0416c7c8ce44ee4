//! Certificates for the tests.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use noised_client::Tls;
use noised_server::config::Options;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority, and the files of what it signs.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { directory: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(this.ca(), this.issuer.pem()).unwrap();
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for a name and its key, under file names that begin with `file`.
    pub(crate) fn sign(&self, file: &str, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, private) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&cert, certificate.pem()).unwrap();
        write_private(&private, &key.serialize_pem());
        (cert, private)
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls { ca: Some(self.ca()), ..Tls::default() }
    }

    pub(crate) fn options(&self, client_ca: Option<PathBuf>) -> Options {
        let (cert, key) = self.sign("server", "127.0.0.1");
        let (tls_cert, tls_key) = (Some(cert), Some(key));
        Options { tls_cert, tls_key, tls_client_ca: client_ca, ..Options::default() }
    }
}

pub(crate) fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}
