//! Reports of checks, as a table and as JSON.

use noised::analysis::Growth;
use noised_verify::{Check, Report, Verdict};
use serde_json::{Value, json};

use crate::describe;
use crate::failure::Failure;
use crate::output::{Format, print_json, print_line, print_note, print_table, short};

/// Prints a report: `{"passed", "level", "threshold", "checks": [{"name", "statistic", "expected", "p_value",
/// "verdict"}]}`, or a table with a line that sums it up.
pub(super) fn print(report: &Report, growth: Option<&Growth>, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => print_json(&to_json(report, growth)),
        Format::Table => {
            let header = ["check", "found", "expected", "p-value", "verdict"].map(str::to_owned);
            print_table(header.into(), report.checks.iter().map(to_row).collect())?;
            let (failed, all) = (report.failures().count(), report.checks.len());
            print_line("")?;
            print_note(&format!(
                "{failed} of {all} checks failed. One fails where its p-value is below {:.1e}; sound noise fails any \
                 with a probability of {:e}.",
                report.threshold, report.level
            ))?;
            match growth {
                Some(growth) => print_line(&format!("Rounding errors: {}.", describe::to_words(growth))),
                None => Ok(()),
            }
        }
    }
}

/// A report that failed is a failure, which names the checks.
pub(super) fn judge(report: &Report) -> Result<(), Failure> {
    if report.passed() {
        return Ok(());
    }
    let names: Vec<&str> = report.failures().map(|check| check.name.as_str()).collect();
    Err(Failure::failed("the noise is not what it should be", names.join(", ")))
}

fn to_json(report: &Report, growth: Option<&Growth>) -> Value {
    let Report { level, threshold, checks } = report;
    let mut told =
        json!({ "passed": report.passed(), "level": level, "threshold": threshold, "checks": checks });
    if let Some(growth) = growth {
        told["growth"] = describe::growth_to_json(growth);
    }
    told
}

fn to_row(check: &Check) -> Vec<String> {
    let Check { name, statistic, expected, p_value, verdict } = check;
    let p_value = p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.2e}"));
    let verdict = match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
    };
    vec![name.clone(), short(*statistic), expected.clone(), p_value, verdict.to_owned()]
}
