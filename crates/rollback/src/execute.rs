//! Carrying a plan out: compare, prepare, decide, do.

use std::ops::ControlFlow;

use lithdb_env::{Env, Error, ErrorKind, Result};
use lithdb_segment::TableName;
use lithdb_table::cut::{CutAt, Done, Prepared, Survey, prepare};
use lithdb_table::roots::Roots;
use lithdb_table::{Presence, TableSetup, presence};
use serde::Serialize;

use crate::intent::{Intent, TableIntent, is_pending, refuse_pending};
use crate::plan::{PlannedCut, RollbackPlan, TablePlan};
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
        self.parts.iter().all(|part| matches!(part.cut, PlannedCut::Nothing))
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
        let env = self.env.clone();
        let started = env.clock.monotonic();
        let roots = Roots::open_for_writing(&env, &self.roots, false)?;
        refuse_pending(&env, &roots)?;
        let surveys = self.surveys(&env, &roots)?;
        let mut watch = Watch::new(&self, &mut progress);
        let prepared = self.prepare(surveys, &mut watch)?;
        let mut report = if prepared.is_empty() {
            RollbackReport {
                decided: None,
                finished_later: false,
                tables: Vec::new(),
                took: Default::default(),
            }
        } else {
            let intent = self.decide(&env, &roots, prepared)?;
            let mut tell = |table: &TableName, done| watch.applying(table, done);
            let report = intent.carry_out(&env, &roots, &mut tell);
            report.map_err(|e| {
                e.context("the rollback was decided and is not finished; the next opening for writing, or `lith rollback --finish`, goes on with it")
            })?
        };
        // The tables to which nothing was done belong into the report, too.
        for plan in &self.tables {
            if !report.tables.iter().any(|done| done.table == plan.table) {
                report.tables.push(TableReport::untouched(plan));
            }
        }
        report.tables.sort_by(|a, b| a.table.cmp(&b.table));
        report.took = env.clock.monotonic().saturating_sub(started);
        Ok(report)
    }

    /// The tables again, which must hold what they held.
    fn surveys(&self, env: &Env, roots: &Roots) -> Result<Vec<Survey>> {
        if roots.database_id() != self.database_id {
            return Err(stale("another database is in its place"));
        }
        if self.all_tables {
            for name in roots.table_names(env)? {
                let setup = TableSetup::for_files(name, env, roots.paths());
                let is_there = presence(&*env.fs, &setup.dirs)? == Presence::Present;
                if is_there && !self.parts.iter().any(|part| part.table == setup.name) {
                    return Err(stale(&format!("table {} is new", setup.name)));
                }
            }
        }
        let mut surveys = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let setup = TableSetup::for_files(part.table.clone(), env, roots.paths());
            if presence(&*env.fs, &setup.dirs)? != Presence::Present {
                return Err(stale(&format!("table {} is gone", part.table)));
            }
            let survey = Survey::take(&setup)?;
            if survey.shape() != part.shape {
                return Err(stale(&format!("table {} holds something else", part.table)));
            }
            surveys.push(survey);
        }
        Ok(surveys)
    }

    /// Prepares all tables, or none.
    fn prepare<'a>(
        &'a self,
        surveys: Vec<Survey>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<(&'a TablePlan, Prepared)>> {
        let mut prepared: Vec<(&TablePlan, Prepared)> = Vec::new();
        let parts = self.parts.iter().zip(&self.tables).zip(surveys);
        let all = || -> Result<()> {
            for ((part, plan), survey) in parts {
                let at = match &part.cut {
                    PlannedCut::Nothing => continue,
                    PlannedCut::Behind(boundary) => CutAt::Behind(boundary),
                    PlannedCut::Everything => CutAt::Everything,
                };
                watch.preparing(&part.table)?;
                prepared.push((plan, prepare(survey, at)?));
            }
            match self.parts.last() {
                Some(part) => watch.preparing(&part.table),
                None => Ok(()),
            }
        };
        let outcome = all();
        if let Err(error) = outcome {
            prepared.into_iter().for_each(|(_, prepared)| prepared.abandon());
            return Err(error);
        }
        Ok(prepared)
    }

    /// From here on it is going to happen.
    fn decide(
        &self,
        env: &Env,
        roots: &Roots,
        prepared: Vec<(&TablePlan, Prepared)>,
    ) -> Result<Intent> {
        let tables = prepared.iter().map(|(plan, prepared)| TableIntent::new(plan, prepared));
        let intent = Intent {
            done: false,
            database_id: self.database_id,
            root_ids: roots.root_ids().to_vec(),
            decided: env.clock.now(),
            tables: tables.collect(),
        };
        // What could not be carried out must not be decided.
        let written = intent.check(env, roots).and_then(|()| intent.write(&*env.fs, roots));
        let Err(error) = written else { return Ok(intent) };
        // Once it has its name nobody knows what a crash would leave: then what is prepared must stay.
        if matches!(is_pending(env, roots), Ok(false)) {
            intent.abandon(&*env.fs, roots);
            prepared.into_iter().for_each(|(_, prepared)| prepared.abandon());
            return Err(error);
        }
        Err(error.context(
            "whether the rollback happens is not decided; the next opening for writing decides it",
        ))
    }
}

fn stale(what: &str) -> Error {
    let message = format!("the plan does not fit any more: {what} since it was made; plan again");
    Error::new(ErrorKind::Conflict, message)
}

impl TableReport {
    fn untouched(plan: &TablePlan) -> Self {
        Self {
            table: plan.table.clone(),
            action: plan.action,
            boundary: plan.boundary.clone(),
            discarded: plan.discarded,
            segments_removed: 0,
            bytes_removed: 0,
            segment_cut: None,
        }
    }
}

/// Tells the caller how far it is.
struct Watch<'a> {
    progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    segments_total: u64,
    bytes_total: u64,
    /// Of the tables before the present one.
    before: Done,
    present: Done,
    table: Option<TableName>,
}

impl<'a> Watch<'a> {
    fn new(plan: &RollbackPlan, progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Self {
        let segments_total = plan.tables.iter().map(|table| table.segments_removed).sum();
        let bytes = plan.tables.iter().map(|table| table.bytes_removed);
        let bytes_total = bytes.fold(0, u64::saturating_add);
        let (before, present) = (Done::default(), Done::default());
        Self { progress, segments_total, bytes_total, before, present, table: None }
    }

    fn tell(&mut self, phase: Phase, table: &TableName) -> ControlFlow<()> {
        (self.progress)(&Progress {
            phase,
            table: table.clone(),
            segments_done: self.before.segments + self.present.segments,
            segments_total: self.segments_total,
            bytes_done: self.before.bytes.saturating_add(self.present.bytes),
            bytes_total: self.bytes_total,
        })
    }

    fn preparing(&mut self, table: &TableName) -> Result<()> {
        match self.tell(Phase::Preparing, table) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::new(
                ErrorKind::Cancelled,
                "the rollback was stopped before it was decided; nothing was changed",
            )),
        }
    }

    fn applying(&mut self, table: &TableName, done: Done) {
        if self.table.as_ref() != Some(table) {
            self.before.segments += self.present.segments;
            self.before.bytes = self.before.bytes.saturating_add(self.present.bytes);
            self.table = Some(table.clone());
        }
        self.present = done;
        #[expect(clippy::let_underscore_must_use, reason = "it is too late to stop it")]
        let _ = self.tell(Phase::Applying, table);
    }
}
