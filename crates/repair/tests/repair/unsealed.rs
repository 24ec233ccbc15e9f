//! What is salvaged from a damaged unsealed segment, and what must not be.

use lithdb_table::{Batch, TableOptions};

use super::fixture::{
    Model, check_opened, epoch, find, forget_recorded_end, mark, nothing, options, record,
};
use super::support::{DAY, Harness, small};

/// One segment with `behind` single puts after its epoch record; closed.
fn reopened(behind: usize) -> (Harness, Model) {
    let (harness, mut model) = (Harness::new(2), Model::default());
    let options = one_segment();
    let table = harness.create_and_open(&options);
    (0..3).for_each(|n| model.put(&table, &format!("before{n}"), &[n; 30], false));
    table.close().unwrap();
    let table = harness.open(&options).unwrap();
    for n in 0..behind {
        model.put(&table, &format!("behind{n}"), &vec![n as u8; 5 + n * 20], n % 2 == 1);
    }
    table.close().unwrap();
    (harness, model)
}

fn one_segment() -> TableOptions {
    small().segment_keys(100).shards(2)
}

#[test]
fn corrupt_epoch_record_of_unsealed_segment_costs_no_key() {
    let (harness, model) = reopened(8);
    let at = record(&harness, 1, epoch);
    for byte in 0..24 {
        for is_closed in [true, false] {
            let name = format!("byte {byte}, closed: {is_closed}");
            let harness = harness.fork();
            harness.fs.flip_bit(harness.file("1.keys"), at + byte, 5);
            if !is_closed {
                forget_recorded_end(&harness);
            }
            let report = harness.verify();
            assert_eq!(report.records, model.keys.len() as u64, "{name}: {report}");
            let plan = harness.plan();
            assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
            lithdb_repair::apply(plan, &harness.setup).unwrap();
            check_opened(&name, &harness, &model, &nothing());
        }
    }
}

#[test]
fn epoch_needs_three_agreeing_records() {
    // One put, and two, the second with an alias: an alias is a record, too.
    for (behind, kept) in [(1, 3), (2, 6)] {
        let (harness, _) = reopened(behind);
        let at = record(&harness, 1, epoch);
        harness.fs.flip_bit(harness.file("1.keys"), at + 9, 5);
        assert_eq!(harness.plan().segments[0].kept_keys, kept);
    }
}

/// A session that rolls over without a flush leaves no mark: only the metadata and the epoch
/// record hold its epoch.
#[test]
fn lost_metadata_and_corrupt_epoch_record_cost_no_key() {
    let (harness, mut model) = (Harness::new(2), Model::default());
    let table = harness.create_and_open(&one_segment());
    (0..3).for_each(|n| model.put(&table, &format!("before{n}"), &[n; 30], false));
    table.close().unwrap();
    let table = harness.open(&one_segment()).unwrap();
    (0..8).for_each(|n| model.put(&table, &format!("behind{n}"), &[n; 30], false));
    table.seal().unwrap();
    table.close().unwrap();
    let lines = harness.dump(Some(1));
    let begun = lines.iter().position(|line| epoch(line).is_some()).unwrap();
    assert!(lines[begun..].iter().all(|line| mark(line).is_none()), "{lines:?}");
    let at = record(&harness, 1, epoch);
    harness.fs.flip_bit(harness.file("1.keys"), at + 9, 5);
    harness.fs.remove_raw(harness.file("1.metadata"));
    let plan = harness.plan();
    assert_eq!(plan.lost_keys(), Some(0), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    check_opened("neither knows the epoch", &harness, &model, &nothing());
}

/// Two acknowledged puts, then after a mark a single put, a batch of three, and one more put; not
/// closed.
fn unacknowledged_batch() -> Harness {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&one_segment().shards(1));
    table.put(b"acked 1", b"a").unwrap();
    table.put(b"acked 2", b"b").unwrap();
    table.flush().unwrap();
    table.put(b"single", b"c").unwrap();
    let mut batch = Batch::new();
    for n in 1..=3 {
        batch.put(format!("batch {n}").into_bytes(), format!("value {n}").into_bytes());
    }
    table.put_batch(&batch).unwrap();
    table.put(b"last", b"e").unwrap();
    // The write buffer reaches the disk, but no mark that covers it does.
    table.flush().unwrap();
    drop(table);
    harness.fs.release_locks();
    harness.flip("1.keys", b"acked 1");
    harness
}

#[test]
fn half_an_unacknowledged_batch_is_neither_kept_nor_lost() {
    let harness = unacknowledged_batch();
    let whole: &[&str] = &["acked 2", "single", "batch 1", "batch 2", "batch 3", "last"];
    let without: &[&str] = &["acked 2", "single", "last"];
    // Without the end of the batch it is unknown whether what follows belongs to it.
    let end: &[&str] = &["acked 2", "single"];
    let harms = [
        ("", false, whole),
        ("batch 1", false, without),
        ("batch 2", false, without),
        ("value 1", false, without),
        ("value 3", false, without),
        ("batch 3", false, end),
        ("batch 3", true, end),
        ("value 3", true, end),
    ];
    for (name, cuts, expected) in harms {
        let harness = harness.fork();
        if cuts {
            let keys = harness.file("1.keys");
            let at = find(&harness.fs.read_raw(&keys), name.as_bytes()).unwrap();
            harness.fs.truncate_raw(&keys, at as u64 + 3);
        } else if !name.is_empty() {
            harness.flip("1.keys", name.as_bytes());
        }
        let plan = harness.plan();
        assert_eq!(plan.lost_keys(), Some(1), "{name}: {plan}");
        assert_eq!(harness.verify().lost_keys(), Some(1), "{name}");
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        let table = harness.open(&options()).unwrap();
        let found = table.iter().unwrap().map(|entry| entry.unwrap().key().to_vec());
        let found: Vec<_> = found.map(|key| String::from_utf8(key).unwrap()).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn unsealed_segment_without_header_or_predecessor_is_read() {
    for is_marked in [false, true] {
        let harness = Harness::new(1);
        let options = options().shards(1).ttl(DAY).segment_keys(100);
        let table = harness.create_and_open(&options);
        table.put(b"expires", &[1; 40]).unwrap();
        table.seal().unwrap();
        harness.clock.advance(2 * DAY);
        assert_eq!(table.run_gc().unwrap().segments, 1);
        for n in 0..10_u8 {
            table.put(&[n], &[n; 40]).unwrap();
        }
        table.flush().unwrap();
        if is_marked {
            table.put(b"mark", b"").unwrap();
            table.flush().unwrap();
        }
        // Killed: no mark covers yet what the flush acknowledged.
        drop(table);
        harness.fs.release_locks();
        harness.fs.flip_bit(harness.file("2.keys"), 50, 2);
        let keys = 10 + u64::from(is_marked);
        let report = harness.verify();
        assert_eq!((report.records, report.lost_keys()), (keys, Some(0)), "{report}");
        let plan = harness.plan();
        assert_eq!(plan.lost_keys(), Some(0), "{plan}");
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        let table = harness.open(&options).unwrap();
        for n in 0..10_u8 {
            assert_eq!(table.get(&[n]).unwrap().unwrap(), &[n; 40][..], "marked: {is_marked}");
        }
        assert_eq!(table.stats().keys, keys);
    }
}
