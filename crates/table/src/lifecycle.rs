//! Creates, closes and drops tables. Creation and removal can be interrupted at any point; the
//! next open completes or undoes them. After [`Table::close`] or [`Table::begin_drop`] no handle
//! writes or removes anything.
//!
//! `table.state` is the commit point: without it there is no table, and with its *dropping* flag
//! set the table is being removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use lithdb_env::{
    DirEntry, Error, ErrorKind, FileKind, Fs, Result, exists_as, leftover_of, sync_parent,
};
use lithdb_segment::quarantine::is_quarantine_dir;
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, SegmentFile};

use crate::callback::refuse_in_callback;
use crate::open::chain::{Access, OpenPlan, stale_file_error};
use crate::open::inventory::Inventory;
use crate::setup::TableSetup;
use crate::state::{RecordedEnd, StateFile, TableState, read_state};
use crate::table::{Role, Table};
use crate::write::writer::Writer;

/// Whether a table exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No directory has its name.
    Absent,
    /// The table exists.
    Present,
    /// Its creation or removal was interrupted: contains no data.
    Interrupted,
}

/// Returns whether the table in `dirs` (its directory on every root) exists. `Missing` if there
/// are segment files, or files that a repair quarantined, but no state; `Foreign` if something
/// else, such as a symbolic link, is in the place of a directory or of the state; errors of
/// reading the state.
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
    /// Also finishes an interrupted removal or undoes an interrupted creation. If this fails, the
    /// next open continues it.
    pub fn remove(setup: &TableSetup) -> Result<()> {
        remove(setup).map_err(|e| setup.in_context(&e))
    }

    /// Makes everything durable and leaves the table so that the next open has nothing to recover.
    /// Every later call on any handle returns `Closed`. A second close waits for the first and
    /// does nothing.
    ///
    /// # Errors
    /// As [`flush`](Self::flush): some puts may not be durable. The table is closed anyway.
    /// `InvalidArgument` in a callback, which closes nothing.
    pub fn close(&self) -> Result<()> {
        refuse_in_callback()?;
        let Role::Writer(writer) = &self.role else {
            self.shared().set_closed();
            return Ok(());
        };
        let _shutdown = writer.shutdown.lock();
        // The flush below covers every put before this; later ones are refused.
        let log = writer.log.lock();
        if self.is_closed() {
            return Ok(());
        }
        writer.closing.store(true, Ordering::Release);
        drop(log);
        let left = self.flush().and_then(|()| writer.write_mark());
        let log = writer.log.lock();
        writer.shared.set_closed();
        drop(log);
        writer.quiesce();
        // Nothing is appended any more, so the recorded end stays true.
        left.and_then(|()| writer.record_clean_close())
    }

    /// The first half of dropping a table: commits the drop. All handles are closed.
    pub fn begin_drop(&self) -> Result<()> {
        let writer = self.enter_write()?;
        let shared = &writer.shared;
        let _shutdown = writer.shutdown.lock();
        // `quiesce` waits for running puts and seals: their files are about to be removed.
        let log = writer.log.lock();
        shared.check_open()?;
        let written = writer.state.update(|state| state.dropping = true);
        written.map_err(|e| shared.fail(&e))?;
        shared.set_closed();
        drop(log);
        writer.quiesce();
        Ok(())
    }

    /// As [`begin_drop`](Self::begin_drop), for a table of which no handle is open. Refuses what
    /// opening refuses before it reads the records.
    pub fn begin_drop_of(setup: &TableSetup) -> Result<()> {
        begin_drop_of(setup).map_err(|e| setup.in_context(&e))
    }
}

impl Writer {
    /// Records in the state where every file ends, so that the next open can check their lengths.
    fn record_clean_close(&self) -> Result<()> {
        let shared = &self.shared;
        shared.check_latch()?;
        let log = self.log.lock();
        // Without a complete flush nothing is recorded.
        if self.commit.durable() < log.end() {
            return Ok(());
        }
        let mut left = self.state.get();
        if let Some(segment) = &log.segment {
            // A truncated length may be only in the page cache after a crash.
            segment.segment().sync_everything().map_err(|e| shared.fail(&e))?;
            left.recorded_end = Some(RecordedEnd::of(segment.segment().id(), segment.totals()));
        }
        let end = left.recorded_end.clone();
        if end.as_ref().is_none_or(|end| left.highest_id > end.segment) {
            // No file that recovery or a failed roll-over removed may reappear: the next open
            // would refuse it.
            for dir in &shared.context.dirs {
                shared.env().fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
            }
        }
        left.closed_cleanly = true;
        // After an error the lengths are not recorded; everything is durable anyway.
        let closed_cleanly = self.matches_files(&left).unwrap_or_else(|error| {
            tracing::warn!(%error, table = %shared.name(), "cannot check file lengths at close");
            false
        });
        let written = self.update_state(|state| {
            // The next id was not used: a file that has it is newer than this state, unless a
            // failed roll-over could not remove it.
            if closed_cleanly {
                state.highest_id = end.as_ref().map_or(state.highest_id, |end| end.segment);
            }
            state.recorded_end = end;
            state.closed_cleanly = closed_cleanly;
        });
        written.map(drop)
    }

    /// Whether no file is longer than `left` records. A failed streamed put may have left bytes.
    fn matches_files(&self, left: &TableState) -> Result<bool> {
        let fs = &*self.shared.env().fs;
        let inventory = Inventory::list(fs, &self.shared.context.dirs)?;
        let live = inventory.segments.range(left.watermark..).map(|(id, found)| (*id, found));
        Ok(stale_file_error(left, fs, Path::new(STATE_FILE), live)?.is_none())
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
    // Root 0 last: while it has the state, that says that the table is being dropped.
    for dir in setup.dirs.iter().rev() {
        remove_files(fs, &dir.join(SEGMENTS_DIR), |name| SegmentFile::parse(name).is_some())?;
    }
    for dir in &setup.dirs {
        for quarantine in quarantine_dirs(fs, dir)? {
            remove_files(fs, &quarantine, is_quarantined)?;
            remove_dir(fs, &quarantine)?;
        }
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

/// The quarantine directories that repairs created.
fn quarantine_dirs(fs: &dyn Fs, dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = entries(fs, dir)?.into_iter();
    let quarantine_dirs = entries.filter(|e| e.kind == FileKind::Dir && is_quarantine_dir(&e.name));
    Ok(quarantine_dirs.map(|e| dir.join(e.name)).collect())
}

/// Whether a repair quarantines files of this name.
fn is_quarantined(name: &str) -> bool {
    name == STATE_FILE || SegmentFile::parse(name).is_some()
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
