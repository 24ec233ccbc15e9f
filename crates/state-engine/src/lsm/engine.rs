//! One open production engine: memtables, moments, flushes, compaction.
//!
//! A moment is the sequence number of its rows. The tree never sees a memtable: a flush writes the
//! newest version of each row of a sealed memtable into new tables and registers them by one
//! switch of manifests.
//!
//! Locks, in this order: `changing` (the one caller that applies and seals), `maintenance` (the
//! one that flushes, links or compacts), `state`. No I/O happens under `changing` or `state`.
//! Readers take `state` only to pin.

use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, Fs, Latch, Result, remove_best_effort};
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, InternalValue, Memtable, SeqNo, Slice, Tree, UserKey, ValueType};
use parking_lot::Mutex;

use super::error::{Failure, caught};
use super::guard::CURRENT;
use super::lifetime::Lifetime;
use super::view::{Rows, Tables, View, bytes_of, merged};
use super::{LsmOptions, TABLES, checkpoint, lifetime};
use crate::batch::{self, Change};
use crate::engine::{Compacted, Engine, EngineFile, EngineStats, OpenMode, Row, RowIter, Sealed};
use crate::pin::Pin;

/// Tables may forget every version but the newest: older pins do not read new tables.
const COLLECT_ALL: SeqNo = SeqNo::MAX;

pub(super) struct LsmEngine {
    number: u64,
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    mode: OpenMode,
    latch: Latch,
    tree: Tree,
    strategy: Arc<Leveled>,
    lifetime: Option<Arc<Lifetime>>,
    changing: Mutex<()>,
    maintenance: Mutex<Maintenance>,
    state: Mutex<State>,
}

/// What only the maintaining caller uses.
struct Maintenance {
    /// The number of the last memtable that was flushed.
    flushed: u64,
}

struct State {
    now: u64,
    /// The number of the last memtable that was sealed.
    sealed: u64,
    view: Arc<View>,
}

/// What a pin of this engine holds.
struct Pinned {
    /// The number of the engine.
    engine: u64,
    view: Arc<View>,
}

impl fmt::Debug for LsmEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmEngine")
            .field("dir", &self.dir)
            .field("mode", &self.mode)
            .field("failure", &self.latch.cause())
            .finish_non_exhaustive()
    }
}

impl LsmEngine {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: &Path,
        mode: OpenMode,
        options: &LsmOptions,
        tree: Tree,
    ) -> Result<Self> {
        let lifetime = match mode {
            OpenMode::Write => Some(lifetime::begin(dir)?),
            OpenMode::ReadInPlace => None,
        };
        tree.table_id_counter.fetch_max(lifetime::next_id());
        let strategy = Leveled::default()
            .with_table_target_size(options.table_bytes)
            .with_l0_threshold(options.level_0_tables);
        let view = View {
            active: Arc::new(Memtable::new(0)),
            sealed: Vec::new(),
            tables: Arc::new(Tables::of(&tree, lifetime.clone())),
        };
        let now = tree.get_highest_persisted_seqno().unwrap_or(0);
        Ok(Self {
            number: batch::next_engine(),
            fs,
            dir: dir.to_owned(),
            mode,
            latch: Latch::default(),
            tree,
            strategy: Arc::new(strategy),
            lifetime,
            changing: Mutex::new(()),
            maintenance: Mutex::new(Maintenance { flushed: 0 }),
            state: Mutex::new(State { now, sealed: 0, view: Arc::new(view) }),
        })
    }

    fn check_writable(&self) -> Result<()> {
        batch::check_writable(&self.dir, self.mode)?;
        self.latch.check()
    }

    /// Passes `result` on, and latches it if it is the failure of a write or a sync, or a panic.
    fn latching<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.latches()
        {
            self.latch.close(error);
        }
        result
    }

    fn read<T>(&self, call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T> {
        self.latching(caught(call).map_err(|failure| failure.of_read("read", &self.dir)))
    }

    /// The view that a pin of this engine holds.
    fn view_of(&self, pin: &Pin) -> Result<Arc<View>> {
        let pinned = pin.held::<Pinned>().filter(|pinned| pinned.engine == self.number);
        pinned.map(|pinned| Arc::clone(&pinned.view)).ok_or_else(|| pin.foreign())
    }

    /// Adds rows as the next moment. The caller holds `changing`.
    fn add(&self, rows: &[Change<'_, '_>]) -> Result<()> {
        let (active, moment) = {
            let state = self.state.lock();
            (Arc::clone(&state.view.active), state.now + 1)
        };
        // Nobody sees them before the moment is published.
        let added = caught(|| {
            for &(key, value) in rows {
                active.insert(match value {
                    Some(value) => {
                        InternalValue::from_components(key, value, moment, ValueType::Value)
                    }
                    None => InternalValue::new_tombstone(key, moment),
                });
            }
            Ok(())
        });
        self.latching(added.map_err(|failure| failure.of_write("apply to", &self.dir, false)))?;
        self.state.lock().now = moment;
        Ok(())
    }

    /// Replaces the tables of the current view by those of the tree, and drops the sealed
    /// memtables up to `flushed`, which are in them.
    fn publish_tables(&self, flushed: u64) -> lsm_tree::Result<()> {
        let tables = Arc::new(Tables::of(&self.tree, self.lifetime.clone()));
        let mut state = self.state.lock();
        let sealed = state.view.sealed.iter().filter(|(number, _)| *number > flushed);
        let (active, sealed) = (Arc::clone(&state.view.active), sealed.cloned().collect());
        let old = std::mem::replace(&mut state.view, Arc::new(View { active, sealed, tables }));
        drop(state);
        // Perhaps the last one that reads tables which were compacted away: removes files.
        drop(old);
        Ok(())
    }

    /// Which file `current` is. A switch of manifests replaces it by another one. Needs no
    /// descriptor, so that a lack of them is told from a switch that may have happened.
    fn current_file(&self) -> Result<(u64, u64)> {
        let path = self.dir.join(CURRENT);
        let found = self.fs.metadata(&path).map_err(|e| Error::io("stat", &path, e))?;
        Ok(found.identity)
    }

    /// Calls `change`, which writes tables and switches the manifest. If it failed before the
    /// switch, removes what it wrote.
    fn switch<T>(
        &self,
        operation: &str,
        change: impl FnOnce() -> lsm_tree::Result<T>,
    ) -> Result<Option<T>> {
        let version = |tree: &Tree| caught(|| Ok(tree.current_version().id()));
        let (first_id, current_file) = (self.tree.next_table_id(), self.current_file()?);
        let before = version(&self.tree).map_err(|e| e.of_write(operation, &self.dir, true))?;
        let changed = caught(change);
        lifetime::note_id(self.tree.next_table_id());
        let failure = match changed {
            Ok(value) => return Ok(Some(value)),
            Err(failure @ Failure::Panicked(_)) => {
                return Err(failure.of_write(operation, &self.dir, false));
            }
            Err(failure) => failure,
        };
        let after = version(&self.tree).map_err(|e| e.of_write(operation, &self.dir, false))?;
        if after != before {
            // Only the removal of an old manifest failed, after the switch. Opening removes it.
            let error = failure.of_read("remove an old manifest of", &self.dir);
            tracing::warn!(dir = %self.dir.display(), %error, "an old manifest stays");
            return Ok(None);
        }
        let is_undone = matches!(self.current_file(), Ok(found) if found == current_file);
        if is_undone {
            for id in first_id..self.tree.next_table_id() {
                remove_best_effort(&*self.fs, &self.dir.join(TABLES).join(id.to_string()));
            }
        }
        Err(failure.of_write(operation, &self.dir, is_undone))
    }

    fn flush_sealed(&self, maintenance: &mut Maintenance, wanted: u64) -> Result<()> {
        let view = Arc::clone(&self.state.lock().view);
        let sealed = view.sealed.iter().filter(|(number, _)| *number <= wanted);
        if let Some(memtable) = merged(sealed.map(|(_, memtable)| memtable)) {
            self.switch("flush", || {
                let written = self.tree.flush_to_tables(newest_versions(&memtable))?;
                let Some((tables, None)) = written else {
                    unreachable!("a standard tree writes tables and no blob files")
                };
                self.tree.register_tables(&tables, None, None, &[], COLLECT_ALL)
            })?;
            self.read(|| self.publish_tables(wanted))?;
        }
        maintenance.flushed = wanted;
        Ok(())
    }

    fn compact_step(&self, flushed: u64) -> Result<Compacted> {
        let version = || self.read(|| Ok(self.tree.current_version().id()));
        let before = version()?;
        let strategy = Arc::clone(&self.strategy);
        self.switch("compact", || self.tree.compact(strategy, COLLECT_ALL))?;
        if version()? == before {
            return Ok(Compacted::Nothing);
        }
        self.read(|| self.publish_tables(flushed))?;
        Ok(Compacted::Some)
    }
}

/// The newest version of each row of a memtable, deletions included.
fn newest_versions(
    memtable: &Memtable,
) -> impl Iterator<Item = lsm_tree::Result<InternalValue>> + '_ {
    let mut last: Option<UserKey> = None;
    let is_newest = move |row: &InternalValue| {
        let is_newest = last.as_ref() != Some(&row.key.user_key);
        if is_newest {
            last = Some(row.key.user_key.clone());
        }
        is_newest
    };
    memtable.iter().filter(is_newest).map(Ok)
}

impl Engine for LsmEngine {
    fn pin(&self) -> Pin {
        let state = self.state.lock();
        // Under one lock: a later view may have forgotten what is read at an earlier moment, and
        // an earlier view does not see the memtable of a later one.
        let view = Arc::clone(&state.view);
        Pin::new(state.now, Arc::new(Pinned { engine: self.number, view }))
    }

    fn get(&self, at: &Pin, key: &[u8]) -> Result<Option<Bytes>> {
        let view = self.view_of(at)?;
        self.read(|| view.get(at.moment(), key))
    }

    fn range(self: Arc<Self>, at: &Pin, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RowIter {
        if batch::is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let rows = self.view_of(at).and_then(|view| {
            let range = (from.map(Slice::from), to.map(Slice::from));
            self.read(|| Ok(view.rows(at.moment(), &range)))
        });
        match rows {
            Ok(rows) => Box::new(LsmRows { rows: Some(rows), engine: self, _pin: at.clone() }),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn apply(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> Result<()> {
        let _changing = self.changing.lock();
        self.latch.check()?;
        self.add(&batch::collect(rows)?)
    }

    fn memtable_bytes(&self) -> u64 {
        self.state.lock().view.active.size()
    }

    fn seal(&self, last: &[(&[u8], &[u8])]) -> Result<Sealed> {
        let _changing = self.changing.lock();
        self.check_writable()?;
        let last = batch::collect(&mut last.iter().map(|(key, value)| (*key, Some(*value))))?;
        if !last.is_empty() {
            self.add(&last)?;
        }
        let mut state = self.state.lock();
        state.sealed += 1;
        let number = state.sealed;
        if !state.view.active.is_empty() {
            let mut sealed = state.view.sealed.clone();
            sealed.push((number, Arc::clone(&state.view.active)));
            let active = Arc::new(Memtable::new(number));
            let tables = Arc::clone(&state.view.tables);
            state.view = Arc::new(View { active, sealed, tables });
        }
        Ok(Sealed { engine: self.number, moment: state.now, number })
    }

    fn flush(&self, sealed: &Sealed) -> Result<()> {
        self.check_writable()?;
        batch::check_sealed(sealed, self.number)?;
        let mut maintenance = self.maintenance.lock();
        if sealed.number <= maintenance.flushed {
            return Ok(());
        }
        let flushed = self.flush_sealed(&mut maintenance, sealed.number);
        self.latching(flushed)
    }

    fn checkpoint(&self, sealed: &Sealed, into: &Path) -> Result<Vec<EngineFile>> {
        self.check_writable()?;
        batch::check_sealed(sealed, self.number)?;
        let maintenance = self.maintenance.lock();
        batch::check_newest(sealed, maintenance.flushed, self.state.lock().sealed)?;
        let version = self.read(|| Ok(self.tree.current_version().id()))?;
        self.latching(checkpoint::checkpoint(&*self.fs, &self.dir, version, into))
    }

    fn compact_once(&self) -> Result<Compacted> {
        self.check_writable()?;
        let maintenance = self.maintenance.lock();
        let compacted = self.compact_step(maintenance.flushed);
        self.latching(compacted)
    }

    fn stats(&self) -> EngineStats {
        let view = Arc::clone(&self.state.lock().view);
        EngineStats {
            level_0_runs: view.tables.level_0_runs,
            files: view.tables.count,
            disk_bytes: view.tables.disk_bytes,
            memory_bytes: view.memory_bytes(),
        }
    }

    fn failure(&self) -> Option<Error> {
        self.latch.cause().cloned()
    }
}

/// The rows of a range that have not been returned.
struct LsmRows {
    rows: Option<Rows>,
    engine: Arc<LsmEngine>,
    _pin: Pin,
}

impl LsmRows {
    fn step(
        &mut self,
        step: impl FnOnce(&mut Rows) -> Option<lsm_tree::Result<InternalValue>>,
    ) -> Option<Result<Row>> {
        let rows = self.rows.as_mut()?;
        let row = self.engine.read(|| step(rows).transpose());
        let row = row.map(|row| row.map(|row| (bytes_of(&row.key.user_key), bytes_of(&row.value))));
        if !matches!(row, Ok(Some(_))) {
            self.rows = None;
        }
        row.transpose()
    }
}

impl Iterator for LsmRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next())
    }
}

impl DoubleEndedIterator for LsmRows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next_back())
    }
}
