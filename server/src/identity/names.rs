//! The names in the certificate of a client.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A name in a certificate: of a host, or a URI. Names of hosts have no capital letters here, and no colon,
/// which every URI has.
pub(crate) type San = String;

/// The client of a connection with TLS. Every request of the connection has it among its extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsPeer {
    /// The names in the certificate, which an authority of the server has signed; empty where the client
    /// showed none.
    pub(crate) names: Arc<[San]>,
}

impl TlsPeer {
    /// The client that has shown these certificates. TLS has verified them.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let first = certificates.and_then(<[_]>::first);
        let Some(certificate) = first.and_then(|der| EndEntityCert::try_from(der).ok()) else {
            return Self::default();
        };
        let hosts = certificate.valid_dns_names().map(san);
        Self { names: hosts.chain(certificate.valid_uri_names().map(san)).collect() }
    }
}

/// A name as it is compared: hosts are the same in capital letters.
pub(super) fn san(text: &str) -> San {
    if text.contains(':') { text.to_owned() } else { text.to_ascii_lowercase() }
}
