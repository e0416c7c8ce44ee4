//! TLS 1.3: the server's certificate, and the certificates of clients that it takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::secrets;

/// The files of the server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those that lead to its authority, in PEM.
    pub cert: PathBuf,
    /// The private key of the certificate, in PEM. The file is for its owner alone.
    pub key: PathBuf,
    /// The authorities whose certificates clients must show, in PEM; `None` where clients need none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// All files, of which each may change while the server runs.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let Self { cert, key, client_ca } = self.clone();
        [Some(cert), Some(key), client_ca].into_iter().flatten().collect()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Names the setting and the file: a file that cannot be read, a key that others can read, what is not
    /// PEM, a key that does not belong to the certificate.
    pub(crate) fn load(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let Self { cert, key, client_ca } = self;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .context("TLS 1.3 cannot be set up")?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let what = || format!("tls_client_ca: {}", path.display());
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls_client_ca", path)? {
                    roots.add(certificate).with_context(what)?;
                }
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.with_context(what)?)
            }
        };
        let pair = format!("tls_cert, tls_key: {} and {}", cert.display(), key.display());
        let chain = certificates("tls_cert", cert)?;
        let mut config = builder.with_single_cert(chain, private_key(key)?).context(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A client proves who it is on every connection: one whose certificate has run out goes on with none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn certificates(field: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let what = || format!("{field}: {}", path.display());
    let text = std::fs::read(path).with_context(what)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.with_context(what)?;
    ensure!(!found.is_empty(), "{field}: {}: must have a certificate in PEM, found none", path.display());
    Ok(found)
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let what = || format!("tls_key: {}: must have a private key in PEM", path.display());
    let text = Zeroizing::new(secrets::read_private("tls_key", path)?);
    PrivateKeyDer::from_pem_slice(&text).with_context(what)
}
