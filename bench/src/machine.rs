//! What the figures were measured on: they mean nothing without it.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

/// The machine, as it describes itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    /// Whether the CPU has instructions for SHA-256: they make hashing several times faster.
    pub(crate) sha_instructions: bool,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// The file system that the data folders are on.
    pub(crate) file_system: String,
    /// Runnable tasks, averaged over a minute, before the run began: other work disturbs.
    pub(crate) load_before: String,
}

impl Machine {
    /// Reads it from `/proc`; what cannot be read is "unknown".
    pub(crate) fn describe(data: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let flags = value(&cpuinfo, "flags").unwrap_or_default();
        let kib = value(&read("/proc/meminfo"), "MemTotal")
            .and_then(|total| total.split_whitespace().next()?.parse::<f64>().ok());
        Self {
            cpu: value(&cpuinfo, "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            sha_instructions: flags.split_whitespace().any(|flag| flag == "sha_ni"),
            memory_gib: kib.unwrap_or(0.0) / (1024.0 * 1024.0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system_of(&read("/proc/self/mounts"), data).unwrap_or_else(unknown),
            load_before: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .map_or_else(unknown, ToOwned::to_owned),
        }
    }

    /// As a list.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let sha = if self.sha_instructions {
            "with"
        } else {
            "without"
        };
        let _ = writeln!(
            text,
            "- CPU: {}, {} cores, {sha} SHA instructions",
            self.cpu, self.cores
        );
        let _ = writeln!(text, "- Memory: {:.0} GiB", self.memory_gib);
        let _ = writeln!(
            text,
            "- Kernel: Linux {}; file system of the data: {}",
            self.kernel, self.file_system
        );
        let _ = writeln!(text, "- Load average before the run: {}", self.load_before);
        text
    }
}

/// The type and options of the innermost mount that holds `path`.
fn file_system_of(mounts: &str, path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point)
                .then(|| (point.len(), format!("{kind} ({options})")))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, text)| text)
}
