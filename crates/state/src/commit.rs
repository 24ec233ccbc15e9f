//! Changes: applied to the pending version, committed as the next one.
//!
//! The order of a commit: the record is in the log; it is durable, if every commit is to be; the
//! rows are in the working copy; the version is published. A failure before the record is in the
//! log changes nothing. If making it durable is refused (no space), the next commit goes on from
//! there. Every other failure latches: after reopening the version may be there.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result};
use parking_lot::MutexGuard;

use crate::change_set::ChangeSet;
use crate::head::{Committed, Head};
use crate::meta::{META_KEY, Meta};
use crate::metrics::timed;
use crate::options::Durability;
use crate::overlay::Times;
use crate::record::{Body, Record, StoreDelta};
use crate::row::{encode_row, physical_key};
use crate::shared::{Accepted, PendingVersion, Shared, Writer};
use crate::totals::MAX_STORES;

impl Shared {
    /// Adds `sets` to the pending version, all or nothing.
    pub(crate) fn apply(
        &self,
        writer: &mut Writer,
        version: u64,
        sets: &[ChangeSet],
    ) -> Result<()> {
        let apply = || self.apply_sets(writer, version, sets);
        let times = timed(&*self.env.clock, &self.metrics.apply, apply)?;
        self.metrics.applied(&times);
        Ok(())
    }

    /// Returns how long it has read and hashed.
    fn apply_sets(&self, writer: &mut Writer, version: u64, sets: &[ChangeSet]) -> Result<Times> {
        self.check_writable()?;
        let head = self.check_next(version)?;
        for set in sets {
            set.validate()?;
        }
        let overlay = Arc::clone(&self.pending.lock().overlay);
        let prepared =
            overlay.prepare(sets, &self.engine, &head.pin, &self.hash_pool, &self.env.clock)?;
        let times = prepared.times;
        if writer.accepted.is_some() {
            if overlay.holds(&prepared) {
                return Ok(times);
            }
            let message = format!(
                "version {version} is in the log without these changes, and not durable yet: \
                 commit it, and apply them to the version after it"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (bytes, limit) = (overlay.bytes_with(&prepared), self.options.max_commit_bytes);
        if bytes > limit {
            let message = format!(
                "version {version} would take {bytes} bytes; expected at most {limit} \
                 (max_commit_bytes): commit less at a time, or raise the limit"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let stores = overlay.stores_with(&prepared, &head.totals);
        if stores > MAX_STORES {
            let message = format!("{stores} stores; expected at most {MAX_STORES}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        drop(overlay);
        let mut pending = self.pending.lock();
        Arc::make_mut(&mut pending.overlay).accept(prepared);
        let ops = pending.overlay.entries().len();
        drop(pending);
        self.metrics.show(|shown| shown.pending_ops = ops as u64);
        Ok(times)
    }

    /// Before a commit: waits while the engine cannot keep up. Others may act meanwhile.
    pub(crate) fn make_room(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<()> {
        self.check_writable()?;
        self.wait_for_room(writer)
    }

    /// Commits the pending changes as `version`. Also returns the version before it: who drops it
    /// last removes the files that only it read.
    pub(crate) fn commit(
        &self,
        writer: &mut Writer,
        version: u64,
    ) -> Result<(Committed, Arc<Head>)> {
        self.check_writable()?;
        let head = self.check_next(version)?;
        let guard = LatchOnPanic(Some(self));
        let started = self.env.clock.monotonic();
        let committed = self.commit_after(&head, writer, version);
        guard.disarm();
        let (committed, ops) = committed?;
        let took = self.env.clock.monotonic().saturating_sub(started);
        self.metrics.committed(version, ops, self.durable.load(Ordering::Acquire), took);
        Ok((committed, head))
    }

    /// Also returns the number of changes.
    fn commit_after(
        &self,
        head: &Head,
        writer: &mut Writer,
        version: u64,
    ) -> Result<(Committed, u64)> {
        let accepted = match writer.accepted.take() {
            Some(accepted) => accepted,
            None => self.put(head, version)?,
        };
        if let Err(error) = self.make_durable(&accepted) {
            writer.accepted = Some(accepted);
            return Err(error);
        }
        let Accepted { record: Record { root, .. }, position, .. } = accepted;
        let ops = changes_of(&accepted.record);
        if let Err(error) = self.publish(writer, accepted) {
            self.latch(&in_the_log(&error, version));
            self.latch.check()?;
        }
        self.note_durable(writer);
        Ok((Committed { version, root, position }, ops))
    }

    /// Puts the pending changes into the log, as `version`, the one after `head`.
    fn put(&self, head: &Head, version: u64) -> Result<Accepted> {
        let overlay = Arc::clone(&self.pending.lock().overlay);
        let deltas = overlay.deltas();
        let mut totals = head.totals.clone();
        totals.apply(&deltas)?;
        let record = Record {
            store: self.id,
            version,
            previous_root: head.root,
            root: totals.root(),
            time: self.env.clock.now(),
            body: Body::Commit(deltas),
        };
        let position = self.log.put(&record).map_err(|error| self.latch_on(error))?;
        Ok(Accepted { record, totals, position })
    }

    /// Makes a version of the log durable, if every commit is to be. Where LithDB has only refused
    /// that, as without the space to seal an older segment, nothing is lost and it may be repeated.
    fn make_durable(&self, accepted: &Accepted) -> Result<()> {
        if self.options.durability == Durability::OnFlush {
            return Ok(());
        }
        let version = accepted.record.version;
        if let Err(error) = self.log.table.wait_durable(accepted.position) {
            let error = in_the_log(&error, version);
            let is_over = error.latches() || error.kind() == ErrorKind::Latched;
            if is_over || self.log.table.failure().is_some() {
                self.latch(&error);
                self.latch.check()?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Puts the rows of a version into the working copy, and makes it the newest.
    fn publish(&self, writer: &mut Writer, accepted: Accepted) -> Result<()> {
        let Accepted { record, totals, position } = accepted;
        let version = record.version;
        let Body::Commit(deltas) = &record.body else { unreachable!("a commit was made") };
        apply_rows(&*self.engine, version, deltas)?;
        let head = Head { version, root: record.root, totals, pin: self.engine.pin() };
        let mut pending = self.pending.lock();
        let before = mem::replace(&mut *self.head.lock(), Arc::new(head));
        let applied = mem::take(&mut *pending);
        drop(pending);
        writer.undurable.push_back((version, position));
        drop((before, applied));
        Ok(())
    }

    /// Publishes the newest version again, with a pin that does not hold what a flush or a
    /// compaction has replaced. Returns the one before: dropping it may remove files. `None` if the
    /// working copy may hold a part of another version.
    pub(crate) fn renew_pin(&self, _writer: &mut Writer) -> Option<Arc<Head>> {
        if self.check_not_failed().is_err() {
            return None;
        }
        let head = self.head();
        let Head { version, root, totals, .. } = &*head;
        let (version, root, totals) = (*version, *root, totals.clone());
        let head = Head { version, root, totals, pin: self.engine.pin() };
        Some(mem::replace(&mut *self.head.lock(), Arc::new(head)))
    }

    /// The row that says which version a sealed memtable holds.
    pub(crate) fn meta(&self, head: &Head) -> Result<Vec<u8>> {
        Meta { store: self.id, version: head.version, root: head.root, totals: head.totals.clone() }
            .encode()
    }

    /// The head, if `version` is the next one.
    fn check_next(&self, version: u64) -> Result<Arc<Head>> {
        let head = self.head();
        if head.version.checked_add(1) == Some(version) {
            return Ok(head);
        }
        let message = format!(
            "version {version}: expected {}, the version after {}",
            head.version.saturating_add(1),
            head.version
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Forgets the pending changes.
    pub(crate) fn discard(&self, writer: &mut Writer) {
        writer.accepted = None;
        *self.pending.lock() = PendingVersion::default();
        self.metrics.show(|shown| shown.pending_ops = 0);
    }

    /// Removes versions that have become durable from those that are waited for.
    pub(crate) fn note_durable(&self, writer: &mut Writer) {
        let durable = self.log.table.durable_position();
        while let Some((version, position)) = writer.undurable.front()
            && *position < durable
        {
            self.durable.fetch_max(*version, Ordering::AcqRel);
            writer.undurable.pop_front();
        }
    }
}

/// An error of a version that must not be taken for one that was refused.
fn in_the_log(error: &Error, version: u64) -> Error {
    error.context(format_args!("version {version}, which is in the log"))
}

/// Latches if a panic unwinds through a commit: the log may have its version.
struct LatchOnPanic<'a>(Option<&'a Shared>);

impl LatchOnPanic<'_> {
    /// The commit has returned. A commit may be made by a destructor while its thread panics.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for LatchOnPanic<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.latch(&Error::new(ErrorKind::Io, "a commit panicked").latching());
        }
    }
}

/// The number of changes of a version.
fn changes_of(record: &Record) -> u64 {
    let Body::Commit(deltas) = &record.body else { unreachable!("a commit was made") };
    deltas.iter().map(|delta| delta.changes.len() as u64).sum()
}

/// Puts the rows of a version into `engine`, in memory.
pub(crate) fn apply_rows(
    engine: &dyn lithdb_state_engine::Engine,
    version: u64,
    deltas: &[StoreDelta],
) -> Result<()> {
    let rows: Vec<(Bytes, Option<Vec<u8>>)> = deltas
        .iter()
        .flat_map(|delta| {
            delta.changes.iter().map(|(key, value)| {
                let row = value.as_ref().map(|value| encode_row(version, value));
                (physical_key(&delta.name, key), row)
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    engine.apply(&mut rows.iter().map(|(key, row)| (&key[..], row.as_deref())))
}

/// Seals what was applied to `engine`, which is the version `meta`, and makes it durable.
pub(crate) fn flush_at(engine: &dyn lithdb_state_engine::Engine, meta: &Meta) -> Result<()> {
    let row = meta.encode()?;
    let sealed = engine.seal(&last_rows(&row))?;
    engine.flush(&sealed)
}

/// The META row as a memtable's last.
pub(crate) fn last_rows(meta: &[u8]) -> [(&[u8], &[u8]); 1] {
    [(META_KEY, meta)]
}
