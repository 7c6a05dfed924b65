//! Writing that survives a reader who leaves.

use std::io::{self, Write};

use super::error::CliError;

/// Writes one line to stdout. A closed pipe is no error: whoever read it has seen enough.
pub(super) fn say(line: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a value to stdout as one line of JSON.
pub(super) fn say_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string(value).map_err(io::Error::from)?;
    say(&json)
}

/// Writes one line to stderr, if anybody listens.
pub(super) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Lines up columns, two spaces apart; the last one is not padded.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let widths = rows.iter().fold(Vec::new(), |mut widths: Vec<usize>, row| {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
        widths
    });
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: String = cells
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            line.trim_end().to_owned()
        })
        .collect()
}

/// A number of bytes for people: "1.5 GiB".
pub(super) fn readable_bytes(bytes: i64) -> String {
    let bytes = u64::try_from(bytes).unwrap_or_default();
    indicatif::BinaryBytes(bytes).to_string()
}

/// What somebody else named, with nothing in it that moves a terminal's cursor.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_leave_no_blanks_behind() {
        let rows = [["a", "bcd", ""], ["öäü", "e", "f"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), ["a    bcd", "öäü  e    f"]);
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
