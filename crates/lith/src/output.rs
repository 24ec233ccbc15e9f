//! Standard output: text, or JSON with `--json`; and the formats of numbers in text.
//!
//! Text calls print nothing in JSON mode, and JSON calls nothing in text mode, so a command makes
//! both.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use lithdb_env::UnixMillis;
use lithdb_env::human::parsed;
use serde::Serialize;
use serde_json::Value as Json;

use crate::failure::Failure;

/// Reports wrap at this width, unless the environment variable COLUMNS sets another.
const COLUMNS: usize = 80;

/// The largest number up to which a JavaScript number (a double) holds every integer exactly.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Random numbers: always strings, so that the type does not depend on the value.
const IDS: [&str; 4] = ["database_id", "table_id", "salt", "epoch"];

/// What a command's standard output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The command exists for its output: if writing fails, it stops.
    Result,
    /// The command reports what it does or finds: if writing fails, it continues.
    Report,
}

/// Standard output.
pub(crate) struct Output {
    out: BufWriter<io::Stdout>,
    is_json: bool,
    purpose: Purpose,
    columns: usize,
    /// The first failed write of a report; nothing is written after it.
    failed: Option<io::Error>,
}

impl Output {
    /// Standard output, in JSON or in text.
    pub(crate) fn new(is_json: bool, purpose: Purpose) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        let columns = std::env::var("COLUMNS").map_or(COLUMNS, |typed| {
            // Anything but a usable number is ignored.
            parsed(&typed).filter(|columns| *columns >= 20).unwrap_or(COLUMNS)
        });
        Self { out, is_json, purpose, columns, failed: None }
    }

    /// Whether the output is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints text. The lines of a report wrap between words; a result has one line per record.
    pub(crate) fn text(&mut self, lines: impl fmt::Display) -> Result<(), Failure> {
        if self.is_json {
            return Ok(());
        }
        match self.purpose {
            Purpose::Result => self.write(|out| writeln!(out, "{lines}")),
            Purpose::Report => {
                let lines = wrapped(&lines.to_string(), self.columns);
                self.write(|out| writeln!(out, "{lines}"))
            }
        }
    }

    /// Prints a JSON document on one line. One that cannot be serialized prints nothing.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        if !self.is_json {
            return Ok(());
        }
        let mut line =
            serde_json::to_vec(&with_exact_numbers(to_json(document)?)).map_err(not_json)?;
        line.push(b'\n');
        self.write(|out| out.write_all(&line))
    }

    /// As [`json`](Self::json); `make` is called only in JSON mode.
    pub(crate) fn document(
        &mut self,
        make: impl FnOnce() -> Result<Json, Failure>,
    ) -> Result<(), Failure> {
        if self.is_json { self.json(&make()?) } else { Ok(()) }
    }

    /// Writes bytes unmodified, in either mode.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(|out| out.write_all(bytes))
    }

    /// Flushes the buffer.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.write(BufWriter::flush)
    }

    fn write(
        &mut self,
        act: impl FnOnce(&mut BufWriter<io::Stdout>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.failed.is_some() {
            return Ok(());
        }
        match (act(&mut self.out), self.purpose) {
            (Ok(()), _) => Ok(()),
            (Err(error), Purpose::Result) => Err(Failure::output(&error)),
            (Err(error), Purpose::Report) => {
                self.failed = Some(error);
                Ok(())
            }
        }
    }

    /// Ends the output. A closed pipe is no failure of a report; any other write error is.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        match self.failed.take().map(|error| Failure::output(&error)) {
            None | Some(Failure::OutputClosed) => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

/// Serializes a part of a document. `json!` would panic if this fails (a path that is not UTF-8).
pub(crate) fn to_json(part: &impl Serialize) -> Result<Json, Failure> {
    serde_json::to_value(part).map_err(not_json)
}

/// Adds fields to an object.
pub(crate) fn with_fields(
    mut object: Json,
    fields: impl IntoIterator<Item = (&'static str, Json)>,
) -> Json {
    if let Some(object) = object.as_object_mut() {
        object.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    object
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::failed(format_args!("the result cannot be serialized as JSON: {error}"))
}

/// Replaces every number that JavaScript would round, and every random number, by a string.
fn with_exact_numbers(mut document: Json) -> Json {
    stringify_inexact(&mut document, false);
    document
}

fn stringify_inexact(document: &mut Json, is_id: bool) {
    match document {
        Json::Number(number) => {
            let is_rounded = number.as_u64().is_some_and(|n| n > MAX_SAFE_INTEGER)
                || number.as_i64().is_some_and(|n| n.unsigned_abs() > MAX_SAFE_INTEGER);
            if is_id || is_rounded {
                *document = Json::String(number.to_string());
            }
        }
        Json::Array(elements) => {
            elements.iter_mut().for_each(|each| stringify_inexact(each, is_id))
        }
        Json::Object(fields) => {
            fields.iter_mut().for_each(|(name, value)| {
                stringify_inexact(value, IDS.contains(&name.as_str()));
            });
        }
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}

/// Wraps `text` between words at `columns`; a longer word stays whole. Continuation lines are
/// indented by four more columns.
fn wrapped(text: &str, columns: usize) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let indent = line.len() - line.trim_start().len();
        let deeper = " ".repeat((indent + 4).min(columns / 2));
        let (mut broken, mut len, mut is_begun) = (String::new(), 0, false);
        // A piece is a word and the blanks after it.
        for piece in line.split_inclusive(' ') {
            let word = piece.trim_end().chars().count();
            if is_begun && word > 0 && len + word > columns {
                lines.push(std::mem::replace(&mut broken, deeper.clone()));
                len = deeper.len();
            }
            is_begun |= word > 0;
            broken.push_str(piece);
            len += piece.chars().count();
        }
        lines.push(broken);
    }
    let trimmed: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    trimmed.join("\n")
}

/// A number of bytes: `512 B`, `1.50 KiB`, `2.00 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// An integer with thousands separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// `1 file`, `2 files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A duration in at most two units: `350 ms`, `1.25 s`, `2 min 5 s`, `3 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big} {big_unit}")
        } else {
            format!("{big} {big_unit} {small} {small_unit}")
        }
    };
    match secs {
        0 if duration.as_millis() < 10 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.2} s", duration.as_secs_f64()),
        60..3600 => two(secs / 60, "min", secs % 60, "s"),
        3600..86_400 => two(secs / 3600, "h", secs % 3600 / 60, "min"),
        _ => two(secs / 86_400, "d", secs % 86_400 / 3600, "h"),
    }
}

/// How long ago `then` was.
pub(crate) fn age(now: UnixMillis, then: UnixMillis) -> String {
    if then > now {
        return format!("{} in the future", duration(then.since(now)));
    }
    duration(now.since(then))
}

/// Throughput in units of 10^6 bytes per second: `812 MB/s`.
pub(crate) fn throughput(bytes: u64, took: Duration) -> String {
    let rate = per_second(bytes, took) / 1e6;
    if rate < 10.0 { format!("{rate:.1} MB/s") } else { format!("{rate:.0} MB/s") }
}

/// Bytes per second.
pub(crate) fn per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn write_error_stops_a_result_but_not_a_report() {
        let broken = || Err(io::Error::from(io::ErrorKind::BrokenPipe));
        let mut result = Output::new(false, Purpose::Result);
        assert!(matches!(result.write(|_| broken()), Err(Failure::OutputClosed)));
        let mut report = Output::new(false, Purpose::Report);
        report.write(|_| broken()).unwrap();
        report.write(|_| panic!("written after a failure")).unwrap();
        report.finish().unwrap();
        report.write(|_| Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
        assert!(matches!(report.finish(), Err(Failure::Failed(_))));
    }

    #[test]
    fn unserializable_document_is_an_error_not_a_panic() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(b"\xff"));
        assert!(matches!(to_json(&path), Err(Failure::Failed(_))));
        let mut out = Output::new(true, Purpose::Report);
        assert!(matches!(out.json(&path), Err(Failure::Failed(_))));
        Output::new(false, Purpose::Report).document(|| panic!("not asked for")).unwrap();
    }

    #[test]
    fn numbers_that_javascript_would_round_are_strings() {
        let document = json!({
            "records": MAX_SAFE_INTEGER, "bytes": [MAX_SAFE_INTEGER + 1, u64::MAX], "below": i64::MIN,
            "table_id": 7, "epoch": u64::MAX, "seconds": 0.5, "none": null,
        });
        let expected = json!({
            "records": MAX_SAFE_INTEGER, "bytes": ["9007199254740992", "18446744073709551615"],
            "below": "-9223372036854775808", "table_id": "7", "epoch": "18446744073709551615",
            "seconds": 0.5, "none": null,
        });
        assert_eq!(with_exact_numbers(document), expected);
    }

    #[test]
    fn long_lines_wrap_between_words_with_indent() {
        assert_eq!(wrapped("fits\n\n  as it is", 10), "fits\n\n  as it is");
        assert_eq!(wrapped("  one two three four", 12), "  one two\n      three\n      four");
        assert_eq!(wrapped("a  column   of one", 11), "a  column\n    of one");
        assert_eq!(wrapped("/a/long/path tail", 8), "/a/long/path\n    tail");
        assert_eq!(wrapped("größe größe", 11), "größe größe");
    }

    #[test]
    fn sizes_use_a_fitting_unit() {
        let shown = [0, 1023, 1536, 5 << 30, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.50 KiB", "5.00 GiB", "16.00 EiB"]);
    }

    #[test]
    fn counts_have_thousands_separators() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((counted(1, "file"), counted(2, "key")), ("1 file".into(), "2 keys".into()));
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let shown = [1_500, 75_000, 3_600_000, 97_200_000].map(Duration::from_millis).map(duration);
        assert_eq!(shown, ["1.50 s", "1 min 15 s", "1 h", "1 d 3 h"]);
        assert_eq!(duration(Duration::from_micros(1_250)), "1.2 ms");
    }

    #[test]
    fn age_may_be_in_the_future() {
        assert_eq!(age(UnixMillis(5_000), UnixMillis(2_000)), "3.00 s");
        assert_eq!(age(UnixMillis(2_000), UnixMillis(5_000)), "3.00 s in the future");
    }
}
