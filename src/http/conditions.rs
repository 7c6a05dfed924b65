//! Conditional and range requests (RFC 9110, sections 13 and 14) for content that has one strong
//! entity tag and never changes.

use std::ops::Range;

use actix_web::http::header::{self, HeaderMap, HeaderName};

/// What a `GET` or `HEAD` for content is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it: 200.
    Whole,
    /// This half-open range: 206.
    Part(Range<u64>),
    /// The client has it already: 304.
    NotModified,
    /// `If-Match` names something else: 412.
    PreconditionFailed,
    /// The range holds no byte: 416.
    NotSatisfiable,
}

/// Evaluates the preconditions in the order of RFC 9110, section 13.2.2. `etag` is the opaque tag
/// without quotes. `ranges` is false for `HEAD`, for which `Range` has no meaning.
pub fn select(headers: &HeaderMap, etag: &str, size: u64, ranges: bool) -> Selection {
    if names_any(headers, &header::IF_MATCH)
        .is_some_and(|mut tags| !tags.any(|tag| tag.strong(etag)))
    {
        return Selection::PreconditionFailed;
    }
    if names_any(headers, &header::IF_NONE_MATCH)
        .is_some_and(|mut tags| tags.any(|tag| tag.weak(etag)))
    {
        return Selection::NotModified;
    }
    if !ranges || !if_range_holds(headers, etag) {
        return Selection::Whole;
    }
    let mut values = headers.get_all(header::RANGE);
    match (
        values.next().and_then(|value| value.to_str().ok()),
        values.next(),
    ) {
        (Some(value), None) => parse_range(value, size),
        _ => Selection::Whole,
    }
}

/// An entity tag as a client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag<'a> {
    Any,
    Strong(&'a str),
    Weak(&'a str),
}

impl Tag<'_> {
    fn strong(self, etag: &str) -> bool {
        self == Tag::Any || self == Tag::Strong(etag)
    }

    fn weak(self, etag: &str) -> bool {
        match self {
            Tag::Any => true,
            Tag::Strong(tag) | Tag::Weak(tag) => tag == etag,
        }
    }
}

/// The tags of a header; `None` when it is not there. Our tags hold no comma, so a tag of another
/// server that is torn at one cannot match by accident.
fn names_any<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Option<impl Iterator<Item = Tag<'a>>> {
    headers.contains_key(name).then(|| {
        headers
            .get_all(name)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(parse_tag)
    })
}

fn parse_tag(text: &str) -> Option<Tag<'_>> {
    let unquote = |text: &'_ str| -> Option<(usize, usize)> {
        (text.len() >= 2 && text.starts_with('"') && text.ends_with('"'))
            .then(|| (1, text.len() - 1))
    };
    let text = text.trim();
    if text == "*" {
        return Some(Tag::Any);
    }
    match text.strip_prefix("W/") {
        Some(weak) => unquote(weak).map(|(from, to)| Tag::Weak(&weak[from..to])),
        None => unquote(text).map(|(from, to)| Tag::Strong(&text[from..to])),
    }
}

/// `If-Range` with our strong tag, or no `If-Range`. A date never holds: content has no
/// modification time that could be compared.
fn if_range_holds(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value.to_str().ok().and_then(parse_tag) == Some(Tag::Strong(etag)))
}

/// One range of bytes. Another unit, several ranges or a malformed header are ignored, as section
/// 14.2 allows: the whole content is a right answer to all of them.
fn parse_range(value: &str, size: u64) -> Selection {
    let Some((unit, spec)) = value.split_once('=') else {
        return Selection::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Selection::Whole;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    // More digits than a u64 holds still mean a number: one past every end.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let range = match (digits(first), digits(last)) {
        (true, true) if number(first) > number(last) => return Selection::Whole,
        (true, true) => number(first)..number(last).saturating_add(1).min(size),
        (true, false) if last.is_empty() => number(first)..size,
        (false, true) if first.is_empty() => size.saturating_sub(number(last))..size,
        _ => return Selection::Whole,
    };
    if range.is_empty() {
        return Selection::NotSatisfiable;
    }
    Selection::Part(range)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn selected(headers: &[(HeaderName, &'static str)]) -> Selection {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        select(&map, "tag", 100, true)
    }

    #[test]
    fn single_ranges() {
        for (range, expected) in [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=0-", Selection::Part(0..100)),
            ("bytes=10-19", Selection::Part(10..20)),
            ("bytes=99-", Selection::Part(99..100)),
            ("bytes=90-1000", Selection::Part(90..100)),
            ("bytes=0-99999999999999999999999", Selection::Part(0..100)),
            ("bytes=-1", Selection::Part(99..100)),
            ("bytes=-1000", Selection::Part(0..100)),
            ("Bytes = 1-2", Selection::Part(1..3)),
            ("bytes=100-", Selection::NotSatisfiable),
            ("bytes=100-200", Selection::NotSatisfiable),
            ("bytes=99999999999999999999999-", Selection::NotSatisfiable),
            ("bytes=-0", Selection::NotSatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=1", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes", Selection::Whole),
            ("lines=1-2", Selection::Whole),
            ("", Selection::Whole),
        ] {
            assert_eq!(selected(&[(header::RANGE, range)]), expected, "{range}");
        }
        let twice = [(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=2-3")];
        assert_eq!(selected(&twice), Selection::Whole);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for value in [
            "\"tag\"",
            "W/\"tag\"",
            "*",
            "\"a\", \"tag\"",
            "\"a\",W/\"tag\"",
        ] {
            assert_eq!(
                selected(&[(header::IF_NONE_MATCH, value), (header::RANGE, "bytes=0-1")]),
                Selection::NotModified,
                "{value}"
            );
        }
        for value in ["\"other\"", "tag", "", "\"tag", "w/\"tag\""] {
            assert_eq!(
                selected(&[(header::IF_NONE_MATCH, value)]),
                Selection::Whole,
                "{value}"
            );
        }
    }

    #[test]
    fn if_match_compares_strongly_and_comes_first() {
        let none = (header::IF_NONE_MATCH, "\"tag\"");
        assert_eq!(selected(&[(header::IF_MATCH, "\"tag\"")]), Selection::Whole);
        assert_eq!(selected(&[(header::IF_MATCH, "*")]), Selection::Whole);
        for value in ["W/\"tag\"", "\"other\"", ""] {
            assert_eq!(
                selected(&[(header::IF_MATCH, value), none.clone()]),
                Selection::PreconditionFailed,
                "{value}"
            );
        }
    }

    #[test]
    fn if_range_needs_our_strong_tag() {
        let range = (header::RANGE, "bytes=0-1");
        let with = |value| selected(&[range.clone(), (header::IF_RANGE, value)]);
        assert_eq!(with("\"tag\""), Selection::Part(0..2));
        for value in ["W/\"tag\"", "\"x\"", "*", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(with(value), Selection::Whole, "{value}");
        }
    }

    #[test]
    fn head_ignores_ranges() {
        let mut map = HeaderMap::new();
        map.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(select(&map, "tag", 100, false), Selection::Whole);
    }
}
