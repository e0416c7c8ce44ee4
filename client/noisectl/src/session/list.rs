//! `noisectl session list`.

use serde_json::{Value, json};

use super::show::to_json;
use crate::args::{FormatArg, ServerArg};
use crate::failure::Failure;
use crate::output::{Format, bytes, print_json, print_table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let sessions = self.server.client().await?.list_sessions().await?;
        if self.format.format == Format::Json {
            let sessions: Vec<Value> = sessions.iter().map(to_json).collect();
            return print_json(&json!({ "sessions": sessions }));
        }
        let header = ["name", "next step", "lanes", "step", "memory"].map(str::to_owned).to_vec();
        let rows = sessions.iter().map(|info| {
            vec![
                info.name.clone(),
                info.next_step.to_string(),
                info.lanes.to_string(),
                bytes(info.step_bytes),
                bytes(info.memory_bytes),
            ]
        });
        print_table(header, rows.collect())
    }
}
