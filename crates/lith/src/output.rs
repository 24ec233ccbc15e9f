//! Standard output: text for people, JSON for programs, and how numbers are written for the former.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lithdb::env::UnixMillis;
use lithdb::env::human::parsed;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::failure::Failure;

/// Text for people is broken into lines of so many columns, unless COLUMNS says otherwise.
const COLUMNS: usize = 80;

/// The largest whole number that JavaScript holds exactly; so many bits has the mantissa of a double.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Numbers that are names: strings whatever their value, so that their type does not depend on it.
const IDS: [&str; 4] = ["database_id", "table_id", "salt", "epoch"];

/// What standard output is to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// All that the command is for: when it cannot be written, the command stops.
    Result,
    /// A report of what the command does or finds, which goes on whether somebody reads or not.
    Report,
}

/// Standard output.
pub(crate) struct Output {
    out: BufWriter<io::Stdout>,
    is_json: bool,
    purpose: Purpose,
    columns: usize,
    /// The first failure of a report: nothing was written after it.
    failed: Option<io::Error>,
}

impl Output {
    /// Standard output, for a program (`is_json`) or for people.
    pub(crate) fn new(is_json: bool, purpose: Purpose) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        let columns = std::env::var("COLUMNS").map_or(COLUMNS, |typed| {
            // Whatever else is in it is not about us.
            parsed(&typed).filter(|columns| *columns >= 20).unwrap_or(COLUMNS)
        });
        Self { out, is_json, purpose, columns, failed: None }
    }

    /// Whether a program reads this.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Lines for people; a program does not see them. Those of a report are broken between words to fit the terminal; those
    /// of a result are one for each record.
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

    /// A JSON document on one line, for a program; people do not see it. What cannot be a document is not begun.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        if !self.is_json {
            return Ok(());
        }
        let mut line =
            serde_json::to_vec(&with_exact_numbers(to_json(document)?)).map_err(not_json)?;
        line.push(b'\n');
        self.write(|out| out.write_all(&line))
    }

    /// As [`json`](Self::json), of a document that is made only if a program reads it.
    pub(crate) fn document(
        &mut self,
        make: impl FnOnce() -> Result<Json, Failure>,
    ) -> Result<(), Failure> {
        if self.is_json { self.json(&make()?) } else { Ok(()) }
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(|out| out.write_all(bytes))
    }

    /// Everything so far goes out now.
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

    /// The command is over. That nobody reads its report is no failure; that it could not be written is one.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        match self.failed.take().map(|error| Failure::output(&error)) {
            None | Some(Failure::OutputClosed) => Ok(()),
            Some(failure) => Err(failure),
        }
    }
}

/// A part of a document. What may fail must not go through `json!`, which would panic.
pub(crate) fn to_json(part: &impl Serialize) -> Result<Json, Failure> {
    serde_json::to_value(part).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::failed(format_args!("expected an answer that can be JSON: {error}"))
}

/// The document with every number that JavaScript would round as a string.
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

/// `text` with its lines broken between words so that none has more columns, if its words let it. What is broken goes on
/// deeper than it began.
fn wrapped(text: &str, columns: usize) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let begins = line.len() - line.trim_start().len();
        let deeper = " ".repeat((begins + 4).min(columns / 2));
        let (mut broken, mut len, mut is_begun) = (String::new(), 0, false);
        // A piece is a word with the blanks behind it.
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

/// Whether standard error is for a program.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// From here on errors and remarks are JSON, or not.
pub(crate) fn set_json_errors(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// A line on standard error: `message` for people, or what `document` makes of it for programs.
pub(crate) fn print_error(message: &str, document: impl FnOnce(&str) -> Json) {
    #[expect(clippy::let_underscore_must_use, reason = "who closed it is not to be told")]
    let _ = match IS_JSON.load(Ordering::Relaxed) {
        true => writeln!(io::stderr(), "{}", document(message)),
        false => writeln!(io::stderr(), "lith: {message}"),
    };
}

/// A remark on standard error: neither an error nor part of the answer.
pub(crate) fn print_note(line: impl fmt::Display) {
    print_error(&line.to_string(), |message| json!({ "note": message }));
}

/// A number of bytes: `512 B`, `1.5 KiB`, `2.0 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in units.iter().skip(1) {
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// A whole number with thousands set apart: `1,234,567`.
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

/// Bytes per second, in millions: `812 MB/s`.
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
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, 5 << 30, u64::MAX].map(size).into();
        let expected =
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"];
        assert_eq!(shown, expected);
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
