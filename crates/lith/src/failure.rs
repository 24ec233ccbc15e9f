//! How a command ends when it does not end well.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::keys;
use crate::output::print_error;

/// Why a command stops.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense: status 2.
    Usage(String),
    /// It did not work out: status 1.
    Failed(String),
    /// The database said no, or could not: status 1.
    Refused(lithdb::Error),
    /// The key that was asked for is absent: status 3.
    NoSuchKey(String),
    /// Help or the version, as asked for: status 0, on standard output.
    Help(String),
    /// Nobody reads the output any more, and it is all that the command is for: nothing to say, status 0.
    OutputClosed,
}

impl Failure {
    /// A command line that makes no sense.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// Something that did not work out.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// The key that was asked for is absent from the table.
    pub(crate) fn no_such_key(key: &[u8], table: &str) -> Self {
        Self::NoSuchKey(format!("not found: key {} in table {table}", keys::show(key)))
    }

    /// What the operating system answered.
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

    /// Says on standard error what there is to say, in one line, and gives the exit status.
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
        print_error(
            &message,
            |message| json!({ "error": { "kind": kind, "status": status, "message": message } }),
        );
        ExitCode::from(status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::NoSuchKey(text) | Self::Help(text) => {
                f.write_str(text)
            }
            Self::Refused(error) => error.fmt(f),
            Self::OutputClosed => f.write_str("nobody reads the output"),
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
