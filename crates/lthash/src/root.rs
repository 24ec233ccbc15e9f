//! The digest of a set hash: 32 bytes, written as 64 lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// The digest of an [`LtHash`](crate::LtHash).
///
/// Serialised as hexadecimal text in formats that people read, otherwise as 32 bytes.
///
/// ```
/// use lithdb_lthash::{LtHash, RootHash};
///
/// let root = LtHash::of(b"a", b"1").root();
/// assert_eq!(root.to_string().parse::<RootHash>(), Ok(root));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash(pub [u8; RootHash::LEN]);

impl RootHash {
    /// The length in bytes.
    pub const LEN: usize = 32;
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no [`RootHash`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseRootError {
    text: String,
}

impl fmt::Display for ParseRootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root hash: expected 64 hexadecimal digits, found {:?}", self.text)
    }
}

impl std::error::Error for ParseRootError {}

/// Accepts digits in upper case, too.
impl FromStr for RootHash {
    type Err = ParseRootError;

    fn from_str(text: &str) -> Result<Self, ParseRootError> {
        parse(text.as_bytes()).ok_or_else(|| ParseRootError { text: text.to_owned() })
    }
}

fn parse(text: &[u8]) -> Option<RootHash> {
    let (pairs, rest) = text.as_chunks();
    if pairs.len() != RootHash::LEN || !rest.is_empty() {
        return None;
    }
    let mut root = RootHash([0; RootHash::LEN]);
    for (byte, [high, low]) in root.0.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(root)
}

fn digit(text: u8) -> Option<u8> {
    char::from(text).to_digit(16).map(|digit| digit as u8)
}

impl Serialize for RootHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RootHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?.parse().map_err(D::Error::custom),
            false => Deserialize::deserialize(deserializer).map(Self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1dfeff";

    fn root() -> RootHash {
        let mut bytes = std::array::from_fn(|n| n as u8);
        bytes[30..].copy_from_slice(&[0xfe, 0xff]);
        RootHash(bytes)
    }

    #[test]
    fn a_root_is_written_in_lower_case_and_read_in_both() {
        assert_eq!(root().to_string(), TEXT);
        assert_eq!(format!("{:?}", Some(root())), format!("Some({TEXT})"));
        assert_eq!(TEXT.parse(), Ok(root()));
        assert_eq!(TEXT.to_uppercase().parse(), Ok(root()));
    }

    #[test]
    fn text_that_is_no_root_is_refused_and_shown() {
        let long = format!("{TEXT}0");
        let prefixed = format!("0x{}", &TEXT[2..]);
        let signed = format!("+{}", &TEXT[1..]);
        for text in ["", "00", &TEXT[1..], &TEXT[2..], &long, &prefixed, &signed, &"é".repeat(32)]
        {
            let error = text.parse::<RootHash>().unwrap_err();
            assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_root_in_json_is_its_text() {
        let json = serde_json::to_string(&root()).unwrap();
        assert_eq!(json, format!("\"{TEXT}\""));
        assert_eq!(serde_json::from_str::<RootHash>(&json).unwrap(), root());
        assert!(serde_json::from_str::<RootHash>("\"00\"").is_err());
    }
}
