//! Durations and sizes in human-readable form, for options in TOML and JSON: `"30 days"`, `"1h
//! 30m"`, `"64 MiB"`.
//!
//! A number without a unit is seconds or bytes. What is serialized parses back to the same value.

use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

const NANOS: u128 = 1_000_000_000;

/// Parses `text`; `None` if it does not parse. Text that does not parse is a result, not a
/// failure.
#[expect(clippy::disallowed_methods, reason = "only the text can fail to parse")]
pub fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// Bytes in hex, with the prefix `0x`.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("0x".to_owned()).chain(digits).collect()
}

/// Bytes as text if they are printable and unambiguous, otherwise in hex.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text)
            if !text.is_empty() && !text.starts_with("0x") && !text.chars().any(is_invisible) =>
        {
            text.to_owned()
        }
        _ => hex(bytes),
    }
}

/// Whether a terminal does not display a character as itself.
pub fn is_invisible(c: char) -> bool {
    let moves_text = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    c.is_control() || moves_text
}

/// Parses a number of bytes: `4096`, `64KiB`, `1.5 GiB`, `2GB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|error| {
        format!("expected a size like 4096 or \"64 MiB\", found {text:?} ({error})")
    })
}

/// Formats `amount` in the largest unit that divides it.
fn exact(amount: u128, units: &[(u128, &str)]) -> Option<String> {
    let (factor, unit) = units.iter().find(|(factor, _)| amount.is_multiple_of(*factor))?;
    Some(format!("{}{unit}", amount / factor))
}

/// A value that is serialized as text, and parsed from text or from a number without a unit.
pub trait HumanReadable: Sized {
    /// Formats the value as text.
    fn show(&self) -> String;
    /// Parses text; the error says what was expected.
    fn read(text: &str) -> Result<Self, String>;
    /// Converts a number; the error says what was expected.
    fn from_number(number: f64) -> Result<Self, String> {
        Err(format!("expected a whole number of bytes, found {number}"))
    }
}

/// `10s`, `1.5 h`, `30 days`, `1h 30m`.
impl HumanReadable for Duration {
    fn show(&self) -> String {
        let units = [(86_400 * NANOS, "d"), (3600 * NANOS, "h"), (60 * NANOS, "m"), (NANOS, "s")];
        match exact(self.as_nanos(), &units) {
            Some(_) if self.is_zero() => "0s".to_owned(),
            Some(shown) => shown,
            None => humantime::format_duration(*self).to_string(),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim()).map_err(|error| {
            format!("expected a duration like \"10s\" or \"30 days\", found {text:?} ({error})")
        })
    }

    fn from_number(number: f64) -> Result<Self, String> {
        Self::try_from_secs_f64(number).map_err(|error| error.to_string())
    }
}

impl HumanReadable for u64 {
    fn show(&self) -> String {
        let units = [(1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")];
        match exact((*self).into(), &units) {
            Some(shown) if *self != 0 => shown,
            _ => format!("{self} B"),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        parse_size(text)
    }
}

impl HumanReadable for u32 {
    fn show(&self) -> String {
        u64::from(*self).show()
    }

    fn read(text: &str) -> Result<Self, String> {
        let bytes = parse_size(text)?;
        Self::try_from(bytes).map_err(|_| format!("expected less than 4 GiB, found {text:?}"))
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or text like \"10s\", \"30 days\" or \"64 MiB\"")]
enum Written {
    None(()),
    Whole(u64),
    Number(f64),
    Text(String),
}

fn read<'de, T: HumanReadable, D>(
    deserializer: D,
    none: Option<&str>,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let value = match (Written::deserialize(deserializer)?, none) {
        (Written::None(()), Some(_)) => return Ok(None),
        (Written::Text(text), Some(none)) if text == none => return Ok(None),
        (Written::None(()), None) => Err("expected a value, found none".to_owned()),
        (Written::Text(text), _) => T::read(&text),
        (Written::Whole(number), _) => {
            T::read(&number.to_string()).or_else(|_| T::from_number(number as f64))
        }
        (Written::Number(number), _) => T::from_number(number),
    };
    value.map(Some).map_err(D::Error::custom)
}

/// Serializes an option, for `#[serde(with = "human")]`.
pub fn serialize<T: HumanReadable, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.show())
}

/// Deserializes an option, for `#[serde(with = "human")]`.
pub fn deserialize<'de, T: HumanReadable, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    read(deserializer, None)?.ok_or_else(|| D::Error::custom("expected a value, found none"))
}

macro_rules! or_keyword {
    ($name:ident, $word:literal) => {
        #[doc = concat!("For an option that may be absent: null, or `\"", $word, "\"`.")]
        pub mod $name {
            use super::{Deserializer, HumanReadable, Serializer};

            /// Serializes the option.
            pub fn serialize<T: HumanReadable, S: Serializer>(
                value: &Option<T>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&value.as_ref().map_or($word.to_owned(), T::show))
            }

            /// Deserializes the option.
            pub fn deserialize<'de, T: HumanReadable, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<T>, D::Error> {
                super::read(deserializer, Some($word))
            }
        }
    };
}

or_keyword!(or_never, "never");
or_keyword!(or_auto, "auto");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_hex() {
        assert_eq!(readable(b"h:1"), "h:1");
        assert_eq!(readable(b"\x00\xff"), "0x00ff");
        assert_eq!(readable(b"0x1"), "0x307831");
    }

    #[test]
    fn durations_parse_with_units() {
        let secs = Duration::from_secs;
        for (text, duration) in [
            ("10s", secs(10)),
            ("30 days", secs(30 * 86_400)),
            ("1.5 h", secs(5400)),
            ("1h 30m", secs(5400)),
            ("2 weeks", secs(14 * 86_400)),
            ("250ms", Duration::from_millis(250)),
            ("0s", Duration::ZERO),
        ] {
            assert_eq!(Duration::read(text), Ok(duration), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1.2.3s", "10 s!", "99999999999999999999999999w"] {
            assert!(Duration::read(bad).unwrap_err().contains("30 days"), "{bad}");
        }
    }

    #[test]
    fn sizes_parse_with_and_without_units() {
        let read = ["4096", "64KiB", "1.5 GiB", "2gb", "7b"].map(parse_size);
        assert_eq!(read, [4096, 64 << 10, 3 << 29, 2_000_000_000, 7].map(Ok));
        for bad in ["", "KiB", "1.2.3", "-1", "5 apples", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn written_values_parse_back_equal() {
        let durations = [0, 1, 999, 1_000_000, 60 * 1_000_000_000, 90 * 86_400 * 1_000_000_000];
        let durations = durations.map(Duration::from_nanos);
        for duration in durations.into_iter().chain([Duration::MAX, Duration::from_secs(u64::MAX)])
        {
            assert_eq!(Duration::read(&duration.show()), Ok(duration), "{}", duration.show());
        }
        for bytes in [0, 1, 1000, 1 << 10, 512 << 20, 3 << 30, (1 << 40) + 1, u64::MAX] {
            assert_eq!(u64::read(&bytes.show()), Ok(bytes), "{}", bytes.show());
        }
        assert_eq!((secs_shown(86_400), secs_shown(90)), ("1d".to_owned(), "90s".to_owned()));
    }

    fn secs_shown(secs: u64) -> String {
        Duration::from_secs(secs).show()
    }
}
