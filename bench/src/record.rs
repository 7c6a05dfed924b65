//! A run written down in the repository: `docs/benchmarks.md` says what was measured where, beside it
//! are the pictures and every figure of every round.

use std::path::Path;

use anyhow::{Context, Result};

use crate::plot;
use crate::report::Report;

/// What stands between these lines is replaced by every recorded run; the rest is written by hand.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// Writes a run into the `docs` folder.
pub(crate) fn record(report: &Report, docs: &Path) -> Result<()> {
    let folder = docs.join("benchmarks");
    let pictures = plot::draw(report, &folder)?;
    std::fs::write(
        folder.join("results.json"),
        serde_json::to_vec_pretty(report)?,
    )?;
    let page = docs.join("benchmarks.md");
    let text = std::fs::read_to_string(&page).unwrap_or_default();
    let mut measured = report.markdown();
    for name in pictures {
        measured.push_str(&format!("\n![{name}](benchmarks/{name})\n"));
    }
    std::fs::write(&page, replaced(&text, &measured))
        .with_context(|| format!("cannot write {}", page.display()))
}

fn replaced(page: &str, measured: &str) -> String {
    let (before, after) = match page.split_once(BEGIN) {
        Some((before, rest)) => (before, rest.split_once(END).map_or("", |(_, after)| after)),
        None => (page, "\n"),
    };
    format!("{before}{BEGIN}\n\n{measured}\n{END}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_replaced() {
        let first = replaced("by hand\n", "one");
        assert!(first.starts_with("by hand\n") && first.contains("\n\none\n"));
        let page = first + "more by hand\n";
        let second = replaced(&page, "two");
        assert!(second.contains("two") && !second.contains("one"));
        assert!(second.starts_with("by hand\n") && second.ends_with("more by hand\n"));
    }
}
