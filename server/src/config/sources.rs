//! Where a setting was given, for whoever has to mend it.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Options;

/// A setting that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The setting's name, as in the file.
    pub name: &'static str,
    /// The rule, and what was found.
    pub rule: String,
}

impl SettingError {
    pub(super) fn new(name: &'static str, rule: impl Into<String>) -> Self {
        Self { name, rule: rule.into() }
    }
}

impl std::fmt::Display for SettingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.rule)
    }
}

impl std::error::Error for SettingError {}

/// Where each setting was given.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Those of a command line, whose flags may come from the environment.
    pub fn of_flags(matches: &ArgMatches) -> Self {
        let ids = matches.ids().map(|id| id.as_str());
        let given = ids.filter_map(|id| {
            let place = match matches.value_source(id)? {
                ValueSource::CommandLine => format!("the flag {}", flag(id)),
                ValueSource::EnvVariable => format!("the environment variable {}", variable(id)),
                _ => return None,
            };
            Some((id.to_owned(), format!("set by {place}")))
        });
        Self(given.collect())
    }

    /// The same with what a file gives beside them.
    #[must_use]
    pub fn with_file(mut self, path: &Path, options: &Options) -> Self {
        for name in options.given() {
            self.0.entry(name.to_owned()).or_insert_with(|| format!("set in {}", path.display()));
        }
        self
    }

    /// Adds to a [`SettingError`] where the setting was given.
    pub fn name_in(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(SettingError { name, rule }) = error.downcast_ref() else {
            return error;
        };
        match self.0.get(*name) {
            Some(place) => SettingError::new(name, format!("{rule} ({place})")).into(),
            None => error,
        }
    }
}

/// The flag of a setting.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

/// The environment variable of a setting.
fn variable(name: &str) -> String {
    format!("NOISED_{}", name.to_uppercase())
}
