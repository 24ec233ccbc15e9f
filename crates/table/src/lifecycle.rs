//! Creates and removes tables. Both can be interrupted at any point; the next opening completes or
//! undoes them.
//!
//! `table.state` is the commit point: without it there is no table, and with its *dropping* flag
//! set the table is being removed.

use std::path::{Path, PathBuf};

use lithdb_env::{DirEntry, Error, ErrorKind, FileKind, Fs, Result, leftover_of, sync_parent};
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, SegmentFile};

use crate::open::chain::{Access, OpenPlan};
use crate::state::{StateFile, TableState, read_state};
use crate::table::{Table, TableSetup};
use lithdb_env::exists_as;
use lithdb_segment::quarantine::is_quarantine_dir;

/// Whether a table exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No directory has its name.
    Absent,
    /// The table exists.
    Present,
    /// Its creation or removal was interrupted: nothing in it is of use.
    Interrupted,
}

/// Checks whether the table in `dirs` (its directory on every root) exists.
/// `Missing` if there are segment files, or files that a repair quarantined, but no state;
/// `Foreign` if something else, such as a symbolic link, is in the place of a directory or of the
/// state; the errors of reading the state.
pub fn presence(fs: &dyn Fs, dirs: &[PathBuf]) -> Result<Presence> {
    let Some(first) = dirs.first() else { return Ok(Presence::Absent) };
    let mut any = false;
    for dir in dirs {
        let is_table = exists_as(fs, dir, FileKind::Dir)?;
        any |= is_table;
        if is_table {
            exists_as(fs, &dir.join(SEGMENTS_DIR), FileKind::Dir)?;
        }
    }
    let state_path = first.join(STATE_FILE);
    if exists_as(fs, &state_path, FileKind::File)? {
        let dropped = read_state(fs, &state_path)?.state.dropping;
        return Ok(if dropped { Presence::Interrupted } else { Presence::Present });
    }
    for dir in dirs {
        for place in quarantine_dirs(fs, dir)?.into_iter().chain([dir.join(SEGMENTS_DIR)]) {
            if let Some(file) = entries(fs, &place)?.into_iter().find(|e| is_quarantined(&e.name)) {
                let file = place.join(file.name);
                let message = format_args!(
                    "expected the state of the table that {} belongs to, found none; restore it, or see `lith repair`; if nobody needs the table any more, remove its directories",
                    file.display()
                );
                return Err(Error::at(ErrorKind::Missing, &state_path, message));
            }
        }
    }
    Ok(if any { Presence::Interrupted } else { Presence::Absent })
}

impl Table {
    /// Creates a table that does not exist. Writing its state is the commit point: without a state
    /// there is no table. If this fails, the next attempt removes what was created.
    pub fn create(setup: &TableSetup) -> Result<()> {
        create(setup).map_err(|e| setup.in_context(&e))
    }

    /// Removes a table of which no handle is open: all its files and directories, on every root.
    /// Also finishes an interrupted removal or undoes an interrupted creation.
    /// If this fails, the next opening continues it.
    pub fn remove(setup: &TableSetup) -> Result<()> {
        remove(setup).map_err(|e| setup.in_context(&e))
    }

    /// The first half of dropping a table: once its state records the drop, the table no longer
    /// exists, whatever happens. Closes all handles.
    pub fn begin_drop(&self) -> Result<()> {
        let side = self.inner.enter_write()?;
        let _shutdown_lock = side.shutdown_lock.lock();
        {
            // `quiesce` below waits for puts and seals in progress: their files are about to be
            // removed.
            let _writer = side.writer.lock();
            self.inner.check_open()?;
            let written = side.state.update(|state| state.dropping = true);
            written.map_err(|e| self.inner.fail(&e))?;
            self.set_closed();
        }
        side.quiesce();
        Ok(())
    }

    /// As [`begin_drop`](Self::begin_drop), for a table of which no handle is open.
    /// Refuses what an opening refuses before it reads the records.
    pub fn begin_drop_of(setup: &TableSetup) -> Result<()> {
        begin_drop_of(setup).map_err(|e| setup.in_context(&e))
    }
}

fn begin_drop_of(setup: &TableSetup) -> Result<()> {
    let state = StateFile::open(&setup.env.fs, &setup.state_path())?;
    OpenPlan::make(&setup.env, &setup.segment_dirs(), &state.get(), Access::Write)?;
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
        remove_files(fs, &dir.join(SEGMENTS_DIR), is_segment_file)?;
    }
    for dir in &setup.dirs {
        remove_quarantine(fs, dir)?;
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

/// Removes the files that `is_ours` selects, durably. Other files stay, and with them the
/// directory.
fn remove_files(fs: &dyn Fs, dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    if !exists_as(fs, dir, FileKind::Dir)? {
        return Ok(());
    }
    let entries = entries(fs, dir)?;
    for entry in entries.iter().filter(|e| e.kind != FileKind::Dir && is_ours(&e.name)) {
        let path = dir.join(&entry.name);
        fs.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))
}

/// Removes the quarantine directories of a table that is being dropped.
fn remove_quarantine(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for quarantine in quarantine_dirs(fs, dir)? {
        remove_files(fs, &quarantine, is_quarantined)?;
        remove_dir(fs, &quarantine)?;
    }
    Ok(())
}

/// The quarantine directories that repairs created.
fn quarantine_dirs(fs: &dyn Fs, dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = entries(fs, dir)?.into_iter();
    let quarantine_dirs = entries.filter(|e| e.kind == FileKind::Dir && is_quarantine_dir(&e.name));
    Ok(quarantine_dirs.map(|e| dir.join(e.name)).collect())
}

/// Whether a repair quarantines files of this name.
fn is_quarantined(name: &str) -> bool {
    name == STATE_FILE || is_segment_file(name)
}

fn is_segment_file(name: &str) -> bool {
    SegmentFile::parse(name).is_some()
}

/// The entries of a directory; none if it does not exist.
fn entries(fs: &dyn Fs, dir: &Path) -> Result<Vec<DirEntry>> {
    match fs.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", dir, e)),
    }
}

/// Removes a directory that should be empty. One with foreign files stays.
fn remove_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    match fs.remove_dir(dir) {
        Ok(()) => sync_parent(fs, dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(dir = %dir.display(), "directory kept: it contains foreign files");
            Ok(())
        }
        Err(error) => Err(Error::io("remove directory", dir, error)),
    }
}
