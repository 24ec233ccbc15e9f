//! All rows of a model engine, with every moment at which they changed and which a pin may read.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::run::Changes;
use crate::engine::Row;

/// The versions of each row, from the oldest to the newest.
#[derive(Debug, Default)]
pub(super) struct Rows {
    versions: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
}

impl Rows {
    /// Adds a version of every row in `changes`, newer than all others.
    pub(super) fn add(&mut self, moment: u64, changes: &Changes) {
        for (key, value) in changes {
            self.versions.entry(key.clone()).or_default().push((moment, value.clone()));
        }
    }

    /// The value of a row as of `moment`.
    pub(super) fn get(&self, moment: u64, key: &[u8]) -> Option<Bytes> {
        visible(moment, self.versions.get(key)?)
    }

    /// The first row in a range as of `moment`.
    pub(super) fn first(&self, moment: u64, range: &(Bound<Bytes>, Bound<Bytes>)) -> Option<Row> {
        let mut rows = self.versions.range(range.clone());
        rows.find_map(|(key, versions)| Some((key.clone(), visible(moment, versions)?)))
    }

    /// The last row in a range as of `moment`.
    pub(super) fn last(&self, moment: u64, range: &(Bound<Bytes>, Bound<Bytes>)) -> Option<Row> {
        let mut rows = self.versions.range(range.clone()).rev();
        rows.find_map(|(key, versions)| Some((key.clone(), visible(moment, versions)?)))
    }

    /// Drops what nobody can read who reads at `oldest` or later.
    pub(super) fn collect(&mut self, oldest: u64) {
        self.versions.retain(|_, versions| {
            let older = versions.iter().take_while(|(moment, _)| *moment <= oldest).count();
            versions.drain(..older.saturating_sub(1));
            !matches!(versions.as_slice(), [(moment, None)] if *moment <= oldest)
        });
    }
}

fn visible(moment: u64, versions: &[(u64, Option<Bytes>)]) -> Option<Bytes> {
    let newest = versions.iter().rev().find(|(changed, _)| *changed <= moment);
    newest.and_then(|(_, value)| value.clone())
}
