//! `noisectl token`: tokens by which a server knows its callers.
//!
//! | room | what is in it |
//! |---|---|
//! | `new` | makes a token, and the entry of the server's tokens file for it |
//! | `file` | adds an entry to a tokens file |

mod file;
mod new;

use clap::Subcommand;

use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token: print it, once, and add its hash to the tokens file of a server.
    New(new::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(args) => args.run(),
        }
    }
}
