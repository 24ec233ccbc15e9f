//! Verifying a store: files against their manifests, rows against the root, and all of it against
//! the log.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};
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
use crate::reader::{Reader, again};
use crate::row::{split_key, split_row};
use crate::snapshot::SnapshotClass;
use crate::snapshot::list::Classified;
use crate::snapshot::take::ENGINE_DIR;
use crate::store_name::StoreName;
use crate::totals::{StoreTotals, Totals};
use crate::view::View;

mod findings;
mod replay;
mod working;

use findings::{Findings, MAX_FINDINGS};

pub use replay::StateReplay;

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
    /// Also the history: every version that can be reached is replayed from the lowest base. What
    /// each record says of its changes is computed again from the rows, and the rows are compared
    /// with those of every snapshot and of the working copy on disk.
    Replay,
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
    /// What was replayed, at [`VerifyLevel::Replay`].
    pub replay: Option<StateReplay>,
    /// What is wrong, one sentence each; the first 1,000, and that there are more.
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
    options: &StateOptions,
    components: &StateComponents,
    progress: &mut dyn FnMut(u64),
) -> Result<StateVerification> {
    let open = || Reader::open_with(dir.clone(), options.clone(), components.clone());
    again(&dir, open, |reader| {
        if level >= VerifyLevel::Replay {
            // Whatever takes hours comes later.
            working::check_copying(reader)?;
        }
        let mut found = Verifier::new(reader, level);
        found.check_log(reader, &open, progress)?;
        found.check_snapshots(reader)?;
        if level >= VerifyLevel::Content {
            match found.check_rows(&dir, options, components, progress) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    let what = format!("the rows of version {}", found.done.version);
                    found.findings.note(what, error)?;
                }
            }
        }
        if level >= VerifyLevel::Replay {
            match again(&dir, open, |reader| replay::check(reader, &open, progress)) {
                Ok(checked) => {
                    let findings = checked.findings.into_vec();
                    findings.into_iter().for_each(|finding| found.findings.find(finding));
                    found.done.replay = Some(checked.replay);
                }
                Err(error) => found.findings.note("the versions cannot be replayed", error)?,
            }
        }
        let is_found = found.findings.is_empty() || are_of_one_branch(reader, &open()?)?;
        Ok(is_found.then(|| found.finish()))
    })
}

/// Whether what was found by `reader` is so, and not what a rollback looks like that somebody
/// carried out meanwhile: `later` is a reader that was opened afterwards.
fn are_of_one_branch(reader: &Reader, later: &Reader) -> Result<bool> {
    let stands = |unusable: &Classified| {
        let found = |other: &&Classified| other.found.version == unusable.found.version;
        later.snapshots.iter().find(found).is_some_and(|other| other.class == unusable.class)
    };
    let mut unusable = reader.snapshots.iter().filter(|snapshot| {
        matches!(snapshot.class, SnapshotClass::Abandoned | SnapshotClass::Damaged)
    });
    Ok(unusable.all(stands) && reader.is_continued_by(later)?)
}

/// Versions of the log that could not be read, and why; no error if they are missing.
type Unread = (RangeInclusive<u64>, Option<Error>);

/// A verification under way.
struct Verifier {
    /// Without the findings.
    done: StateVerification,
    findings: Findings,
}

impl Verifier {
    fn new(reader: &Reader, level: VerifyLevel) -> Self {
        let done = StateVerification {
            level,
            version: *reader.versions.end(),
            root: reader.root,
            records: 0,
            snapshots: 0,
            rows: 0,
            replay: None,
            findings: Vec::new(),
            time: reader.env.clock.now(),
        };
        Self { done, findings: Findings::default() }
    }

    fn finish(self) -> StateVerification {
        StateVerification { findings: self.findings.into_vec(), ..self.done }
    }

    /// Reads every record. `open` makes another reader: a writer may have collected versions since
    /// this one began.
    fn check_log(
        &mut self,
        reader: &Reader,
        open: &dyn Fn() -> Result<Reader>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let (mut previous, mut unread) = (None, Vec::new());
        for version in reader.versions.clone() {
            let record = match reader.log.record(version) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    previous = None;
                    add_missing(&mut unread, version);
                    continue;
                }
                Err(error) => {
                    previous = None;
                    unread.push((version..=version, Some(error)));
                    if unread.len() >= MAX_FINDINGS {
                        self.note_unread(&mut unread, open)?;
                    }
                    continue;
                }
            };
            self.note_unread(&mut unread, open)?;
            if record.store != reader.id {
                self.findings.find(format!("version {version} of the log is of another store"));
            }
            if previous.is_some_and(|previous| previous != record.previous_root) {
                self.findings.find(format!("version {version} does not follow the one before it"));
            }
            previous = Some(record.root);
            self.done.records += 1;
            progress(self.done.records);
        }
        self.note_unread(&mut unread, open)
    }

    /// Records what could not be read and is still in the log, and forgets it.
    fn note_unread(
        &mut self,
        unread: &mut Vec<Unread>,
        open: &dyn Fn() -> Result<Reader>,
    ) -> Result<()> {
        if unread.is_empty() {
            return Ok(());
        }
        let oldest = *open()?.versions.start();
        for (versions, error) in unread.drain(..) {
            let (first, last) = ((*versions.start()).max(oldest), *versions.end());
            match error {
                _ if first > last => {}
                Some(error) => {
                    self.findings.note(format_args!("version {last} of the log"), error)?
                }
                None if first == last => {
                    self.findings.find(format!("the log has no version {first}"))
                }
                None => self.findings.find(format!("the log has no versions {first} to {last}")),
            }
        }
        Ok(())
    }

    fn check_snapshots(&mut self, reader: &Reader) -> Result<()> {
        for snapshot in &reader.snapshots {
            self.done.snapshots += 1;
            let version = snapshot.found.version;
            if let Some(reason) = &snapshot.reason
                && snapshot.class != SnapshotClass::Stale
            {
                self.findings.find(format!("snapshot {version}: {}: {reason}", snapshot.class));
            }
            if self.done.level < VerifyLevel::Files || snapshot.class != SnapshotClass::Valid {
                continue;
            }
            let manifest = snapshot.found.manifest.as_ref().map_err(Error::clone)?;
            let dir = snapshot.found.path.join(ENGINE_DIR);
            let checked = reader.engines.check(&dir, Some(&manifest.files), CheckLevel::Bytes);
            // Unless it has been removed meanwhile.
            if let Err(error) = checked
                && exists_as(&*reader.env.fs, &snapshot.found.path, FileKind::Dir)?
            {
                self.findings.note(format_args!("snapshot {version}"), error)?;
            }
        }
        Ok(())
    }

    /// A view of the version that is verified or, if a writer has gone on until it cannot be
    /// reached, of the newest, which is verified instead. `None` if it was rolled back.
    fn view(
        &mut self,
        dir: &Path,
        options: &StateOptions,
        components: &StateComponents,
    ) -> Result<Option<View>> {
        let viewed = view_only(dir, Some(self.done.version), options, components);
        match viewed {
            Err(error) if Unreachable::of(&error).is_some() => {
                let newest = view_only(dir, None, options, components)?;
                if newest.version() <= self.done.version {
                    return Ok(None);
                }
                (self.done.version, self.done.root) = (newest.version(), newest.root());
                Ok(Some(newest))
            }
            viewed => Ok(Some(viewed?).filter(|view| view.root() == self.done.root)),
        }
    }

    /// Counts and hashes all rows, those of stores that should be empty included. Returns `false`
    /// if their version was rolled back.
    fn check_rows(
        &mut self,
        dir: &Path,
        options: &StateOptions,
        components: &StateComponents,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let Some(view) = self.view(dir, options, components)? else { return Ok(false) };
        let found = count_rows(view.engine(), &view.head().pin, &mut || {
            self.done.rows += 1;
            progress(self.done.rows);
        })?;
        for difference in differences(&view.head().totals, &found) {
            self.findings.find(difference);
        }
        if found.root() != self.done.root {
            let (expected, found) = (self.done.root, found.root());
            self.findings.find(format!("the rows: expected the root {expected}, found {found}"));
        }
        Ok(true)
    }
}

/// The stores whose rows are not those that are expected, a sentence each.
fn differences(expected: &Totals, found: &Totals) -> Vec<String> {
    let count = |totals: Option<&StoreTotals>| {
        totals.map_or("no rows".to_owned(), |totals| {
            let StoreTotals { vector, keys, bytes } = totals;
            format!("{keys} keys of {bytes} bytes with hash {}", vector.root())
        })
    };
    let names: BTreeSet<_> = expected.iter().chain(found.iter()).map(|(name, _)| name).collect();
    let differ = names.into_iter().filter(|name| expected.get(name) != found.get(name));
    let differ = differ.map(|name| {
        let (expected, found) = (count(expected.get(name)), count(found.get(name)));
        format!("store {name}: expected {expected}, found {found}")
    });
    differ.collect()
}

/// Adds a version that the log does not have: a hole is one entry.
fn add_missing(unread: &mut Vec<Unread>, version: u64) {
    match unread.last_mut() {
        Some((versions, None)) => *versions = *versions.start()..=version,
        _ => unread.push((version..=version, None)),
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
