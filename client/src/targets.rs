//! Which servers a client is for, as a text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How a name begins whose addresses are servers that speak TLS.
const NAMED_TLS: &str = "dns+https:///";
/// The same of servers that do not.
const NAMED: &str = "dns:///";

/// What an address of a list begins with. A comma before anything else belongs to the path of a Unix socket.
const SCHEMES: [&str; 3] = ["http://", "https://", "unix:"];

/// Where a server is: `http://host:port`, `https://host:port`, `host:port` or `unix:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP, as `host:port`.
    Tcp(String),
    /// TLS over TCP, as `host:port`.
    Tls(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |rule: &str| Error::invalid("server", rule);
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return match path {
                "" => Err(invalid("a Unix socket needs a path, as in unix:///run/noised.sock")),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let secure = text.strip_prefix("https://");
        let address = secure.or_else(|| text.strip_prefix("http://")).unwrap_or(text).trim_end_matches('/');
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        // A comma belongs to a list, whose parts have a scheme each.
        if address.contains(['/', ',']) || port.and_then(|port| port.parse::<u16>().ok()).is_none() {
            return Err(invalid(
                "must be https://host:port, http://host:port, host:port or unix:///path; servers of one \
                 store are http://a:port,http://b:port or dns:///name:port",
            ));
        }
        Ok(match secure {
            Some(_) => Self::Tls(address.to_owned()),
            None => Self::Tcp(address.to_owned()),
        })
    }
}

impl Target {
    /// Whether this is the same address. Names of machines have no case.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) | (Self::Tls(one), Self::Tls(other)) => {
                one.eq_ignore_ascii_case(other)
            }
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Tls(address) => write!(f, "https://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// The servers of a client: one, or several that share a store, of which each session is at one.
///
/// Several are written in one text, `http://a:7467,http://b:7467`, where each has its scheme, or as a name
/// whose addresses they are: `dns:///noised.example:7467`, and `dns+https:///noised.example:7467` with TLS. A
/// list of texts is something else: servers of which each holds a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// A server.
    One(Target),
    /// Servers at these addresses.
    Several(Vec<Target>),
    /// Servers at all addresses of a name.
    Named {
        /// The name.
        host: String,
        /// The port of all of them.
        port: u16,
        /// Whether they speak TLS.
        tls: bool,
    },
}

impl Targets {
    /// Whether there may be more than one server.
    pub fn are_several(&self) -> bool {
        !matches!(self, Self::One(_))
    }

    /// Whether the servers speak TLS.
    pub fn speak_tls(&self) -> bool {
        match self {
            Self::One(target) => is_tls(target),
            Self::Several(targets) => targets.iter().any(is_tls),
            Self::Named { host: _, port: _, tls } => *tls,
        }
    }
}

fn is_tls(target: &Target) -> bool {
    matches!(target, Target::Tls(_))
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("dns") && text.contains(':') {
            return match (text.strip_prefix(NAMED_TLS), text.strip_prefix(NAMED)) {
                (Some(name), _) => named(name, true),
                (None, Some(name)) => named(name, false),
                (None, None) => text.parse().map(Self::One),
            };
        }
        let parts = split(text);
        let [_, _, ..] = parts[..] else { return text.parse().map(Self::One) };
        let targets = parts.iter().map(|part| part.parse()).collect::<Result<Vec<Target>>>()?;
        for (index, target) in targets.iter().enumerate() {
            if targets[..index].contains(target) {
                return Err(Error::invalid("server", format!("must not name {target} twice")));
            }
            if is_tls(target) != is_tls(&targets[0]) {
                let rule = "must be https:// for all addresses of a list, or for none of them";
                return Err(Error::invalid("server", rule));
            }
        }
        Ok(Self::Several(targets))
    }
}

/// The addresses of a list. Each is written with its scheme.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(',') {
        if SCHEMES.iter().any(|scheme| text[at + 1..].starts_with(scheme)) {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn named(name: &str, tls: bool) -> Result<Targets> {
    let rule = || Error::invalid("server", "must be a name and a port, as in dns:///noised.example:7467");
    let (host, port) = name.trim_end_matches('/').rsplit_once(':').ok_or_else(rule)?;
    let port = port.parse().map_err(|_| rule())?;
    if host.is_empty() || host.contains(['/', ',', ':', '@']) {
        return Err(rule());
    }
    Ok(Targets::Named { host: host.to_owned(), port, tls })
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(target) => target.fmt(f),
            Self::Several(targets) => {
                for (index, target) in targets.iter().enumerate() {
                    write!(f, "{}{target}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Named { host, port, tls } => {
                write!(f, "{}{host}:{port}", if *tls { NAMED_TLS } else { NAMED })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, target) in [
            ("http://localhost:5000", Target::Tcp("localhost:5000".into())),
            ("http://localhost:5000/", Target::Tcp("localhost:5000".into())),
            ("https://localhost:5000", Target::Tls("localhost:5000".into())),
            ("10.0.0.1:80", Target::Tcp("10.0.0.1:80".into())),
            ("[::1]:80", Target::Tcp("[::1]:80".into())),
            ("unix:///run/noised.sock", Target::Unix("/run/noised.sock".into())),
            ("unix:noised.sock", Target::Unix("noised.sock".into())),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), target);
        }
        for text in ["", "localhost", ":80", "http://", "https://", "unix://", "a:b", "ftp://a:1", "a:1/path"]
        {
            assert!(matches!(text.parse::<Target>(), Err(Error::Invalid { .. })), "{text}");
        }
    }

    #[test]
    fn lists_and_names() {
        let tcp = |address: &str| Target::Tcp(address.into());
        for (text, targets) in [
            ("http://a:1", Targets::One(tcp("a:1"))),
            ("dns:1", Targets::One(tcp("dns:1"))),
            ("unix:///run/a,b.sock", Targets::One(Target::Unix("/run/a,b.sock".into()))),
            ("http://a:1,http://b:2", Targets::Several(vec![tcp("a:1"), tcp("b:2")])),
            ("dns:///a.b:7", Targets::Named { host: "a.b".into(), port: 7, tls: false }),
            ("dns+https:///a.b:7", Targets::Named { host: "a.b".into(), port: 7, tls: true }),
        ] {
            let parsed: Targets = text.parse().unwrap();
            assert_eq!(parsed, targets);
            assert_eq!(parsed.to_string().parse::<Targets>().unwrap(), targets);
        }
        for text in [
            "",
            "http://a:1,",
            "http://a:1,b:2",
            "a:1,b:2",
            "http://a:1,http://a:1",
            "http://a:1,https://b:2",
            "dns://a:1",
            "dns:///a",
            "dns:///:1",
            "dns:///a:1,http://b:2",
        ] {
            assert!(matches!(text.parse::<Targets>(), Err(Error::Invalid { .. })), "{text}");
        }
        assert!("https://a:1,https://b:2".parse::<Targets>().unwrap().speak_tls());
    }
}
