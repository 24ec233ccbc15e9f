//! Verifying by a replay: the rows of the lowest base are counted, every version of the log is
//! applied to them, and what results is compared with everything that was derived from the log.
//!
//! It begins with the lowest base, so that every version that can be reached is replayed once, and
//! every snapshot is compared with rows that do not come from it. At each version, what its changes
//! make of the rows before it is computed as a commit does, and must be what the record says. The
//! rows at a snapshot or at the working copy are read beside those that were replayed, and must be
//! the same in everything, the versions that put them included.

use std::fmt;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Clock, Error, FileKind, Pool, Result, exists_as};
use lithdb_state_engine::Engine;
use serde::Serialize;

use super::findings::Findings;
use super::working::WorkingCopy;
use super::{count_rows, differences};
use crate::change_set::ChangeSet;
use crate::files::StoreSummary;
use crate::meta::{META_KEY, Meta};
use crate::open::working::read_meta;
use crate::overlay::Overlay;
use crate::past::Replay;
use crate::reach::Base;
use crate::reader::{ATTEMPTS, Reader, is_surprise};
use crate::record::StoreDelta;
use crate::row::{short, split_key, split_row};
use crate::rows::merged;
use crate::snapshot::SnapshotClass;
use crate::snapshot::list::Classified;
use crate::store_name::StoreName;
use crate::totals::Totals;

/// What a verification has replayed and compared.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct StateReplay {
    /// The lowest version that can be reached: a snapshot, or the empty state.
    pub base: u64,
    /// The versions that were replayed onto it.
    pub versions: u64,
    /// The versions of the snapshots whose rows were compared, that of the base included.
    pub snapshots: Vec<u64>,
    /// The versions of the snapshots whose rows were *not* compared, because somebody had them
    /// locked to remove them or to move them aside, and they are still there.
    pub locked: Vec<u64>,
    /// The version of the working copy on disk, if its rows were compared. `None` if there is none;
    /// if it could not be opened, which is a finding; or if it is none of the versions that were
    /// replayed: the replay ended before it, which is a finding, or the log does not have it, as
    /// after a rollback that was interrupted, and the next opening makes a new one.
    pub working: Option<u64>,
    /// Rows that were compared.
    pub rows: u64,
}

/// What a replay has found.
pub(super) struct Checked {
    pub(super) replay: StateReplay,
    pub(super) findings: Findings,
}

/// Replays the store of `reader`; `open` makes another reader. `None` if it was rolled back, or if
/// what the replay needs was removed meanwhile.
pub(super) fn check(
    reader: &Reader,
    open: &dyn Fn() -> Result<Reader>,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Checked>> {
    let (replay, findings) = (StateReplay::default(), Findings::default());
    let mut audit = Audit { checked: Checked { replay, findings }, working: None, progress };
    audit.open_working(reader)?;
    // What a working copy holds is in the log; a writer may have gone on since `reader` began.
    let later = match &audit.working {
        Some(working) if working.meta.version > *reader.versions.end() => Some(open()?),
        _ => None,
    };
    let reader = later.as_ref().unwrap_or(reader);
    if !audit.run(reader, open)? {
        return Ok(None);
    }
    let checked = audit.checked;
    let is_found = checked.findings.is_empty() || reader.is_continued_by(&open()?)?;
    Ok(is_found.then_some(checked))
}

struct Audit<'a> {
    checked: Checked,
    working: Option<WorkingCopy>,
    progress: &'a mut dyn FnMut(u64),
}

impl Audit<'_> {
    fn note(&mut self, what: &str, error: Error) -> Result<()> {
        self.checked.findings.note(what, error)
    }

    fn find(&mut self, finding: String) {
        self.checked.findings.find(finding);
    }

    fn open_working(&mut self, reader: &Reader) -> Result<()> {
        match WorkingCopy::open(reader) {
            Ok(working) => self.working = working,
            Err(error) => self.note("the working copy", error)?,
        }
        Ok(())
    }

    /// Replays every version that can be reached. Returns `false` if something was removed or
    /// rolled back meanwhile.
    fn run(&mut self, reader: &Reader, open: &dyn Fn() -> Result<Reader>) -> Result<bool> {
        let (floor, last) = (reader.rollback_floor()?, *reader.versions.end());
        let Some(mut replay) = Replay::begin(reader, floor, last)? else { return Ok(false) };
        self.checked.replay.base = floor;
        if let Base::Snapshot { version } = replay.base() {
            self.checked.replay.snapshots.push(version);
            let what = format!("snapshot {version}");
            if let Some(base) = valid_snapshot(reader, version) {
                self.check_manifest(&what, base, replay.meta())?;
            }
            self.count(&what, &replay)?;
        }
        let pool = Pool::new(0).map_err(|e| Error::io("start", reader.dirs.root(), e))?;
        loop {
            self.compare_at(reader, &replay)?;
            let version = replay.meta().version + 1;
            if version > last {
                break;
            }
            let mut wrong = Vec::new();
            let stepped = replay.step(|engine, deltas| {
                wrong = check_deltas(version, engine, deltas, &pool, &reader.env.clock)?;
                Ok(())
            });
            match stepped {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if is_surprise(&error) => {
                    let later = open()?;
                    let is_same = later.versions.start() == reader.versions.start()
                        && reader.is_continued_by(&later)?;
                    let what = format!("version {version} and those after it cannot be replayed");
                    self.note(&what, error)?;
                    return Ok(is_same);
                }
                Err(error) => return Err(error),
            }
            wrong.into_iter().for_each(|finding| self.find(finding));
            self.checked.replay.versions += 1;
            self.advance();
        }
        self.count(&format!("version {last}, as it was replayed"), &replay)?;
        Ok(true)
    }

    fn advance(&mut self) {
        let StateReplay { versions, rows, .. } = self.checked.replay;
        (self.progress)(versions + rows);
    }

    /// Counts and hashes the rows of a replay, and compares them with what its log says.
    fn count(&mut self, what: &str, replay: &Replay<'_>) -> Result<()> {
        let engine = replay.engine();
        let counted = count_rows(engine, &engine.pin(), &mut || {
            self.checked.replay.rows += 1;
            self.advance();
        });
        match counted {
            Ok(found) => {
                for difference in differences(&replay.meta().totals, &found) {
                    self.find(format!("{what}: {difference}"));
                }
                Ok(())
            }
            Err(error) => self.note(what, error),
        }
    }

    /// Compares the rows of the version that was replayed last with those of its snapshot, unless
    /// it is the base, and with those of the working copy.
    fn compare_at(&mut self, reader: &Reader, replay: &Replay<'_>) -> Result<()> {
        let version = replay.meta().version;
        let snapshot = valid_snapshot(reader, version);
        if let Some(snapshot) = snapshot.filter(|_| version != replay.base().version()) {
            let what = format!("snapshot {version}");
            match self.open_snapshot(reader, version) {
                Ok(None) => {}
                Ok(Some(engine)) => {
                    self.checked.replay.snapshots.push(version);
                    self.check_manifest(&what, snapshot, replay.meta())?;
                    self.compare(&what, replay, &engine)?;
                }
                // Whoever removes it or moves it needs its lock: it is what it is.
                Err(error) => self.note(&what, error)?,
            }
        }
        let is_here = |working: &mut WorkingCopy| {
            let Meta { store, version, root, .. } = replay.meta();
            let found = &working.meta;
            (found.store, found.version, found.root) == (*store, *version, *root)
        };
        if let Some(working) = self.working.take_if(is_here) {
            self.checked.replay.working = Some(version);
            self.compare(
                &format!("the working copy of version {version}"),
                replay,
                &working.engine,
            )?;
        }
        Ok(())
    }

    /// Opens a snapshot to be compared: all its files are open then, and it need not be locked any
    /// more. `None` if it was removed meanwhile, or is locked by whoever does that.
    fn open_snapshot(&mut self, reader: &Reader, version: u64) -> Result<Option<Arc<dyn Engine>>> {
        for _ in 0..ATTEMPTS {
            if let Some((engine, lock)) = reader.open_snapshot(version)? {
                drop(lock);
                return Ok(Some(engine));
            }
            if !exists_as(&*reader.env.fs, &reader.dirs.snapshot(version), FileKind::Dir)? {
                return Ok(None);
            }
        }
        self.checked.replay.locked.push(version);
        Ok(None)
    }

    /// Compares the stores in the manifest of a snapshot with those of its version.
    fn check_manifest(&mut self, what: &str, snapshot: &Classified, meta: &Meta) -> Result<()> {
        let manifest = snapshot.found.manifest.as_ref().map_err(Error::clone)?;
        let stores = meta.totals.iter().map(|(name, totals)| StoreSummary::of(name, totals));
        if !stores.eq(manifest.stores.iter().cloned()) {
            self.find(format!("{what}: the stores in its manifest are not those of the version"));
        }
        Ok(())
    }

    /// Compares what the META row of `engine` says with what was replayed.
    fn compare_meta(&mut self, what: &str, expected: &Meta, engine: &dyn Engine) -> Result<()> {
        let found = match read_meta(engine) {
            Ok(found) => found,
            Err(error) => return self.note(what, error),
        };
        for difference in differences(&expected.totals, &found.totals) {
            self.find(format!("{what}, its META row: {difference}"));
        }
        let named = |meta: &Meta| {
            let Meta { store, version, root, .. } = meta;
            format!("version {version} of store {store} with root {root}")
        };
        let (expected, found) = (named(expected), named(&found));
        if expected != found {
            self.find(format!("{what}, its META row: expected {expected}, found {found}"));
        }
        Ok(())
    }

    /// Compares what was replayed with `engine`: the META row, and the rows, which are hashed on
    /// the way.
    fn compare(&mut self, what: &str, replay: &Replay<'_>, engine: &Arc<dyn Engine>) -> Result<()> {
        self.compare_meta(what, replay.meta(), &**engine)?;
        let mut pairs = Pairs { expected: rows(replay.engine()), found: rows(engine) };
        let (mut totals, mut differ, mut first) = (Totals::default(), 0_u64, None);
        loop {
            let pair = match pairs.next_pair(&mut totals) {
                Ok(Some(pair)) => pair,
                Ok(None) => break,
                Err(error) => return self.note(what, error),
            };
            self.checked.replay.rows += 1;
            self.advance();
            if pair.expected != pair.found {
                differ += 1;
                first.get_or_insert(pair);
            }
        }
        for difference in differences(&replay.meta().totals, &totals) {
            self.find(format!("{what}: {difference}"));
        }
        if let Some(pair) = first {
            self.find(format!("{what}: {pair}; rows that differ: {differ}"));
        }
        Ok(())
    }
}

/// The snapshot of a version, if it can be used.
fn valid_snapshot(reader: &Reader, version: u64) -> Option<&Classified> {
    reader.snapshots.iter().find(|snapshot| {
        snapshot.found.version == version && snapshot.class == SnapshotClass::Valid
    })
}

/// What is wrong with the changes of a version of the log, for the rows before it: a sentence for
/// each store. They are hashed and counted as a commit does it.
fn check_deltas(
    version: u64,
    engine: &Arc<dyn Engine>,
    deltas: &[StoreDelta],
    pool: &Pool,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<String>> {
    let sets: Vec<_> = deltas.iter().map(ChangeSet::of_delta).collect();
    let mut overlay = Overlay::default();
    let prepared = overlay.prepare(&sets, engine, &engine.pin(), pool, clock)?;
    overlay.accept(prepared);
    let made = overlay.deltas();
    let count = |delta: Option<&StoreDelta>| {
        delta.map_or("nothing".to_owned(), |delta| {
            let StoreDelta { keys, bytes, changes, delta, .. } = delta;
            let (changes, hash) = (changes.len(), delta.root());
            format!("{changes} changes, {keys:+} keys, {bytes:+} bytes and the hash {hash}")
        })
    };
    let wrong = deltas.iter().filter_map(|expected| {
        let found = made.iter().find(|made| made.name == expected.name);
        (found != Some(expected)).then(|| {
            let name = &expected.name;
            let (expected, found) = (count(Some(expected)), count(found));
            format!(
                "version {version} of the log, store {name}: expected {expected}, found {found}"
            )
        })
    });
    Ok(wrong.collect())
}

/// A row by its physical key, with the version that put it and its value.
type PhysicalRow = (Bytes, (u64, Bytes));
type PhysicalRows = Peekable<Box<dyn Iterator<Item = Result<PhysicalRow>>>>;

/// All rows, in the order of their physical keys.
fn rows(engine: &Arc<dyn Engine>) -> PhysicalRows {
    let pin = engine.pin();
    let rows = Arc::clone(engine).range(&pin, Bound::Unbounded, Bound::Unbounded);
    let rows = rows.filter(|row| !matches!(row, Ok((key, _)) if key == META_KEY));
    let rows = rows.map(|row| row.and_then(|(key, row)| Ok((key, split_row(&row)?))));
    let rows: Box<dyn Iterator<Item = Result<PhysicalRow>>> = Box::new(rows);
    rows.peekable()
}

/// Two versions of the same rows, read side by side.
struct Pairs {
    expected: PhysicalRows,
    found: PhysicalRows,
}

/// The rows of a key, which at least one side has.
struct Pair {
    key: Bytes,
    expected: Option<(u64, Bytes)>,
    found: Option<(u64, Bytes)>,
}

impl Pairs {
    /// The next key, and its rows. Those of `found` are added to `totals`.
    fn next_pair(&mut self, totals: &mut Totals) -> Result<Option<Pair>> {
        let pair = merged(&mut self.expected, &mut self.found, |(key, _)| key)?;
        let Some((expected, found)) = pair else { return Ok(None) };
        if let Some((physical, (_modified_at, value))) = &found {
            let (store, key) = split_key(physical)?;
            totals.add_row(&StoreName::new(store)?, &key, value)?;
        }
        let Some((key, _)) = expected.as_ref().or(found.as_ref()) else {
            unreachable!("a pair has a row")
        };
        let (key, row) = (key.clone(), |row: Option<PhysicalRow>| row.map(|(_key, row)| row));
        Ok(Some(Pair { key, expected: row(expected), found: row(found) }))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |row: &Option<(u64, Bytes)>| match row {
            None => "no row".to_owned(),
            Some((modified_at, value)) => {
                let (len, value) = (value.len(), short(value));
                format!("{value} ({len} bytes) put by version {modified_at}")
            }
        };
        let (expected, found) = (row(&self.expected), row(&self.found));
        match split_key(&self.key) {
            Ok((store, key)) => write!(f, "store {store}, key {}: ", short(&key))?,
            Err(error) => write!(f, "{error}: ")?,
        }
        write!(f, "expected {expected}, found {found}")
    }
}
