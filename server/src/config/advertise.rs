//! The address by which clients reach a server of a fleet.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::uri::Authority;
use serde::Deserialize;

/// Bytes of the address by which clients reach a server, at most.
pub const MAX_ADVERTISE_BYTES: usize = 300;

/// The address by which clients reach a server: `http://host:port`, `https://host:port` or `unix:///path`.
/// Port 0 stands for the port that the server listens at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Advertise(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp { is_tls: bool, host: String, port: u16 },
    Unix(String),
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = |rule: &str| format!("{rule}, found `{text}`");
        let form = || rule("must be http://host:port, https://host:port or unix:///path");
        if text.len() > MAX_ADVERTISE_BYTES {
            return Err(format!("must have at most {MAX_ADVERTISE_BYTES} bytes, found {}", text.len()));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Self(Address::Unix(path.to_owned()))),
                false => Err(form()),
            };
        }
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(form()),
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| form())?;
        let (host, port) = (authority.host().to_ascii_lowercase(), authority.port_u16());
        let port = port.filter(|_| !authority.as_str().contains('@')).ok_or_else(form)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(form());
        }
        if bare.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
            return Err(rule("must be an address of this server alone, by which clients reach it"));
        }
        Ok(Self(Address::Tcp { is_tls, host, port }))
    }
}

impl TryFrom<String> for Advertise {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Advertise {
    /// Whether clients speak TLS with the server.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.0, Address::Tcp { is_tls: true, .. })
    }

    /// Whether the address is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.0, Address::Unix(_))
    }

    /// The address of a server that listens at this port.
    pub(crate) fn at_port(&self, port: Option<u16>) -> String {
        match (&self.0, port) {
            (Address::Tcp { is_tls, host, port: 0 }, Some(port)) => {
                Self(Address::Tcp { is_tls: *is_tls, host: host.clone(), port }).to_string()
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Tcp { is_tls: true, host, port } => write!(f, "https://{host}:{port}"),
            Address::Tcp { is_tls: false, host, port } => write!(f, "http://{host}:{port}"),
            Address::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_clients_reach() {
        for (text, written) in [
            ("http://10.0.0.7:7467", "http://10.0.0.7:7467"),
            ("https://Noised-0.example:7467/", "https://noised-0.example:7467"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("unix:///run/noised.sock", "unix:///run/noised.sock"),
        ] {
            assert_eq!(text.parse::<Advertise>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "10.0.0.7:7467",
            "http://",
            "http://10.0.0.7",
            "http://:80",
            "http://a:80/path",
            "http://user@a:80",
            "http://0.0.0.0:80",
            "https://[::]:80",
            "unix://a",
            "ftp://a:80",
        ] {
            assert!(text.parse::<Advertise>().is_err(), "{text}");
        }
        let free: Advertise = "http://127.0.0.1:0".parse().unwrap();
        assert_eq!(free.at_port(Some(4711)), "http://127.0.0.1:4711");
    }
}
