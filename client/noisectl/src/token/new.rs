//! `noisectl token new`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use noised_proto::access::{Right, Role, check_caller, check_rights};
use noised_proto::token::Token;

use super::file::Addition;
use crate::args::parse_time;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who will have the token: the name that the server's logs show. No two entries of a file have one
    /// name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Whose sessions the caller has. Callers of one tenant share sessions, and see none of other tenants.
    /// Unless given, the default tenant.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// What the caller is there for: trainer (sessions of its tenant, questions about matrices), analyst
    /// (questions about matrices) or operator (lists, looks at and deletes the sessions of all tenants).
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// Give a trainer a right: allow_divergence, start_noise_over, given_keys or export_states. May be
    /// given several times.
    #[arg(long = "right", value_name = "RIGHT")]
    rights: Vec<Right>,
    /// How long the token is good for, such as 90d. Unless given, until its entry is deleted.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_in: Option<Duration>,
    /// The tokens file to add the entry to; it is made where it is missing. Unless given, the entry goes to
    /// standard error.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| Failure::failed("the system gives no random bytes", e))?;
        let token = Token::from_bytes(bytes);
        let entry = self.entry(&token)?;
        let Some(path) = &self.file else {
            print(&token)?;
            let told = write!(io::stderr(), "# An entry for the tokens file of the server:\n{entry}");
            return told.map_err(|e| Failure::failed("standard error", e));
        };
        // The file is ready before anybody has the token, and changes once somebody has.
        let addition = Addition::prepare(path, &self.name, &entry)?;
        print(&token)?;
        addition.put_in_place()
    }

    /// The entry of a token, as the server reads it. All that is in it is of letters, digits and a few
    /// signs.
    fn entry(&self, token: &Token) -> Result<String, Failure> {
        let Self { name, tenant, role, rights, expires_in, file: _ } = self;
        check_caller("name", name)?;
        check_rights(*role, rights)?;
        let mut lines = vec!["[[token]]".to_owned(), format!("name = \"{name}\"")];
        if let Some(tenant) = tenant {
            check_caller("tenant", tenant)?;
            lines.push(format!("tenant = \"{tenant}\""));
        }
        lines.push(format!("role = \"{role}\""));
        if !rights.is_empty() {
            let rights: Vec<String> = rights.iter().map(|right| format!("\"{right}\"")).collect();
            lines.push(format!("rights = [{}]", rights.join(", ")));
        }
        if let Some(time) = expires_in {
            let too_long = || Failure::usage("expires_in", "must end before the year 10000");
            let expires = SystemTime::now().checked_add(*time).filter(|end| *end < year_10000());
            let expires = humantime::format_rfc3339_seconds(expires.ok_or_else(too_long)?);
            lines.push(format!("expires = \"{expires}\""));
        }
        lines.push(format!("hash = \"{}\"\n", token.hash()));
        Ok(lines.join("\n"))
    }
}

/// No moment after this is written in the form of RFC 3339.
fn year_10000() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800)
}

fn print(token: &Token) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", token.text()).and_then(|()| stdout.flush()).map_err(|e| Failure::printing(&e))
}
