//! Metrics of a store for the `metrics` facade. They use the recorder that is installed when the
//! store is opened: what is recorded often has handles that are made then. Nothing in the store
//! reads them.
//!
//! The recorder is the application's, and may be called under locks. What it is told has happened:
//! its panics are caught.
//!
//! The gauges are the writer's: an open store sets them. Whoever only reads a store, beside its
//! writer or not, has none of them, and neither have the handles of a store that was closed: its
//! directory may be open again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Clock, Result};
use metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;

use crate::open::{OpenReport, Reclone};
use crate::overlay::Times;

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
    record(histogram, clock.monotonic().saturating_sub(started));
    Ok(done)
}

/// Records a duration.
pub(crate) fn record(histogram: &Histogram, took: Duration) {
    tell(|| histogram.record(took.as_secs_f64()));
}

/// Adds to a counter.
pub(crate) fn add(counter: &Counter, number: u64) {
    tell(|| counter.increment(number));
}

/// Calls the recorder.
fn tell(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("the metrics recorder panicked");
    }
}

/// The metrics of an open store.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) label: Label,
    pub(crate) apply: Histogram,
    /// Reading old values, in all threads of an `apply` together.
    old_values: Histogram,
    /// Hashing, in all threads of an `apply` together.
    hash: Histogram,
    commit: Histogram,
    pub(crate) flush: Histogram,
    pub(crate) snapshot: Histogram,
    pub(crate) prune: Histogram,
    pub(crate) views: Arc<ViewMetrics>,
    /// Changes committed.
    ops: Counter,
    pub(crate) pruned_snapshots: Counter,
    gauges: Gauges,
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
            gauges: Gauges::new(GAUGES.map(|name| label.gauge(name))),
            label,
        }
    }

    /// An `apply` has succeeded.
    pub(crate) fn applied(&self, times: &Times) {
        record(&self.old_values, times.reading);
        record(&self.hash, times.hashing);
    }

    /// A version was committed, with so many changes.
    pub(crate) fn committed(&self, version: u64, ops: u64, durable: u64, took: Duration) {
        record(&self.commit, took);
        add(&self.ops, ops);
        self.show(|shown| {
            shown.pending_ops = 0;
            shown.version = shown.version.max(version);
            shown.set_durable(durable);
        });
    }

    /// The store is open: the gauges have their first values.
    pub(crate) fn begin(&self, first: Shown) {
        self.gauges.begin(first);
    }

    /// Sets the gauges that `change` changes, if the store is open.
    pub(crate) fn show(&self, change: impl FnOnce(&mut Shown)) {
        self.gauges.show(change);
    }

    /// The store is closed: the gauges keep their values, until it is open again.
    pub(crate) fn end(&self) {
        self.gauges.end();
    }
}

/// The gauges, in the order of [`Shown::values`].
const GAUGES: [&str; 6] = [
    "lithdb_state_pending_ops",
    "lithdb_state_version",
    "lithdb_state_durable_version",
    "lithdb_state_snapshot_version",
    "lithdb_state_wal_versions",
    "lithdb_state_l0_runs",
];

/// What the gauges show. Several threads tell of versions, not always in their order: those that
/// only grow are never set to less.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) pending_ops: u64,
    pub(crate) version: u64,
    pub(crate) durable_version: u64,
    pub(crate) snapshot_version: u64,
    /// The oldest version of the log.
    pub(crate) oldest: u64,
    pub(crate) l0_runs: u64,
}

impl Shown {
    /// A version is durable. It is committed, even if who commits it has not come to say so.
    pub(crate) fn set_durable(&mut self, version: u64) {
        self.durable_version = self.durable_version.max(version);
        self.version = self.version.max(version);
    }

    fn values(&self) -> [u64; GAUGES.len()] {
        [
            self.pending_ops,
            self.version,
            self.durable_version,
            self.snapshot_version,
            self.version.saturating_sub(self.oldest) + 1,
            self.l0_runs,
        ]
    }
}

/// The gauges of an open store, with what they show. They are set under one lock, so that a newer
/// value is not replaced by an older one.
#[derive(Debug)]
struct Gauges {
    gauges: [Gauge; GAUGES.len()],
    /// `None` before the store is open, and when it is closed.
    shown: Mutex<Option<Shown>>,
}

impl Gauges {
    fn new(gauges: [Gauge; GAUGES.len()]) -> Self {
        Self { gauges, shown: Mutex::default() }
    }

    fn begin(&self, first: Shown) {
        let mut shown = self.shown.lock();
        for (gauge, value) in self.gauges.iter().zip(first.values()) {
            tell(|| gauge.set(value as f64));
        }
        *shown = Some(first);
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        let mut shown = self.shown.lock();
        let Some(shown) = &mut *shown else { return };
        let before = shown.values();
        change(shown);
        let changes = self.gauges.iter().zip(before.into_iter().zip(shown.values()));
        for (gauge, (before, value)) in changes {
            if value != before {
                tell(|| gauge.set(value as f64));
            }
        }
    }

    fn end(&self) {
        *self.shown.lock() = None;
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
    let is_recloned = report.recloned.as_ref().is_some_and(|reason| *reason != Reclone::Absent);
    add(&label.counter("lithdb_state_replayed_versions_total"), report.replayed);
    add(&label.counter("lithdb_state_recloned_total"), u64::from(is_recloned));
    let abandoned = report.abandoned.len() as u64;
    add(&label.counter("lithdb_state_abandoned_snapshots_total"), abandoned);
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
