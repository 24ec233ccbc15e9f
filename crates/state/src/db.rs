//! The handle of an open state store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lithdb_env::sync::thread::JoinHandle;
use lithdb_env::{Error, ErrorKind, FileLock, Result, spawn};
use lithdb_lthash::RootHash;
use parking_lot::Mutex;

use crate::change_set::ChangeSet;
use crate::event::refuse_in_listener;
use crate::head::{Committed, Head};
use crate::metrics::{Label, timed};
use crate::open::{OpenReport, Opening};
use crate::options::{StateComponents, StateOptions};
use crate::pending::Pending;
use crate::reach::Reach;
use crate::reader::{Reader, again};
use crate::shared::Shared;
use crate::snapshot::retain::classified;
use crate::snapshot::{SnapshotInfo, SnapshotTicket};
use crate::view::View;

mod close;

/// An open state store. Cheap to clone; all clones are one store.
///
/// `apply`, `commit`, `commit_block` and `discard_pending` take turns: one of them holds the
/// store's writer lock through its write to the log. Reading never waits for them. Views that were
/// taken stay as they are, also after the store was closed or rolled back.
///
/// Dropping the last clone stops the background work and flushes nothing: what was committed is in
/// the log, and the next open replays it. [`close`](Self::close) flushes.
#[derive(Clone)]
pub struct StateDb {
    pub(crate) shared: Arc<Shared>,
    keeper: Arc<Keeper>,
}

/// Stops the background thread when the last handle is dropped.
struct Keeper {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    report: OpenReport,
    /// What rolling back needs to open the store again.
    components: StateComponents,
}

impl fmt::Debug for StateDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.shared.head();
        f.debug_struct("StateDb")
            .field("dir", &self.shared.dirs.root())
            .field("version", &head.version)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    fn stop(&self) {
        self.shared.background.stop();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != lithdb_env::sync::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the background thread of the state store panicked");
        }
        drop(self.shared.floor.lock().take());
        let closed = Error::new(ErrorKind::Closed, "the state store was closed");
        self.shared.background.abandon_tickets(&closed);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl StateDb {
    /// Opens the store in `dir` for reading and writing; creates it if there is none. Heals what a
    /// crash or a rollback left, and replays the log: see [`opened`](Self::opened).
    ///
    /// # Errors
    /// `Locked` if it is open already. `Missing` if the log or `state.id` is missing beside other
    /// parts of the store, if the newest version cannot be reached ([`Unreachable`]), if an import
    /// was not finished, or if there is no store and
    /// [`create_if_missing`](StateOptions::create_if_missing) is off. `Foreign` for the log of
    /// another store, and for a directory with other files in which a store would be created.
    /// `Corrupt`, `Io`, `StorageFull`, `Exhausted`, `InvalidArgument`, `Unsupported`.
    ///
    /// [`Unreachable`]: crate::Unreachable
    pub fn open(dir: impl Into<PathBuf>, options: StateOptions) -> Result<Self> {
        Self::open_with(dir, options, StateComponents::default())
    }

    /// As [`open`](Self::open), with components of the caller's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        dir: impl Into<PathBuf>,
        options: StateOptions,
        components: StateComponents,
    ) -> Result<Self> {
        refuse_in_listener()?;
        let opening = Opening::new(dir.into(), options, components)?;
        let opened = Label::of(opening.dirs.root()).histogram("lithdb_state_open_seconds");
        timed(&*Arc::clone(&opening.env.clock), &opened, || {
            let lock = opening.lock()?;
            Self::open_locked(opening, lock)
        })
    }

    pub(crate) fn open_locked(opening: Opening, lock: Box<dyn FileLock>) -> Result<Self> {
        let components = opening.components.clone();
        let (shared, report) = opening.open(lock)?;
        let thread = if components.without_background {
            None
        } else {
            let theirs = Arc::clone(&shared);
            let thread = spawn("lithdb-state", move || theirs.run_background());
            Some(thread.map_err(|e| {
                Error::with_source(ErrorKind::Io, format!("start the background thread: {e}"), e)
            })?)
        };
        let thread = Mutex::new(thread);
        let keeper = Arc::new(Keeper { shared: Arc::clone(&shared), thread, report, components });
        Ok(Self { shared, keeper })
    }

    /// What opening found and did.
    #[must_use]
    pub fn opened(&self) -> &OpenReport {
        &self.keeper.report
    }

    /// The newest committed version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.head().version
    }

    /// The root after the newest committed version.
    #[must_use]
    pub fn root(&self) -> RootHash {
        self.shared.head().root
    }

    /// The newest version that is known to survive a power loss.
    #[must_use]
    pub fn durable_version(&self) -> u64 {
        if let Some(mut writer) = self.shared.writer.try_lock() {
            self.shared.note_durable(&mut writer);
        }
        self.shared.show_durable();
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Adds changes to the pending version, which is the one after the newest: all of them or, if
    /// there is an error, none. May be called several times before the commit; the last change of a
    /// key counts.
    ///
    /// # Errors
    /// `InvalidArgument` for another version, for keys and values beyond their limits, and beyond
    /// [`max_commit_bytes`](StateOptions::max_commit_bytes); `Latched`, `Closed`, `Corrupt`, `Io`.
    pub fn apply(&self, version: u64, changes: &[ChangeSet]) -> Result<()> {
        let _events = self.shared.events.begin()?;
        self.shared.apply(&mut self.shared.writer.lock(), version, changes)
    }

    /// Commits the pending changes as `version`, which must be the one after the newest. A version
    /// without changes is one, too.
    ///
    /// # Errors
    /// As [`apply`](Self::apply). `StorageFull`, `Exhausted`: nothing was committed, the pending
    /// changes stay, and the call may be repeated. If the log has them already (the message says
    /// so), they cannot be changed, and the version may be there when the store is opened again; so
    /// it may after any other failure of a write or sync.
    pub fn commit(&self, version: u64) -> Result<Committed> {
        let _events = self.shared.events.begin()?;
        // Dropping it may remove files: when the lock is released.
        let _before;
        let mut writer = self.shared.writer.lock();
        self.shared.make_room(&mut writer)?;
        let committed;
        (committed, _before) = self.shared.commit(&mut writer, version)?;
        self.after_commit(&mut writer);
        Ok(committed)
    }

    /// Applies changes and commits them.
    ///
    /// # Errors
    /// As [`apply`](Self::apply) and [`commit`](Self::commit). If the commit finds no space, the
    /// changes stay pending.
    pub fn commit_block(&self, version: u64, changes: &[ChangeSet]) -> Result<Committed> {
        let _events = self.shared.events.begin()?;
        // Dropping it may remove files: when the lock is released.
        let _before;
        let mut writer = self.shared.writer.lock();
        // Before the changes are pending: nobody else is to commit, discard or add to them.
        let room = self.shared.make_room(&mut writer);
        self.shared.apply(&mut writer, version, changes)?;
        room?;
        let committed;
        (committed, _before) = self.shared.commit(&mut writer, version)?;
        self.after_commit(&mut writer);
        Ok(committed)
    }

    /// The version is committed whatever happens now: a failure latches and is reported by the
    /// next call.
    fn after_commit(&self, writer: &mut crate::shared::Writer) {
        if let Err(error) = self.shared.seal_if_due(writer) {
            tracing::warn!(%error, "after a commit");
        }
    }

    /// Forgets the pending changes. They stay if a [`commit`](Self::commit) has put them into the
    /// log and could not make them durable: that version can only be committed.
    pub fn discard_pending(&self) {
        let mut writer = self.shared.writer.lock();
        if writer.accepted.is_none() {
            self.shared.discard(&mut writer);
        }
    }

    /// The newest version with the pending changes.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let pending = self.shared.pending.lock();
        let head = self.shared.head();
        let overlay = Arc::clone(&pending.overlay);
        drop(pending);
        Pending::new(self.view_of(head), overlay)
    }

    /// The newest committed version. Costs no I/O and waits for no commit.
    #[must_use]
    pub fn latest(&self) -> View {
        self.view_of(self.shared.head())
    }

    fn view_of(&self, head: Arc<Head>) -> View {
        let (engine, metrics) = (&self.shared.engine, &self.shared.metrics.views);
        View::new(head, Arc::clone(engine), Arc::clone(metrics))
    }

    /// Makes every committed version durable, and returns the newest of them.
    ///
    /// # Errors
    /// `Closed`, `Latched`, `Io`.
    pub fn flush(&self) -> Result<u64> {
        let _events = self.shared.events.begin()?;
        self.shared.check_open()?;
        self.shared.flush_log()
    }

    /// Waits until `version` survives a power loss; flushes the log if it does not yet.
    ///
    /// # Errors
    /// `InvalidArgument` for a version that has not been committed; as [`flush`](Self::flush).
    pub fn wait_durable(&self, version: u64) -> Result<()> {
        if version > self.version() {
            let message = format!("version {version}: expected at most {}", self.version());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if version > self.durable_version() {
            self.flush()?;
        }
        Ok(())
    }

    /// A committed version. The newest is [`latest`](Self::latest); an older one is reached as by a
    /// rollback: its base is opened in place, and the log is replayed onto it, in memory up to
    /// [`view_memory_bytes`](StateOptions::view_memory_bytes), then in a clone on disk. Takes no
    /// lock that a commit waits for. The view stays as it is, also after the store was closed or
    /// rolled back.
    ///
    /// # Errors
    /// `Missing`, whose source is [`Unreachable`](crate::Unreachable), if the version cannot be
    /// reached; `Closed`, `Corrupt`, `Io`, and, if it needs a clone, `StorageFull`.
    pub fn view(&self, version: u64) -> Result<View> {
        self.shared.check_open()?;
        let latest = self.latest();
        if latest.version() == version {
            return Ok(latest);
        }
        let dir = self.shared.dirs.root();
        again(dir, || Reader::of(&self.shared), |reader| reader.view(version))
    }

    /// How a version would be reached by a view or a rollback.
    ///
    /// # Errors
    /// `Missing`, whose source is [`Unreachable`](crate::Unreachable), if it cannot; `Closed`,
    /// `Io`.
    pub fn reach(&self, target: u64) -> Result<Reach> {
        let dir = self.shared.dirs.root();
        again(dir, || Reader::of(&self.shared), |reader| reader.reach(target).map(Some))
    }

    /// The lowest version that [`reach`](Self::reach) accepts: the state cannot go back further.
    /// It never falls while the store is open, and rises when snapshots are removed. An application
    /// that can be rolled back together with the state keeps what it needs for this version.
    ///
    /// # Errors
    /// As [`reach`](Self::reach) for the newest version, if none can be reached.
    pub fn rollback_floor(&self) -> Result<u64> {
        let dir = self.shared.dirs.root();
        again(dir, || Reader::of(&self.shared), |reader| reader.rollback_floor().map(Some))
    }

    /// Asks for a snapshot of the newest version. Waits for a commit that is under way. The memtable
    /// is sealed at once, if no other is being flushed; the rest is done in the background, without
    /// holding up commits, and the snapshot is then of a version not older than now.
    ///
    /// # Errors
    /// `Closed`, `Latched`; what happens later is returned by the ticket.
    pub fn snapshot(&self) -> Result<SnapshotTicket> {
        let _events = self.shared.events.begin()?;
        let mut writer = self.shared.writer.lock();
        self.shared.check_writable()?;
        let ticket = self.shared.background.want_snapshot();
        self.shared.seal_if_due(&mut writer)?;
        Ok(ticket)
    }

    /// The snapshots on disk, by version.
    ///
    /// # Errors
    /// `Closed`, `Io`, `Corrupt`.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        self.shared.check_open()?;
        let fs = &*self.shared.env.fs;
        classified(&self.shared)?.iter().map(|snapshot| snapshot.info(fs)).collect()
    }
}
