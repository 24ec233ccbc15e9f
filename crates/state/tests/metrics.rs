//! The metrics of a store, with a recorder of the test's.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "pitfalls/fixture.rs"]
mod fixture;
#[path = "pitfalls/refuse.rs"]
mod refuse;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_state::{Durability, ErrorKind, StateDb, VerifyLevel};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
    SharedString, Unit, with_local_recorder,
};
use parking_lot::Mutex;

use fixture::Fixture;
use support::model::{Change, change_sets};
use support::{DIR, small};

/// What a metric has, by its name without `lithdb_state_`. Of a histogram, the number of values.
type Values = BTreeMap<String, f64>;

/// Records everything that has the label of the store.
#[derive(Debug, Clone)]
struct Recorder {
    dir: String,
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct Told {
    values: Mutex<Values>,
    /// What no store may tell: the panics of a recorder are caught.
    wrong: Mutex<Vec<String>>,
    panics: AtomicBool,
}

struct Metric {
    name: String,
    told: Arc<Told>,
}

impl Metric {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.told.values.lock().entry(self.name.clone()).or_default());
        assert!(!self.told.panics.load(Ordering::SeqCst), "a recorder that panics");
    }

    fn is_wrong(&self, what: &str) {
        self.told.wrong.lock().push(format!("{}: {what}", self.name));
    }
}

impl CounterFn for Metric {
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }
    fn absolute(&self, _value: u64) {
        self.is_wrong("counters are incremented");
    }
}

impl GaugeFn for Metric {
    fn increment(&self, _value: f64) {
        self.is_wrong("gauges are set");
    }
    fn decrement(&self, _value: f64) {
        self.is_wrong("gauges are set");
    }
    fn set(&self, value: f64) {
        self.change(|gauge| *gauge = value);
    }
}

impl HistogramFn for Metric {
    fn record(&self, value: f64) {
        if !(value >= 0.0 && value.is_finite()) {
            self.is_wrong(&format!("{value}"));
        }
        self.change(|count| *count += 1.0);
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::of(Path::new(DIR))
    }
}

impl Recorder {
    fn of(dir: &Path) -> Self {
        Self { dir: dir.display().to_string(), told: Arc::default() }
    }

    fn metric(&self, key: &Key) -> Option<Arc<Metric>> {
        let name = key.name().strip_prefix("lithdb_state_")?.to_owned();
        let labels: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
        assert_eq!(labels, [("state", &self.dir[..])], "{name}");
        Some(Arc::new(Metric { name, told: Arc::clone(&self.told) }))
    }

    fn values(&self) -> Values {
        assert_eq!(*self.told.wrong.lock(), Vec::<String>::new());
        self.told.values.lock().clone()
    }

    /// The values since the last call.
    fn take(&self) -> Values {
        let values = self.values();
        self.told.values.lock().clear();
        values
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

#[test]
fn a_refused_apply_is_in_no_histogram() {
    let recorder = Recorder::default();
    with_local_recorder(&recorder, || {
        let store = Fixture::simulated(small().max_commit_bytes(4_000));
        recorder.take();
        let sets = change_sets(&[Change::put("bank", "a", vec![b'v'; 5_000])]);
        let refused = store.db().apply(1, &sets).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.to_string().contains("max_commit_bytes"), "{refused}");
        assert_eq!(recorder.take(), Values::new());
    });
}

#[test]
fn a_closed_handle_moves_no_gauge_of_the_store_that_is_open() {
    let recorder = Recorder::default();
    with_local_recorder(&recorder, || {
        let mut store = Fixture::simulated(small().durability(Durability::OnFlush));
        store.commit_to(4);
        store.snapshot();
        store.commit_to(9);
        let old = store.db().clone();
        store.roll_back(6);
        store.apply(&[Change::put("bank", "a", b"1"), Change::put("log", "b", b"2")]);
        let now = gauges(&recorder.values());
        assert_eq!((now[0], now[1], now[2]), (2.0, 6.0, 6.0));
        recorder.take();
        assert_eq!((old.stats().version, old.version()), (9, 9));
        assert!(old.durable_version() <= 9);
        old.discard_pending();
        old.flush().unwrap_err();
        assert_eq!(recorder.take(), Values::new());
    });
}

/// The recorder is the application's: a commit has been made, whatever it does.
#[test]
fn a_recorder_that_panics_ends_neither_commits_nor_the_background_thread() {
    let on_disk = tempfile::tempdir().unwrap();
    for (recorder, dir) in [
        (Recorder::default(), None),
        (Recorder::of(&on_disk.path().join("state")), Some(on_disk.path().join("state"))),
    ] {
        with_local_recorder(&recorder, || {
            let options = small().keep_snapshots(0);
            let db = match dir {
                None => Fixture::simulated(options).take_db(),
                Some(dir) => StateDb::open(dir, options).unwrap(),
            };
            recorder.told.panics.store(true, Ordering::SeqCst);
            recorder.take();
            for version in 1..=9 {
                let sets = change_sets(&[Change::put("bank", "a", version.to_string())]);
                assert_eq!(db.commit_block(version, &sets).unwrap().version, version);
                if version % 3 == 0 {
                    assert_eq!(db.snapshot().unwrap().wait().unwrap().version, version);
                }
            }
            let stats = db.stats();
            assert_eq!((stats.version, stats.durable_version), (9, 9));
            assert_eq!((stats.failure, stats.last_snapshot_error), (None, None));
            db.latest().export(Vec::new()).unwrap();
            db.close().unwrap();
            // What panicked was told nevertheless.
            let told = recorder.take();
            has(&told, &[("commit_seconds", 9.0), ("snapshot_seconds", 3.0)], "told");
            has(&told, &[("version", 9.0), ("prune_seconds", 3.0)], "told");
        });
    }
}
