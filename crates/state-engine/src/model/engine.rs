//! One open model engine.
//!
//! Locks, in this order: `maintenance` (the one caller that flushes, links or compacts), the
//! registry of pins, `state`. No I/O happens under `state`, so that readers wait for none.

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Env, Error, Latch, Result, remove_best_effort};
use parking_lot::Mutex;

use super::rows::Rows;
use super::run::{Changes, Manifest, Run};
use crate::batch;
use crate::engine::{Compacted, Engine, EngineFile, EngineStats, OpenMode, Row, RowIter, Sealed};
use crate::files;
use crate::pin::{Pin, Registry};

/// What a row takes in memory besides its key and its value, roughly.
const ROW_OVERHEAD_BYTES: u64 = 64;

#[derive(Debug)]
pub(super) struct ModelEngine {
    number: u64,
    env: Env,
    dir: PathBuf,
    mode: OpenMode,
    latch: Latch,
    pins: Arc<Registry>,
    maintenance: Mutex<Maintenance>,
    state: Mutex<State>,
}

/// What is on disk.
#[derive(Debug)]
struct Maintenance {
    manifest: Manifest,
    last_id: u64,
    /// The number of the last memtable that was flushed.
    flushed: u64,
}

/// What is in memory.
#[derive(Debug)]
struct State {
    now: u64,
    rows: Rows,
    memtable: Changes,
    memtable_bytes: u64,
    /// The number of the last memtable that was sealed.
    sealed: u64,
    /// The files on disk, for statistics, which do not wait for a flush.
    runs: Vec<Run>,
    /// The memtables that have not been flushed, from the oldest to the newest.
    pending: VecDeque<(Sealed, Arc<Changes>)>,
}

impl ModelEngine {
    pub(super) fn open(
        env: Env,
        dir: &Path,
        mode: OpenMode,
        manifest: Manifest,
        last_id: u64,
    ) -> Result<Self> {
        let mut rows = Rows::default();
        for run in &manifest.runs {
            rows.add(manifest.moment, &run.read(&*env.fs, dir)?);
        }
        rows.collect(manifest.moment);
        let state = State {
            now: manifest.moment,
            rows,
            memtable: Changes::new(),
            memtable_bytes: 0,
            sealed: 0,
            runs: manifest.runs.clone(),
            pending: VecDeque::new(),
        };
        Ok(Self {
            number: batch::next_engine(),
            env,
            dir: dir.to_owned(),
            mode,
            latch: Latch::default(),
            pins: Arc::default(),
            maintenance: Mutex::new(Maintenance { manifest, last_id, flushed: 0 }),
            state: Mutex::new(state),
        })
    }

    fn check_pin(&self, pin: &Pin) -> Result<()> {
        if self.pins.has_made(pin) { Ok(()) } else { Err(pin.foreign()) }
    }

    fn check_writable(&self) -> Result<()> {
        batch::check_writable(&self.dir, self.mode)?;
        self.latch.check()
    }

    /// Passes `result` on, and latches it if it is the failure of a write or a sync.
    fn latching<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.latches()
        {
            self.latch.close(error);
        }
        result
    }

    /// Writes a run, and a manifest that names it after those that `keep` says stay.
    fn register(
        &self,
        maintenance: &mut Maintenance,
        rows: &Changes,
        moment: u64,
        keep: &[Run],
    ) -> Result<()> {
        // A new id for every attempt: a manifest whose sync failed may name the last one.
        maintenance.last_id += 1;
        let run = Run::write(&*self.env.fs, &self.dir, maintenance.last_id, rows)?;
        let runs = keep.iter().cloned().chain([run]).collect();
        let manifest = Manifest { moment, runs };
        manifest.write(&*self.env.fs, &self.dir)?;
        self.state.lock().runs.clone_from(&manifest.runs);
        maintenance.manifest = manifest;
        Ok(())
    }

    fn flush_pending(&self, maintenance: &mut Maintenance, wanted: &Sealed) -> Result<()> {
        let pending: Vec<_> = {
            let state = self.state.lock();
            state.pending.iter().filter(|(it, _)| it.number <= wanted.number).cloned().collect()
        };
        let mut rows = Changes::new();
        for (_, changes) in &pending {
            rows.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        if !rows.is_empty() {
            let keep = maintenance.manifest.runs.clone();
            self.register(maintenance, &rows, wanted.moment, &keep)?;
        }
        maintenance.flushed = wanted.number;
        self.state.lock().pending.drain(..pending.len());
        Ok(())
    }

    /// Merges all runs into one.
    fn merge(&self, maintenance: &mut Maintenance) -> Result<Compacted> {
        let old = maintenance.manifest.runs.clone();
        if old.len() < 2 {
            return Ok(Compacted::Nothing);
        }
        let mut rows = Changes::new();
        for run in &old {
            rows.extend(run.read(&*self.env.fs, &self.dir)?);
        }
        rows.retain(|_, value| value.is_some());
        let moment = maintenance.manifest.moment;
        self.register(maintenance, &rows, moment, &[])?;
        for run in old {
            remove_best_effort(&*self.env.fs, &run.path(&self.dir));
        }
        Ok(Compacted::Some)
    }

    fn link_files(&self, maintenance: &Maintenance, into: &Path) -> Result<Vec<EngineFile>> {
        files::require_empty(&*self.env.fs, into)?;
        maintenance.manifest.copy(&*self.env.fs, &self.dir, into)
    }

    fn first_or_last(&self, rest: &mut ModelRows, is_first: bool) -> Option<Row> {
        let (moment, state) = (rest.pin.moment(), self.state.lock());
        let row = match is_first {
            true => state.rows.first(moment, &rest.range)?,
            false => state.rows.last(moment, &rest.range)?,
        };
        let beyond = Bound::Excluded(row.0.clone());
        match is_first {
            true => rest.range.0 = beyond,
            false => rest.range.1 = beyond,
        }
        Some(row)
    }
}

impl Engine for ModelEngine {
    fn pin(&self) -> Pin {
        self.pins.pin(|| self.state.lock().now)
    }

    fn get(&self, at: &Pin, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_pin(at)?;
        Ok(self.state.lock().rows.get(at.moment(), key))
    }

    fn range(self: Arc<Self>, at: &Pin, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RowIter {
        if let Err(error) = self.check_pin(at) {
            return Box::new(std::iter::once(Err(error)));
        }
        if batch::is_empty_range(from, to) {
            return Box::new(std::iter::empty());
        }
        let range = (from.map(Bytes::copy_from_slice), to.map(Bytes::copy_from_slice));
        Box::new(ModelRows { engine: self, pin: at.clone(), range, is_done: false })
    }

    fn apply(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> Result<()> {
        self.latch.check()?;
        let rows = batch::collect(rows)?;
        self.state.lock().add(&rows);
        Ok(())
    }

    fn memtable_bytes(&self) -> u64 {
        self.state.lock().memtable_bytes
    }

    fn seal(&self, last: &[(&[u8], &[u8])]) -> Result<Sealed> {
        self.check_writable()?;
        let last = batch::collect(&mut last.iter().map(|(key, value)| (*key, Some(*value))))?;
        let mut state = self.state.lock();
        if !last.is_empty() {
            state.add(&last);
        }
        state.sealed += 1;
        let sealed = Sealed { engine: self.number, moment: state.now, number: state.sealed };
        state.memtable_bytes = 0;
        let rows = std::mem::take(&mut state.memtable);
        state.pending.push_back((sealed.clone(), Arc::new(rows)));
        Ok(sealed)
    }

    fn flush(&self, sealed: &Sealed) -> Result<()> {
        self.check_writable()?;
        batch::check_sealed(sealed, self.number)?;
        let mut maintenance = self.maintenance.lock();
        if sealed.number <= maintenance.flushed {
            return Ok(());
        }
        let flushed = self.flush_pending(&mut maintenance, sealed);
        self.latching(flushed)
    }

    fn checkpoint(&self, sealed: &Sealed, into: &Path) -> Result<Vec<EngineFile>> {
        self.check_writable()?;
        batch::check_sealed(sealed, self.number)?;
        let maintenance = self.maintenance.lock();
        batch::check_newest(sealed, maintenance.flushed, self.state.lock().sealed)?;
        let linked = self.link_files(&maintenance, into);
        self.latching(linked)
    }

    fn compact_once(&self) -> Result<Compacted> {
        self.check_writable()?;
        let mut maintenance = self.maintenance.lock();
        let oldest = self.pins.oldest(|| self.state.lock().now);
        let merged = self.merge(&mut maintenance);
        self.state.lock().rows.collect(oldest);
        self.latching(merged)
    }

    fn stats(&self) -> EngineStats {
        let state = self.state.lock();
        let pending = state.pending.iter().flat_map(|(_, rows)| rows.iter());
        let pending_bytes: u64 = pending.map(|(key, value)| size_of_row(key, value)).sum();
        EngineStats {
            level_0_runs: state.runs.len(),
            files: state.runs.len(),
            disk_bytes: state.runs.iter().map(|run| run.len).sum(),
            memory_bytes: state.memtable_bytes + pending_bytes,
        }
    }

    fn failure(&self) -> Option<Error> {
        self.latch.cause().cloned()
    }
}

impl State {
    fn add(&mut self, changes: &[batch::Change<'_, '_>]) {
        self.now += 1;
        let changes: Changes = changes
            .iter()
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice)))
            .collect();
        self.rows.add(self.now, &changes);
        let bytes: u64 = changes.iter().map(|(key, value)| size_of_row(key, value)).sum();
        self.memtable_bytes += bytes;
        self.memtable.extend(changes);
    }
}

fn size_of_row(key: &Bytes, value: &Option<Bytes>) -> u64 {
    key.len() as u64 + value.as_ref().map_or(0, Bytes::len) as u64 + ROW_OVERHEAD_BYTES
}

/// The rows of a range that have not been returned.
struct ModelRows {
    engine: Arc<ModelEngine>,
    pin: Pin,
    range: (Bound<Bytes>, Bound<Bytes>),
    is_done: bool,
}

impl ModelRows {
    fn step(&mut self, is_first: bool) -> Option<Result<Row>> {
        // Both ends have met: a range of a `BTreeMap` must not end before it begins.
        let (from, to) = (self.range.0.as_ref(), self.range.1.as_ref());
        self.is_done |= batch::is_empty_range(from.map(|key| &**key), to.map(|key| &**key));
        if self.is_done {
            return None;
        }
        let engine = Arc::clone(&self.engine);
        let row = engine.first_or_last(self, is_first);
        self.is_done = row.is_none();
        row.map(Ok)
    }
}

impl Iterator for ModelRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl DoubleEndedIterator for ModelRows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}
