//! Reads the changes of versions from JSON lines:
//! `{"version":…,"store":…,"put":{…},"delete":[…]}`. One line is in memory at a time.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

use lithdb_state::ChangeSet;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{parse_key, parse_store};
use crate::failure::Failure;
use crate::keys;
use crate::output::size;

/// The longest line: a value of the greatest length, in hexadecimal, and room for its key.
const MAX_LINE_BYTES: u64 = 1 << 30;
/// How much is read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Changes of one version. Lines that follow each other and name the same version belong together.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    /// `None`: the line names the version alone.
    pub(super) set: Option<ChangeSet>,
    /// Its line, from 1.
    pub(super) line: u64,
}

/// An input that is read line by line.
pub(super) struct Changes {
    /// The input in messages.
    name: String,
    reader: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    lines: u64,
    pub(super) bytes_read: u64,
}

impl Changes {
    pub(super) fn new(name: String, input: Box<dyn Read>) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, input);
        Self { name, reader, line: Vec::new(), lines: 0, bytes_read: 0 }
    }

    /// A message about a line.
    pub(super) fn at(&self, line: u64) -> String {
        format!("{}, line {line}", self.name)
    }

    /// The next line that is not empty. Calls `before_waiting` whenever the input may have to be
    /// waited for.
    pub(super) fn next(
        &mut self,
        before_waiting: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Option<Change>, Failure> {
        loop {
            self.line.clear();
            if !self.reader.buffer().contains(&b'\n') {
                before_waiting()?;
            }
            let mut limited = (&mut self.reader).take(MAX_LINE_BYTES + 1);
            let read = limited.read_until(b'\n', &mut self.line);
            let read = read.map_err(|e| Failure::io(&self.name, &e))? as u64;
            if read == 0 {
                return Ok(None);
            }
            self.lines += 1;
            self.bytes_read += read;
            let refuse = |why: String| {
                let line = self.at(self.lines);
                Err(Failure::failed(format_args!("{line}: {why}")))
            };
            if read > MAX_LINE_BYTES {
                return refuse(format!("expected a line of at most {}", size(MAX_LINE_BYTES)));
            }
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return match parse(&self.line) {
                Ok((version, set)) => Ok(Some(Change { version, set, line: self.lines })),
                Err(why) => refuse(why),
            };
        }
    }
}

/// A line as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(deserialize_with = "version")]
    version: u64,
    store: Option<String>,
    #[serde(default)]
    put: Pairs,
    #[serde(default)]
    delete: Vec<String>,
}

/// Parses a line: the version, and its changes unless it has none.
fn parse(line: &[u8]) -> Result<(u64, Option<ChangeSet>), String> {
    let Line { version, store, put, delete } =
        serde_json::from_slice(line).map_err(|error| without_line_number(&error))?;
    let Some(store) = store else {
        if put.0.is_empty() && delete.is_empty() {
            return Ok((version, None));
        }
        return Err("expected a store beside put and delete".to_owned());
    };
    let mut changes = ChangeSet::of(parse_store(&store)?);
    let mut seen = BTreeSet::new();
    let mut once = |typed: &str| {
        let key = parse_key(typed)?.0;
        if seen.insert(key.clone()) {
            return Ok(key);
        }
        Err(format!("expected a key once in a line, found {} again", keys::show(&key)))
    };
    for (typed, value) in &put.0 {
        let value = keys::parse_value(value).map_err(|why| format!("value of {typed:?}: {why}"))?;
        changes = changes.put(once(typed)?, value);
    }
    for typed in &delete {
        changes = changes.delete(once(typed)?);
    }
    Ok((version, Some(changes)))
}

/// The message of an error in one line of many: serde counts each as the first.
fn without_line_number(error: &serde_json::Error) -> String {
    let (message, column) = (error.to_string(), error.column());
    let place = format!(" at line {} column {column}", error.line());
    match message.strip_suffix(&place) {
        Some(message) => format!("column {column}: {message}"),
        None => message,
    }
}

/// The members of an object, in their order and with those that are repeated.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A number, or text, as the commands print numbers that JavaScript would round.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a version")
        }

        fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
            let number = lithdb_env::human::parsed(text);
            number.ok_or_else(|| E::custom(format_args!("expected a version, found {text:?}")))
        }
    }
    deserializer.deserialize_any(Number).map_err(D::Error::custom)
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
