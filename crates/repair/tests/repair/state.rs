//! States that are damaged, stale, of the wrong length, of another table, or not a file.

use std::path::Path;
use std::time::Duration;

use lithdb_env::{ErrorKind, UnixMillis};
use lithdb_repair::plan_repair;
use lithdb_segment::{Identity, SegmentId, ShardId, ValueHeader};
use lithdb_sim::CrashImage;
use lithdb_table::state::TableState;

use super::fixture::{
    STATE, change_state, check_opened, damage, nothing, options, table, table_with_other_id,
};
use super::support::Harness;

#[test]
fn foreign_state_counts_as_lost_and_discards_nothing() {
    let (harness, model) = table();
    let foreign: [fn(&mut TableState); 3] =
        [|_| {}, |state| state.watermark = SegmentId(100), |state| state.empty = true];
    for change in foreign {
        let harness = harness.fork();
        change_state(&harness, |state| {
            state.table_id ^= 1;
            change(state);
        });
        let report = harness.verify();
        let found = damage(&report);
        assert!(found.iter().all(|f| f.path == Path::new(STATE)), "{report}");
        assert!(found[0].what.starts_with("expected the state of table"), "{report}");
        assert_eq!(report.records, model.keys.len() as u64, "{report}");
        let plan = harness.plan();
        assert!(plan.rebuilds_state && plan.segments.is_empty(), "{plan}");
        assert!(plan.to_string().contains("found that of table"), "{plan}");
        let done = lithdb_repair::apply(plan, &harness.setup).unwrap();
        assert_eq!((done.lost_keys, done.lost_bytes), (Some(0), Some(0)));
        assert_eq!(harness.kept().len(), 1, "the state that was there");
        check_opened("a foreign state", &harness, &model, &nothing());
    }
}

#[test]
fn state_of_wrong_length_keeps_its_valid_slots() {
    let (harness, model) = table();
    let ttl = Duration::from_secs(4711);
    let before = change_state(&harness, |state| {
        state.ttl_ms = Some(ttl.as_millis() as u64);
        state.has_gc_filter = true;
    });
    assert!(before.recorded_end.is_some());
    let whole = harness.fs.read_raw(STATE);
    for len in [8191, 4096, 8193, 40_000] {
        for rotten in [None, Some(40), Some(4096 + 40)] {
            if len == 4096 && rotten == Some(40) {
                continue; // no slot is left
            }
            let harness = harness.fork();
            let mut bytes = whole.clone();
            bytes.resize(len, 7);
            if let Some(byte) = rotten.and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1;
            }
            harness.fs.write_raw(STATE, bytes.clone());
            let name = format!("{len} bytes, {rotten:?} rotten");
            let report = harness.verify();
            assert_eq!(damage(&report).len(), 1, "{name}: {report}");
            let plan = harness.plan();
            assert!(plan.rebuilds_state && plan.segments.is_empty(), "{name}: {plan}");
            assert!(plan.to_string().contains("no state is lost"), "{name}: {plan}");
            lithdb_repair::apply(plan, &harness.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
            // `highest_id` is not lower than it was.
            let found = change_state(&harness, |_| {});
            assert!(found.highest_id >= before.highest_id, "{name}");
            let (generation, highest_id) = (found.generation, found.highest_id);
            let expected =
                TableState { generation, highest_id, closed_cleanly: false, ..before.clone() };
            assert_eq!(found, expected, "{name}");
            assert_eq!(harness.kept(), [("table.state".to_owned(), bytes)], "{name}");
            check_opened(&name, &harness, &model, &nothing());
        }
    }
}

#[test]
fn repair_names_what_only_the_lost_state_knew() {
    let (harness, _) = table();
    harness.fs.truncate_raw(STATE, 40);
    let shown = harness.plan().to_string();
    assert!(shown.contains("TTL") && shown.contains("filter"), "{shown}");
}

#[test]
fn plan_refuses_a_state_that_is_a_directory() {
    let (harness, _) = table();
    harness.fs.remove_raw(STATE);
    harness.fs.make_dirs(STATE);
    let error = plan_repair(&harness.setup, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("table.state") && error.contains("found a dir"), "{error}");
}

/// A stale copy of the state, from before the first put.
#[test]
fn empty_state_with_acknowledged_data_is_refused() {
    let (harness, model) = table();
    change_state(&harness, |state| state.empty = true);
    let refused = harness.open(&options()).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let report = harness.verify();
    let found = damage(&report);
    assert!(found.iter().any(|finding| finding.path.ends_with("t/table.state")), "{report}");
    let plan = harness.plan();
    assert!(plan.rebuilds_state && plan.orphans.is_empty(), "{plan}");
    assert_eq!(plan.lost_keys(), Some(0), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    check_opened("an old state", &harness, &model, &nothing());
}

/// The value file has the table id and the salt.
#[test]
fn table_id_is_recovered_from_value_files_alone() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().shards(1));
    table.put(b"a", &[1; 40]).unwrap();
    table.close().unwrap();
    let id = change_state(&harness, |_| {}).table_id;
    harness.fs.remove_raw(STATE);
    harness.fs.flip_bit(harness.file("1.keys"), 50, 2);
    let plan = harness.plan();
    assert_eq!(plan.lost_keys(), Some(0), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    assert_eq!(change_state(&harness, |_| {}).table_id, id);
    let table = harness.open(&options()).unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap(), &[1; 40][..]);
}

/// Power loss before the first sync: the files may show what their blocks held before, for example
/// of a dropped table.
#[test]
fn stale_blocks_in_an_unsynced_segment_do_not_name_the_table() {
    let dropped = table_with_other_id();
    let header = |name: &str| dropped.fs.read_raw(dropped.file(name))[..64].to_vec();
    let keys = [Vec::new(), vec![0; 64], header("1.keys")];
    let values = [Vec::new(), header("1-0.values")];
    for (keys, values) in keys.iter().flat_map(|keys| values.iter().map(move |v| (keys, v))) {
        let harness = Harness::new(1);
        harness.create().unwrap();
        let dir = Path::new("/r0/t/segments");
        harness.fs.write_raw(dir.join("1.keys"), keys.clone());
        harness.fs.write_raw(dir.join("1-0.values"), values.clone());
        let context = format!("{keys:?}, {values:?}");
        let report = harness.verify();
        assert!(report.is_sound(), "{context}: {report}");
        assert!(harness.plan().is_empty(), "{context}: {}", harness.plan());
        let table = harness.open(&options()).unwrap();
        table.put(b"key", b"value").unwrap();
    }
}

/// Power loss during the first roll-over: of the first segment the header alone is durable, and
/// the successor, which was never synced, shows records of a table that was dropped.
#[test]
fn header_alone_outweighs_stale_records_of_a_dropped_table() {
    let dropped = table_with_other_id();
    let stale = dropped.fs.read_raw(dropped.file("2.keys"))[..200].to_vec();
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options());
    table.put(b"lost", b"value").unwrap();
    drop(table);
    let harness = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    assert_eq!(harness.fs.read_raw(harness.file("1.keys")).len(), 64);
    change_state(&harness, |state| state.highest_id = SegmentId(2));
    harness.fs.write_raw("/r0/t/segments/2.keys", stale);
    let report = harness.verify();
    assert!(report.is_sound(), "{report}");
    assert!(harness.plan().is_empty(), "{}", harness.plan());
    let table = harness.open(&options()).unwrap();
    table.put(b"key", b"value").unwrap();
}

/// A successor that was never synced shows what its blocks held before; the key file of its
/// predecessor has the table id.
#[test]
fn key_files_outrank_value_files_for_the_table_id() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().shards(1));
    table.put(b"key", b"value").unwrap();
    table.close().unwrap();
    drop(table);
    let id = change_state(&harness, |_| {}).table_id;
    harness.fs.remove_raw(STATE);
    let identity = Identity { table_id: u64::MAX, segment: SegmentId(2), salt: 1 };
    let header = ValueHeader { identity, shard: ShardId(0), created: UnixMillis(1) };
    harness.fs.write_raw("/r0/t/segments/2.keys", vec![0; 64]);
    harness.fs.write_raw("/r0/t/segments/2-0.values", header.encode());
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    assert_eq!(change_state(&harness, |_| {}).table_id, id);
    let table = harness.open(&options()).unwrap();
    assert_eq!(table.get(b"key").unwrap().unwrap(), b"value");
}
