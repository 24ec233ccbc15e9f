//! Executes a plan: compare the tables with it, prepare, decide (write the intent), apply.
//!
//! Until the intent is written, any failure leaves the database as it was; from then on the
//! rollback is completed, by this call or by the next open.

use std::convert::Infallible;
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

/// The progress of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// The table being processed.
    pub table: TableName,
    /// Segments removed so far, in all tables.
    pub segments_done: u64,
    /// Segments that the plan removes.
    pub segments_total: u64,
    /// Bytes of files removed so far.
    pub bytes_done: u64,
    /// Bytes of files that the plan removes, as far as known.
    pub bytes_total: u64,
}

/// The phase of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Everything that needs space is being written beside the old files; the caller can still
    /// stop the rollback.
    Preparing,
    /// The rollback is decided; this call or the next open completes it.
    Applying,
}

impl RollbackPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|plan| plan.truncate_at.is_none())
    }

    /// Checks whether the plan may be executed, as far as the plan itself shows.
    ///
    /// # Errors
    /// `InvalidArgument`, with the tables and keys, if values are kept
    /// [out of order](crate::OutOfOrder) and the caller did not
    /// [accept](crate::Rollback::accept_out_of_order) that.
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
            "values above the limit would be kept, because they were put \
             before the last key kept ({}). Nothing was changed; roll back further, to a position \
             before all of them, or accept that they are kept out of order",
            left.join("; ")
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// Rolls back all tables of the plan atomically.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); `Locked`; `InvalidArgument` for a stale plan, if the
    /// database has changed since planning; `StorageFull` and other failures while preparing:
    /// nothing has changed, and what was written is removed. An error after the rollback was
    /// decided says so: the next read-write open, or
    /// [`Rollback::finish`](crate::Rollback::finish), continues it.
    pub fn execute(self) -> Result<RollbackReport> {
        let never_stop = |_: &Progress| ControlFlow::<Infallible>::Continue(());
        let ControlFlow::Continue(report) = self.run(never_stop)?;
        Ok(report)
    }

    /// As [`execute`](Self::execute), but calls `progress`, which can stop the rollback during the
    /// phase [`Preparing`](Phase::Preparing). Returns `None` if it did: nothing has changed.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn execute_with(
        self,
        progress: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Option<RollbackReport>> {
        Ok(self.run(progress)?.continue_value())
    }

    fn run<B>(
        self,
        mut progress: impl FnMut(&Progress) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B, RollbackReport>> {
        self.check()?;
        let clock = &self.env.clock;
        let started = clock.monotonic();
        let roots = Roots::open_for_writing(&self.env, &self.roots, false)?;
        refuse_pending(&roots)?;
        let stopped_tables = self.stopped_tables(&roots)?;
        let mut reporter = ProgressReporter::new(&self, &mut progress);
        let prepared = match self.prepare(stopped_tables, &mut reporter)? {
            ControlFlow::Continue(prepared) => prepared,
            ControlFlow::Break(stopped) => return Ok(ControlFlow::Break(stopped)),
        };
        let (mut decided, mut tables) = (None, Vec::new());
        if !prepared.is_empty() {
            let intent = self.decide(&roots, prepared)?;
            decided = Some(intent.decided);
            let done =
                intent.apply(&roots, &mut |table, removed| reporter.applying(table, removed));
            tables = done.map_err(|e| {
                e.context(
                    "the rollback was decided and is not finished; the next read-write open, \
                     or `lith rollback --finish`, continues it",
                )
            })?;
        }
        // The report also lists the tables that were left as they are.
        let untouched = self.tables.iter().filter(|plan| plan.truncate_at.is_none());
        tables.extend(untouched.map(TableReport::of));
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        let took = clock.monotonic().saturating_sub(started);
        let report = RollbackReport { decided, finished_later: false, tables, took };
        Ok(ControlFlow::Continue(report))
    }

    /// Reads the tables again; a table that has changed makes the plan stale.
    fn stopped_tables(&self, roots: &Roots) -> Result<Vec<StoppedTable>> {
        if roots.database_id() != self.database_id {
            return Err(stale("the database was replaced by another database"));
        }
        let is_present = |name: &TableName| -> Result<bool> {
            let dirs = TableSetup::for_files(name.clone(), roots.env(), roots.paths()).dirs;
            Ok(presence(&*self.env.fs, &dirs)? == Presence::Present)
        };
        if self.all_tables {
            for name in roots.table_names()? {
                if is_present(&name)? && !self.tables.iter().any(|plan| plan.table == name) {
                    return Err(stale(&format!("table {name} was created")));
                }
            }
        }
        let again = self.tables.iter().map(|TablePlan { table, fingerprint, .. }| {
            if !is_present(table)? {
                return Err(stale(&format!("table {table} was dropped")));
            }
            let stopped_table = StoppedTable::read(&TableSetup::for_files(
                table.clone(),
                roots.env(),
                roots.paths(),
            ))?;
            if stopped_table.fingerprint() != *fingerprint {
                return Err(stale(&format!("table {table} changed")));
            }
            Ok(stopped_table)
        });
        again.collect()
    }

    /// Prepares all tables or none: a `PreparedTruncation` that is dropped removes its files.
    fn prepare<B>(
        &self,
        stopped_tables: Vec<StoppedTable>,
        reporter: &mut ProgressReporter<'_, B>,
    ) -> Result<ControlFlow<B, Vec<(&TablePlan, PreparedTruncation)>>> {
        let mut prepared = Vec::new();
        for (plan, stopped_table) in self.tables.iter().zip(stopped_tables) {
            if let Some(at) = &plan.truncate_at {
                if let ControlFlow::Break(stopped) = reporter.report(Phase::Preparing, &plan.table)
                {
                    return Ok(ControlFlow::Break(stopped));
                }
                prepared.push((plan, prepare(stopped_table, at)?));
            }
        }
        if let Some(plan) = self.tables.last()
            && let ControlFlow::Break(stopped) = reporter.report(Phase::Preparing, &plan.table)
        {
            return Ok(ControlFlow::Break(stopped));
        }
        Ok(ControlFlow::Continue(prepared))
    }

    /// Writes the intent, which decides the rollback.
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
        // Never decide a rollback that cannot be completed.
        let written = intent.check(roots).and_then(|()| intent.write(roots));
        // Once the intent has its name, the crash outcome is open: then the prepared files must
        // stay.
        if written.is_err() && matches!(is_pending(roots), Ok(false)) {
            remove_best_effort(&*self.env.fs, &replacement_path(&path(roots)));
            return written.map(|()| intent);
        }
        prepared.into_iter().for_each(|(_, prepared)| prepared.keep());
        written.map(|()| intent).map_err(|e| {
            e.context(
                "the outcome of the rollback is unknown; the next read-write open \
                 finishes it or finds the database unchanged",
            )
        })
    }
}

fn stale(what: &str) -> Error {
    let message = format!("stale plan: {what} since the plan was made; plan again");
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Reports progress to the caller.
struct ProgressReporter<'a, B> {
    progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<B>,
    total: Removed,
    done: Removed,
}

impl<'a, B> ProgressReporter<'a, B> {
    fn new(plan: &RollbackPlan, progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<B>) -> Self {
        let mut total = Removed::default();
        for TablePlan { segments_removed, bytes_removed, .. } in &plan.tables {
            total.add(Removed { segments: *segments_removed, bytes: *bytes_removed });
        }
        Self { progress, total, done: Removed::default() }
    }

    fn report(&mut self, phase: Phase, table: &TableName) -> ControlFlow<B> {
        (self.progress)(&Progress {
            phase,
            table: table.clone(),
            segments_done: self.done.segments,
            segments_total: self.total.segments,
            bytes_done: self.done.bytes,
            bytes_total: self.total.bytes,
        })
    }

    fn applying(&mut self, table: &TableName, removed: Removed) {
        self.done.add(removed);
        #[expect(clippy::let_underscore_must_use, reason = "it is too late to stop it")]
        let _ = self.report(Phase::Applying, table);
    }
}
