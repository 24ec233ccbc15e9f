//! The one codec of names on disk: segment files and tables.
//!
//! A name parses only if formatting the result gives the same name again.

use std::fmt;

use lithdb_env::human::parsed;
use lithdb_env::{Error, ErrorKind, Result, leftover_of};
use serde::{Deserialize, Serialize};

use crate::ids::{SegmentId, ShardId};

/// The directory of a table that holds its segment files.
pub const SEGMENTS_DIR: &str = "segments";
/// The file of a table that holds its persistent state.
pub const STATE_FILE: &str = "table.state";

/// A file in a `segments` directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentFile {
    /// `N.keys`
    Keys(SegmentId),
    /// `N-S.values`
    Values(SegmentId, ShardId),
    /// `N.metadata`
    Metadata(SegmentId),
    /// `N.metadata.new`: the leftover of an interrupted replacement.
    MetadataLeftover(SegmentId),
    /// `N.keys.new`: the leftover of an interrupted replacement.
    KeysLeftover(SegmentId),
}

impl SegmentFile {
    /// Parses a file name; `None` unless it is exactly one that LithDB creates.
    ///
    /// ```
    /// use lithdb_segment::{SegmentFile, SegmentId, ShardId};
    /// let file = SegmentFile::Values(SegmentId(7), ShardId(2));
    /// assert_eq!(file.to_string(), "7-2.values");
    /// assert_eq!(SegmentFile::parse("7-2.values"), Some(file));
    /// assert_eq!(SegmentFile::parse("07-2.values"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(inner) = leftover_of(name) {
            return match Self::parse(inner)? {
                Self::Metadata(id) => Some(Self::MetadataLeftover(id)),
                Self::Keys(id) => Some(Self::KeysLeftover(id)),
                _ => None,
            };
        }
        let (stem, extension) = name.split_once('.')?;
        match extension {
            "keys" => Some(Self::Keys(segment(stem)?)),
            "metadata" => Some(Self::Metadata(segment(stem)?)),
            "values" => {
                let (id, shard) = stem.split_once('-')?;
                let shard: u16 = canonical(shard)?;
                (shard < ShardId::MAX_SHARDS).then_some(())?;
                Some(Self::Values(segment(id)?, ShardId(shard)))
            }
            _ => None,
        }
    }

    /// The segment that the file belongs to.
    pub const fn segment(self) -> SegmentId {
        match self {
            Self::Keys(id)
            | Self::Values(id, _)
            | Self::Metadata(id)
            | Self::MetadataLeftover(id)
            | Self::KeysLeftover(id) => id,
        }
    }
}

impl fmt::Display for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(id) => write!(f, "{id}.keys"),
            Self::Values(id, shard) => write!(f, "{id}-{shard}.values"),
            Self::Metadata(id) => write!(f, "{id}.metadata"),
            Self::MetadataLeftover(id) => write!(f, "{id}.metadata.new"),
            Self::KeysLeftover(id) => write!(f, "{id}.keys.new"),
        }
    }
}

fn segment(text: &str) -> Option<SegmentId> {
    canonical(text).map(SegmentId).filter(|id| id.is_some())
}

/// A decimal number without sign or leading zeros.
fn canonical<T: std::str::FromStr>(text: &str) -> Option<T> {
    let is_canonical = text == "0" || !text.starts_with(['0', '+', '-']);
    parsed(text).filter(|_| is_canonical)
}

/// The name of a table: 1 to 128 of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName(String);

impl TableName {
    /// Maximum number of characters.
    pub const MAX_LEN: usize = 128;

    /// Validates a name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let invalid = |what: String| {
            Err(Error::new(ErrorKind::InvalidArgument, format!("table name {name:?}: {what}")))
        };
        if name.is_empty() || name.len() > Self::MAX_LEN {
            return invalid(format!(
                "expected 1 to {} characters, found {}",
                Self::MAX_LEN,
                name.len()
            ));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if let Some(bad) = name.chars().find(|&c| !allowed(c)) {
            return invalid(format!("expected letters, digits, '_' and '-', found {bad:?}"));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TableName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_file() -> impl Strategy<Value = SegmentFile> {
        (0_u8..5, 1_u32.., 0..ShardId::MAX_SHARDS).prop_map(|(kind, id, shard)| {
            let id = SegmentId(id);
            match kind {
                0 => SegmentFile::Keys(id),
                1 => SegmentFile::Values(id, ShardId(shard)),
                2 => SegmentFile::Metadata(id),
                3 => SegmentFile::MetadataLeftover(id),
                _ => SegmentFile::KeysLeftover(id),
            }
        })
    }

    proptest! {
        #[test]
        fn every_file_name_parses_back(file in any_file()) {
            prop_assert_eq!(SegmentFile::parse(&file.to_string()), Some(file));
        }

        #[test]
        fn parsed_names_are_canonical(name in "[0-9]{0,3}-?[0-9]{0,4}\\.?(keys|values|metadata)?(\\.new)?") {
            if let Some(file) = SegmentFile::parse(&name) {
                prop_assert_eq!(file.to_string(), name);
            }
        }
    }

    #[test]
    fn foreign_names_do_not_parse() {
        for name in [
            "",
            "keys",
            ".keys",
            "0.keys",
            "01.keys",
            "+1.keys",
            "1.key",
            "1.keys.bak",
            "1-.values",
            "1-0.values.new",
            "1-256.values",
            "1-0-0.values",
            "4294967296.keys",
            "1.metadata.new.new",
            "1.KEYS",
            " 1.keys",
        ] {
            assert_eq!(SegmentFile::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn bad_table_names_are_refused_with_the_reason() {
        for (name, says) in [("", "1 to 128"), ("a/b", "'/'"), ("..", "'.'"), ("käse", "'ä'")] {
            let error = TableName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(TableName::new("x".repeat(128)).is_ok());
        assert!(TableName::new("x".repeat(129)).is_err());
    }
}
