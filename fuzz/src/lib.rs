//! What several targets need.

/// Splits an input into lines, each under the name that its first byte chooses. A seed is then a text
/// that can be read and written by hand: `0bytes=0-1`.
pub fn named_lines<'a>(input: &'a [u8], names: &[&'static str]) -> Vec<(&'static str, &'a [u8])> {
    input
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let (choice, value) = line.split_first()?;
            let name = names[usize::from(choice.wrapping_sub(b'0')) % names.len()];
            Some((name, value))
        })
        .collect()
}

/// Cuts bytes into pieces whose lengths the input decides, too; some pieces may be empty.
pub fn pieces(bytes: &[u8], cuts: &[u8]) -> Vec<bytes::Bytes> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        // Mostly short: what is interesting about a cut is what it tears apart.
        let length = match cuts.next() {
            None | Some(255) => rest.len(),
            Some(&cut) if cut >= 200 => usize::from(cut) * 64,
            Some(&cut) => usize::from(cut) + 1,
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(bytes::Bytes::copy_from_slice(piece));
        rest = after;
    }
    pieces
}

/// The first line, and everything after it.
pub fn first_line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}
