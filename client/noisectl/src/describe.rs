//! `noisectl describe`: what a session on a matrix would hold and move.

use noised::analysis::{self, Description, Growth, TreeDescription};
use serde_json::{Map, Value, json};

use crate::args::{FormatArg, MatrixArg, Place, StateArgs, TreeArg};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, bytes, or_none, print_fields, print_json, short};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    matrix: MatrixArg,
    #[command(flatten)]
    tree: TreeArg,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let matrix = self.matrix.read(&context.files)?;
        let tree = self.tree.read(&context.files)?;
        let tree = tree.as_ref().map(|tree| (tree, self.state.shard()));
        let precision = self.state.precision;
        let description = match self.place.client().await? {
            None => analysis::describe(&matrix, tree, precision)?,
            Some(client) => client.analysis().describe(&matrix, tree, precision).await?,
        };
        match self.format.format {
            Format::Json => print_json(&Value::Object(to_json(&description))),
            Format::Table => print_fields(to_fields(&description)),
        }
    }
}

fn to_json(description: &Description) -> Map<String, Value> {
    let Description { planes, planes_read, planes_written, toeplitz, horizon, precision, growth, tree } =
        description;
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("planes", json!(planes));
    put("planes_read", json!(planes_read));
    put("planes_written", json!(planes_written));
    put("toeplitz", json!(toeplitz));
    put("horizon", json!(horizon));
    put("precision", json!(precision.name()));
    put("growth", growth_to_json(growth));
    if let Some(tree) = tree {
        let TreeDescription { lanes, step_bytes, state_bytes, memory_bytes, moved_bytes_per_step } = tree;
        put("lanes", json!(lanes));
        put("step_bytes", json!(step_bytes));
        put("state_bytes", json!(state_bytes));
        put("memory_bytes", json!(memory_bytes));
        put("moved_bytes_per_step", json!(moved_bytes_per_step));
    }
    object
}

/// How a matrix grows, for programs.
pub(crate) fn growth_to_json(growth: &Growth) -> Value {
    let Growth { steps, relative_error, sound_steps, overflows } = growth;
    json!({
        "steps": steps,
        "relative_error": relative_error,
        "sound_steps": sound_steps,
        "overflows": overflows,
    })
}

/// How a matrix grows, in a line.
pub(crate) fn to_words(growth: &Growth) -> String {
    let Growth { steps, relative_error, sound_steps, overflows } = growth;
    match (sound_steps, overflows) {
        (Some(sound), true) => format!("values overflow from step {sound} on"),
        (Some(sound), false) => format!("more than 1% from step {sound} on: its recurrences grow and cancel"),
        (None, _) => format!("{} of what it gives after {steps} steps", short(*relative_error)),
    }
}

fn to_fields(description: &Description) -> Vec<(&'static str, String)> {
    let Description { planes, planes_read, planes_written, toeplitz, horizon, precision, growth, tree } =
        description;
    let mut fields = vec![
        ("planes", planes.to_string()),
        ("planes read a step", planes_read.to_string()),
        ("planes written a step", planes_written.to_string()),
        ("toeplitz", if *toeplitz { "yes" } else { "no" }.to_owned()),
        ("horizon", or_none(*horizon)),
        ("precision", precision.to_string()),
        ("rounding errors", to_words(growth)),
    ];
    if let Some(tree) = tree {
        let TreeDescription { lanes, step_bytes, state_bytes, memory_bytes, moved_bytes_per_step } = tree;
        fields.extend([
            ("lanes", lanes.to_string()),
            ("payload of a step", bytes(*step_bytes)),
            ("state", bytes(*state_bytes)),
            ("memory of a session", bytes(*memory_bytes)),
            ("memory moved a step", bytes(*moved_bytes_per_step)),
        ]);
    }
    fields
}
