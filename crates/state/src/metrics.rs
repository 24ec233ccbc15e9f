//! Metrics of a store for the `metrics` facade. They use the recorder that is installed when the
//! store is opened: what is recorded often has handles that are made then. Nothing in the store
//! reads them.
//!
//! The gauges are the writer's: an open store sets them. Whoever only reads a store, beside its
//! writer or not, has none of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lithdb_env::{Clock, Result};
use metrics::{Counter, Gauge, Histogram};

use crate::open::{OpenReport, Reclone};

/// Histograms and counters of one store, by its directory.
#[derive(Debug, Clone)]
pub(crate) struct Label(Arc<str>);

impl Label {
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.display().to_string().into())
    }

    pub(crate) fn histogram(&self, name: &'static str) -> Histogram {
        metrics::histogram!(name, "state" => self.0.to_string())
    }

    pub(crate) fn counter(&self, name: &'static str) -> Counter {
        metrics::counter!(name, "state" => self.0.to_string())
    }

    fn gauge(&self, name: &'static str) -> Gauge {
        metrics::gauge!(name, "state" => self.0.to_string())
    }
}

/// Calls `call`, and records how long it took if it succeeds.
pub(crate) fn timed<T>(
    clock: &dyn Clock,
    histogram: &Histogram,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let started = clock.monotonic();
    let done = call()?;
    histogram.record(clock.monotonic().saturating_sub(started).as_secs_f64());
    Ok(done)
}

/// The metrics of an open store.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) label: Label,
    pub(crate) apply: Histogram,
    /// Reading old values, in all threads of an `apply` together.
    pub(crate) old_values: Histogram,
    /// Hashing, in all threads of an `apply` together.
    pub(crate) hash: Histogram,
    commit: Histogram,
    pub(crate) flush: Histogram,
    pub(crate) snapshot: Histogram,
    pub(crate) prune: Histogram,
    pub(crate) views: Arc<ViewMetrics>,
    /// Changes committed.
    ops: Counter,
    pub(crate) pruned_snapshots: Counter,
    pub(crate) pending_ops: Gauge,
    pub(crate) version: Gauge,
    pub(crate) durable_version: Gauge,
    pub(crate) snapshot_version: Gauge,
    wal_versions: Gauge,
    pub(crate) l0_runs: Gauge,
    /// The oldest version of the log, for [`wal_versions`](Self::wal_versions).
    oldest: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(label: Label, clock: Arc<dyn Clock>) -> Self {
        Self {
            apply: label.histogram("lithdb_state_apply_seconds"),
            old_values: label.histogram("lithdb_state_old_values_seconds"),
            hash: label.histogram("lithdb_state_hash_seconds"),
            commit: label.histogram("lithdb_state_commit_seconds"),
            flush: label.histogram("lithdb_state_flush_seconds"),
            snapshot: label.histogram("lithdb_state_snapshot_seconds"),
            prune: label.histogram("lithdb_state_prune_seconds"),
            views: Arc::new(ViewMetrics::new(&label, clock)),
            ops: label.counter("lithdb_state_ops_total"),
            pruned_snapshots: label.counter("lithdb_state_pruned_snapshots_total"),
            pending_ops: label.gauge("lithdb_state_pending_ops"),
            version: label.gauge("lithdb_state_version"),
            durable_version: label.gauge("lithdb_state_durable_version"),
            snapshot_version: label.gauge("lithdb_state_snapshot_version"),
            wal_versions: label.gauge("lithdb_state_wal_versions"),
            l0_runs: label.gauge("lithdb_state_l0_runs"),
            oldest: AtomicU64::new(0),
            label,
        }
    }

    /// A version was committed, with so many changes.
    pub(crate) fn committed(&self, version: u64, ops: u64, took: Duration) {
        self.commit.record(took.as_secs_f64());
        self.ops.increment(ops);
        self.pending_ops.set(0.0);
        self.version.set(version as f64);
        self.show_log(version);
    }

    /// The log begins with `oldest`, and the newest committed version is `newest`.
    pub(crate) fn set_oldest(&self, oldest: u64, newest: u64) {
        self.oldest.store(oldest, Ordering::Relaxed);
        self.show_log(newest);
    }

    fn show_log(&self, newest: u64) {
        let versions = newest.saturating_sub(self.oldest.load(Ordering::Relaxed)) + 1;
        self.wal_versions.set(versions as f64);
    }
}

/// What views record, those of a store that is only read included.
#[derive(Debug)]
pub(crate) struct ViewMetrics {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) export: Histogram,
}

impl ViewMetrics {
    pub(crate) fn new(label: &Label, clock: Arc<dyn Clock>) -> Self {
        Self { clock, export: label.histogram("lithdb_state_export_seconds") }
    }
}

/// Counts what opening a store has found and done.
pub(crate) fn count_opening(label: &Label, report: &OpenReport) {
    label.counter("lithdb_state_replayed_versions_total").increment(report.replayed);
    let is_recloned = report.recloned.as_ref().is_some_and(|reason| *reason != Reclone::Absent);
    label.counter("lithdb_state_recloned_total").increment(u64::from(is_recloned));
    let abandoned = report.abandoned.len() as u64;
    label.counter("lithdb_state_abandoned_snapshots_total").increment(abandoned);
}
