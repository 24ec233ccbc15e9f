//! The metrics of a store, with a recorder of the test's.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "pitfalls/fixture.rs"]
mod fixture;
#[path = "pitfalls/refuse.rs"]
mod refuse;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use lithdb_state::{StateDb, VerifyLevel};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
    SharedString, Unit, with_local_recorder,
};
use parking_lot::Mutex;

use fixture::Fixture;
use support::model::Change;
use support::{DIR, small};

/// What a metric has, by its name without `lithdb_state_`. Of a histogram, the number of values.
type Values = BTreeMap<String, f64>;

/// Records everything that has the label of the store in [`DIR`].
#[derive(Debug, Default, Clone)]
struct Recorder(Arc<Mutex<Values>>);

struct Metric {
    name: String,
    values: Arc<Mutex<Values>>,
}

impl Metric {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.values.lock().entry(self.name.clone()).or_default());
    }
}

impl CounterFn for Metric {
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }
    fn absolute(&self, _value: u64) {
        panic!("counters are incremented");
    }
}

impl GaugeFn for Metric {
    fn increment(&self, _value: f64) {
        panic!("gauges are set");
    }
    fn decrement(&self, _value: f64) {
        panic!("gauges are set");
    }
    fn set(&self, value: f64) {
        self.change(|gauge| *gauge = value);
    }
}

impl HistogramFn for Metric {
    fn record(&self, value: f64) {
        assert!(value >= 0.0 && value.is_finite(), "{}: {value}", self.name);
        self.change(|count| *count += 1.0);
    }
}

impl Recorder {
    fn metric(&self, key: &Key) -> Option<Arc<Metric>> {
        let name = key.name().strip_prefix("lithdb_state_")?.to_owned();
        let labels: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
        assert_eq!(labels, [("state", DIR)], "{name}");
        Some(Arc::new(Metric { name, values: Arc::clone(&self.0) }))
    }

    fn values(&self) -> Values {
        self.0.lock().clone()
    }

    /// The values since the last call.
    fn take(&self) -> Values {
        std::mem::take(&mut *self.0.lock())
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.metric(key).map_or_else(Counter::noop, Counter::from_arc)
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.metric(key).map_or_else(Gauge::noop, Gauge::from_arc)
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.metric(key).map_or_else(Histogram::noop, Histogram::from_arc)
    }
}

const GAUGES: [&str; 6] =
    ["pending_ops", "version", "durable_version", "snapshot_version", "wal_versions", "l0_runs"];

/// Six gauges, in the order of [`GAUGES`].
fn gauges(values: &Values) -> [f64; 6] {
    GAUGES.map(|name| *values.get(name).unwrap_or_else(|| panic!("{name}: {values:?}")))
}

/// Whether these metrics have these values, in which 0 is none.
fn has(values: &Values, expected: &[(&str, f64)], context: &str) {
    for (name, value) in expected {
        let found = values.get(*name).copied().unwrap_or_default();
        assert_eq!(found, *value, "{context}: {name} of {values:?}");
    }
}

#[test]
fn metrics_have_the_values_of_a_scripted_history() {
    let recorder = Recorder::default();
    with_local_recorder(&recorder, || {
        let mut store = Fixture::simulated(small().keep_snapshots(0));
        has(&recorder.values(), &[("open_seconds", 1.0), ("catch_up_seconds", 1.0)], "created");
        has(&recorder.values(), &[("replayed_versions_total", 0.0), ("recloned_total", 0.0)], "");
        let runs = store.db().stats().engine.level_0_runs as f64;
        assert_eq!(gauges(&recorder.take()), [0.0, 0.0, 0.0, 0.0, 1.0, runs]);
        store.apply(&[Change::put("bank", "a", b"1"), Change::put("log", "b", b"2")]);
        store.apply(&[Change::put("bank", "c", b"3"), Change::delete("bank", "nobody")]);
        let applied = recorder.values();
        has(&applied, &[("apply_seconds", 2.0), ("old_values_seconds", 2.0)], "applied");
        has(&applied, &[("hash_seconds", 2.0), ("pending_ops", 4.0)], "applied");
        has(&applied, &[("commit_seconds", 0.0), ("ops_total", 0.0)], "applied");
        store.db().discard_pending();
        has(&recorder.values(), &[("pending_ops", 0.0)], "discarded");
        store.commit(&[Change::put("bank", "a", b"1"), Change::delete("bank", "nobody")]);
        store.commit(&[]);
        let committed = recorder.take();
        has(&committed, &[("commit_seconds", 2.0), ("ops_total", 1.0)], "committed");
        has(&committed, &[("flush_seconds", 0.0), ("snapshot_seconds", 0.0)], "committed");
        has(&committed, &[("version", 2.0), ("durable_version", 2.0)], "committed");
        has(&committed, &[("pending_ops", 0.0), ("wal_versions", 3.0)], "committed");
        store.commit_to(4);
        store.snapshot();
        let taken = recorder.take();
        has(&taken, &[("flush_seconds", 1.0), ("snapshot_seconds", 1.0)], "snapshot");
        has(&taken, &[("prune_seconds", 1.0), ("snapshot_version", 4.0)], "snapshot");
        assert!(taken.contains_key("l0_runs"), "{taken:?}");
        store.commit_to(13);
        store.snapshot();
        let oldest = StateDb::inspect_with(DIR, store.components()).unwrap().oldest_version;
        assert!(oldest > 4, "the log was collected: {oldest}");
        let pruned = recorder.take();
        has(&pruned, &[("pruned_snapshots_total", 1.0), ("version", 13.0)], "pruned");
        has(&pruned, &[("wal_versions", 13.0 - oldest as f64 + 1.0)], "pruned");
        store.commit_to(16);
        drop(store.take_db());
        store.open();
        let opened = recorder.take();
        has(&opened, &[("replayed_versions_total", 3.0), ("recloned_total", 0.0)], "dropped");
        has(&opened, &[("version", 16.0), ("snapshot_version", 13.0)], "dropped");
    });
}

#[test]
fn metrics_count_rollbacks_exports_and_imports() {
    let recorder = Recorder::default();
    with_local_recorder(&recorder, || {
        let mut store = Fixture::simulated(small());
        store.commit_to(4);
        store.snapshot();
        store.commit_to(9);
        store.snapshot();
        recorder.take();
        store.roll_back(6);
        let rolled_back = recorder.take();
        has(&rolled_back, &[("rollback_seconds", 1.0), ("recloned_total", 1.0)], "open");
        has(&rolled_back, &[("abandoned_snapshots_total", 1.0)], "open");
        has(&rolled_back, &[("replayed_versions_total", 2.0)], "open");
        has(&rolled_back, &[("version", 6.0), ("snapshot_version", 4.0)], "open");
        store.commit_to(7);
        let export = store.export();
        store.close();
        has(&recorder.take(), &[("export_seconds", 1.0)], "exported");
        store.roll_back_stopped(5);
        has(&recorder.take(), &[("rollback_seconds", 1.0), ("version", 5.0)], "stopped");
        let copy = store.absent();
        let rows = copy.import(&export).unwrap().rows as f64;
        has(&recorder.take(), &[("import_seconds", 1.0), ("import_rows_total", rows)], "imported");
    });
}

/// sei-chain #3447: what was loaded for reading reported its height as the writer's.
#[test]
fn gauges_do_not_move_by_reading() {
    let recorder = Recorder::default();
    with_local_recorder(&recorder, || {
        // In memory, and in clones.
        for limit in [1 << 30, 0] {
            let mut store = Fixture::simulated(small().view_memory_bytes(limit));
            store.commit_to(4);
            store.snapshot();
            store.commit_to(9);
            let before = gauges(&recorder.values());
            assert_eq!((before[1], before[3]), (9.0, 4.0));
            recorder.take();
            let view = store.db().view(7).unwrap();
            view.export(Vec::new()).unwrap();
            for version in [None, Some(5), Some(6)] {
                store.view_only(version).unwrap().export(Vec::new()).unwrap();
            }
            let verified = StateDb::verify_with(
                DIR,
                VerifyLevel::Replay,
                store.options.clone(),
                store.components(),
                |_| {},
            );
            assert!(verified.unwrap().is_ok());
            StateDb::inspect_with(DIR, store.components()).unwrap();
            StateDb::latest_version_with(DIR, store.components()).unwrap();
            store.db().reach(6).unwrap();
            let read = recorder.values();
            assert_eq!(read, Values::from([("export_seconds".to_owned(), 4.0)]));
            store.commit_to(10);
            assert_eq!(recorder.take()["version"], 10.0);
        }
    });
}
