//! Standard error: errors and notes, one line each, in text or in JSON.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

/// Whether lines on standard error are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Switches later lines to JSON, or back to text.
pub(crate) fn set_json(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Prints an error: `message` as text, or `document` as JSON.
pub(crate) fn print_error(message: &str, document: &Json) {
    #[expect(clippy::let_underscore_must_use, reason = "nobody reads a closed standard error")]
    let _ = match IS_JSON.load(Ordering::Relaxed) {
        true => writeln!(io::stderr(), "{document}"),
        false => writeln!(io::stderr(), "lith: {message}"),
    };
}

/// Prints a note, which is neither an error nor part of the answer.
pub(crate) fn print_note(line: impl fmt::Display) {
    let line = line.to_string();
    print_error(&line, &json!({ "note": line }));
}
