//! What is lost and nobody has counted is not shown as nothing.

use lithdb_repair::Action;
use lithdb_segment::{Metadata, SegmentId};

use super::harness::{
    change_state, find, forget_tail, options, read_metadata, remove_segment, table,
};
use super::support::World;

#[test]
fn a_segment_whose_loss_nobody_has_counted_is_not_shown_as_no_loss() {
    let (world, _) = table();
    let metadata = read_metadata(&world, 3);
    let foreign = Metadata { table_id: metadata.table_id ^ 1, ..metadata };
    foreign.write(&world.fs, &world.file("3.metadata")).unwrap();
    world.fs.remove_raw(world.file("3.keys"));
    world.fs.flip_bit(world.file("4.keys"), 80, 2); // the chain record, which knows it, too
    let plan = world.plan();
    let lost = plan.segments.iter().find(|repair| repair.segment == SegmentId(3)).unwrap();
    assert_eq!((lost.action, lost.lost_keys, lost.lost_values), (Action::Placeholder, None, None));
    assert!(lost.lost_bytes.unwrap() > 128, "{plan}");
}

#[test]
fn a_lost_mutable_segment_is_not_a_loss_of_nothing() {
    let (world, _) = table();
    let tail = change_state(&world, |_| {}).durable_tail.unwrap();
    let promised = u64::from(tail.key_end) + tail.value_ends.iter().sum::<u64>();
    remove_segment(&world, 5);
    assert_eq!(world.verify().lost_keys(), None);
    let plan = world.plan();
    assert_eq!((plan.lost_keys(), plan.lost_bytes()), (None, Some(promised)), "{plan}");
    let shown = plan.to_string();
    assert!(shown.contains("gives up an unknown number of keys and"), "{shown}");
    forget_tail(&world);
    let plan = world.plan();
    assert_eq!((plan.lost_keys(), plan.lost_bytes()), (None, None), "{plan}");
    let done = plan.apply(&world.setup).unwrap();
    assert!(done.to_string().contains("an unknown number of keys"), "{done}");
}

#[test]
fn a_tail_that_is_cut_behind_its_newest_mark_has_lost_an_unknown_number_of_keys() {
    let (world, model) = table();
    let at = model.at("k17");
    world.fs.truncate_raw(world.file("5.keys"), u64::from(at.offset));
    let plan = world.plan();
    assert_eq!(plan.lost_keys(), None, "{plan}");
    assert!(plan.lost_bytes().unwrap() > 32, "{plan}");
}

#[test]
fn crafted_lengths_behind_a_right_checksum_do_not_overflow() {
    let (world, _) = table();
    let all = u64::MAX;
    let crafted = [
        |m: Metadata| Metadata { value_ends: vec![u64::MAX; 2], ..m },
        |m: Metadata| Metadata { records: u64::MAX, primaries: u64::MAX, ..m },
        |m: Metadata| Metadata { key_end: u64::MAX - 1, value_ends: vec![u64::MAX; 2], ..m },
    ];
    for craft in crafted {
        for removes_keys in [true, false] {
            let world = world.fork();
            for id in [2, 3] {
                let path = world.file(&format!("{id}.metadata"));
                craft(read_metadata(&world, id)).write(&world.fs, &path).unwrap();
                if removes_keys {
                    world.fs.remove_raw(world.file(&format!("{id}.keys")));
                }
            }
            let report = world.verify();
            assert!(!report.is_sound() && report.lost_keys().is_some_and(|lost| lost <= all));
            let plan = world.plan();
            assert!(plan.lost_bytes().is_some(), "{plan}");
            plan.apply(&world.setup).unwrap();
            world.open(&options()).unwrap();
        }
    }
}

/// Nothing says any more where it ended: within a batch, or between two.
#[test]
fn a_sealed_segment_whose_end_is_missing_has_lost_an_unknown_number_of_keys() {
    for is_batch in [true, false] {
        lose_the_end(is_batch);
    }
}

fn lose_the_end(is_batch: bool) {
    let world = World::new(1);
    let table = world.create_and_open(&options().shards(1));
    let mut batch = lithdb_table::Batch::new();
    for key in ["batch 1", "batch 2"] {
        batch.put(key, b"value");
        if !is_batch {
            table.put(key.as_bytes(), b"value").unwrap();
        }
    }
    if is_batch {
        table.put_batch(&batch).unwrap();
    }
    table.seal().unwrap();
    table.put(b"sealed", b"value").unwrap();
    table.close().unwrap();
    let keys = world.file("1.keys");
    let end = find(&world.fs.read_raw(&keys), b"batch 2").unwrap() - 32;
    world.fs.truncate_raw(&keys, end as u64);
    world.fs.remove_raw(world.file("1.metadata"));
    // Nor does the next segment say any more how this one ended.
    world.fs.flip_bit(world.file("2.keys"), 70, 0);
    assert_eq!(world.verify().lost_keys(), None, "{}", world.verify());
    let plan = world.plan();
    assert_eq!(plan.lost_keys(), None, "{plan}");
}
