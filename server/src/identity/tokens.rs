//! The tokens file: who has which token, or which name in a certificate.
//!
//! The file has the hash of each token. A caller is found by the first bytes of its token's hash, and taken
//! where all bytes agree, which is compared in constant time. The first bytes tell nothing of a token:
//! nobody can choose one by its hash.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use noised_proto::access::{Right, Role, Stranger, check_caller, check_rights};
use noised_proto::token::{self, Token, TokenHash};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::names::{San, san};
use super::{Identity, Quota, Tenant};
use crate::secrets;

/// The setting that names the file.
const SETTING: &str = "tokens_file";

/// Bytes of a hash that an entry is looked up by.
const LOOKED_UP_BYTES: usize = 8;

/// The callers that the server knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(Arc<Callers>);

#[derive(Debug, Default)]
struct Callers {
    tokens: HashMap<[u8; LOOKED_UP_BYTES], Vec<Holder>>,
    certificates: HashMap<San, Arc<Identity>>,
}

/// Who has the token of a hash.
#[derive(Debug)]
struct Holder {
    hash: TokenHash,
    expires: Option<SystemTime>,
    identity: Arc<Identity>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<OfToken>,
    #[serde(default)]
    certificate: Vec<OfCertificate>,
    #[serde(default)]
    tenant: Vec<OfTenant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfToken {
    name: String,
    tenant: Option<String>,
    role: String,
    #[serde(default)]
    rights: Vec<String>,
    expires: Option<String>,
    hash: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfCertificate {
    san: String,
    name: String,
    tenant: Option<String>,
    role: String,
    #[serde(default)]
    rights: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfTenant {
    name: String,
    max_sessions: Option<u64>,
    max_session_bytes: Option<ByteSize>,
    requests_per_second: Option<u32>,
}

/// What an entry may have to do with others: names are there once, and tenants have bounds.
#[derive(Default)]
struct Known {
    names: HashSet<String>,
    quotas: HashMap<Tenant, Quota>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the setting, the file, the entry, the field and the rule: a file that others may read, what is
    /// not TOML, a field that is none, and a name, hash or certificate that comes twice.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("{SETTING}: {}", path.display());
        let bytes = Zeroizing::new(secrets::read_private(SETTING, path)?);
        let text = std::str::from_utf8(&bytes).context("must be text in UTF-8").with_context(what)?;
        Self::parse(text).with_context(what)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let File { token, certificate, tenant } = toml::from_str(text).map_err(|error| told(text, &error))?;
        let mut callers = Callers::default();
        let mut known = Known::default();
        for (entry, of) in tenant.into_iter().enumerate() {
            known.tenant(of).with_context(|| format!("tenant[{entry}]"))?;
        }
        let mut hashes = HashSet::new();
        for (entry, OfToken { name, tenant, role, rights, expires, hash }) in token.into_iter().enumerate() {
            let what = || format!("token[{entry}]");
            let identity = known.identity(name, tenant, &role, &rights).with_context(what)?;
            let hash = self::hash(&hash).with_context(what)?;
            ensure!(
                hashes.insert(*hash.as_bytes()),
                "token[{entry}]: hash: must be there once, found it twice"
            );
            let expires = expires.as_deref().map(moment).transpose().with_context(what)?;
            callers.tokens.entry(first(&hash)).or_default().push(Holder { hash, expires, identity });
        }
        for (entry, of) in certificate.into_iter().enumerate() {
            let OfCertificate { san: text, name, tenant, role, rights } = of;
            let what = || format!("certificate[{entry}]");
            let identity = known.identity(name, tenant, &role, &rights).with_context(what)?;
            ensure!(
                !text.is_empty(),
                "certificate[{entry}]: san: must be the name of a host or a URI, found none"
            );
            let before = callers.certificates.insert(san(&text), identity);
            ensure!(before.is_none(), "certificate[{entry}]: san: must be there once, found `{text}` twice");
        }
        Ok(Self(Arc::new(callers)))
    }

    /// How many callers there are.
    pub(crate) fn len(&self) -> usize {
        self.0.tokens.values().map(Vec::len).sum::<usize>() + self.0.certificates.len()
    }

    /// Who has a token.
    pub(super) fn of_token(&self, token: &Token, now: SystemTime) -> Result<Arc<Identity>, Stranger> {
        let hash = token.hash();
        let known = self.0.tokens.get(&first(&hash)).into_iter().flatten().find(|known| known.hash == hash);
        match known.ok_or(Stranger::Unknown)? {
            Holder { expires: Some(expires), .. } if *expires <= now => Err(Stranger::Expired),
            Holder { identity, .. } => Ok(Arc::clone(identity)),
        }
    }

    /// Who has a certificate with these names.
    pub(super) fn of_names(&self, names: &[San]) -> Result<Arc<Identity>, Stranger> {
        let mut found = names.iter().filter_map(|name| self.0.certificates.get(name));
        let first = found.next().ok_or(Stranger::Nothing)?;
        if found.any(|other| other != first) {
            return Err(Stranger::Several);
        }
        Ok(Arc::clone(first))
    }
}

impl Known {
    /// The bounds of a tenant.
    fn tenant(&mut self, of: OfTenant) -> anyhow::Result<()> {
        let OfTenant { name, max_sessions, max_session_bytes, requests_per_second } = of;
        check_caller("name", &name)?;
        ensure!(
            requests_per_second != Some(0),
            "requests_per_second: must be at least 1, found 0: delete the entries of a tenant to lock it out"
        );
        let max_session_bytes = max_session_bytes.map(|size| size.as_u64());
        let quota = Quota { max_sessions, max_session_bytes, requests_per_second };
        let before = self.quotas.insert(Tenant::named(&name), quota);
        ensure!(before.is_none(), "name: must be there once, found `{name}` twice");
        Ok(())
    }

    /// What an entry of either kind says of its caller.
    fn identity(
        &mut self,
        name: String,
        tenant: Option<String>,
        role: &str,
        rights: &[String],
    ) -> anyhow::Result<Arc<Identity>> {
        check_caller("name", &name)?;
        ensure!(self.names.insert(name.clone()), "name: must be there once, found `{name}` twice");
        if let Some(tenant) = &tenant {
            check_caller("tenant", tenant)?;
        }
        let role: Role = role.parse()?;
        let rights: Vec<Right> = rights.iter().map(|right| right.parse()).collect::<Result<_, _>>()?;
        check_rights(role, &rights)?;
        let tenant = tenant.as_deref().map(Tenant::named).unwrap_or_default();
        let quota = self.quotas.get(&tenant).copied().unwrap_or_default();
        Ok(Arc::new(Identity { name, tenant, role, rights, quota }))
    }
}

fn hash(text: &str) -> anyhow::Result<TokenHash> {
    if text.starts_with(token::PREFIX) {
        bail!("hash: must be the hash of a token, found a token: it is in a file now, so make a new one");
    }
    Ok(text.parse()?)
}

fn moment(text: &str) -> anyhow::Result<SystemTime> {
    humantime::parse_rfc3339(text).map_err(|_| {
        let found = text.escape_debug();
        anyhow::anyhow!("expires: must be a moment in UTC such as 2027-01-31T00:00:00Z, found `{found}`")
    })
}

fn first(hash: &TokenHash) -> [u8; LOOKED_UP_BYTES] {
    let mut first = [0; LOOKED_UP_BYTES];
    first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    first
}

/// What is wrong with a file, and in which line. The library's own text shows the line, in which somebody
/// may have written a token.
fn told(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let at = error.span().and_then(|span| text.get(..span.start));
    let line = at.map_or(0, |before| before.matches('\n').count() + 1);
    let message = error.message();
    let message =
        if message.contains(token::PREFIX) { "has a token in the place of something else" } else { message };
    anyhow::anyhow!("line {line}: {message}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(byte: u8) -> Token {
        Token::from_bytes([byte; 32])
    }

    fn entry(name: &str, byte: u8, more: &str) -> String {
        format!(
            "[[token]]\nname = \"{name}\"\nrole = \"trainer\"\nhash = \"{}\"\n{more}\n",
            token(byte).hash()
        )
    }

    #[test]
    fn a_caller_is_found_by_its_token_until_it_expires() {
        let text = entry("a", 1, "tenant = \"one\"\nrights = [\"given_keys\"]")
            + &entry("b", 2, "expires = \"2027-01-31T00:00:00Z\"");
        let tokens = Tokens::parse(&text).unwrap();
        let expires = humantime::parse_rfc3339("2027-01-31T00:00:00Z").unwrap();
        let found = tokens.of_token(&token(1), expires).unwrap();
        assert_eq!((found.name.as_str(), found.tenant.name()), ("a", "one"));
        assert_eq!((found.role, found.rights.as_slice()), (Role::Trainer, &[Right::GivenKeys][..]));
        let before = expires - Duration::from_secs(1);
        let found = tokens.of_token(&token(2), before).unwrap();
        assert!(found.tenant.is_default() && found.rights.is_empty());
        assert_eq!(tokens.of_token(&token(2), expires), Err(Stranger::Expired));
        assert_eq!(tokens.of_token(&token(3), before), Err(Stranger::Unknown));
    }

    #[test]
    fn a_tenant_has_its_bounds() {
        let tenant = "[[tenant]]\nname = \"one\"\nmax_sessions = 3\nmax_session_bytes = \"2MiB\"\n";
        let text = entry("a", 1, "tenant = \"one\"") + &entry("b", 2, "") + tenant;
        let tokens = Tokens::parse(&text).unwrap();
        let quota = |number| tokens.of_token(&token(number), SystemTime::now()).unwrap().quota;
        let bounds = Quota { max_sessions: Some(3), max_session_bytes: Some(2 << 20), ..Quota::default() };
        assert_eq!((quota(1), quota(2)), (bounds, Quota::default()));
    }

    #[test]
    fn a_caller_is_found_by_the_names_in_its_certificate() {
        let of = |name: &str, san: &str| {
            format!("[[certificate]]\nsan = \"{san}\"\nname = \"{name}\"\nrole = \"operator\"\n")
        };
        let text = of("a", "Trainer.example") + &of("b", "spiffe://example/B");
        let tokens = Tokens::parse(&text).unwrap();
        let of_names = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| san(name)).collect();
            tokens.of_names(&names).map(|found| found.name.clone())
        };
        assert_eq!(of_names(&["other", "trainer.EXAMPLE"]).unwrap(), "a");
        assert_eq!(of_names(&["spiffe://example/B"]).unwrap(), "b");
        assert_eq!(of_names(&["spiffe://example/b"]), Err(Stranger::Nothing));
        assert_eq!(of_names(&["trainer.example", "spiffe://example/B"]), Err(Stranger::Several));
        assert_eq!(of_names(&[]), Err(Stranger::Nothing));
    }

    #[test]
    fn a_mistake_is_told_by_entry_field_and_rule() {
        let hash = token(1).hash();
        let secret = token(9);
        let one = entry("a", 1, "");
        for (text, says) in [
            (format!("{one}{}", entry("a", 2, "")), "token[1]: name: must be there once, found `a` twice"),
            (format!("{one}{}", entry("b", 1, "")), "token[1]: hash: must be there once"),
            (entry("b/c", 1, ""), "token[0]: name: must be 1 to 64"),
            (entry("b", 1, "tenant = \"\""), "token[0]: tenant: must be"),
            (entry("b", 1, "rights = [\"all\"]"), "token[0]: rights: must be one of allow_divergence"),
            (entry("b", 1, "expires = \"tomorrow\""), "token[0]: expires: must be a moment in UTC"),
            (entry("b", 1, "admin = true"), "line 5: unknown field `admin`"),
            (one.replace("trainer", "root"), "token[0]: role: must be one of trainer, analyst, operator"),
            (
                one.replace("trainer", "analyst") + "rights = [\"given_keys\"]",
                "token[0]: rights: must be empty",
            ),
            (one.replace(&hash.to_string(), "12"), "token[0]: hash: must be 64 hexadecimal digits"),
            (one.replace(&hash.to_string(), secret.text()), "token[0]: hash: must be the hash of a token"),
            (format!("{one}rights = \"{}\"", secret.text()), "line 6: has a token in the place"),
            ("[[tokens]]".to_owned(), "line 1: unknown field `tokens`"),
            (
                "[[tenant]]\nname = \"a\"\nrequests_per_second = 0".to_owned(),
                "tenant[0]: requests_per_second: ",
            ),
            ("[[tenant]]\nname = \"a\"\n".repeat(2), "tenant[1]: name: must be there once"),
            (
                "[[certificate]]\nsan = \"\"\nname = \"a\"\nrole = \"trainer\"".to_owned(),
                "certificate[0]: san: ",
            ),
        ] {
            let told = format!("{:#}", Tokens::parse(&text).unwrap_err());
            assert!(told.starts_with(says), "{text}: {told}");
            assert!(!told.contains(secret.text()), "{told}");
        }
    }
}
