//! Ends of a process and what follows them: closing, crashing, rolling back, opening.

use std::collections::BTreeSet;

use lithdb_sim::CrashImage;
use lithdb_state::{Error, ErrorKind, Unreachable};

use super::run::{Interrupted, Run, count};
use crate::support::DIR;

impl Run {
    /// Forgets the handle and what was only in memory.
    pub fn leave(&mut self) {
        self.pending.clear();
        self.note_events();
        self.db = None;
    }

    pub fn close(&mut self) {
        let closed = self.db().close();
        let is_closed = self.done(closed).is_some();
        let error = self.db().commit(self.model.head() + 1).unwrap_err();
        assert!(self.is_dead() || error.kind() == ErrorKind::Closed, "{}: {error}", self.context);
        self.leave();
        if is_closed {
            self.durable = self.model.head();
            self.open_after(self.durable);
            let is_flushed = self.environment.flush_on_close && self.db.is_some();
            if is_flushed && !self.is_dead() {
                let report = self.db().opened();
                let found = (report.replayed, report.recloned.clone());
                assert_eq!(found, (0, None), "{}: {report:?}", self.context);
            }
        }
    }

    pub fn lose_working(&mut self) {
        self.leave();
        if self.is_dead() {
            return;
        }
        let working = format!("{DIR}/working");
        self.harness.fs.remove_dir_raw(working);
        self.open_after(self.durable);
        if let Some(db) = &self.db {
            let newest = self.snapshots.last().copied().unwrap_or(self.model.base);
            assert_eq!(db.opened().base, newest, "{}: the newest snapshot", self.context);
            count("working copies cloned");
        }
    }

    pub fn rollback(&mut self, back: u64) {
        let target = self.version_back(back);
        let db = self.db.take().unwrap();
        let other = db.clone();
        match db.rollback_to(target) {
            Ok(db) => {
                // Not even the view of an abandoned handle changes.
                assert_eq!(other.version() == db.version(), target == self.model.head());
                self.db = Some(db);
                self.rolled_back(target);
            }
            Err(error) if self.is_dead() => {
                self.done::<()>(Err(error));
                self.interrupt_rollback(target);
            }
            Err(error) => {
                // Nothing was changed: the store goes on.
                self.db = Some(other);
                self.refused(target, &error);
            }
        }
    }

    pub fn stopped_rollback(&mut self, back: u64) {
        let target = self.version_back(back);
        self.leave();
        match self.harness.rollback().plan(target).map(|plan| (plan.newest, plan.execute())) {
            Ok((newest, Ok(report))) => {
                // What was not durable is there if the process has not crashed.
                assert!((self.durable..=self.model.head()).contains(&newest), "{}", self.context);
                let expected = (target, self.model.at(target).root);
                assert_eq!((report.version, report.root), expected, "{}", self.context);
                self.rolled_back(target);
            }
            Ok((_, Err(error))) => {
                self.done::<()>(Err(error));
                return self.interrupt_rollback(target);
            }
            Err(error) if self.is_dead() => {
                self.done::<()>(Err(error));
                return;
            }
            Err(error) => {
                self.refused(target, &error);
            }
        }
        self.harness.take_events();
        self.open_after(self.durable);
    }

    fn rolled_back(&mut self, target: u64) {
        count(if target == self.model.head() { "rollbacks to the newest" } else { "rolled back" });
        assert!(self.is_reachable(target), "{}: nobody can reach {target}", self.context);
        self.pending.clear();
        if target < self.model.head() {
            self.durable = target;
        }
        self.model.roll_back(target);
        self.snapshots.retain(|version| *version <= target);
    }

    /// From now on the store is found where it was, or at `target`.
    fn interrupt_rollback(&mut self, target: u64) {
        if let Some(base) = target.checked_sub(self.model.base)
            && base <= self.model.head() - self.model.base
        {
            let mut after = self.model.clone();
            after.roll_back(target);
            self.interrupted = Some(Interrupted::Rollback(after));
        }
    }

    /// The version cannot be reached.
    pub fn refused(&self, target: u64, error: &Error) {
        count("versions refused");
        let unreachable = Unreachable::of(error);
        let unreachable = unreachable.unwrap_or_else(|| panic!("{}: {error}", self.context));
        assert_eq!((unreachable.target, error.kind()), (target, ErrorKind::Missing));
        assert!(!self.is_reachable(target), "{}: {target} was refused: {error}", self.context);
    }

    pub fn crash(&mut self, image: &CrashImage) {
        (self.db, self.soon) = (None, None);
        self.held.clear();
        self.pending.clear();
        self.harness = self.harness.after_crash(image);
        self.open();
    }

    /// Opens the store without a crash before: it has at least the version `durable`.
    pub fn open_after(&mut self, durable: u64) {
        self.durable = durable;
        if !self.is_dead() {
            self.open();
        }
    }

    pub fn open(&mut self) {
        let opened = self.harness.try_open();
        let Some(db) = self.done(opened) else { return };
        count("openings");
        let (head, root) = (db.version(), db.root());
        let context = format!("{}: opened at version {head}", self.context);
        match self.interrupted.take() {
            Some(Interrupted::Commit(after)) if head == after.head() => self.model = after,
            Some(Interrupted::Rollback(after)) if head == after.head() => {
                count("rollbacks finished by an opening");
                self.model = after;
            }
            _ => {
                let expected = self.durable..=self.model.head();
                assert!(expected.contains(&head), "{context}, expected {expected:?}");
                self.model.roll_back(head);
            }
        }
        assert_eq!(root, self.model.at(head).root, "{context}");
        self.durable = head;
        let report = db.opened();
        assert_eq!(report.base + report.replayed, head, "{context}: {report:?}");
        assert!(report.damaged.is_empty() && report.foreign.is_empty(), "{context}: {report:?}");
        self.db = Some(db);
        self.adopt_snapshots();
    }

    /// After an opening: those that stand are some of those that stood, and perhaps one that was
    /// being taken.
    fn adopt_snapshots(&mut self) {
        let head = self.model.head();
        let found: BTreeSet<u64> =
            self.db().snapshots().unwrap().iter().map(|snapshot| snapshot.version).collect();
        let before: BTreeSet<u64> =
            self.snapshots.iter().copied().filter(|version| *version <= head).collect();
        let new: Vec<u64> = found.difference(&before).copied().collect();
        assert!(new.is_empty() || new == [head] || new == [head - 1], "{}: {new:?}", self.context);
        // The newest is never removed.
        assert!(found.last() >= before.last(), "{}: {before:?}, {found:?}", self.context);
        self.snapshots = found;
    }
}
