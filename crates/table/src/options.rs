//! The options of a table: plain data with defaults and ranges, validated once, when the table is
//! opened. Components (file system, clock, filter) are passed apart.

use std::time::Duration;

use lithdb_env::human::{self, HumanReadable};
use lithdb_env::{Error, ErrorKind, Result, millis};
use lithdb_segment::record::MAX_INLINE_LEN;
use lithdb_segment::{ShardId, Verify};
use serde::{Deserialize, Serialize};

/// How long values are kept. In TOML and JSON: `"recorded"`, `"never"`, or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// The recorded TTL; a new table has none.
    #[default]
    Recorded,
    /// Forever.
    Never,
    /// For this long after the value's segment was sealed.
    After(Duration),
}

#[doc(hidden)] // for serde; users see only the options
impl HumanReadable for Ttl {
    fn show(&self) -> String {
        match self {
            Self::Recorded => "recorded".to_owned(),
            Self::Never => "never".to_owned(),
            Self::After(ttl) => ttl.show(),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "recorded" => Ok(Self::Recorded),
            "never" => Ok(Self::Never),
            _ => Duration::read(text).map(Self::After),
        }
    }

    fn from_number(number: f64) -> Result<Self, String> {
        Duration::from_number(number).map(Self::After)
    }
}

/// What happens to a put of a key that already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateKeys {
    /// Puts do not check. `get` returns the value at the newest position, now and after any reopen
    /// or rebuild.
    #[default]
    NewestWins,
    /// Every put looks the key up; if it exists, the put fails with [`ErrorKind::DuplicateKey`].
    /// Costs a lookup per key under the writer's lock.
    Reject,
}

/// The kind of keymap that maps keys to positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeymapKind {
    /// In memory: about 20 bytes per key; rebuilt from the key files when the table is opened.
    #[default]
    Memory,
}

/// The options of a table. Plain data: read them from a file, or set them one by one. Durations
/// and sizes are written as `"30 days"` and `"64 MiB"`, or as numbers of seconds and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableOptions {
    /// How long values are kept. Default: as recorded. A TTL is at least one millisecond.
    #[serde(with = "human")]
    pub ttl: Ttl,
    /// Value files per segment, 1 to 256. Default: one per root directory. A change applies from
    /// the next segment on.
    pub shards: Option<u16>,
    /// A segment is sealed before it grows beyond this many bytes, keys and values together; a
    /// single larger batch still fits. 64 KiB to 1 TiB, default 512 MiB.
    #[serde(with = "human")]
    pub segment_bytes: u64,
    /// A segment is sealed before it has more keys than this. 1 to 2^31, default 8,388,608.
    pub segment_keys: u64,
    /// A segment is sealed before its key file (keys and inline values) grows beyond this many
    /// bytes. 64 KiB to 3 GiB, default 512 MiB.
    #[serde(with = "human")]
    pub segment_key_bytes: u64,
    /// A segment with records is sealed at this age, so that a slow table expires, too. Default
    /// (`"auto"`): a quarter of the TTL, but at most one day.
    #[serde(with = "human::or_auto")]
    pub segment_age: Option<Duration>,
    /// Values of up to this many bytes are stored in the key file after their key: one file to
    /// sync, one page to read. 0 to 65,536, default 1,024.
    #[serde(with = "human")]
    pub inline_max_bytes: u32,
    /// What happens to a put of a key that already exists. Default: the newest wins.
    pub duplicate_keys: DuplicateKeys,
    /// Whether values are verified on read. Default: always.
    pub verify: Verify,
    /// Which keymap. Default: the database's, else in memory.
    pub keymap: Option<KeymapKind>,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            ttl: Ttl::Recorded,
            shards: None,
            segment_bytes: 512 << 20,
            segment_keys: 8 << 20,
            segment_key_bytes: 512 << 20,
            segment_age: None,
            inline_max_bytes: 1024,
            duplicate_keys: DuplicateKeys::NewestWins,
            verify: Verify::Always,
            keymap: None,
        }
    }
}

/// The longest default for [`TableOptions::segment_age`].
const MAX_SEGMENT_AGE: Duration = Duration::from_secs(86_400);

impl TableOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps values for `ttl`, counted from when their segment is sealed; at least 1 ms. Default:
    /// what the table has recorded, for a new table forever.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Ttl::After(ttl);
        self
    }

    /// Keeps values forever, even if the table has recorded a TTL.
    #[must_use]
    pub fn no_ttl(mut self) -> Self {
        self.ttl = Ttl::Never;
        self
    }

    /// Sets the number of value files per [segment](Self::shards): 1 to 256, default one per root
    /// directory.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Sets the size at which a segment is [sealed](Self::segment_bytes): 64 KiB to 1 TiB, default
    /// 512 MiB. Lowers the limit of the [key file](Self::segment_key_bytes) to it, too.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self.segment_key_bytes = self.segment_key_bytes.min(bytes.max(MIN_SEGMENT_BYTES));
        self
    }

    /// Sets the number of keys at which a segment is [sealed](Self::segment_keys): 1 to 2^31,
    /// default 8,388,608.
    #[must_use]
    pub fn segment_keys(mut self, keys: u64) -> Self {
        self.segment_keys = keys;
        self
    }

    /// Sets the size of the key file at which a segment is [sealed](Self::segment_key_bytes): 64
    /// KiB to 3 GiB, default 512 MiB.
    #[must_use]
    pub fn segment_key_bytes(mut self, bytes: u64) -> Self {
        self.segment_key_bytes = bytes;
        self
    }

    /// Sets the age at which a segment is [sealed](Self::segment_age): at least 1 ms, default a
    /// quarter of the TTL, but no more than a day.
    #[must_use]
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.segment_age = Some(age);
        self
    }

    /// Sets up to which length a value is stored [in the key file](Self::inline_max_bytes): 0 to
    /// 65,536 bytes, default 1,024.
    #[must_use]
    pub fn inline_max_bytes(mut self, bytes: u32) -> Self {
        self.inline_max_bytes = bytes;
        self
    }

    /// Sets what a put of an existing key does. Default: [`DuplicateKeys::NewestWins`].
    #[must_use]
    pub fn duplicate_keys(mut self, policy: DuplicateKeys) -> Self {
        self.duplicate_keys = policy;
        self
    }

    /// Sets whether reads verify checksums. Default: [`Verify::Always`].
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the kind of keymap. Default: the database's.
    #[must_use]
    pub fn keymap(mut self, keymap: KeymapKind) -> Self {
        self.keymap = Some(keymap);
        self
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] that names the field, its range and what was found.
    pub fn validate(&self) -> Result<()> {
        let shards = u64::from(self.shards.unwrap_or(1));
        in_range("shards", shards, 1, u64::from(ShardId::MAX_SHARDS))?;
        in_range("segment_bytes", self.segment_bytes, MIN_SEGMENT_BYTES, 1 << 40)?;
        in_range("segment_keys", self.segment_keys, 1, 1 << 31)?;
        in_range("segment_key_bytes", self.segment_key_bytes, MIN_SEGMENT_BYTES, 3 << 30)?;
        let inline = u64::from(self.inline_max_bytes);
        in_range("inline_max_bytes", inline, 0, u64::from(MAX_INLINE_LEN))?;
        if let Ttl::After(ttl) = self.ttl {
            check_ttl(Some(ttl))?;
        }
        if let Some(age) = self.segment_age {
            in_range("segment_age in milliseconds", millis(age), 1, u64::MAX)?;
        }
        Ok(())
    }

    /// The age at which a segment of a table with this TTL is sealed.
    pub(crate) fn segment_age_for(&self, ttl: Option<Duration>) -> Duration {
        let derived = || ttl.map_or(MAX_SEGMENT_AGE, |ttl| (ttl / 4).min(MAX_SEGMENT_AGE));
        self.segment_age.unwrap_or_else(derived)
    }
}

const MIN_SEGMENT_BYTES: u64 = 64 << 10;

fn in_range(field: &str, found: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let message = format!("{field}: expected {least} to {most}, found {found}");
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// Refuses a TTL that would expire everything at once.
pub(crate) fn check_ttl(ttl: Option<Duration>) -> Result<()> {
    ttl.map_or(Ok(()), |ttl| in_range("ttl in milliseconds", millis(ttl), 1, u64::MAX))
}
