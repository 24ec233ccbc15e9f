//! Importing: a state store that begins with the rows of an export.
//!
//! `state.id` decides. It says *importing* before anything else is written, and *ready* when the
//! rows, a snapshot of them, the log with their totals and the names of it all are durable, and the
//! rows have been compared with the root. In between nothing opens the store; the next import
//! removes it by exact names, and begins again.
//!
//! The rows of an import that was interrupted cannot be taken for a version: the row that names it
//! is written after the whole export was read and found right.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, FileLock, Result, sync_parent};
use lithdb_lthash::RootHash;
use lithdb_state_engine::{Compacted, Engine};
use serde::Serialize;

use crate::StateDb;
use crate::commit::last_rows;
use crate::dirs::{self, create_dir, remove_tree};
use crate::event::refuse_in_listener;
use crate::export::{ExportReader, Header, sums};
use crate::files::{BaseFile, Phase, StateId, engine_dir_name};
use crate::head::Head;
use crate::meta::Meta;
use crate::metrics::{Label, add, timed};
use crate::open::{Opening, inventory};
use crate::options::{StateComponents, StateOptions, Wal};
use crate::reset::Parts;
use crate::row::{encode_row, physical_key};
use crate::snapshot::take::{Subject, take_of};
use crate::totals::Totals;

/// Rows are put into the working copy when they have this size, or that of a memtable.
const BATCH_BYTES: u64 = 1 << 20;

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// The version, with which the history of the state store begins.
    pub version: u64,
    /// The root after it.
    pub root: RootHash,
    /// The number of rows.
    pub rows: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
}

impl StateDb {
    /// Makes a state store in `dir` of an [export](crate::View::export), in bounded memory. There
    /// must be none: the directory is empty or does not exist, or an import or a reset of it was
    /// interrupted. The history of the state store begins with the version of the export; it has a
    /// snapshot there, and the next version is committed on it.
    ///
    /// The rows are hashed, and must have the root that the export says and, if it is given,
    /// `expected_root`: an export proves nothing about itself. The state store can be opened only
    /// when all is durable. After an error it cannot: import again, or reset it.
    ///
    /// Of the options, `memtable_bytes`, `cache_bytes` and those of the log count.
    ///
    /// # Errors
    /// `InvalidArgument` if there is a state store, or the log's table is not empty; `Foreign` for
    /// another root than the expected one, and for a directory with other files; `Corrupt` for an
    /// export that is damaged, cut off, or does not agree with itself; `Unsupported` for one of a
    /// newer build; `Locked`, `Io`, `StorageFull`, `Exhausted`.
    pub fn import(
        dir: impl Into<PathBuf>,
        source: impl Read,
        options: StateOptions,
        expected_root: Option<RootHash>,
    ) -> Result<ImportReport> {
        Self::import_with(dir, source, options, expected_root, StateComponents::default())
    }

    /// As [`import`](Self::import), with components of the caller's.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_with(
        dir: impl Into<PathBuf>,
        mut source: impl Read,
        options: StateOptions,
        expected_root: Option<RootHash>,
        components: StateComponents,
    ) -> Result<ImportReport> {
        refuse_in_listener()?;
        let options = options.create_if_missing(true);
        let opening = Opening::new(dir.into(), options, components)?;
        let rows = ExportReader::open(&mut source)?;
        check_root(rows.header(), expected_root)?;
        let (label, clock) = (Label::of(opening.dirs.root()), Arc::clone(&opening.env.clock));
        let report = timed(&*clock, &label.histogram("lithdb_state_import_seconds"), || {
            Import::begin(opening, rows.header())?.run(rows)
        })?;
        add(&label.counter("lithdb_state_import_rows_total"), report.rows);
        Ok(report)
    }
}

fn check_root(header: Header, expected: Option<RootHash>) -> Result<()> {
    let Header { version, root } = header;
    match expected {
        Some(expected) if expected != root => {
            let message = format!(
                "the export is of version {version} with root {root}; expected root {expected}"
            );
            Err(Error::new(ErrorKind::Foreign, message))
        }
        _ => Ok(()),
    }
}

/// An import whose state store is locked and in phase *importing*.
struct Import {
    opening: Opening,
    header: Header,
    id: StateId,
    _lock: Box<dyn FileLock>,
}

impl Import {
    /// Checks that there is no state store, and removes what an interrupted import left.
    fn begin(opening: Opening, header: Header) -> Result<Self> {
        let Some(initial_version) = header.version.checked_add(1) else {
            let message = "the export is of the last version there can be: none can follow it";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        if let Wal::Table { table, floor } = &opening.components.wal {
            Opening::check_table(table, floor)?;
            if table.newest_key()?.is_some() {
                let name = table.name();
                let message = format!("the log {name} is not empty: drop it, and give a new one");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let (fs, dirs) = (&*opening.env.fs, &opening.dirs);
        // Before the lock, the file of which it changes.
        has_begun(&opening)?;
        let lock = opening.lock()?;
        if has_begun(&opening)? {
            Parts::list(fs, dirs)?.remove(fs, dirs)?;
        } else {
            opening.check_creatable(&inventory::take(fs, dirs)?)?;
        }
        let (low, high) = (opening.env.random_u64()?, opening.env.random_u64()?);
        let mut id = StateId::fresh(low, high, initial_version);
        id.phase = Phase::Importing;
        id.write(fs, &dirs.id())?;
        Ok(Self { opening, header, id, _lock: lock })
    }

    fn run(mut self, mut rows: ExportReader<'_>) -> Result<ImportReport> {
        let (fs, dirs) = (Arc::clone(&self.opening.env.fs), self.opening.dirs.clone());
        let fs = &*fs;
        let Header { version, root } = self.header;
        let new = dirs.new_working();
        remove_tree(fs, &new)?;
        create_dir(fs, &new)?;
        let into = new.join(engine_dir_name(self.opening.env.random_u64()?));
        let engine = self.opening.engines.create(&into)?;
        self.fill(&*engine, &mut rows)?;
        let totals = rows.finish()?;
        assert_eq!(totals.root(), root, "the reader has compared the root");
        self.snapshot(&*engine, &totals)?;
        drop(engine);
        BaseFile { version, root }.write(fs, &new)?;
        sync_parent(fs, &into)?;
        let (rows, bytes) = sums(&totals);
        self.begin_log(totals)?;
        dirs::rename(fs, &new, &dirs.working())?;
        self.id.phase = Phase::Ready;
        self.id.write(fs, &dirs.id())?;
        Ok(ImportReport { version, root, rows, bytes })
    }

    /// Puts all rows into the engine, and flushes it by size.
    fn fill(&self, engine: &dyn Engine, rows: &mut ExportReader<'_>) -> Result<()> {
        let memtable_bytes = self.opening.options.memtable_bytes;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next_row()? {
            bytes += (row.key.len() + row.value.len()) as u64;
            let value = encode_row(row.modified_at, row.value);
            batch.push((physical_key(row.store, row.key), value));
            if bytes >= BATCH_BYTES.min(memtable_bytes) {
                put(engine, &mut batch)?;
                bytes = 0;
                if engine.memtable_bytes() >= memtable_bytes {
                    engine.flush(&engine.seal(&[])?)?;
                    while engine.compact_once()? == Compacted::Some {}
                }
            }
        }
        put(engine, &mut batch)
    }

    /// Makes the rows durable as the version, and a snapshot of them.
    fn snapshot(&self, engine: &dyn Engine, totals: &Totals) -> Result<()> {
        let (env, dirs) = (&self.opening.env, &self.opening.dirs);
        let (store, Header { version, root }) = (self.id.store, self.header);
        let meta = Meta { store, version, root, totals: totals.clone() };
        let sealed = engine.seal(&last_rows(&meta.encode()?))?;
        engine.flush(&sealed)?;
        let head = Head { version, root, totals: totals.clone(), pin: engine.pin() };
        let engines = &*self.opening.engines;
        take_of(Subject { env, dirs, engines, engine, store }, &sealed, &head).map(drop)
    }

    /// Makes the log, with its base record.
    fn begin_log(&mut self, totals: Totals) -> Result<()> {
        let (own_db, log, _floor) = self.opening.open_log()?;
        self.opening.put_base_record(&log, &self.id, totals)?;
        drop(log);
        own_db.map_or(Ok(()), |db| db.close())
    }
}

fn put(engine: &dyn Engine, batch: &mut Vec<(Bytes, Vec<u8>)>) -> Result<()> {
    if !batch.is_empty() {
        engine.apply(&mut batch.iter().map(|(key, row)| (&key[..], Some(&row[..]))))?;
        batch.clear();
    }
    Ok(())
}

/// Whether an import or a reset was interrupted; `false` if there is no store.
fn has_begun(opening: &Opening) -> Result<bool> {
    let (fs, dirs) = (&*opening.env.fs, &opening.dirs);
    match StateId::read(fs, &dirs.id())?.map(|id| id.phase) {
        None => Ok(false),
        Some(Phase::Importing | Phase::Resetting) => Ok(true),
        Some(Phase::Creating | Phase::Ready | Phase::Adopting) => {
            let message = "there is a state store: import into another directory, or reset it";
            Err(Error::at(ErrorKind::InvalidArgument, dirs.root(), message))
        }
    }
}
