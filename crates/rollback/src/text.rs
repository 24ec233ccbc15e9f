//! How keys and times look.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lithdb_env::human::hex;
use lithdb_env::{Error, UnixMillis};
use serde::{Serialize, Serializer};

/// So many characters of a key are shown, so that it stands on a line of 80 with its position.
const SHORT: usize = 36;

/// A key: readable text as it is, everything else as `0x` and hex digits.
pub(crate) fn show_key(key: &[u8]) -> String {
    let is_hidden = |c: char| {
        let moves_text =
            matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        c.is_control() || moves_text
    };
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("0x") && !text.chars().any(is_hidden) => text.to_owned(),
        _ => hex(key),
    }
}

/// The beginning of a key.
pub(crate) fn short_key(key: &[u8]) -> String {
    let shown = show_key(key);
    match shown.chars().count() {
        ..=SHORT => shown,
        _ => shown.chars().take(SHORT).chain(['…']).collect(),
    }
}

/// A time of the wall clock, in UTC; one beyond the calendar in milliseconds.
pub(crate) fn time(time: UnixMillis) -> String {
    let known = jiff::Timestamp::from_millisecond(time.0.min(i64::MAX as u64) as i64);
    known.map_or_else(|_| time.0.to_string(), |time| format!("{time:.3}"))
}

pub(crate) fn key<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    show_key(key).serialize(serializer)
}

pub(crate) fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    took.as_secs_f64().serialize(serializer)
}

pub(crate) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(serializer)
}

pub(crate) fn message<S: Serializer>(
    error: &Option<Error>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    error.as_ref().map(ToString::to_string).serialize(serializer)
}

pub(crate) fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        for (millis, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(UnixMillis(millis)), shown);
        }
        assert_eq!(time(UnixMillis(u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn keys_are_text_or_hex() {
        assert_eq!(show_key(b"h:1"), "h:1");
        assert_eq!(show_key(b"\x00\xff"), "0x00ff");
        assert_eq!(show_key(b"0x1"), "0x307831");
        assert_eq!(short_key(&[b'k'; 37]), format!("{}…", "k".repeat(36)));
    }
}
