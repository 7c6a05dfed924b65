//! `Repr-Digest` and `Content-Digest` (RFC 9530), both ways.

use actix_web::http::header::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use entity::ContentDigest;

/// `sha-256` is there, but no digest can be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedDigest;

/// The SHA-256 that the headers declare for the body. Other algorithms are ignored; without a
/// content coding both headers speak of the same bytes.
///
/// # Errors
/// A `sha-256` member is malformed, or two of them differ.
pub fn declared(headers: &HeaderMap) -> Result<Option<ContentDigest>, MalformedDigest> {
    let mut found = None;
    for name in ["repr-digest", "content-digest"] {
        for value in headers.get_all(name) {
            let Ok(value) = value.to_str() else {
                return Err(MalformedDigest);
            };
            for digest in members(value) {
                let digest = digest?;
                if found.replace(digest).is_some_and(|other| other != digest) {
                    return Err(MalformedDigest);
                }
            }
        }
    }
    Ok(found)
}

/// A digest as a header's value.
pub fn value(digest: &ContentDigest) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(digest.as_bytes()))
}

/// The `sha-256` members of a dictionary (RFC 8941): `key=:base64:;parameters`, comma-separated. A
/// byte sequence holds neither comma nor semicolon, so splitting is enough for the ones that count.
fn members(dictionary: &str) -> impl Iterator<Item = Result<ContentDigest, MalformedDigest>> {
    dictionary.split(',').filter_map(|member| {
        let (key, value) = member.split_once('=').unwrap_or((member, ""));
        key.trim()
            .eq_ignore_ascii_case("sha-256")
            .then(|| byte_sequence(value))
    })
}

fn byte_sequence(value: &str) -> Result<ContentDigest, MalformedDigest> {
    let item = value.split(';').next().unwrap_or_default().trim();
    let encoded = item
        .strip_prefix(':')
        .and_then(|rest| rest.strip_suffix(':'))
        .ok_or(MalformedDigest)?;
    let bytes = BASE64_STANDARD
        .decode(encoded)
        .map_err(|_| MalformedDigest)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| MalformedDigest)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    /// SHA-256 of nothing.
    const EMPTY: &str = ":47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    fn read(headers: &[(&'static str, String)]) -> Result<Option<ContentDigest>, MalformedDigest> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).expect("a header"),
            );
        }
        declared(&map)
    }

    #[test]
    fn reads_what_it_writes() {
        let digest = ContentDigest::from([7; 32]);
        assert_eq!(read(&[("repr-digest", value(&digest))]), Ok(Some(digest)));
    }

    #[test]
    fn finds_sha_256_among_others() {
        let empty = read(&[("content-digest", format!("sha-256={EMPTY}"))]).expect("reads");
        assert!(empty.is_some_and(|digest| digest.to_string().starts_with("e3b0c442")));
        for header in [
            format!("sha-512=:AAAA:, sha-256={EMPTY}"),
            format!(" sha-256 = {EMPTY} ;q=1 , md5=:AAAA:"),
            format!("SHA-256={EMPTY}"),
            format!("sha-256={EMPTY},sha-256={EMPTY}"),
        ] {
            assert_eq!(
                read(&[("repr-digest", header.clone())]),
                Ok(empty),
                "{header}"
            );
        }
        for header in ["", "sha-512=:AAAA:", "unixsum=1", "sha-2567=:AAAA:", ",,"] {
            assert_eq!(
                read(&[("repr-digest", header.to_owned())]),
                Ok(None),
                "{header}"
            );
        }
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn a_broken_or_contradicting_sha_256_is_an_error() {
        let other = value(&ContentDigest::from([1; 32]));
        for headers in [
            vec![("repr-digest", "sha-256".to_owned())],
            vec![("repr-digest", "sha-256=".to_owned())],
            vec![("repr-digest", "sha-256=:".to_owned())],
            vec![("repr-digest", "sha-256=::".to_owned())],
            vec![("repr-digest", "sha-256=:AAAA:".to_owned())],
            vec![("repr-digest", "sha-256=:!!!!:".to_owned())],
            vec![("repr-digest", format!("sha-256={}", EMPTY.replace(':', "")))],
            vec![
                ("repr-digest", format!("sha-256={EMPTY}")),
                ("repr-digest", other.clone()),
            ],
            vec![
                ("repr-digest", format!("sha-256={EMPTY}")),
                ("content-digest", other),
            ],
        ] {
            assert_eq!(read(&headers), Err(MalformedDigest), "{headers:?}");
        }
    }
}
