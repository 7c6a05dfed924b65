//! `metadata`: a client's own JSON object, kept and given back with each image.
//!
//! It must be what it was when it comes back from a database, so what a database or our own reader would
//! change is refused at the door.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::{Code, Problem};

/// The longest metadata, as JSON text.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Member names that serde_json reads as its own: a string under one of them is parsed as JSON, and stands
/// for the object around it. Whoever sends one would get another object back, or none.
const NAMES_OF_THE_PARSER: &str = "$serde_json::private::";

/// Parses the text of a `metadata` part.
///
/// # Errors
/// 400: not a JSON object, or with something in it that would not come back the same.
pub fn parse_metadata(text: &[u8]) -> Result<Value, Problem> {
    let Document(value) = serde_json::from_slice(text)
        .map_err(|error| Problem::new(Code::InvalidMetadata, error.to_string()))?;
    check_metadata(&value)?;
    Ok(value)
}

/// What [`parse_metadata`] holds a parsed [`Document`] to.
///
/// # Errors
/// As there.
pub fn check_metadata(value: &Value) -> Result<(), Problem> {
    let refuse = |why| Err(Problem::new(Code::InvalidMetadata, why));
    if !value.is_object() {
        return refuse("metadata is a JSON object");
    }
    if value.to_string().len() > MAX_METADATA_BYTES {
        return refuse("metadata is longer than 16 KiB");
    }
    // PostgreSQL's jsonb cannot hold U+0000.
    if holds_nul(value) {
        return refuse("metadata holds U+0000");
    }
    Ok(())
}

/// Recursion is bounded by the parser's own limit on nesting (128).
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Any JSON, read as it stands: [`Value`]'s own reader gives some member names a meaning of its own.
#[derive(Debug)]
pub struct Document(pub Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsItStands).map(Self)
    }
}

struct AsItStands;

impl<'de> Visitor<'de> for AsItStands {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Document(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some((name, Document(member))) = members.next_entry::<String, _>()? {
            if name.starts_with(NAMES_OF_THE_PARSER) {
                return Err(de::Error::custom(format_args!(
                    "a member's name may not begin with {NAMES_OF_THE_PARSER}"
                )));
            }
            found.insert(name, member);
        }
        Ok(Value::Object(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_a_small_object_that_databases_keep() {
        assert!(parse_metadata(br#"{"a":[1,{"b":null}]}"#).is_ok());
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_METADATA_BYTES));
        let deep = format!("{}{}", "{\"a\":[".repeat(200), "]}".repeat(200));
        for bad in [
            &b""[..],
            b"null",
            b"[]",
            b"\"x\"",
            b"{",
            b"{}{}",
            b"{\"a\":1e999}",
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\u0000"}"#,
            br#"{"a":[{"\u0000":1}]}"#,
            br#"{"$serde_json::private::RawValue":"{}"}"#,
            br#"{"a":[{"b":1,"\u0024serde_json::private::Number":"7"}]}"#,
            long.as_bytes(),
            deep.as_bytes(),
        ] {
            let code = parse_metadata(bad).map_err(|problem| problem.code);
            assert_eq!(code, Err(Code::InvalidMetadata));
        }
    }

    #[test]
    fn numbers_in_metadata_read_back_as_they_were() {
        for number in [
            "1844674407370953709551616",
            "0.1",
            "-1.7976931348623157e308",
            "5e-324",
        ] {
            let sent = parse_metadata(format!("{{\"n\":{number}}}").as_bytes()).expect("an object");
            let again = parse_metadata(sent.to_string().as_bytes()).expect("an object");
            assert_eq!(again, sent, "{number}");
            let nearest: f64 = number.parse().expect("a number");
            assert_eq!(sent["n"].as_f64(), Some(nearest));
        }
    }
}
