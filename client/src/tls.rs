//! TLS 1.3: whose certificates of servers a client takes, and which certificate it shows.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, InvalidMessage, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};

/// How long the first word of a server is waited for after a handshake. Under TLS 1.3 a server refuses the
/// certificate of a client after the client's handshake has ended, and says so in the place of that word. A
/// server that waits for the client to speak first costs this time.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// How a client speaks TLS with a server at `https://host:port`. The files are read for every connection, so
/// that a certificate which was renewed is shown from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities whose certificates a server may have, in PEM. There are no authorities without it: the
    /// system's are not used.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to a server which asks for one, and those that lead to its authority, in
    /// PEM.
    pub cert: Option<PathBuf>,
    /// The private key of [`cert`](Self::cert), in PEM.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have; unless set, the host of the target.
    pub server_name: Option<String>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Invalid`] where an option is missing; [`Error::Tls`] names the option and the file that is at
    /// fault.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        let Self { ca, cert, key, server_name: _ } = self;
        let Some(ca) = ca else {
            return Err(Error::invalid(
                "tls_ca",
                "is missing: name a file with the server's authority, in PEM",
            ));
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_ca", ca)? {
            roots.add(certificate).map_err(|e| named("tls_ca", ca, &e))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| Error::tls(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match (cert, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| named("tls_key", key, &e))?;
                let chain = certificates("tls_cert", cert)?;
                builder.with_client_auth_cert(chain, private).map_err(|e| named("tls_cert", cert, &e))?
            }
            (Some(_), None) => return Err(Error::invalid("tls_key", "is missing: tls_cert is set")),
            (None, Some(_)) => return Err(Error::invalid("tls_cert", "is missing: tls_key is set")),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// The name that the certificate of the server at `host:port` must have.
    fn name_of(&self, address: &str) -> Result<ServerName<'static>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let rule = format!("must be a host name or an address, found `{name}`");
        ServerName::try_from(name).map_err(|_| Error::invalid("tls_server_name", rule))
    }

    /// Does the handshake on a connection to `host:port`, and hears whether the server takes the client's
    /// certificate.
    pub(crate) async fn connect<I>(&self, address: &str, io: I) -> Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.config()?);
        let connected = connector.connect(self.name_of(address)?, io).await;
        let mut stream = connected.map_err(|error| explain(&error))?;
        // The bytes stay in the connection for the next reader.
        match timeout(FIRST_WORD, stream.fill_buf()).await {
            Ok(Err(error)) => Err(explain(&error)),
            Ok(Ok(_)) | Err(_) => Ok(stream),
        }
    }
}

fn named(field: &str, path: &Path, error: &impl std::fmt::Display) -> Error {
    Error::tls(format!("{field}: {}: {error}", path.display()))
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = read.map_err(|e| named(field, path, &e))?;
    if found.is_empty() {
        return Err(named(field, path, &"must have a certificate in PEM, found none"));
    }
    Ok(found)
}

/// Tells what broke a handshake, or the first word after it.
fn explain(error: &io::Error) -> Error {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )) => Error::tls("the server does not speak TLS at this port: write http://host:port"),
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::tls(format!("the server refused the connection: {alert:?}"))
        }
        Some(other) => Error::tls(other.to_string()),
        // A server that goes away in the middle may come back.
        None => Error::Unavailable {
            message: format!("the connection broke in the TLS handshake: {error}"),
            retry_after: None,
        },
    }
}
