//! States that are damaged, of a wrong length, of another table, or no file.

use std::path::Path;
use std::time::Duration;

use lithdb_env::{ErrorKind, UnixMillis};
use lithdb_repair::plan_repair;
use lithdb_segment::{Identity, SegmentId, ShardId, ValueHeader};
use lithdb_table::state::TableState;

use super::harness::{
    STATE, another_table, change_state, check_opened, damage, nothing, options, table,
};
use super::support::World;

#[test]
fn a_state_of_another_table_is_taken_for_lost_and_nothing_is_given_up() {
    let (world, model) = table();
    let foreign: [fn(&mut TableState); 3] =
        [|_| {}, |state| state.watermark = SegmentId(100), |state| state.empty = true];
    for change in foreign {
        let world = world.fork();
        change_state(&world, |state| {
            state.table_id ^= 1;
            change(state);
        });
        let report = world.verify();
        let found = damage(&report);
        assert!(found.iter().all(|f| f.path == Path::new(STATE)), "{report}");
        assert!(found[0].what.starts_with("expected the state of table"), "{report}");
        assert_eq!(report.records, model.keys.len() as u64, "{report}");
        let plan = world.plan();
        assert!(plan.rebuilds_state && plan.segments.is_empty(), "{plan}");
        assert!(plan.to_string().contains("found that of table"), "{plan}");
        let done = plan.apply(&world.setup).unwrap();
        assert_eq!((done.lost_keys, done.lost_bytes), (Some(0), Some(0)));
        assert_eq!(world.kept().len(), 1, "the state that was there");
        check_opened("a foreign state", &world, &model, &nothing());
    }
}

#[test]
fn a_state_of_a_wrong_length_keeps_what_its_whole_slots_say() {
    let (world, model) = table();
    let ttl = Duration::from_secs(4711);
    let before = change_state(&world, |state| {
        state.ttl_ms = Some(ttl.as_millis() as u64);
        state.has_gc_filter = true;
    });
    assert!(before.durable_tail.is_some());
    let whole = world.fs.read_raw(STATE);
    for len in [8191, 4096, 8193, 40_000] {
        for rotten in [None, Some(40), Some(4096 + 40)] {
            if len == 4096 && rotten == Some(40) {
                continue; // no slot is left
            }
            let world = world.fork();
            let mut bytes = whole.clone();
            bytes.resize(len, 7);
            if let Some(byte) = rotten.and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1;
            }
            world.fs.write_raw(STATE, bytes.clone());
            let name = format!("{len} bytes, {rotten:?} rotten");
            let report = world.verify();
            assert_eq!(damage(&report).len(), 1, "{name}: {report}");
            let plan = world.plan();
            assert!(plan.rebuilds_state && plan.segments.is_empty(), "{name}: {plan}");
            assert!(plan.to_string().contains("nothing of it is lost"), "{name}: {plan}");
            plan.apply(&world.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
            // What no slot says for certain is not lower than it was.
            let found = change_state(&world, |_| {});
            assert!(found.highest_id >= before.highest_id, "{name}");
            let (generation, highest_id) = (found.generation, found.highest_id);
            let expected =
                TableState { generation, highest_id, ends_with_tail: false, ..before.clone() };
            assert_eq!(found, expected, "{name}");
            assert_eq!(world.kept(), [("table.state".to_owned(), bytes)], "{name}");
            check_opened(&name, &world, &model, &nothing());
        }
    }
}

#[test]
fn what_a_lost_state_knew_alone_is_named() {
    let (world, _) = table();
    world.fs.truncate_raw(STATE, 40);
    let shown = world.plan().to_string();
    assert!(shown.contains("TTL") && shown.contains("filter"), "{shown}");
}

#[test]
fn a_state_that_is_a_directory_is_refused_when_planning() {
    let (world, _) = table();
    world.fs.remove_raw(STATE);
    world.fs.make_dirs(STATE);
    let error = plan_repair(&world.setup, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("table.state") && error.contains("found a dir"), "{error}");
}

/// An old copy of the state, from before the first put, beside all that was put since.
#[test]
fn a_state_that_says_that_the_table_is_empty_is_not_believed_beside_acknowledged_data() {
    let (world, model) = table();
    change_state(&world, |state| state.empty = true);
    let refused = world.open(&options()).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let report = world.verify();
    let found = damage(&report);
    assert!(found.iter().any(|finding| finding.path.ends_with("t/table.state")), "{report}");
    let plan = world.plan();
    assert!(plan.rebuilds_state && plan.strays.is_empty(), "{plan}");
    assert_eq!(plan.lost_keys(), Some(0), "{plan}");
    plan.apply(&world.setup).unwrap();
    check_opened("an old state", &world, &model, &nothing());
}

/// The value file names the table and the salt.
#[test]
fn the_table_id_is_found_where_value_files_alone_name_it() {
    let world = World::new(1);
    let table = world.create_and_open(&options().shards(1));
    table.put(b"a", &[1; 40]).unwrap();
    table.close().unwrap();
    let id = change_state(&world, |_| {}).table_id;
    world.fs.remove_raw(STATE);
    world.fs.flip_bit(world.file("1.keys"), 50, 2);
    let plan = world.plan();
    assert_eq!(plan.lost_keys(), Some(0), "{plan}");
    plan.apply(&world.setup).unwrap();
    assert_eq!(change_state(&world, |_| {}).table_id, id);
    let table = world.open(&options()).unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap(), &[1; 40][..]);
}

/// Power loss before the first sync: the files may show what their blocks held before, of a table that was dropped, say.
#[test]
fn old_blocks_in_a_first_segment_that_was_never_synced_do_not_speak_for_another_table() {
    let dropped = another_table();
    let header = |name: &str| dropped.fs.read_raw(dropped.file(name))[..64].to_vec();
    let keys = [Vec::new(), vec![0; 64], header("1.keys")];
    let values = [Vec::new(), header("1-0.values")];
    for (keys, values) in keys.iter().flat_map(|keys| values.iter().map(move |v| (keys, v))) {
        let world = World::new(1);
        world.create().unwrap();
        let dir = Path::new("/r0/t/segments");
        world.fs.write_raw(dir.join("1.keys"), keys.clone());
        world.fs.write_raw(dir.join("1-0.values"), values.clone());
        let context = format!("{keys:?}, {values:?}");
        let report = world.verify();
        assert!(report.is_sound(), "{context}: {report}");
        assert!(world.plan().is_empty(), "{context}: {}", world.plan());
        let table = world.open(&options()).unwrap();
        table.put(b"key", b"value").unwrap();
    }
}

/// A successor that was never synced shows what its blocks held before; the key file before it names the table.
#[test]
fn value_files_do_not_outvote_key_files_on_whose_a_table_is() {
    let world = World::new(1);
    let table = world.create_and_open(&options().shards(1));
    table.put(b"key", b"value").unwrap();
    table.close().unwrap();
    drop(table);
    let id = change_state(&world, |_| {}).table_id;
    world.fs.remove_raw(STATE);
    let identity = Identity { table_id: u64::MAX, segment: SegmentId(2), salt: 1 };
    let header = ValueHeader { identity, shard: ShardId(0), created: UnixMillis(1) };
    world.fs.write_raw("/r0/t/segments/2.keys", vec![0; 64]);
    world.fs.write_raw("/r0/t/segments/2-0.values", header.encode());
    world.plan().apply(&world.setup).unwrap();
    assert_eq!(change_state(&world, |_| {}).table_id, id);
    let table = world.open(&options()).unwrap();
    assert_eq!(table.get(b"key").unwrap().unwrap(), b"value");
}
