//! `noisectl recommend`: which strategy to use.

use std::io::{self, Write};

use noised::design::{self, Candidate, Recommendation};
use serde_json::{Value, json};

use super::args::{ProblemArgs, SaveArg};
use super::optimize::to_json;
use super::progress::{Search, end_early};
use crate::args::Place;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{
    SeriesFormat, SeriesFormatArg, csv_text, print_json, print_note, print_table, short, short_up, stdout,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// State values a lane that the noising matrix may take.
    #[arg(long, value_name = "P")]
    planes: usize,
    #[command(flatten)]
    problem: ProblemArgs,
    #[command(flatten)]
    save: SaveArg,
    #[cfg(feature = "plot")]
    #[command(flatten)]
    plot: super::args::PlotArg,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: SeriesFormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let problem = self.problem.read(&context.files)?;
        let save = self.save.prepare(context)?;
        #[cfg(feature = "plot")]
        let plot = self.plot.prepare(context)?;
        let client = context.interrupt.stop(self.place.client()).await?;
        let search = Search::start(&context.interrupt);
        let found = match client {
            None => design::recommend(&problem, self.planes, &mut |progress| search.goes_on(progress))
                .map_err(Failure::from),
            Some(client) => {
                let goes_on = |progress| search.goes_on(progress);
                client.analysis().recommend(&problem, self.planes, goes_on).await.map_err(Failure::from)
            }
        };
        let found = search.end(found)?;
        let Recommendation { candidates, reason, complete } = &found;
        if let Some(best) = candidates.first() {
            save.write(&best.design.noising_matrix)?;
        }
        #[cfg(feature = "plot")]
        plot.write(|| Ok(super::figures::planes(candidates, problem.n)))?;
        match self.format.format {
            SeriesFormat::Json => {
                let candidates = candidates.iter().map(candidate_to_json).collect::<Result<Vec<_>, _>>()?;
                print_json(&json!({ "candidates": candidates, "reason": reason, "complete": complete }))?;
            }
            SeriesFormat::Csv => write_csv(candidates).map_err(|e| Failure::printing(&e))?,
            SeriesFormat::Table => write_table(&found)?,
        }
        end_early(&context.interrupt, found.complete)
    }
}

fn candidate_to_json(candidate: &Candidate) -> Result<Value, Failure> {
    let Candidate { name, family, planes, design } = candidate;
    let mut object = to_json(design)?;
    object.insert("name".to_owned(), json!(name));
    object.insert("family".to_owned(), json!(family));
    object.insert("planes".to_owned(), json!(planes));
    Ok(Value::Object(object))
}

fn write_csv(candidates: &[Candidate]) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "name,family,planes,loss,mean,max,sensitivity,exact")?;
    for Candidate { name, family, planes, design } in candidates {
        let (sensitivity, exact) = (design.sensitivity.value(), design.sensitivity.exact);
        let (loss, mean, max) = (design.loss, design.mean, design.max);
        writeln!(out, "{},{family},{planes},{loss},{mean},{max},{sensitivity},{exact}", csv_text(name))?;
    }
    out.flush()
}

fn write_table(found: &Recommendation) -> Result<(), Failure> {
    let row = |candidate: &Candidate| {
        let Candidate { name, family: _, planes, design } = candidate;
        let bound = if design.sensitivity.exact { "" } else { "<= " };
        vec![
            name.clone(),
            planes.to_string(),
            short(design.loss.sqrt()),
            short(design.mean.sqrt()),
            short(design.max.sqrt()),
            format!("{bound}{}", short_up(design.sensitivity.value())),
        ]
    };
    let header = ["strategy", "planes", "root of the loss", "rmse", "largest error", "sensitivity"];
    print_table(header.map(str::to_owned).to_vec(), found.candidates.iter().map(row).collect())?;
    print_note(&found.reason)
}
