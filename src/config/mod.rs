//! Every setting: `Config::default()`, then `config.toml`, then `HAPAX__SECTION__KEY`.
//!
//! Sizes are bytes, durations `std::time::Duration`; in text they read "64 MiB" and "24h". A bad
//! configuration is refused as a whole, with every problem at once: an operator should not have to
//! start the server once per typing error.

mod problem;
mod redact;
mod sections;
mod sources;
mod suggest;
mod units;
mod validate;

use std::path::Path;

pub use problem::{ConfigProblem, ConfigProblems};
pub use sections::*;
pub use units::{format_bytes, format_percent, parse_bytes, parse_percent};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "config.toml";

impl Config {
    /// Reads `file` (or `./config.toml`, if there is one) and the environment.
    ///
    /// # Errors
    /// Everything that is wrong with either, and with what they add up to.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigProblems> {
        let mut problems = Vec::new();
        let text = match sources::read_file(file) {
            Ok(text) => text,
            Err(problem) => {
                problems.push(*problem);
                None
            }
        };
        let text = text
            .as_ref()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        match Self::from_sources(text, std::env::vars_os()) {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(ConfigProblems(problems)),
            Err(ConfigProblems(more)) => {
                problems.extend(more);
                Err(ConfigProblems(problems))
            }
        }
    }

    /// As [`Config::load`], from a file's name and text and from environment variables in hand.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_sources(
        file: Option<(&str, &str)>,
        environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, ConfigProblems> {
        let mut settings = sources::Settings::default();
        if let Some((name, text)) = file {
            settings.add_toml(name, text);
        }
        settings.add_environment(environment);
        settings.into_config()
    }
}

#[cfg(test)]
mod tests;
