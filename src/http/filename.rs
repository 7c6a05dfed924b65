//! Filenames: what is kept of the one a client sends, and how it is sent back.

use std::fmt::Write;

use actix_web::http::header::{Charset, ContentDisposition};

/// The longest name, in bytes of UTF-8. Four times what file systems take: a longer one is a mistake
/// or an attack, and it would be stored with every reference.
pub const MAX_FILENAME_BYTES: usize = 1024;

/// Why a name cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidFilename(pub &'static str);

/// The name that is kept: the last part of a path (RFC 6266, section 4.3), without anything that
/// could break a header, a log line or a terminal.
///
/// # Errors
/// Nothing is left, it is too long, or it holds control characters.
pub fn keep(raw: &str) -> Result<String, InvalidFilename> {
    let name = raw.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    if name.is_empty() || name == "." || name == ".." {
        return Err(InvalidFilename("a filename names no file"));
    }
    if name.len() > MAX_FILENAME_BYTES {
        return Err(InvalidFilename("a filename is longer than 1024 bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err(InvalidFilename("a filename holds a control character"));
    }
    Ok(name.to_owned())
}

/// The filename that a `Content-Disposition` names; the extended form (`filename*`, RFC 8187) is
/// preferred where it can be decoded. `None` when it names none; it may be empty.
pub fn from_disposition(disposition: &ContentDisposition) -> Option<String> {
    let extended = disposition.get_filename_ext().and_then(|extended| {
        match &extended.charset {
            Charset::Ext(name) if name.eq_ignore_ascii_case("utf-8") => {
                String::from_utf8(extended.value.clone()).ok()
            }
            // ISO-8859-1 is the first 256 code points.
            Charset::Iso_8859_1 => Some(extended.value.iter().map(|&c| char::from(c)).collect()),
            _ => None,
        }
    });
    extended.or_else(|| disposition.get_filename().map(str::to_owned))
}

/// A `Content-Disposition` for an answer (RFC 6266): an ASCII fallback, and the real name in the
/// extended form where the two differ.
pub fn disposition_value(inline: bool, filename: Option<&str>) -> String {
    let mut value = String::from(if inline { "inline" } else { "attachment" });
    let Some(filename) = filename else {
        return value;
    };
    let harmless = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\' | '%');
    let fallback: String = filename
        .chars()
        .map(|c| if harmless(c) { c } else { '_' })
        .collect();
    // Writing to a String does not fail.
    let _ = write!(value, "; filename=\"{fallback}\"");
    if fallback != filename {
        value.push_str("; filename*=UTF-8''");
        for byte in filename.bytes() {
            // RFC 8187, `attr-char`.
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                value.push(char::from(byte));
            } else {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn named(header: &str) -> Option<String> {
        let value = HeaderValue::from_bytes(header.as_bytes()).expect("a header");
        from_disposition(&ContentDisposition::from_raw(&value).expect("a disposition"))
    }

    #[test]
    fn keeps_the_last_part_of_a_path() {
        for (raw, kept) in [
            ("photo.jpg", "photo.jpg"),
            ("../../etc/passwd", "passwd"),
            ("C:\\fake\\photo.jpg", "photo.jpg"),
            ("  spaced name.png ", "spaced name.png"),
            ("Grüße 猫.webp", "Grüße 猫.webp"),
        ] {
            assert_eq!(keep(raw).as_deref(), Ok(kept), "{raw:?}");
        }
    }

    #[test]
    fn refuses_what_names_nothing_or_breaks_lines() {
        let long = "x".repeat(MAX_FILENAME_BYTES + 1);
        for raw in [
            "", "/", "a/", "..", ".", "a\0b", "a\r\nb", "a\u{85}b", &long,
        ] {
            assert!(keep(raw).is_err(), "{raw:?}");
        }
        assert!(keep(&long[1..]).is_ok());
    }

    #[test]
    fn prefers_the_extended_form() {
        for (header, expected) in [
            ("attachment", None),
            ("attachment; filename=\"a.jpg\"", Some("a.jpg")),
            ("attachment; filename=a.jpg", Some("a.jpg")),
            ("attachment; filename=\"a\\\"b.jpg\"", Some("a\"b.jpg")),
            ("attachment; filename=\"\"", Some("")),
            (
                "attachment; filename=\"a\"; filename*=UTF-8''%e7%8c%ab",
                Some("猫"),
            ),
            (
                "attachment; filename*=utf-8'en'%C3%A9; filename=\"a\"",
                Some("é"),
            ),
            ("attachment; filename*=iso-8859-1''%e9", Some("é")),
            (
                "attachment; filename*=UTF-8''%ff; filename=\"a\"",
                Some("a"),
            ),
            ("attachment; filename*=koi8-r''%ff", None),
        ] {
            assert_eq!(named(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn sends_back_what_it_kept() {
        assert_eq!(disposition_value(false, None), "attachment");
        assert_eq!(
            disposition_value(true, Some("a b.png")),
            "inline; filename=\"a b.png\""
        );
        let tricky = "é\"%\\x.svg";
        let value = disposition_value(false, Some(tricky));
        assert_eq!(
            value,
            "attachment; filename=\"____x.svg\"; filename*=UTF-8''%C3%A9%22%25%5Cx.svg"
        );
        assert_eq!(named(&value).as_deref(), Some(tricky));
    }
}
