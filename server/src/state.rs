//! `noised state`: looks at a store of sessions, and cleans it, also while servers have it.

use std::io::Write;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::{Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use noised_proto::name;
use serde::Serialize;
use serde_json::json;

use crate::Config;
use crate::durable::{Census, open_to_look};
pub use crate::durable::{Collected, Damage, Holding, StoredSession, StoredState, Totals};
use crate::identity::{Caller, SessionKey};

/// What to do with a store.
#[derive(Clone, Debug, Subcommand)]
pub enum StateCommand {
    /// List the sessions of the store
    Ls {
        /// List sessions that were deleted as well: a store knows of them until their names are used again
        #[arg(long)]
        all: bool,
        /// How to write them
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: StateFormat,
    },
    /// Show all that the store knows of one session, as JSON
    Show {
        /// Its name: sessions/{id}, tenants/{tenant}/sessions/{id}, or the id alone
        session: String,
    },
    /// Read every object, and tell what is damaged or missing: exits with 0 where nothing is
    Verify {
        /// How to write what was found
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: StateFormat,
    },
    /// Delete what servers that are gone have left in their journals, where no session needs it
    Gc,
}

/// How something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Looks at the store of a configuration, or cleans it, and writes what it finds.
///
/// # Errors
/// Where there is no such store or session, where the store does not answer, and where something is damaged.
pub async fn look(config: &Config, command: StateCommand, mut out: impl Write) -> anyhow::Result<()> {
    let settings = config.state.as_ref().context("state: is missing: which store?")?;
    let mut census = Census::new(open_to_look(settings, config.master_key.clone())?);
    match command {
        StateCommand::Ls { all, format } => {
            let (mut sessions, damages) = census.sessions().await?;
            sessions.retain(|session| all || session.holding != Holding::Ended);
            match format {
                StateFormat::Json => write_json(out, &json!({ "sessions": sessions, "damages": damages }))?,
                StateFormat::Text => write_sessions(out, &sessions, &damages)?,
            }
            sound(&damages)
        }
        StateCommand::Show { session } => {
            let found = census.session(&key_of(&session)?).await?;
            let (session, matrix) = found.with_context(|| format!("the store has no session {session}"))?;
            let mut shown = serde_json::to_value(session)?;
            shown["matrix"] = serde_json::to_value(matrix)?;
            write_json(out, &shown)
        }
        StateCommand::Verify { format } => {
            let (totals, damages) = census.verify().await?;
            match format {
                StateFormat::Json => write_json(out, &json!({ "totals": totals, "damages": damages }))?,
                StateFormat::Text => write_verdict(out, totals, &damages)?,
            }
            sound(&damages)
        }
        StateCommand::Gc => {
            let Collected { objects, journals, needed, in_use } = census.collect(settings.lease).await?;
            writeln!(out, "deleted {objects} objects; {journals} journals have ended")?;
            Ok(writeln!(
                out,
                "kept {needed} journals of servers that are gone, which sessions need, and {in_use} of others"
            )?)
        }
    }
}

/// The session of a name, or of an id alone.
fn key_of(session: &str) -> anyhow::Result<SessionKey> {
    let name = if session.contains('/') { session.to_owned() } else { name::session_name(session) };
    Ok(Caller::default().find(&name)?)
}

fn sound(damages: &[Damage]) -> anyhow::Result<()> {
    ensure!(damages.is_empty(), "the store is damaged in {} places", damages.len());
    Ok(())
}

fn write_json(mut out: impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut out, value)?;
    Ok(writeln!(out)?)
}

fn write_sessions(mut out: impl Write, sessions: &[StoredSession], damages: &[Damage]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "tenant", "session", "source", "matrix", "lanes", "step", "released", "state at", "bytes", "held by",
    ]);
    for column in 4..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for session in sessions {
        let step = format!("{}{}", session.next_step, if session.may_be_further { "+" } else { "" });
        let held = match (session.holding, &session.owner, &session.journal) {
            (Holding::Ended, ..) => "deleted".to_owned(),
            (_, Some(owner), _) => owner.clone(),
            (_, None, Some(journal)) => format!("journal {journal}"),
            (_, None, None) => "nobody".to_owned(),
        };
        table.add_row([
            session.tenant.clone(),
            session.name.clone(),
            session.source.to_owned(),
            session.matrix.to_owned(),
            session.lanes.to_string(),
            step,
            session.released_steps.to_string(),
            session.state.as_ref().map_or_else(|| "-".to_owned(), |state| state.step.to_string()),
            ByteSize::b(session.bytes).display().iec().to_string(),
            held,
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    write_damages(out, damages)
}

fn write_verdict(mut out: impl Write, totals: Totals, damages: &[Damage]) -> anyhow::Result<()> {
    let Totals { sessions, journals, objects, bytes } = totals;
    let bytes = ByteSize::b(bytes).display().iec();
    writeln!(out, "{sessions} sessions, {journals} journals, {objects} objects, {bytes}")?;
    write_damages(out, damages)
}

fn write_damages(mut out: impl Write, damages: &[Damage]) -> anyhow::Result<()> {
    for Damage { name, what } in damages {
        writeln!(out, "damaged: {name}: {what}")?;
    }
    Ok(())
}
