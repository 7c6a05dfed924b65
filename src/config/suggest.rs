//! "Did you mean …?"

/// The candidate that was probably meant; `None` when nothing is near.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    candidates
        .into_iter()
        .map(|candidate| {
            // The right key in the wrong section is as near as one wrong letter.
            let distance = match last(candidate) == last(written) {
                true => 1,
                false => edits(written, candidate),
            };
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= (written.len() / 4).max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, case ignored.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_of_the_finger_and_wrong_sections_only() {
        let keys = ["server.bind", "upload.max_bytes", "storage.local.path"];
        for (written, meant) in [
            ("server.bnd", Some("server.bind")),
            ("upload.maxbytes", Some("upload.max_bytes")),
            ("server.max_bytes", Some("upload.max_bytes")),
            ("upload.max_size", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, keys), meant, "{written}");
        }
        assert_eq!(nearest("s4", ["local", "s3"]), Some("s3"));
    }
}
