//! Carrying a plan out: compare, prepare, decide, do.

use std::ops::ControlFlow;

use lithdb_env::{Error, ErrorKind, Result, remove_best_effort, replacement_path};
use lithdb_roots::Roots;
use lithdb_segment::TableName;
use lithdb_table::truncate::{PreparedTruncation, Removed, StoppedTable, prepare};
use lithdb_table::{Presence, TableSetup, presence};
use serde::Serialize;

use crate::intent::{Intent, TableIntent, is_pending, path, refuse_pending};
use crate::plan::{RollbackPlan, TablePlan};
use crate::report::{RollbackReport, TableReport};

/// How far an execution has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// The table that it is being done to.
    pub table: TableName,
    /// Segments that have been removed, of all tables.
    pub segments_done: u64,
    /// Segments that the plan removes.
    pub segments_total: u64,
    /// Bytes of files that have been removed.
    pub bytes_done: u64,
    /// Bytes of files that the plan removes, as far as is known.
    pub bytes_total: u64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Everything that needs space is being written beside the old files: it can still be stopped.
    Preparing,
    /// The rollback is decided; it is carried out, by this call or by the next opening.
    Applying,
}

impl RollbackPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|plan| plan.truncate_at.is_none())
    }

    /// Whether it may be executed, as far as the plan itself tells.
    ///
    /// # Errors
    /// `InvalidArgument`, with the tables and keys, if values stay [out of order](crate::OutOfOrder), and that was not
    /// [accepted](crate::Rollback::accept_out_of_order).
    pub fn check(&self) -> Result<()> {
        let left = |plan: &TablePlan| {
            let found = plan.out_of_order.as_ref().filter(|found| found.values > 0)?;
            let named: Vec<String> = found.newest.iter().map(ToString::to_string).collect();
            let more = if found.values > named.len() as u64 { ", …" } else { "" };
            Some(format!(
                "table {}: {} of them, {}{more}",
                plan.table,
                found.values,
                named.join(", ")
            ))
        };
        let left: Vec<String> = self.tables.iter().filter_map(left).collect();
        if self.accept_out_of_order || left.is_empty() {
            return Ok(());
        }
        let message = format!(
            "values beyond the point to roll back to would stay, because they were put before the last key kept ({}). Nothing was changed; roll back further, to a position before all of them, or accept that they stay out of order",
            left.join("; ")
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Rolls back: all tables of the plan, or none, whatever happens.
    ///
    /// # Errors
    /// What [`check`](Self::check) says; `Locked`; `Conflict` if the database holds something else than when the plan was made; `StorageFull` and other
    /// failures of preparing: nothing has changed, and what was written is removed. A failure after the rollback was
    /// decided says so: the next opening, or [`Rollback::finish`](crate::Rollback::finish), goes on.
    pub fn execute(self) -> Result<RollbackReport> {
        self.execute_with(|_| ControlFlow::Continue(()))
    }

    /// As [`execute`](Self::execute); `progress` hears how far it has come, and can stop it as long as it is
    /// [`Preparing`](Phase::Preparing).
    ///
    /// # Errors
    /// As [`execute`](Self::execute); `Cancelled` if it was stopped: nothing has changed.
    pub fn execute_with(
        self,
        mut progress: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<RollbackReport> {
        self.check()?;
        let clock = &self.env.clock;
        let started = clock.monotonic();
        let roots = Roots::open_for_writing(&self.env, &self.roots, false)?;
        refuse_pending(&roots)?;
        let stopped_tables = self.stopped_tables(&roots)?;
        let mut reporter = ProgressReporter::new(&self, &mut progress);
        let prepared = self.prepare(stopped_tables, &mut reporter)?;
        let (mut decided, mut tables) = (None, Vec::new());
        if !prepared.is_empty() {
            let intent = self.decide(&roots, prepared)?;
            decided = Some(intent.decided);
            let done =
                intent.apply(&roots, &mut |table, removed| reporter.applying(table, removed));
            tables = done.map_err(|e| {
                e.context("the rollback was decided and is not finished; the next opening for writing, or `lith rollback --finish`, goes on with it")
            })?;
        }
        // The tables to which nothing was done belong into the report, too.
        let untouched = self.tables.iter().filter(|plan| plan.truncate_at.is_none());
        tables.extend(untouched.map(TableReport::of));
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        let took = clock.monotonic().saturating_sub(started);
        Ok(RollbackReport { decided, finished_later: false, tables, took })
    }

    /// The tables again, which must hold what they held.
    fn stopped_tables(&self, roots: &Roots) -> Result<Vec<StoppedTable>> {
        if roots.database_id() != self.database_id {
            return Err(stale("another database is in its place"));
        }
        let is_there = |name: &TableName| -> Result<bool> {
            let dirs = TableSetup::for_files(name.clone(), roots.env(), roots.paths()).dirs;
            Ok(presence(&*self.env.fs, &dirs)? == Presence::Present)
        };
        if self.all_tables {
            for name in roots.table_names()? {
                if is_there(&name)? && !self.tables.iter().any(|plan| plan.table == name) {
                    return Err(stale(&format!("table {name} is new")));
                }
            }
        }
        let again = self.tables.iter().map(|TablePlan { table, fingerprint, .. }| {
            if !is_there(table)? {
                return Err(stale(&format!("table {table} is gone")));
            }
            let stopped_table = StoppedTable::read(&TableSetup::for_files(
                table.clone(),
                roots.env(),
                roots.paths(),
            ))?;
            if stopped_table.fingerprint() != *fingerprint {
                return Err(stale(&format!("table {table} holds something else")));
            }
            Ok(stopped_table)
        });
        again.collect()
    }

    /// Prepares all tables, or none: what is dropped here is removed again.
    fn prepare(
        &self,
        stopped_tables: Vec<StoppedTable>,
        reporter: &mut ProgressReporter<'_>,
    ) -> Result<Vec<(&TablePlan, PreparedTruncation)>> {
        let mut prepared = Vec::new();
        for (plan, stopped_table) in self.tables.iter().zip(stopped_tables) {
            if let Some(at) = &plan.truncate_at {
                reporter.preparing(&plan.table)?;
                prepared.push((plan, prepare(stopped_table, at)?));
            }
        }
        if let Some(plan) = self.tables.last() {
            reporter.preparing(&plan.table)?;
        }
        Ok(prepared)
    }

    /// From here on it is going to happen.
    fn decide(
        &self,
        roots: &Roots,
        prepared: Vec<(&TablePlan, PreparedTruncation)>,
    ) -> Result<Intent> {
        let tables = prepared.iter().map(|(plan, prepared)| TableIntent::new(plan, prepared));
        let intent = Intent {
            done: false,
            database_id: self.database_id,
            root_ids: roots.root_ids().to_vec(),
            decided: self.env.clock.now(),
            tables: tables.collect(),
        };
        // What could not be carried out must not be decided.
        let written = intent.check(roots).and_then(|()| intent.write(roots));
        // Once it has its name nobody knows what a crash would leave: then what is prepared must stay.
        if written.is_err() && matches!(is_pending(roots), Ok(false)) {
            remove_best_effort(&*self.env.fs, &replacement_path(&path(roots)));
            return written.map(|()| intent);
        }
        prepared.into_iter().for_each(|(_, prepared)| prepared.keep());
        written.map(|()| intent).map_err(|e| {
            e.context("whether the rollback happens is not decided; the next opening for writing decides it")
        })
    }
}

fn stale(what: &str) -> Error {
    let message = format!("the plan does not fit any more: {what} since it was made; plan again");
    Error::new(ErrorKind::Conflict, message)
}

/// Tells the caller how far it is.
struct ProgressReporter<'a> {
    progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    total: Removed,
    done: Removed,
}

impl<'a> ProgressReporter<'a> {
    fn new(plan: &RollbackPlan, progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Self {
        let mut total = Removed::default();
        for TablePlan { segments_removed, bytes_removed, .. } in &plan.tables {
            total.add(Removed { segments: *segments_removed, bytes: *bytes_removed });
        }
        Self { progress, total, done: Removed::default() }
    }

    fn report(&mut self, phase: Phase, table: &TableName) -> ControlFlow<()> {
        (self.progress)(&Progress {
            phase,
            table: table.clone(),
            segments_done: self.done.segments,
            segments_total: self.total.segments,
            bytes_done: self.done.bytes,
            bytes_total: self.total.bytes,
        })
    }

    fn preparing(&mut self, table: &TableName) -> Result<()> {
        match self.report(Phase::Preparing, table) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(
                ErrorKind::Cancelled,
                "the rollback was stopped before it was decided; nothing was changed",
            )),
        }
    }

    fn applying(&mut self, table: &TableName, removed: Removed) {
        self.done.add(removed);
        #[expect(clippy::let_underscore_must_use, reason = "it is too late to stop it")]
        let _ = self.report(Phase::Applying, table);
    }
}
