//! `rollback.intent`, the commit record of a rollback: while the file exists, the rollback that it
//! describes will be completed.
//!
//! It is on root 0, names the database and every root, and holds the remaining step of each table.
//! It is written once everything that needs space is durable, and removed once every step is
//! durable. `execute` writes it; opening for writing finishes it.

use std::path::PathBuf;

use lithdb_env::{
    Error, ErrorKind, OpenMode, Result, UnixMillis, exists, read_file, remove_if_exists,
    replace_file, replacement_path, sync_parent, write_all_at,
};
use lithdb_roots::Roots;
use lithdb_segment::envelope::{self, ENVELOPE_LEN, MAX_PAYLOAD_LEN, Magic};
use lithdb_segment::{Position, TableName};
use lithdb_table::TableSetup;
pub use lithdb_table::truncate::INTENT_FILE;
use lithdb_table::truncate::{
    self, Boundary, Discarded, PreparedTruncation, Removed, TruncateStep,
};
use serde::{Deserialize, Serialize};

use crate::plan::{Action, TablePlan};
use crate::report::{PendingRollback, RollbackReport, TableReport};

/// A decided rollback. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Everything is done and durable; only the file remains to be removed. It lies in the first
    /// sector, so writing it in place is atomic.
    pub(crate) done: bool,
    /// The id of the database.
    pub(crate) database_id: u64,
    /// The ids of its roots, by root number.
    pub(crate) root_ids: Vec<u64>,
    /// When the rollback was decided.
    pub(crate) decided: UnixMillis,
    /// The remaining work, table by table.
    pub(crate) tables: Vec<TableIntent>,
}

/// The remaining step of a table, and what its report needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableIntent {
    pub(crate) step: TruncateStep,
    pub(crate) boundary: Option<(Vec<u8>, Position, UnixMillis)>,
    pub(crate) discarded: Discarded,
}

#[expect(clippy::expect_used, reason = "an open database has at least one root")]
pub(crate) fn path(roots: &Roots) -> PathBuf {
    roots.paths().first().expect("root 0").join(INTENT_FILE)
}

/// Whether a rollback is pending: decided and not finished.
///
/// # Errors
/// File system errors.
pub fn is_pending(roots: &Roots) -> Result<bool> {
    let path = path(roots);
    exists(&*roots.env().fs, &path).map_err(|e| Error::io("stat", &path, e))
}

/// The pending rollback, if there is one. Writes nothing.
///
/// # Errors
/// File system errors. If the rollback cannot be finished in the present state of the files, that
/// is not an error but its [`obstacle`](PendingRollback::obstacle).
pub fn pending(roots: &Roots) -> Result<Option<PendingRollback>> {
    if !is_pending(roots)? {
        return Ok(None);
    }
    let mut pending = PendingRollback {
        path: path(roots),
        decided: None,
        is_carried_out: false,
        tables: Vec::new(),
        obstacle: None,
    };
    match Intent::read(roots) {
        Ok(intent) => {
            pending.decided = Some(intent.decided);
            pending.is_carried_out = intent.done;
            pending.tables = intent.reports();
            if !intent.done {
                // Another process may be finishing it and moving files during the first check.
                let failed = intent.check(roots).err();
                pending.obstacle = failed.and_then(|_| intent.check(roots).err());
            }
        }
        Err(error) => pending.obstacle = Some(error),
    }
    // If it has been finished meanwhile, ignore what was read.
    Ok(is_pending(roots)?.then_some(pending))
}

/// Refuses a database with a pending rollback, for callers that do not finish it.
///
/// # Errors
/// `Locked`; file system errors.
pub fn refuse_pending(roots: &Roots) -> Result<()> {
    pending(roots)?.map_or(Ok(()), |pending| Err(pending.to_error()))
}

/// Finishes a pending rollback, if there is one. The caller has just opened the roots for writing
/// and no table yet.
///
/// # Errors
/// `Corrupt`, `Foreign`, `Missing` if the intent or what was prepared for it is not as it was
/// written: nothing was changed. File system errors: it may be called again.
pub fn finish_pending(roots: &Roots) -> Result<Option<RollbackReport>> {
    let clock = &roots.env().clock;
    let started = clock.monotonic();
    remove_if_exists(&*roots.env().fs, &replacement_path(&path(roots)))?;
    if !is_pending(roots)? {
        return Ok(None);
    }
    let intent = Intent::read(roots)?;
    intent.write_in_place(roots)?;
    let tables = if intent.done {
        remove(roots)?;
        intent.reports()
    } else {
        tracing::warn!(decided = %intent.decided, "finishing an interrupted rollback");
        intent.apply(roots, &mut |_, _| {})?
    };
    let (decided, took) = (Some(intent.decided), clock.monotonic().saturating_sub(started));
    Ok(Some(RollbackReport { decided, finished_later: true, tables, took }))
}

fn remove(roots: &Roots) -> Result<()> {
    let (fs, path) = (&*roots.env().fs, path(roots));
    remove_if_exists(fs, &path)?;
    sync_parent(fs, &path)
}

impl Intent {
    /// Writes the intent, durably. If this fails, [`is_pending`] tells whether the rollback may
    /// still happen.
    pub(crate) fn write(&self, roots: &Roots) -> Result<()> {
        replace_file(&*roots.env().fs, &path(roots), &envelope::encode(Magic::ROLLBACK, self)?)
    }

    fn read(roots: &Roots) -> Result<Self> {
        let (fs, path) = (&*roots.env().fs, path(roots));
        let limit = (MAX_PAYLOAD_LEN + ENVELOPE_LEN) as u64;
        let bytes = read_file(fs, &path, limit).map_err(|e| Error::io("read", &path, e))?;
        let intent: Self = envelope::decode_file(Magic::ROLLBACK, &path, &bytes)?;
        if intent.database_id == roots.database_id() && intent.root_ids == roots.root_ids() {
            return Ok(intent);
        }
        Err(Error::at(
            ErrorKind::Foreign,
            &path,
            format_args!(
                "expected a rollback of database {:016x} on {} roots, found one of {:016x} on {}",
                roots.database_id(),
                roots.root_ids().len(),
                intent.database_id,
                intent.root_ids.len()
            ),
        ))
    }

    /// Overwrites the intent with itself, which needs no space. What was read may be in the page
    /// cache only, so it must be made durable before any step relies on it.
    fn write_in_place(&self, roots: &Roots) -> Result<()> {
        let (fs, path) = (&*roots.env().fs, path(roots));
        let file = fs.open(&path, OpenMode::ReadWrite).map_err(|e| Error::io("open", &path, e))?;
        if file.links().map_err(|e| Error::io("stat", &path, e))? > 1 {
            return self.write(roots); // another hard link may be a backup
        }
        let bytes = envelope::encode(Magic::ROLLBACK, self)?;
        write_all_at(&*file, &bytes, 0).map_err(|e| Error::io("write", &path, e))?;
        file.sync_all().map_err(|e| Error::io("sync", &path, e))?;
        sync_parent(fs, &path)
    }

    /// Checks that everything the steps need exists.
    pub(crate) fn check(&self, roots: &Roots) -> Result<()> {
        let mut steps = self.tables.iter().map(|table| &table.step);
        steps.try_for_each(|step| {
            truncate::check(
                &TableSetup::for_files(step.table.clone(), roots.env(), roots.paths()),
                step,
            )
        })
    }

    /// Carries out all steps, and removes the intent once everything is durable.
    pub(crate) fn apply(
        &self,
        roots: &Roots,
        progress: &mut dyn FnMut(&TableName, Removed),
    ) -> Result<Vec<TableReport>> {
        // Remove nothing unless every step can be applied.
        self.check(roots)?;
        let mut reports = self.reports();
        for (TableIntent { step, .. }, report) in self.tables.iter().zip(&mut reports) {
            truncate::apply(
                &TableSetup::for_files(step.table.clone(), roots.env(), roots.paths()),
                step,
                &mut |removed| {
                    report.count(removed);
                    progress(&step.table, removed);
                },
            )?;
        }
        // If the file comes back after a crash, because its removal was not durable, it says that
        // nothing is left to do.
        Self { done: true, ..self.clone() }.write_in_place(roots)?;
        remove(roots)?;
        Ok(reports)
    }

    /// The reports of the tables, as far as the intent has them.
    fn reports(&self) -> Vec<TableReport> {
        self.tables.iter().map(TableIntent::report).collect()
    }
}

impl TableIntent {
    pub(crate) fn new(plan: &TablePlan, prepared: &PreparedTruncation) -> Self {
        let step = prepared.step().clone();
        let boundary = plan.boundary.as_ref().zip(prepared.position());
        let boundary = boundary.map(|(b, at)| (b.key.clone(), at, b.written_before));
        Self { step, boundary, discarded: plan.discarded }
    }

    fn report(&self) -> TableReport {
        let kept = self.step.kept.as_ref();
        let boundary = self.boundary.clone();
        TableReport {
            table: self.step.table.clone(),
            action: if kept.is_some() { Action::Truncate } else { Action::Clear },
            boundary: boundary.map(|(key, position, written_before)| Boundary {
                key,
                position,
                written_before,
            }),
            discarded: self.discarded,
            segments_removed: 0,
            bytes_removed: 0,
            segment_truncated: kept.filter(|kept| kept.rewritten).map(|kept| kept.segment),
        }
    }
}
