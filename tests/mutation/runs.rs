//! Building the test binary once, and running some of their tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A test by its full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    backend: &'static str,
    name: &'static str,
}

impl Test {
    /// A case of `tests/it` on one backend.
    pub(crate) fn case(backend: &'static str, name: &'static str) -> Self {
        Self { backend, name }
    }

    /// Without its backend.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Where it runs.
    pub(crate) fn backend(&self) -> &'static str {
        self.backend
    }

    fn full_name(&self) -> String {
        format!("{}::{}", self.backend, self.name)
    }
}

/// What a run of some tests gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passed: Vec<Test>,
    pub(crate) failed: Vec<Test>,
    /// All that was printed.
    pub(crate) text: String,
}

/// The built test binary.
pub(crate) struct Binary(PathBuf);

impl Binary {
    /// One that is built.
    pub(crate) fn at(path: &String) -> Self {
        Self(PathBuf::from(path))
    }

    /// Builds it with the feature `seams`, as `tests/run` does.
    pub(crate) fn build() -> Self {
        let built = Command::new(env!("CARGO"))
            .args([
                "test",
                "--workspace",
                "--locked",
                "--features",
                "hapax/seams",
            ])
            .args(["--test", "it", "--no-run", "--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo can be started");
        assert!(built.status.success(), "the tests cannot be built");
        let text = String::from_utf8_lossy(&built.stdout);
        let artifacts = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut executables = artifacts.filter_map(|artifact| {
            let path = artifact["executable"].as_str()?.to_owned();
            (artifact["target"]["name"] == "it").then(|| PathBuf::from(path))
        });
        Self(executables.next().expect("cargo built it"))
    }

    /// Runs these tests and no others; `without` is a rule to leave out.
    pub(crate) fn run(&self, tests: &[Test], without: Option<&str>) -> Outcome {
        let names: Vec<String> = tests.iter().map(Test::full_name).collect();
        let mut run = Command::new(&self.0);
        run.current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("HAPAX_TEST_ONLY", names.join(","))
            .env("HAPAX_TEST_REQUIRE_POSTGRES", "1");
        match without {
            Some(rule) => run.env("HAPAX_SEAMS_WITHOUT", rule),
            None => run.env_remove("HAPAX_SEAMS_WITHOUT"),
        };
        let output = run.output().expect("the binary is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut outcome = Outcome::default();
        for test in tests {
            let name = test.full_name();
            let line = text.lines().find(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.first() == Some(&"test") && words.get(1) == Some(&name.as_str())
            });
            match line.map(|line| line.ends_with("ok")) {
                Some(true) => outcome.passed.push(test.clone()),
                Some(false) => outcome.failed.push(test.clone()),
                None => panic!("{name} was not run:\n{text}"),
            }
        }
        outcome.text = text;
        outcome
    }
}

/// What failing tests said, one line each.
pub(crate) fn reasons(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let mut reasons = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("panicked at ") || line.contains("' panicked at") {
            let said = lines.next().unwrap_or_default();
            let said: String = said.chars().take(120).collect();
            let place = line.rsplit("panicked at ").next().unwrap_or_default();
            reasons.push(format!("{place} {said}"));
        }
    }
    reasons
}
