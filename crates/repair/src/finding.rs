//! Findings and the verification report, for people and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use lithdb_env::Error;
use lithdb_segment::{SegmentId, TableName};
use serde::Serialize;

use crate::counted;
use crate::losses::{Losses, sum};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Information: no acknowledged data is affected, and opening fixes it if necessary.
    Note,
    /// Acknowledged data is not as it was written, or opening will refuse the table.
    Damage,
}

/// One finding of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// The affected segment.
    pub segment: Option<SegmentId>,
    /// The affected file.
    #[serde(serialize_with = "crate::lossy::path")]
    pub path: PathBuf,
    /// The offset in the file, in bytes.
    pub offset: Option<u64>,
    /// What is wrong, and what it means.
    pub what: String,
    /// How many key records are affected; `None` if unknown.
    pub lost_keys: Option<u64>,
    /// Up to five of their keys, as far as known.
    pub sample_keys: Vec<String>,
}

impl Finding {
    fn new(severity: Severity, path: &Path, what: String) -> Self {
        Self {
            severity,
            segment: None,
            path: path.to_owned(),
            offset: None,
            what,
            lost_keys: Some(0),
            sample_keys: Vec::new(),
        }
    }

    pub(crate) fn note(path: &Path, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, path, what.into())
    }

    pub(crate) fn damage(path: &Path, what: impl Into<String>) -> Self {
        Self::new(Severity::Damage, path, what.into())
    }

    /// An error as a finding about `path`, with the offset of the error.
    pub(crate) fn from_error(path: &Path, error: &Error) -> Self {
        if error.path() != Some(path) {
            return Self::damage(path, error.message());
        }
        Self { offset: error.offset(), ..Self::damage(path, error.what()) }
    }

    pub(crate) fn of(mut self, segment: SegmentId) -> Self {
        self.segment = Some(segment);
        self
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    pub(crate) fn with_losses(mut self, losses: &Losses) -> Self {
        self.lost_keys = Some(losses.keys);
        self.sample_keys.clone_from(&losses.sample_keys);
        self
    }

    /// Whether this is more than a note.
    pub fn is_damage(&self) -> bool {
        self.severity == Severity::Damage
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.is_damage() { "damage" } else { "note" };
        write!(f, "{severity}: {}", self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        write!(f, ": {}", self.what)?;
        match self.lost_keys {
            Some(0) => return Ok(()),
            Some(lost) => write!(f, "; keys lost: {lost}")?,
            None => f.write_str("; keys lost: unknown")?,
        }
        show_samples(f, &self.sample_keys, self.lost_keys)
    }
}

/// `(a, b, …)`, if there are any.
pub(crate) fn show_samples(
    f: &mut fmt::Formatter<'_>,
    samples: &[String],
    of: Option<u64>,
) -> fmt::Result {
    if samples.is_empty() {
        return Ok(());
    }
    let dots = if of.is_none_or(|of| of > samples.len() as u64) { ", …" } else { "" };
    write!(f, " ({}{dots})", samples.join(", "))
}

/// The result of verifying a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The table.
    pub table: TableName,
    /// Segments examined, including the mutable one.
    pub segments: u64,
    /// Valid key records with valid values.
    pub records: u64,
    /// Valid values.
    pub values: u64,
    /// Bytes of key files and values whose checksums were verified and match.
    pub bytes: u64,
    /// All findings, damage and notes.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether there is no damage. Notes do not count.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(Finding::is_damage)
    }

    /// How many key records are affected by damage; `None` if unknown.
    pub fn lost_keys(&self) -> Option<u64> {
        sum(self.findings.iter().map(|finding| finding.lost_keys))
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, segments, records, values, bytes, .. } = self;
        let verdict = if self.is_sound() { "ok" } else { "DAMAGED" };
        write!(
            f,
            "table {table}: {verdict}: {}, {}, {}, {} intact",
            counted(*segments, "segment"),
            counted(*records, "key"),
            counted(*values, "value"),
            counted(*bytes, "byte"),
        )?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}
