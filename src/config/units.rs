//! Sizes, times and addresses as people write them.
//!
//! Every refusal is the rule itself, so that it can be shown beside the value that broke it.

const SIZE_RULE: &str =
    "a size: a whole number and a unit (B, KiB, MiB, GiB, TiB, or KB, MB, GB, TB), like \"64 MiB\"";
const DURATION_RULE: &str =
    "a time: numbers with units (ms, s, m, h, d), like \"24h\", \"1h 30m\" or \"0s\"";
const PERCENT_RULE: &str =
    "a share: a number with at most four decimals and a percent sign, \"0%\" to \"100%\"";
const ADDRESS_RULE: &str = "an IP address and a port, like \"127.0.0.1:8080\" or \"[::]:8080\"";

/// Largest first: a size is shown in the largest unit that divides it.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads "64 MiB", "64mib" or a plain number of bytes; `None` when it is neither, or too large.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = (text[..digits].parse::<u64>().ok()?, text[digits..].trim());
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// Spells a size so that [`parse_bytes`] reads it back: "64 MiB", "1000 B".
pub fn format_bytes(bytes: u64) -> String {
    let binary = UNITS.iter().filter(|(name, _)| name.contains('i'));
    match binary
        .into_iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
    {
        Some((name, factor)) => format!("{} {name}", bytes / factor),
        None => format!("{bytes} B"),
    }
}

/// Reads "1%" or "0.05%" as millionths of the whole; `None` when it is neither, or more than 100 %.
pub fn parse_percent(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 4 {
        return None;
    }
    let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 100)?;
    let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
    Some(whole * 10_000 + decimals).filter(|millionths| *millionths <= 1_000_000)
}

/// Spells millionths so that [`parse_percent`] reads them back: "1%", "0.05%".
pub fn format_percent(millionths: u32) -> String {
    let (whole, decimals) = (millionths / 10_000, millionths % 10_000);
    let text = format!("{whole}.{decimals:04}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Serde glue for shares, in millionths.
pub(super) mod percent {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        millionths: &u32,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_percent(*millionths))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u32, D::Error> {
        let text =
            String::deserialize(deserializer).map_err(|_| D::Error::custom(super::PERCENT_RULE))?;
        super::parse_percent(&text).ok_or_else(|| D::Error::custom(super::PERCENT_RULE))
    }
}

/// Serde glue for sizes.
pub(super) mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub(in crate::config) fn serialize<S: Serializer>(
        bytes: &u64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_bytes(*bytes))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u64, D::Error> {
        struct Size;

        impl de::Visitor<'_> for Size {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(super::SIZE_RULE)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
                Ok(bytes)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
                u64::try_from(bytes).map_err(|_| E::custom(super::SIZE_RULE))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
                super::parse_bytes(text).ok_or_else(|| E::custom(super::SIZE_RULE))
            }
        }

        deserializer.deserialize_any(Size)
    }
}

/// Serde glue for times.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)
            .map_err(|_| D::Error::custom(super::DURATION_RULE))?;
        humantime::parse_duration(text.trim()).map_err(|_| D::Error::custom(super::DURATION_RULE))
    }
}

/// Serde glue for a text that may be unset: TOML has no null, so an empty text says it.
pub(super) mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(
        text: &Option<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text.as_deref().unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// Serde glue for an address to listen on.
pub(super) mod socket_address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        address: &SocketAddr,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SocketAddr, D::Error> {
        String::deserialize(deserializer)?
            .trim()
            .parse()
            .map_err(|_| D::Error::custom(super::ADDRESS_RULE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("64mib", Some(64 << 20)),
            (" 5  GiB ", Some(5 << 30)),
            ("2 KB", Some(2000)),
            ("7 B", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999 TiB", None),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1.5 MiB", None),
            ("64 MiBs", None),
            ("64 M iB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn shares_are_read_and_read_back() {
        for (text, millionths) in [
            ("0%", Some(0)),
            ("1%", Some(10_000)),
            ("0.05%", Some(500)),
            (" 12.3456 % ", Some(123_456)),
            ("100%", Some(1_000_000)),
            ("100.0001%", None),
            ("101%", None),
            ("0.00001%", None),
            ("1", None),
            ("%", None),
            (".5%", None),
            ("1.%", None),
            ("-1%", None),
            ("+1%", None),
            ("1e1%", None),
        ] {
            assert_eq!(parse_percent(text), millionths, "{text:?}");
        }
        for millionths in [0, 1, 500, 10_000, 10_001, 123_456, 100_000, 1_000_000] {
            assert_eq!(parse_percent(&format_percent(millionths)), Some(millionths));
        }
        assert_eq!(format_percent(500), "0.05%");
        assert_eq!(format_percent(1_000_000), "100%");
    }

    #[test]
    fn a_size_reads_back_as_it_is_shown() {
        for bytes in [0, 1, 999, 1000, 1024, 1 << 20, 3 << 29, 5 << 30, u64::MAX] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }
        assert_eq!(format_bytes(5 << 30), "5 GiB");
        assert_eq!(format_bytes(1000), "1000 B");
    }
}
