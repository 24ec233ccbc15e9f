//! A table open for reading only, while another process may write it.
//!
//! A reader serves a [`View`] that includes at least what was flushed before it was taken. A new
//! view replaces it as a whole. `view` is locked only briefly; `refreshing` is held while the next
//! view is made. The writer changes files meanwhile, so an error counts only if a second attempt
//! with nothing changed in between repeats it. A reader never writes.

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

/// How often a reader reads files that keep changing.
const MAX_ATTEMPTS: usize = 8;

/// Keys to be inserted into a keymap.
pub(super) type Keys = Vec<(KeyHash, Position)>;

pub(crate) struct Reader {
    pub(crate) shared: Shared,
    view: RwLock<Arc<View>>,
    /// The keys of the view that its keymap lacks because an earlier refresh failed.
    pub(super) refreshing: Mutex<Keys>,
}

impl Reader {
    pub(super) fn open(setup: &TableSetup, options: &TableOptions) -> Result<Self> {
        retry_until_stable(setup, || {
            let (state, plan) = read_files(setup)?;
            let shared = Shared::new(setup, options, &state, options.shards.unwrap_or(1));
            let keymap = new_keymap(options.keymap.unwrap_or_default());
            let view = View::from_plan(&shared.context, state, plan, keymap)?;
            Ok(Self { shared, view: RwLock::new(view.into()), refreshing: Mutex::default() })
        })
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Replaces the view by `change` of it.
    pub(crate) fn publish(&self, change: impl FnOnce(&View) -> View) {
        let mut view = self.view.write();
        let next = Arc::new(change(&view));
        let before = std::mem::replace(&mut *view, next);
        drop(view);
        // Segments may be dropped here, so not under the lock.
        drop(before);
    }

    /// Replaces the view by one with a higher watermark.
    pub(super) fn raise(&self, change: impl FnOnce(&View) -> View) {
        self.publish(change);
        let view = self.view();
        view.keymap.raise_watermark(view.watermark);
    }

    /// Replaces the view by a new one made from all files.
    pub(super) fn replace(&self, unpublished: &mut Keys) -> Result<()> {
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
        // The table may have been dropped and another one created with its name.
        if state.table_id == self.shared.context.table_id {
            return Ok(state);
        }
        let message = "the table was dropped and recreated; open it again";
        Err(Error::new(ErrorKind::Closed, message))
    }
}

/// Reads the state and plans an open from all files.
fn read_files(setup: &TableSetup) -> Result<(TableState, OpenPlan)> {
    refuse_rollback(setup)?;
    let state = read_live_state(setup)?;
    let plan = OpenPlan::make(&setup.env, &setup.segment_dirs(), &state, Access::Read)?;
    // What was read while a rollback began may be neither the old nor the new state.
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

/// Refuses a database with a rollback that is running in another process or was interrupted.
pub(super) fn refuse_rollback(setup: &TableSetup) -> Result<()> {
    let root = setup.dirs.first().and_then(|dir| dir.parent());
    let Some(path) = root.map(|root| root.join(INTENT_FILE)) else { return Ok(()) };
    if !exists(&*setup.env.fs, &path).map_err(|e| Error::io("look for", &path, e))? {
        return Ok(());
    }
    let message = "a rollback is running or was interrupted; if no process is running it, open the database for writing, or `lith rollback --finish`";
    Err(Error::at(ErrorKind::Locked, &path, message).for_pending_rollback())
}

/// Retries until it succeeds, or fails twice with nothing changed in between.
fn retry_until_stable<T>(setup: &TableSetup, read_files: impl Fn() -> Result<T>) -> Result<T> {
    let fs = &*setup.env.fs;
    let mut before = None;
    for _ in 1..MAX_ATTEMPTS {
        let error = match read_files() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // Two failed reads are equal if they fail with the same kind of error.
        let state = read_state(fs, &setup.state_path()).map(|found| found.state);
        let files = Inventory::list(fs, &setup.segment_dirs());
        let now = (state.map_err(|e| e.kind()), files.map_err(|e| e.kind()));
        if before.replace(now.clone()) == Some(now) {
            return Err(error);
        }
    }
    read_files()
}
