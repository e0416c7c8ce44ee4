//! What was found, and how it is judged.

use std::fmt::Display;

use serde::Serialize;

/// What one check found, before it is judged beside the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The check's name, as in [the checks](crate#the-checks).
    pub name: String,
    /// What was computed from the values.
    pub statistic: f64,
    /// What it ought to be, for people.
    pub expected: String,
    /// What that says.
    pub evidence: Evidence,
}

/// What a statistic says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// A sound source gives one so extreme with this probability, the p-value.
    Chance(f64),
    /// A rule that has no exceptions, and whether it holds.
    Rule(bool),
}

impl Finding {
    /// A statistic with its p-value.
    pub(crate) fn chance(
        name: impl Into<String>,
        statistic: f64,
        expected: impl Into<String>,
        p_value: f64,
    ) -> Self {
        let evidence = Evidence::Chance(p_value);
        Self { name: name.into(), statistic, expected: expected.into(), evidence }
    }

    /// A count under a rule.
    pub(crate) fn rule(
        name: impl Into<String>,
        count: u64,
        expected: impl Into<String>,
        holds: bool,
    ) -> Self {
        let evidence = Evidence::Rule(holds);
        Self { name: name.into(), statistic: count as f64, expected: expected.into(), evidence }
    }
}

/// A value with its standard deviation, for people.
pub(crate) fn around(value: impl Display, deviation: f64) -> String {
    format!("{value} ± {}", digits(deviation))
}

/// Three digits, for people.
pub(crate) fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.2e}");
    }
    let before_point = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - before_point).clamp(0, 7) as usize)
}

/// Whether a check, or all of them, passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing speaks against the source.
    Pass,
    /// A sound source does not do this.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Its name, as in [the checks](crate#the-checks).
    pub name: String,
    /// What was computed from the values.
    pub statistic: f64,
    /// What it ought to be, for people.
    pub expected: String,
    /// How probable a statistic so extreme is where the source is sound; `None` for a rule without
    /// exceptions.
    pub p_value: Option<f64>,
    /// Whether it passed.
    pub verdict: Verdict,
}

/// All checks of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The probability that a sound source fails any of the checks.
    pub level: f64,
    /// The p-value below which a check fails, from `level` and the number of checks that have one.
    pub threshold: f64,
    /// Every check that was made.
    pub checks: Vec<Check>,
}

impl Report {
    /// Judges findings together: a sound source fails with a probability of about `level`, however many there
    /// are.
    ///
    /// Findings of several streams, or of a [`Verifier`](crate::Verifier) and an
    /// [`Independence`](crate::Independence), can be judged as one.
    pub fn judge(findings: Vec<Finding>, level: f64) -> Self {
        let chances =
            findings.iter().filter(|finding| matches!(finding.evidence, Evidence::Chance(_))).count();
        let threshold = -((-level).ln_1p() / chances.max(1) as f64).exp_m1();
        let check = |finding: Finding| {
            let Finding { name, statistic, expected, evidence } = finding;
            let (p_value, passed) = match evidence {
                // A p-value that is not a number says that the statistic could not be computed.
                Evidence::Chance(p) => (Some(p), p >= threshold),
                Evidence::Rule(holds) => (None, holds),
            };
            let verdict = if passed { Verdict::Pass } else { Verdict::Fail };
            Check { name, statistic, expected, p_value, verdict }
        };
        Self { level, threshold, checks: findings.into_iter().map(check).collect() }
    }

    /// Whether every check passed. A report without checks has not.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.failures().next().is_none()
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict == Verdict::Fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let shown = [0.0, 9.134e-4, 0.0123, 1.5, 59.38, 1763.2, 1e5, 1e6, 5.5e-6].map(digits);
        assert_eq!(shown, ["0", "0.000913", "0.0123", "1.50", "59.4", "1763", "100000", "1.00e6", "5.50e-6"]);
        assert_eq!(around(1, 0.001), "1 ± 0.00100");
    }

    #[test]
    fn many_checks_share_one_level() {
        let findings = |p: f64| {
            let mut all = vec![Finding::chance("a", 0.0, "", 0.5); 9];
            all.push(Finding::chance("b", 0.0, "", p));
            all.push(Finding::rule("c", 0, "none", true));
            all
        };
        assert!(Report::judge(findings(1.1e-7), 1e-6).passed());
        let report = Report::judge(findings(0.9e-7), 1e-6);
        assert!((report.threshold / 1e-7 - 1.0).abs() < 1e-5);
        assert_eq!(report.failures().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(!Report::judge(findings(f64::NAN), 1e-6).passed());
        assert!(!Report::judge(vec![Finding::rule("c", 1, "none", false)], 1e-6).passed());
        assert!(!Report::judge(Vec::new(), 1e-6).passed());
    }
}
