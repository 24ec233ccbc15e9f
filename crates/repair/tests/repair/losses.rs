//! A loss of unknown size is not shown as no loss.

use lithdb_repair::Action;
use lithdb_segment::{Metadata, SegmentId};

use super::fixture::{
    change_state, find, forget_recorded_end, options, read_metadata, remove_segment, table,
};
use super::support::Harness;

#[test]
fn uncounted_loss_is_not_shown_as_no_loss() {
    let (harness, _) = table();
    let metadata = read_metadata(&harness, 3);
    let foreign = Metadata { table_id: metadata.table_id ^ 1, ..metadata };
    foreign.write(&harness.fs, &harness.file("3.metadata")).unwrap();
    harness.fs.remove_raw(harness.file("3.keys"));
    harness.fs.flip_bit(harness.file("4.keys"), 80, 2); // the chain record, which has the count, too
    let plan = harness.plan();
    let lost = plan.segments.iter().find(|repair| repair.segment == SegmentId(3)).unwrap();
    assert_eq!((lost.action, lost.lost_keys, lost.lost_values), (Action::Placeholder, None, None));
    assert!(lost.lost_bytes.unwrap() > 128, "{plan}");
}

#[test]
fn lost_mutable_segment_is_reported_as_a_loss() {
    let (harness, _) = table();
    let end = change_state(&harness, |_| {}).recorded_end.unwrap();
    let durable = u64::from(end.key_end) + end.value_ends.iter().sum::<u64>();
    remove_segment(&harness, 5);
    assert_eq!(harness.verify().lost_keys(), None);
    let plan = harness.plan();
    assert_eq!((plan.lost_keys(), plan.lost_bytes()), (None, Some(durable)), "{plan}");
    let shown = plan.to_string();
    assert!(shown.contains("loses an unknown number of keys and"), "{shown}");
    forget_recorded_end(&harness);
    let plan = harness.plan();
    assert_eq!((plan.lost_keys(), plan.lost_bytes()), (None, None), "{plan}");
    let done = lithdb_repair::apply(plan, &harness.setup).unwrap();
    assert!(done.to_string().contains("an unknown number of keys"), "{done}");
}

#[test]
fn unsealed_segment_cut_after_its_mark_has_unknown_loss() {
    let (harness, model) = table();
    let at = model.at("k17");
    harness.fs.truncate_raw(harness.file("5.keys"), u64::from(at.offset));
    let plan = harness.plan();
    assert_eq!(plan.lost_keys(), None, "{plan}");
    assert!(plan.lost_bytes().unwrap() > 32, "{plan}");
}

#[test]
fn crafted_lengths_with_valid_checksum_do_not_overflow() {
    let (harness, _) = table();
    let all = u64::MAX;
    let crafted = [
        |m: Metadata| Metadata { value_ends: vec![u64::MAX; 2], ..m },
        |m: Metadata| Metadata { records: u64::MAX, primaries: u64::MAX, ..m },
        |m: Metadata| Metadata { key_end: u64::MAX - 1, value_ends: vec![u64::MAX; 2], ..m },
    ];
    for craft in crafted {
        for removes_keys in [true, false] {
            let harness = harness.fork();
            for id in [2, 3] {
                let path = harness.file(&format!("{id}.metadata"));
                craft(read_metadata(&harness, id)).write(&harness.fs, &path).unwrap();
                if removes_keys {
                    harness.fs.remove_raw(harness.file(&format!("{id}.keys")));
                }
            }
            let report = harness.verify();
            assert!(!report.is_sound() && report.lost_keys().is_some_and(|lost| lost <= all));
            let plan = harness.plan();
            assert!(plan.lost_bytes().is_some(), "{plan}");
            lithdb_repair::apply(plan, &harness.setup).unwrap();
            harness.open(&options()).unwrap();
        }
    }
}

/// Its end, within a batch or between two, is recorded nowhere.
#[test]
fn truncated_sealed_segment_has_unknown_loss() {
    for is_batch in [true, false] {
        truncate_segment_end(is_batch);
    }
}

fn truncate_segment_end(is_batch: bool) {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().shards(1));
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
    let keys = harness.file("1.keys");
    let end = find(&harness.fs.read_raw(&keys), b"batch 2").unwrap() - 32;
    harness.fs.truncate_raw(&keys, end as u64);
    harness.fs.remove_raw(harness.file("1.metadata"));
    // The chain record of the next segment, which has the end of this one, is damaged, too.
    harness.fs.flip_bit(harness.file("2.keys"), 70, 0);
    assert_eq!(harness.verify().lost_keys(), None, "{}", harness.verify());
    let plan = harness.plan();
    assert_eq!(plan.lost_keys(), None, "{plan}");
}
