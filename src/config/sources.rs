//! From a file and the environment to one tree of settings, each of which remembers who said it.
//!
//! Every setting is tried alone on top of the good ones, so that one bad value hides no other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use super::problem::{ConfigProblem, ConfigProblems};
use super::redact::shown_value;
use super::suggest::nearest;
use super::{Config, DEFAULT_FILE};

/// What every variable of ours begins with.
const ENVIRONMENT_PREFIX: &str = "HAPAX__";

/// One value somebody set.
struct Setting {
    value: Value,
    /// As it was written.
    shown: String,
    source: String,
}

/// What was set, and what was wrong with how.
pub(super) struct Settings {
    /// The defaults as a tree: it names every key there is.
    defaults: Value,
    by_key: BTreeMap<String, Setting>,
    problems: Vec<ConfigProblem>,
}

/// The file's name and text; `None` when none was named and there is none.
pub(super) fn read_file(
    named: Option<&Path>,
) -> Result<Option<(String, String)>, Box<ConfigProblem>> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.display().to_string(), text))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Box::new(ConfigProblem {
            key: "--config".to_owned(),
            value: Some(path.display().to_string()),
            source: error.to_string(),
            rule: "a readable TOML file in UTF-8".to_owned(),
            hint: format!(
                "name another file, or none to use the defaults and {ENVIRONMENT_PREFIX}… variables"
            ),
            with: &[],
        })),
    }
}

/// `server.bind` is `HAPAX__SERVER__BIND`.
pub(super) fn variable_of(key: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        key.to_uppercase().replace('.', "__")
    )
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            defaults: serde_json::to_value(Config::default())
                .expect("the defaults are plain numbers, texts and lists"),
            by_key: BTreeMap::new(),
            problems: Vec::new(),
        }
    }
}

impl Settings {
    /// Takes a file's settings.
    pub(super) fn add_toml(&mut self, name: &str, text: &str) {
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table(name, "", &table),
            Err(error) => self.problems.push(ConfigProblem {
                key: name.to_owned(),
                value: None,
                source: location(text, error.span()),
                rule: format!("valid TOML: {}", error.message()),
                hint: "each key once, texts in double quotes, sections as [name]".to_owned(),
                with: &[],
            }),
        }
    }

    fn add_table(&mut self, file: &str, above: &str, table: &toml::Table) {
        for (name, value) in table {
            let key = match above {
                "" => name.clone(),
                above => format!("{above}.{name}"),
            };
            match (
                lookup(&self.defaults, &key).is_some_and(Value::is_object),
                value,
            ) {
                (true, toml::Value::Table(inner)) => self.add_table(file, &key, inner),
                _ => {
                    let shown = value.to_string();
                    let value = serde_json::to_value(value).unwrap_or(Value::Null);
                    self.set(&key, value, shown, file.to_owned());
                }
            }
        }
    }

    /// Takes the variables that begin with `HAPAX__`; they win over the file.
    pub(super) fn add_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) {
        for (variable, value) in environment {
            let Some(variable) = variable.to_str() else {
                continue;
            };
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            let key = name.replace("__", ".").to_lowercase();
            let shown = value.to_string_lossy().into_owned();
            if variable_of(&key) != variable {
                self.refuse_unknown(&key, &shown, variable.to_owned());
                continue;
            }
            let value = match value.into_string() {
                Ok(text) => self.value_from_text(&key, text),
                // No key takes null: it is refused with the key's own rule.
                Err(_) => Value::Null,
            };
            self.set(&key, value, shown, variable.to_owned());
        }
    }

    /// A variable's text as the type that its key has; a text that does not fit stays one and is
    /// refused later with the key's own rule.
    fn value_from_text(&self, key: &str, text: String) -> Value {
        let parsed = match lookup(&self.defaults, key) {
            Some(Value::Number(_) | Value::Bool(_) | Value::Array(_)) => {
                serde_json::from_str(text.trim()).ok()
            }
            _ => None,
        };
        parsed.unwrap_or(Value::String(text))
    }

    fn set(&mut self, key: &str, value: Value, shown: String, source: String) {
        match lookup(&self.defaults, key) {
            Some(Value::Object(section)) => {
                let hint = match section.keys().next() {
                    Some(first) => format!("set its keys, like {key}.{first}"),
                    None => "remove it".to_owned(),
                };
                self.problems.push(ConfigProblem {
                    key: key.to_owned(),
                    // It may hold secrets in any spelling.
                    value: None,
                    source,
                    rule: "a section, not a value".to_owned(),
                    hint,
                    with: &[],
                });
            }
            Some(_) => {
                let setting = Setting {
                    value,
                    shown,
                    source,
                };
                self.by_key.insert(key.to_owned(), setting);
            }
            None => self.refuse_unknown(key, &shown, source),
        }
    }

    fn refuse_unknown(&mut self, key: &str, shown: &str, source: String) {
        let known = keys_of(&self.defaults);
        let variable = source.starts_with(ENVIRONMENT_PREFIX);
        let hint = match nearest(key, known.iter().map(String::as_str)) {
            Some(near) if variable => format!("did you mean {}?", variable_of(near)),
            Some(near) => format!("did you mean {near}?"),
            None => "the shipped config.toml lists every key; remove this one".to_owned(),
        };
        // An unknown key may be a misspelt secret.
        let secret = ["secret", "password", "url", "key", "token"];
        let value = match secret.iter().any(|part| key.contains(part)) {
            true => "(hidden)".to_owned(),
            false => shown.to_owned(),
        };
        self.problems.push(ConfigProblem {
            key: key.to_owned(),
            value: Some(value),
            source,
            rule: "a known key".to_owned(),
            hint,
            with: &[],
        });
    }

    /// The whole configuration, or all that is wrong with it.
    pub(super) fn into_config(mut self) -> Result<Config, ConfigProblems> {
        let mut tree = self.defaults.clone();
        let mut refused = Vec::new();
        for (key, setting) in &self.by_key {
            let default = lookup(&self.defaults, key).unwrap_or(&Value::Null);
            match try_value(&tree, key, setting.value.clone()) {
                Ok(taken) => tree = taken,
                Err(mut message) => {
                    if default.is_string() && !setting.value.is_string() {
                        // Asked for as a text, the key's own parser tells its rule.
                        let text = Value::String(setting.shown.clone());
                        message = match try_value(&tree, key, text) {
                            Ok(_) => "expected a string".to_owned(),
                            Err(message) => message,
                        };
                    }
                    let problem = refusal(key, setting, default, &message);
                    refused.push(key.as_str());
                    self.problems.push(problem);
                }
            }
        }
        let config: Config =
            serde_json::from_value(tree).expect("each value was taken on its own before");
        // A rule about a value that could not be read would only repeat what is already said.
        let broken = config.validate().into_iter().filter(|problem| {
            !refused.contains(&problem.key.as_str())
                && !problem.with.iter().any(|key| refused.contains(key))
        });
        for mut problem in broken {
            if let Some(setting) = self.by_key.get(&problem.key) {
                problem.source.clone_from(&setting.source);
            }
            self.problems.push(problem);
        }
        match self.problems.is_empty() {
            true => Ok(config),
            false => Err(ConfigProblems(self.problems)),
        }
    }
}

/// The tree with one value replaced, or why the configuration cannot be read with it.
fn try_value(tree: &Value, key: &str, value: Value) -> Result<Value, String> {
    let mut trial = tree.clone();
    if let Some(leaf) = trial.pointer_mut(&pointer(key)) {
        *leaf = value;
    }
    match serde_json::from_value::<Config>(trial.clone()) {
        Ok(_) => Ok(trial),
        Err(error) => Err(error.to_string()),
    }
}

/// Says what was wrong with one value, from what its type's parser said.
fn refusal(key: &str, setting: &Setting, default: &Value, message: &str) -> ConfigProblem {
    let expected = message
        .split_once("expected ")
        .map(|(_, expected)| expected);
    let choices: Vec<&str> = match (message.starts_with("unknown variant"), expected) {
        (true, Some(expected)) => expected.split('`').skip(1).step_by(2).collect(),
        _ => Vec::new(),
    };
    let rule = match default {
        _ if !choices.is_empty() => format!("one of {}", choices.join(", ")),
        Value::Number(_) if expected == Some("u32") => format!("a whole number up to {}", u32::MAX),
        Value::Number(_) => "a whole number, 0 or more".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Array(_) => "a list of texts (in a variable: a JSON array)".to_owned(),
        _ => match expected {
            Some("a string" | "path string") => "a text".to_owned(),
            Some(expected) => expected.to_owned(),
            None => message.to_owned(),
        },
    };
    let meant = setting
        .value
        .as_str()
        .and_then(|written| nearest(written, choices.iter().copied()));
    let hint = match meant {
        Some(choice) => format!("did you mean {choice}?"),
        None => format!("the default is {default}"),
    };
    ConfigProblem {
        key: key.to_owned(),
        value: Some(shown_value(key, &setting.shown)),
        source: setting.source.clone(),
        rule,
        hint,
        with: &[],
    }
}

/// Every key there is, as `section.key`.
pub(super) fn keys_of(tree: &Value) -> Vec<String> {
    let Value::Object(entries) = tree else {
        return vec![String::new()];
    };
    entries
        .iter()
        .flat_map(|(name, below)| {
            keys_of(below)
                .into_iter()
                .map(move |key| match key.as_str() {
                    "" => name.clone(),
                    key => format!("{name}.{key}"),
                })
        })
        .collect()
}

/// The value of `section.key`.
pub(super) fn lookup<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |tree, name| tree.get(name))
}

fn pointer(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}

fn location(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {line}, column {column}")
        }
        None => "no line known".to_owned(),
    }
}
