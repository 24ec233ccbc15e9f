//! A table that is open for reading only, beside a writer in another process.
//!
//! What a reader sees is a [`View`] of one moment, at least everything that had been flushed when it was taken. The view
//! is replaced as a whole, under `view`, which is held for moments only; `refreshing` is held while the next one is made.
//! The writer changes the files meanwhile, so an error counts when a second look, with nothing changed in between, repeats
//! it. Nothing is ever written.

use std::sync::Arc;

use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Error, ErrorKind, Result, exists};
use lithdb_keymap::KeyHash;
use lithdb_segment::Position;

use crate::open::chain::{Access, OpenPlan};
use crate::open::index::new_keymap;
use crate::open::inventory::Inventory;
use crate::options::TableOptions;
use crate::read::view::View;
use crate::setup::TableSetup;
use crate::shared::Shared;
use crate::state::{TableState, read_state};
use crate::truncate::INTENT_FILE;

/// How often a reader looks at files that keep changing.
const MAX_ATTEMPTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) shared: Shared,
    view: RwLock<Arc<View>>,
    /// The keys of the view that are not in its keymap: a refresh before failed there.
    pub(super) refreshing: Mutex<Vec<(KeyHash, Position)>>,
}

impl Reader {
    /// Opens the table for reading.
    pub(super) fn open(setup: &TableSetup, options: &TableOptions) -> Result<Self> {
        retry_until_stable(setup, || {
            let (state, plan) = read_files(setup)?;
            let context = setup.context(&state, options);
            let keymap = new_keymap(options.keymap.unwrap_or_default());
            let view = View::from_plan(&context, state.clone(), plan, keymap)?;
            let shared = Shared::new(setup, options, context, &state, options.shards.unwrap_or(1));
            Ok(Self { shared, view: RwLock::new(view.into()), refreshing: Mutex::default() })
        })
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Makes what `change` makes of the view the one that is seen.
    pub(crate) fn publish(&self, change: impl FnOnce(&View) -> View) {
        let mut view = self.view.write();
        let next = Arc::new(change(&view));
        let before = std::mem::replace(&mut *view, next);
        drop(view);
        // The last holder of a segment lets go of it without the lock.
        drop(before);
    }

    /// Makes a view with a higher watermark the one that is seen.
    pub(super) fn raise(&self, change: impl FnOnce(&View) -> View) {
        self.publish(change);
        let view = self.view();
        view.keymap.raise_watermark(view.watermark);
    }

    /// Takes a view of all files in the place of the present one.
    pub(super) fn replace(&self, unpublished: &mut Vec<(KeyHash, Position)>) -> Result<()> {
        let shared = &self.shared;
        let view = retry_until_stable(&shared.setup, || {
            self.read_state()?;
            let (state, plan) = read_files(&shared.setup)?;
            let keymap = new_keymap(shared.options.keymap.unwrap_or_default());
            View::from_plan(&shared.context, state, plan, keymap)
        })?;
        unpublished.clear();
        self.publish(|_| view);
        Ok(())
    }

    pub(super) fn read_state(&self) -> Result<TableState> {
        let state = read_live_state(&self.shared.setup)?;
        // A table of the same name that was created after this one had been dropped is another table.
        if state.table_id == self.shared.context.table_id {
            return Ok(state);
        }
        let message = "the table was dropped, and another one was created with its name: open that";
        Err(Error::new(ErrorKind::Closed, message))
    }
}

/// Looks at all files.
fn read_files(setup: &TableSetup) -> Result<(TableState, OpenPlan)> {
    refuse_rollback(setup)?;
    let state = read_live_state(setup)?;
    let plan = OpenPlan::make(&setup.env, &setup.segment_dirs(), &state, Access::Read)?;
    // What was seen while one began may be neither the old state nor the new one.
    refuse_rollback(setup)?;
    Ok((state, plan))
}

fn read_live_state(setup: &TableSetup) -> Result<TableState> {
    let state = read_state(&*setup.env.fs, &setup.state_path())?.state;
    if state.dropping {
        let message = format!("table {}: it is being dropped", setup.name);
        return Err(Error::new(ErrorKind::Missing, message));
    }
    Ok(state)
}

/// Refuses a database that is being rolled back by another process, or was by one that is gone.
pub(super) fn refuse_rollback(setup: &TableSetup) -> Result<()> {
    let root = setup.dirs.first().and_then(|dir| dir.parent());
    let Some(path) = root.map(|root| root.join(INTENT_FILE)) else { return Ok(()) };
    if !exists(&*setup.env.fs, &path).map_err(|e| Error::io("look for", &path, e))? {
        return Ok(());
    }
    let message = "a rollback is under way, or was interrupted; if no process is at it, open the database for writing, or `lith rollback --finish`";
    Err(Error::at(ErrorKind::RollbackPending, &path, message))
}

/// Looks until it succeeds, or fails twice with nothing changed in between.
fn retry_until_stable<T>(
    setup: &TableSetup,
    mut read_files: impl FnMut() -> Result<T>,
) -> Result<T> {
    let fs = &*setup.env.fs;
    let mut before = None;
    for _ in 1..MAX_ATTEMPTS {
        let error = match read_files() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // What cannot be read is the same as long as it cannot be read for the same reason.
        let state = read_state(fs, &setup.state_path()).map(|found| found.state);
        let files = Inventory::list(fs, &setup.segment_dirs());
        let now = (state.map_err(|e| e.kind()), files.map_err(|e| e.kind()));
        if before.replace(now.clone()) == Some(now) {
            return Err(error);
        }
    }
    read_files()
}
