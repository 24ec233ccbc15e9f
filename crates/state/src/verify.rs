//! Verifying a store: files against their manifests, rows against the root.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Error, FileKind, Result, UnixMillis, exists_as};
use lithdb_lthash::RootHash;
use lithdb_state_engine::{CheckLevel, Engine, Pin};
use serde::Serialize;

use crate::inspect::view_only;
use crate::meta::META_KEY;
use crate::options::{StateComponents, StateOptions};
use crate::reach::Unreachable;
use crate::reader::Reader;
use crate::row::{split_key, split_row};
use crate::snapshot::SnapshotClass;
use crate::snapshot::take::ENGINE_DIR;
use crate::store_name::StoreName;
use crate::totals::{StoreTotals, Totals};
use crate::view::View;

/// How much is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Names and lengths of the snapshots' files, their manifests, and the chain of roots in the
    /// log.
    Light,
    /// Also every byte of the snapshots' files.
    Files,
    /// Also the rows of the newest version: the set hash is computed again from them.
    Content,
}

/// What verifying found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StateVerification {
    /// The level.
    pub level: VerifyLevel,
    /// The newest version.
    pub version: u64,
    /// Its root in the log.
    pub root: RootHash,
    /// Records of the log that were read.
    pub records: u64,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Rows that were hashed.
    pub rows: u64,
    /// What is wrong, one sentence each.
    pub findings: Vec<String>,
    /// When it was verified.
    pub time: UnixMillis,
}

impl StateVerification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Verifies the store in `dir`, beside its writer or not.
pub(crate) fn verify(
    dir: PathBuf,
    level: VerifyLevel,
    components: &StateComponents,
    progress: &mut dyn FnMut(u64),
) -> Result<StateVerification> {
    let reader = Reader::open(dir.clone(), components.clone())?;
    let version = *reader.versions.end();
    let Some(root) = reader.log.root(version)? else {
        unreachable!("the newest version of the log has a record")
    };
    let mut found = StateVerification {
        level,
        version,
        root,
        records: 0,
        snapshots: 0,
        rows: 0,
        findings: Vec::new(),
        time: reader.env.clock.now(),
    };
    let oldest = || Ok(*Reader::open(dir.clone(), components.clone())?.versions.start());
    found.check_log(&reader, &oldest, progress)?;
    found.check_snapshots(&reader)?;
    if level >= VerifyLevel::Content {
        drop(reader);
        if let Err(error) = found.check_rows(&dir, components, progress) {
            found.note(format_args!("the rows of version {version}"), error)?;
        }
    }
    Ok(found)
}

impl StateVerification {
    /// Records an error that says what is wrong with the store. One of the operating system says
    /// nothing about it, and ends the verification.
    fn note(&mut self, what: impl fmt::Display, error: Error) -> Result<()> {
        if error.kind().is_system_failure() {
            return Err(error);
        }
        self.findings.push(format!("{what}: {error}"));
        Ok(())
    }

    /// `oldest_now` finds the oldest version of the log anew: a writer may have collected versions
    /// since the reader began.
    fn check_log(
        &mut self,
        reader: &Reader,
        oldest_now: &dyn Fn() -> Result<u64>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let (mut previous, mut oldest) = (None, *reader.versions.start());
        for version in reader.versions.clone() {
            let record = match reader.log.record(version) {
                Ok(Some(record)) => record,
                absent => {
                    previous = None;
                    if version >= oldest {
                        oldest = oldest_now()?;
                    }
                    if version < oldest {
                        continue;
                    }
                    match absent {
                        Err(error) => {
                            self.note(format_args!("version {version} of the log"), error)?;
                        }
                        Ok(_) => self.findings.push(format!("the log has no version {version}")),
                    }
                    continue;
                }
            };
            if record.store != reader.id {
                self.findings.push(format!("version {version} of the log is of another store"));
            }
            if previous.is_some_and(|previous| previous != record.previous_root) {
                self.findings.push(format!("version {version} does not follow the one before it"));
            }
            previous = Some(record.root);
            self.records += 1;
            progress(self.records);
        }
        Ok(())
    }

    fn check_snapshots(&mut self, reader: &Reader) -> Result<()> {
        for snapshot in &reader.snapshots {
            self.snapshots += 1;
            let version = snapshot.found.version;
            if let Some(reason) = &snapshot.reason
                && snapshot.class != SnapshotClass::Stale
            {
                self.findings.push(format!("snapshot {version}: {}: {reason}", snapshot.class));
            }
            if self.level < VerifyLevel::Files || snapshot.class != SnapshotClass::Valid {
                continue;
            }
            let manifest = snapshot.found.manifest.as_ref().map_err(Error::clone)?;
            let dir = snapshot.found.path.join(ENGINE_DIR);
            let checked = reader.engines.check(&dir, Some(&manifest.files), CheckLevel::Bytes);
            // Unless it has been removed meanwhile.
            if let Err(error) = checked
                && exists_as(&*reader.env.fs, &snapshot.found.path, FileKind::Dir)?
            {
                self.note(format_args!("snapshot {version}"), error)?;
            }
        }
        Ok(())
    }

    /// A view of the version that is verified or, if a writer has gone on until it cannot be
    /// reached, of the newest, which is verified instead.
    fn view(&mut self, dir: &Path, components: &StateComponents) -> Result<View> {
        let options = StateOptions::default();
        let viewed = view_only(dir, Some(self.version), &options, components);
        match viewed {
            Err(error) if Unreachable::of(&error).is_some() => {
                let newest = view_only(dir, None, &options, components)?;
                if newest.version() == self.version {
                    return Err(error);
                }
                (self.version, self.root) = (newest.version(), newest.root());
                Ok(newest)
            }
            viewed => viewed,
        }
    }

    /// Counts and hashes all rows, those of stores that should be empty included.
    fn check_rows(
        &mut self,
        dir: &Path,
        components: &StateComponents,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let view = self.view(dir, components)?;
        let found = count_rows(view.engine(), &view.head().pin, &mut || {
            self.rows += 1;
            progress(self.rows);
        })?;
        let expected = &view.head().totals;
        let names = expected.iter().chain(found.iter()).map(|(name, _)| name);
        for name in names.collect::<BTreeSet<_>>() {
            let (expected, found) = (expected.get(name), found.get(name));
            if expected != found {
                let count = |totals: Option<&StoreTotals>| {
                    totals.map_or("no rows".to_owned(), |totals| {
                        let StoreTotals { vector, keys, bytes } = totals;
                        format!("{keys} keys of {bytes} bytes with hash {}", vector.root())
                    })
                };
                let (expected, found) = (count(expected), count(found));
                self.findings.push(format!("store {name}: expected {expected}, found {found}"));
            }
        }
        if found.root() != self.root {
            let (expected, found) = (self.root, found.root());
            self.findings.push(format!("the rows: expected the root {expected}, found {found}"));
        }
        Ok(())
    }
}

/// The totals of all rows at a pin; `each` is called for every row.
pub(crate) fn count_rows(
    engine: &Arc<dyn Engine>,
    pin: &Pin,
    each: &mut dyn FnMut(),
) -> Result<Totals> {
    let mut found = Totals::default();
    for row in Arc::clone(engine).range(pin, Bound::Unbounded, Bound::Unbounded) {
        let (physical, row) = row?;
        if physical == META_KEY {
            continue;
        }
        let (store, key) = split_key(&physical)?;
        let (_modified_at, value) = split_row(&row)?;
        found.add_row(&StoreName::new(store)?, &key, &value)?;
        each();
    }
    Ok(found)
}
