//! Creating a table and removing one; both can be interrupted at any point and are completed or undone by the next
//! opening.

use std::path::{Path, PathBuf};

use lithdb_env::{DirEntry, Error, ErrorKind, FileKind, Fs, Result, leftover_of, sync_parent};
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, SegmentFile};

use crate::open::chain::{Access, OpenPlan};
use crate::setup::TableSetup;
use crate::state::{StateFile, TableState, read_state};
use crate::table::Table;
use lithdb_env::exists_as;
use lithdb_segment::quarantine::is_quarantine_dir;

/// Whether a table is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No directory has its name.
    Absent,
    /// It is there.
    Present,
    /// Its creation or removal was interrupted: nothing in it is of any use.
    Interrupted,
}

/// Looks whether the table in `dirs` (its directory on every root) is there.
/// `Missing` if there are segments, or some that a repair kept, but no state; `Foreign` if
/// something else, a symbolic link, say, stands where a directory or the state belongs; what
/// reading the state says.
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
                    "expected the state of the table that {} belongs to; bring it back, or see `lith repair`; if nobody needs the table any more, remove its directories",
                    file.display()
                );
                return Err(Error::at(ErrorKind::Missing, &state_path, message));
            }
        }
    }
    Ok(if any { Presence::Interrupted } else { Presence::Absent })
}

impl Table {
    /// Creates a table that is absent. Its state is the commit point: before it is there, there is no table.
    /// If it fails, what was made by then is removed by the next attempt.
    pub fn create(setup: &TableSetup) -> Result<()> {
        create(setup).map_err(|e| setup.in_context(&e))
    }

    /// Removes a table of which no handle is open: all its files and directories, on every root. Also finishes a
    /// removal or undoes a creation that was interrupted.
    /// If it fails, the next opening goes on with it.
    pub fn remove(setup: &TableSetup) -> Result<()> {
        remove(setup).map_err(|e| setup.in_context(&e))
    }

    /// The first half of dropping a table: from now on it counts as gone, whatever happens. All handles are closed.
    pub fn begin_drop(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let shared = &writer.shared;
        let _shutdown = writer.shutdown.lock();
        {
            // Puts and seals that are running are waited for below: their files are about to go.
            let _log = writer.log.lock();
            shared.check_open()?;
            let written = writer.state.update(|state| state.dropping = true);
            written.map_err(|e| shared.fail(&e))?;
            shared.set_closed();
        }
        writer.quiesce();
        Ok(())
    }

    /// As [`begin_drop`](Self::begin_drop), for a table of which no handle is open.
    /// Refuses what opening the table refuses before it reads its records.
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

/// Removes the files whose names are ours, durably. Others stay, and with them the directory.
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

/// Removes what repairs have kept of a table that is being dropped.
fn remove_quarantine(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for aside in quarantine_dirs(fs, dir)? {
        remove_files(fs, &aside, is_quarantined)?;
        remove_dir(fs, &aside)?;
    }
    Ok(())
}

/// The directories in which repairs have kept something.
fn quarantine_dirs(fs: &dyn Fs, dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = entries(fs, dir)?.into_iter();
    let quarantine_dirs = entries.filter(|e| e.kind == FileKind::Dir && is_quarantine_dir(&e.name));
    Ok(quarantine_dirs.map(|e| dir.join(e.name)).collect())
}

/// Whether a repair keeps files of this name.
fn is_quarantined(name: &str) -> bool {
    name == STATE_FILE || is_segment_file(name)
}

fn is_segment_file(name: &str) -> bool {
    SegmentFile::parse(name).is_some()
}

/// What is in a directory; nothing if it is not there.
fn entries(fs: &dyn Fs, dir: &Path) -> Result<Vec<DirEntry>> {
    match fs.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", dir, e)),
    }
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
