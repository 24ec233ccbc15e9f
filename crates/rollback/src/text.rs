//! How keys, times and tables of figures look.

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use lithdb_env::UnixMillis;
use serde::{Serialize, Serializer};

/// So many characters of a key are shown in a column.
const SHORT: usize = 40;

/// A key: readable text as it is, everything else as `0x` and hex digits.
pub(crate) fn show_key(key: &[u8]) -> String {
    let is_hidden = |c: char| {
        let moves_text =
            matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        c.is_control() || moves_text
    };
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("0x") && !text.chars().any(is_hidden) => text.to_owned(),
        _ => key.iter().fold("0x".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

/// The beginning of a key.
pub(crate) fn short_key(key: &[u8]) -> String {
    let shown = show_key(key);
    match shown.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown,
    }
}

pub(crate) fn none() -> String {
    "–".to_owned()
}

/// A time of the wall clock, in UTC; one beyond the calendar in milliseconds.
pub(crate) fn time(time: UnixMillis) -> String {
    let known = i64::try_from(time.0).ok();
    let known = known.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    known.map_or_else(|| time.0.to_string(), |time| format!("{time:.3}"))
}

pub(crate) fn key<S: Serializer>(key: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    show_key(key).serialize(serializer)
}

pub(crate) fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    took.as_secs_f64().serialize(serializer)
}

pub(crate) fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// Rows of text under a heading; figures to the right.
pub(crate) struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&name| name.to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Whether the cells of a column below the heading are numbers or nothing.
    fn is_figures(&self, column: usize) -> bool {
        let cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.clone().next().is_some()
            && cells.clone().all(|cell| cell == "–" || cell.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |n: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(n));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<(usize, bool)> =
            (0..columns).map(|n| (width(n), self.is_figures(n))).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, (width, is_figures)) in row.iter().zip(&widths) {
                let _ = match is_figures {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            if n > 0 {
                f.write_char('\n')?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
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
        assert_eq!(short_key(&[b'k'; 41]), format!("{}…", "k".repeat(40)));
    }

    #[test]
    fn figures_stand_to_the_right() {
        let mut columns = Columns::new(&["table", "keys"]);
        columns.row(["blocks".to_owned(), "7".to_owned()]);
        columns.row(["b".to_owned(), "123456".to_owned()]);
        assert_eq!(columns.to_string(), "table     keys\nblocks       7\nb       123456");
    }
}
