//! Standard output: text for people, JSON for programs, and how numbers are written for the former.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use lithdb::env::UnixMillis;
use serde::Serialize;
use serde_json::Value as Json;

use crate::failure::Failure;

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
    /// The first failure of a report: nothing was written after it.
    failed: Option<io::Error>,
}

impl Output {
    /// Standard output, for a program (`is_json`) or for people.
    pub(crate) fn new(is_json: bool, purpose: Purpose) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        Self { out, is_json, purpose, failed: None }
    }

    /// Whether a program reads this.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// A line for people; a program does not see it.
    pub(crate) fn text(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        if self.is_json {
            return Ok(());
        }
        self.write(|out| writeln!(out, "{line}"))
    }

    /// A JSON document on one line, for a program; people do not see it. What cannot be a document is not begun.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        if !self.is_json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(document).map_err(not_json)?;
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
            None | Some(Failure::Unheard) => Ok(()),
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

/// A remark on standard error: neither an error nor part of the answer.
pub(crate) fn remark(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "lith: {line}");
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
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
    fn what_fails_stops_a_result_and_not_a_report() {
        let broken = || Err(io::Error::from(io::ErrorKind::BrokenPipe));
        let mut result = Output::new(false, Purpose::Result);
        assert!(matches!(result.write(|_| broken()), Err(Failure::Unheard)));
        let mut report = Output::new(false, Purpose::Report);
        report.write(|_| broken()).unwrap();
        report.write(|_| panic!("written after a failure")).unwrap();
        report.finish().unwrap();
        report.write(|_| Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
        assert!(matches!(report.finish(), Err(Failure::Failed(_))));
    }

    #[test]
    fn a_document_that_cannot_be_is_an_error_and_not_a_panic() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(b"\xff"));
        assert!(matches!(to_json(&path), Err(Failure::Failed(_))));
        let mut out = Output::new(true, Purpose::Report);
        assert!(matches!(out.json(&path), Err(Failure::Failed(_))));
        Output::new(false, Purpose::Report).document(|| panic!("not asked for")).unwrap();
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, 5 << 30, u64::MAX].map(size).into();
        let expected =
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn counts_are_set_in_thousands() {
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
    fn an_age_may_lie_in_the_future() {
        assert_eq!(age(UnixMillis(5_000), UnixMillis(2_000)), "3.00 s");
        assert_eq!(age(UnixMillis(2_000), UnixMillis(5_000)), "3.00 s in the future");
    }
}
