//! Why a command failed, its exit status, and how that is printed.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use lithdb_state::Unreachable;
use serde_json::{Value as Json, json};

use crate::keys;
use crate::output::with_fields;
use crate::stderr::print_error;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Invalid command line: status 2.
    Usage(String),
    /// The command failed: status 1.
    Failed(String),
    /// The database returned an error: status 1.
    Refused(lithdb::Error),
    /// The key does not exist: status 3.
    NoSuchKey(String),
    /// Help or version, as requested: status 0, on standard output.
    Help(String),
    /// The consumer of a filter-style command closed the pipe: status 0, no message.
    OutputClosed,
}

impl Failure {
    /// An invalid command line.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// A failure of the command itself.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// `table` does not contain `key`.
    pub(crate) fn no_such_key(key: &[u8], table: &str) -> Self {
        Self::no_such_key_in(key, format_args!("table {table}"))
    }

    /// `place` does not contain `key`.
    pub(crate) fn no_such_key_in(key: &[u8], place: impl fmt::Display) -> Self {
        Self::NoSuchKey(format!("not found: key {} in {place}", keys::show(key)))
    }

    /// An I/O error, prefixed with the path or the operation.
    pub(crate) fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        Self::Failed(format!("{doing}: {error}"))
    }

    /// A failed write to standard output.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::io("write to standard output", error),
        }
    }

    /// Fails with these messages; `Ok` if there are none.
    pub(crate) fn from_messages(
        messages: impl IntoIterator<Item = Option<String>>,
    ) -> Result<(), Self> {
        let messages: Vec<String> = messages.into_iter().flatten().collect();
        if messages.is_empty() { Ok(()) } else { Err(Self::Failed(messages.join("; "))) }
    }

    /// The outcome of a command on several tables: `refused` are those that returned an error,
    /// named after `label`. An error that is the only problem keeps its kind.
    pub(crate) fn from_tables(
        label: &str,
        refused: &[(String, lithdb::Error)],
        others: impl IntoIterator<Item = Option<String>>,
    ) -> Result<(), Self> {
        let mut others = others.into_iter().flatten().peekable();
        if let ([(_, error)], None) = (refused, others.peek()) {
            return Err(error.clone().into());
        }
        let refused = listed(label, refused.iter().map(|(name, _)| name));
        Self::from_messages([refused].into_iter().chain(others.map(Some)))
    }

    /// Which versions there are, if the error is that one of a state store cannot be reached.
    fn numbers(&self) -> Option<Json> {
        let Self::Refused(error) = self else { return None };
        let Unreachable { target, base, needs, has, gap, .. } = Unreachable::of(error)?;
        let has = has.as_ref().map(|has| [has.start(), has.end()]);
        let needs = [needs.start(), needs.end()];
        Some(json!({ "target": target, "base": base, "needs": needs, "has": has, "gap": gap }))
    }

    /// Prints the error on standard error, in one line, and returns the exit status.
    pub(crate) fn report(self) -> ExitCode {
        let (kind, status) = match &self {
            Self::Usage(_) => ("usage", 2),
            Self::Failed(_) => ("failed", 1),
            Self::Refused(error) => (error.kind().as_str(), 1),
            Self::NoSuchKey(_) => ("no such key", 3),
            Self::Help(text) => {
                let mut out = io::stdout();
                return match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => Self::output(&error).report(),
                };
            }
            Self::OutputClosed => return ExitCode::SUCCESS,
        };
        let message = one_line(&self.to_string());
        let error = json!({ "kind": kind, "status": status, "message": message.as_str() });
        let error = with_fields(error, self.numbers().map(|numbers| ("unreachable", numbers)));
        print_error(&message, &json!({ "error": error }));
        ExitCode::from(status)
    }
}

/// `label: a, b, c`; `None` without names.
pub(crate) fn listed(
    label: &str,
    names: impl IntoIterator<Item = impl fmt::Display>,
) -> Option<String> {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    (!names.is_empty()).then(|| format!("{label}: {}", names.join(", ")))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::NoSuchKey(text) | Self::Help(text) => {
                f.write_str(text)
            }
            Self::Refused(error) => error.fmt(f),
            Self::OutputClosed => f.write_str("standard output is closed"),
        }
    }
}

impl From<lithdb::Error> for Failure {
    fn from(error: lithdb::Error) -> Self {
        Self::Refused(error)
    }
}

fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_line_message_is_joined_into_one() {
        assert_eq!(one_line("first\n\n  second\n"), "first; second");
    }

    #[test]
    fn broken_pipe_is_not_a_failure() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::output(&closed), Failure::OutputClosed));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Failure::output(&full), Failure::Failed(_)));
    }
}
