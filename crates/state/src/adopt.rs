//! Adopting a flat layout: an engine with its META row in the directory `engine`, without a log and
//! without snapshots.
//!
//! Before the decision, a snapshot of the engine and a log that begins with its version are made
//! beside it; the flat layout stays as it is, and every step looks whether it has been done. The
//! decision is `state.id`, in phase *adopting*. After it, opening the store makes a working copy
//! from the snapshot, as always, and then removes the flat layout.
//!
//! Adopting is asked for, and no part of opening a store: a directory called `engine` may be
//! anybody's, every row is read, and the program that wrote the flat layout cannot go back.

use std::path::PathBuf;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Result, exists_as};
use lithdb_lthash::RootHash;
use lithdb_state_engine::{CheckLevel, OpenMode};
use serde::Serialize;

use crate::db::StateDb;
use crate::dirs::{self, Dirs, FLAT_DIR, discard};
use crate::event::refuse_in_listener;
use crate::files::{HashKind, LAYOUT, Phase, StateId, StoreId};
use crate::head::Head;
use crate::meta::Meta;
use crate::open::{Opening, inventory, working};
use crate::options::{Retention, StateComponents, StateOptions};
use crate::record::{Body, Record};
use crate::snapshot::list::list;
use crate::snapshot::take::{Subject, take_of};
use crate::verify::count_rows;
use crate::wal::Log;

/// A flat layout that was adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AdoptReport {
    /// The store's id, which the flat layout has.
    pub store: StoreId,
    /// Its version. The next one is the first that can be committed.
    pub version: u64,
    /// The root after it.
    pub root: RootHash,
    /// The number of its rows.
    pub rows: u64,
}

impl StateDb {
    /// Makes a state store of a directory with a flat layout: an engine in `engine`, without a log
    /// and without snapshots. All rows are read, and compared with the root that the engine names.
    /// The history begins with the version of the engine. If it is interrupted, the directory still
    /// has its flat layout, and adopting it again goes on; or it has been adopted, and opening it
    /// does the rest.
    ///
    /// # Errors
    /// `Missing` if there is no flat layout. `InvalidArgument` if there is a state store already.
    /// `Foreign` if the directory has a log or a snapshot of something else. `Corrupt` if the rows
    /// are not those of the root. `Locked`, `StorageFull`, `Io`.
    pub fn adopt(dir: impl Into<PathBuf>, options: StateOptions) -> Result<AdoptReport> {
        Self::adopt_with(dir, options, StateComponents::default())
    }

    /// As [`adopt`](Self::adopt), with components of the caller's.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub fn adopt_with(
        dir: impl Into<PathBuf>,
        options: StateOptions,
        components: StateComponents,
    ) -> Result<AdoptReport> {
        refuse_in_listener()?;
        // No snapshot is taken or removed that the application has not asked for.
        let options = options.snapshot_interval(0).retention(Retention::Manual);
        let mut opening = Opening::new(dir.into(), options, components)?;
        let (fs, dirs) = (std::sync::Arc::clone(&opening.env.fs), opening.dirs.clone());
        if StateId::read(&*fs, &dirs.id())?.is_none() {
            check_flat(&opening)?;
        }
        let lock = dirs::lock(&*fs, &dirs)?;
        match StateId::read(&*fs, &dirs.id())? {
            None => prepare(&mut opening)?,
            // Interrupted after the decision.
            Some(id) if id.phase == Phase::Adopting => {}
            Some(_) => {
                let message = "there is a state store already: nothing to adopt";
                return Err(Error::at(ErrorKind::InvalidArgument, dirs.root(), message));
            }
        }
        let db = Self::open_locked(opening, lock)?;
        let (store, view) = (db.shared.id, db.latest());
        let rows = view.stores().iter().map(|(_name, keys, _bytes)| keys).sum();
        let report = AdoptReport { store, version: view.version(), root: view.root(), rows };
        db.close()?;
        Ok(report)
    }
}

/// Refuses a directory that has no flat layout, or more than that and what an interrupted adoption
/// has made.
fn check_flat(opening: &Opening) -> Result<()> {
    let (fs, dirs) = (&*opening.env.fs, &opening.dirs);
    if !exists_as(fs, &dirs.flat(), FileKind::Dir)? {
        let message = "there is no flat layout: expected an engine in the directory engine";
        return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
    }
    let inventory = inventory::take(fs, dirs)?;
    if let Some(name) = ["working", "abandoned"].into_iter().find(|name| inventory.has(name)) {
        let message = format!("state.id is missing beside {name}: restore it");
        return Err(Error::at(ErrorKind::Missing, dirs.root(), message));
    }
    opening.engines.check(&dirs.flat(), None, CheckLevel::Names)
}

/// Makes everything that a store has beside its flat layout, and decides.
fn prepare(opening: &mut Opening) -> Result<()> {
    check_flat(opening)?;
    let (env, dirs) = (opening.env.clone(), opening.dirs.clone());
    let engine = opening.engines.open(&dirs.flat(), OpenMode::Write)?;
    let meta = working::read_meta(&*engine)?;
    let pin = engine.pin();
    let found = count_rows(&engine, &pin, &mut || {})?;
    if found != meta.totals {
        let message = format!(
            "the rows of the flat layout: expected the root {} and its counts, found {}: restore \
             the directory",
            meta.root,
            found.root()
        );
        return Err(Error::at(ErrorKind::Corrupt, &dirs.flat(), message));
    }
    let id = id_of(opening, &meta)?;
    let (own_db, log, _floor) = opening.open_log()?;
    let is_logged = check_beside(opening, &log, &meta)?;
    let Meta { store, version, root, totals } = meta;
    let head = Head { version, root, totals: totals.clone(), pin };
    // Nothing was applied: this writes nothing.
    let sealed = engine.seal(&[])?;
    engine.flush(&sealed)?;
    let (engines, engine) = (&*opening.engines, &*engine);
    take_of(Subject { env: &env, dirs: &dirs, engines, engine, store }, &sealed, &head)?;
    if !is_logged {
        let (previous_root, time, body) = (root, env.clock.now(), Body::Base(totals));
        log.put(&Record { store, version, previous_root, root, time, body })?;
    }
    log.table.flush()?;
    drop(log);
    own_db.map_or(Ok(()), |db| db.close())?;
    id.write(&*env.fs, &dirs.id())
}

/// The identity of the store that a flat layout becomes.
fn id_of(opening: &Opening, meta: &Meta) -> Result<StateId> {
    let Some(initial_version) = meta.version.checked_add(1) else {
        let message = "the flat layout has the last version that there can be";
        return Err(Error::at(ErrorKind::InvalidArgument, opening.dirs.root(), message));
    };
    let (store, phase, hash) = (meta.store, Phase::Adopting, HashKind::LtHash16Blake3);
    Ok(StateId { layout: LAYOUT, store, phase, hash, initial_version })
}

/// Refuses a log and snapshots that are not of this adoption. Returns whether the log has its
/// record.
fn check_beside(opening: &Opening, log: &Log, meta: &Meta) -> Result<bool> {
    let dirs = &opening.dirs;
    let foreign = |what: String| {
        let message = format!("{what} is not of the flat layout beside it: move it away");
        Error::at(ErrorKind::Foreign, dirs.root(), message)
    };
    let versions = list(&*opening.env.fs, dirs)?.into_iter().map(|found| found.version);
    if let Some(other) = versions.into_iter().find(|version| *version != meta.version) {
        return Err(foreign(format!("the snapshot of version {other}")));
    }
    let Some(versions) = log.versions_of(meta.store, dirs.root())? else { return Ok(false) };
    let record = log.record(meta.version)?;
    let is_ours = record.is_some_and(|record| record.is_base() && record.root == meta.root);
    if !is_ours || versions != (meta.version..=meta.version) {
        return Err(foreign(format!("the log {}", log.table.name())));
    }
    Ok(true)
}

/// Removes the flat layout of a store that was adopted. Opening calls it when it has what it needs.
pub(crate) fn finish(opening: &mut Opening, id: &mut StateId) -> Result<()> {
    if id.phase != Phase::Adopting {
        return Ok(());
    }
    let (env, dirs) = (&opening.env, &opening.dirs);
    discard_flat(env, dirs)?;
    opening.report.foreign.retain(|name| name != FLAT_DIR);
    id.phase = Phase::Ready;
    id.write(&*env.fs, &dirs.id())
}

/// Removes the flat layout of a store in phase *adopting*.
pub(crate) fn discard_flat(env: &Env, dirs: &Dirs) -> Result<()> {
    if exists_as(&*env.fs, &dirs.flat(), FileKind::Dir)? {
        discard(env, dirs, &dirs.flat(), FLAT_DIR)?;
    }
    Ok(())
}
