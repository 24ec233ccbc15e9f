//! Creating a table and removing one; both can be interrupted at any point and are completed or undone by the next
//! opening.

use std::path::Path;

use lithdb_env::{Error, FileKind, Fs, Result, leftover_of, sync_parent};
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, SegmentFile};

use crate::plan::{Access, Plan};
use crate::state::{StateFile, TableState};
use crate::table::{Table, TableSetup};

impl Table {
    /// Creates a table that is absent. Its state is the commit point: before it is there, there is no table.
    ///
    /// # Errors
    /// What the file system says; what was made by then is removed by the next attempt.
    pub fn create(setup: &TableSetup) -> Result<()> {
        create(setup).map_err(|e| setup.in_context(&e))
    }

    /// Removes a table of which no handle is open: all its files and directories, on every root. Also finishes a
    /// removal or undoes a creation that was interrupted.
    ///
    /// # Errors
    /// What the file system says; the next opening goes on with it.
    pub fn remove(setup: &TableSetup) -> Result<()> {
        remove(setup).map_err(|e| setup.in_context(&e))
    }

    /// The first half of dropping a table: from now on it counts as gone, whatever happens. All handles are closed.
    ///
    /// # Errors
    /// `Io`, which latches the table.
    pub fn begin_drop(&self) -> Result<()> {
        let side = self.inner.enter_write()?;
        let _ending = side.ending.lock();
        {
            // Puts and seals that are under way are waited for below: their files are about to go.
            let _writer = side.writer.lock();
            self.inner.still_open()?;
            let written = side.state.update(|state| state.dropping = true);
            written.map_err(|e| self.inner.latch(&e))?;
            self.set_closed();
        }
        side.settle();
        Ok(())
    }

    /// As [`begin_drop`](Self::begin_drop), for a table of which no handle is open.
    ///
    /// # Errors
    /// What opening the table refuses before it reads its records; `Io`.
    pub fn begin_drop_of(setup: &TableSetup) -> Result<()> {
        begin_drop_of(setup).map_err(|e| setup.in_context(&e))
    }
}

fn begin_drop_of(setup: &TableSetup) -> Result<()> {
    let state = StateFile::open(&*setup.env.fs, &setup.state_path())?;
    Plan::make(&setup.env, &setup.segment_dirs(), &state.get(), Access::Write)?;
    state.update(|state| state.dropping = true)
}

fn create(setup: &TableSetup) -> Result<()> {
    let env = &setup.env;
    let fs = &*env.fs;
    for dir in &setup.dirs {
        for path in [dir.clone(), dir.join(SEGMENTS_DIR)] {
            match fs.create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create directory", &path, error)),
            }
            sync_parent(fs, &path)?;
        }
    }
    let state = TableState::new(env.random_u64()?, env.random_u64()?, env.clock.now());
    StateFile::create(fs, &setup.state_path(), &state)
}

fn remove(setup: &TableSetup) -> Result<()> {
    let fs = &*setup.env.fs;
    // Other roots first: while root 0 has the state, it says that the table is being dropped.
    for dir in setup.dirs.iter().rev() {
        empty_segments(fs, &dir.join(SEGMENTS_DIR))?;
    }
    for dir in &setup.dirs {
        remove_kept_aside(fs, dir)?;
    }
    for dir in setup.dirs.iter().take(1) {
        remove_files(fs, dir, |name| name == STATE_FILE || leftover_of(name) == Some(STATE_FILE))?;
    }
    for dir in setup.dirs.iter().rev() {
        remove_dir(fs, &dir.join(SEGMENTS_DIR))?;
        remove_dir(fs, dir)?;
    }
    Ok(())
}

fn empty_segments(fs: &dyn Fs, dir: &Path) -> Result<()> {
    remove_files(fs, dir, |name| SegmentFile::parse(name).is_some())
}

/// Removes the files whose names are ours, durably. Others stay, and with them the directory.
fn remove_files(fs: &dyn Fs, dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    let files = entries.iter().filter(|e| e.kind != FileKind::Dir && is_ours(&e.name));
    for entry in files {
        let path = dir.join(&entry.name);
        fs.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))
}

/// Removes what repairs have kept aside.
fn remove_kept_aside(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let entries = match fs.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    for entry in entries.iter().filter(|e| e.kind == FileKind::Dir && is_aside(&e.name)) {
        let aside = dir.join(&entry.name);
        remove_files(fs, &aside, |_| true)?;
        remove_dir(fs, &aside)?;
    }
    Ok(())
}

/// Whether a repair gave this name to a directory.
fn is_aside(name: &str) -> bool {
    name.strip_prefix("damaged-")
        .is_some_and(|millis| !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit()))
}

/// Removes a directory that should be empty. One with somebody else's files stays.
fn remove_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    match fs.remove_dir(dir) {
        Ok(()) => sync_parent(fs, dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(dir = %dir.display(), "files that are not LithDB's stay");
            Ok(())
        }
        Err(error) => Err(Error::io("remove directory", dir, error)),
    }
}
