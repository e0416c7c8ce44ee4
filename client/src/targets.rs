//! Which servers a client is for, as a text.

use std::fmt;
use std::str::FromStr;

use crate::channel::Target;
use crate::error::{Error, Result};

/// How a name begins whose addresses are servers that speak TLS.
const NAMED_TLS: &str = "dns+https:///";
/// The same of servers that do not.
const NAMED: &str = "dns:///";

/// What an address of a list begins with. A comma before anything else belongs to the path of a Unix socket.
const SCHEMES: [&str; 3] = ["http://", "https://", "unix:"];

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
