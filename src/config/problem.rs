//! One line of complaint per problem, with what to do about it.

use std::fmt;

/// Something in the configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// `section.key`, as in `config.toml`.
    pub key: String,
    /// The value as it was written, secrets hidden; `None` where there is none to show.
    pub value: Option<String>,
    /// Which file or variable said it.
    pub source: String,
    /// What a value must be.
    pub rule: String,
    /// What to do.
    pub hint: String,
    /// The other keys that the rule is about.
    pub(super) with: &'static [&'static str],
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigProblems(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has a problem")?,
            n => write!(f, "the configuration has {n} problems")?,
        }
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n\n{problem}"))
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}", self.key)?,
            None => write!(f, "{}", self.key)?,
        }
        write!(
            f,
            "  ({})\n  rule: {}\n  hint: {}",
            self.source, self.rule, self.hint
        )
    }
}
