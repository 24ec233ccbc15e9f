//! Rare damage to records, batches and value files: truncated within a group, torn after the
//! durable end, or valid records where they must not be.

use std::path::Path;

use lithdb_repair::{Action, Finding};
use lithdb_segment::record::{Encoder, Flags, KEY_FIXED_LEN, KeyRecord, decode_unchecked};
use lithdb_segment::{Identity, KeyHeader, Metadata, SegmentId, ShardId};
use lithdb_table::{Batch, SecondaryKey, Table, TableOptions};

use super::fixture::{
    Model, change_state, check_opened, damage, find, nothing, options, read_metadata, table,
};
use super::support::{Harness, small};

/// Damages the files of a table.
type Damage = fn(&Harness);

/// One value file, and segments that end only when sealed explicitly.
fn plain() -> TableOptions {
    small().segment_keys(1000).shards(1)
}

/// Leaves the table as a killed process does.
fn kill(harness: &Harness, table: Table) {
    drop(table);
    harness.fs.release_locks();
}

/// The offset of the key record of `key`.
fn offset_of(harness: &Harness, segment: u32, key: &str) -> u64 {
    let keys = harness.fs.read_raw(harness.file(&format!("{segment}.keys")));
    (find(&keys, key.as_bytes()).unwrap() - KEY_FIXED_LEN) as u64
}

/// Changes the record of `key` in place, with a valid checksum.
fn change_record(
    harness: &Harness,
    segment: u32,
    key: &str,
    change: impl FnOnce(&mut KeyRecord<'_>),
) {
    let path = harness.file(&format!("{segment}.keys"));
    let at = offset_of(harness, segment, key);
    let mut bytes = harness.fs.read_raw(&path);
    let identity: Identity = KeyHeader::decode(&path, &bytes).unwrap().identity;
    let mut record = decode_unchecked(&bytes[at as usize..]).unwrap();
    change(&mut record);
    let mut changed = Vec::new();
    // In these tables no epoch record precedes it, so the epoch is the salt.
    let (buffer, epoch) = (&mut changed, identity.salt);
    Encoder { buffer, identity, epoch, running: 0, offset: at }.key(&record);
    bytes[at as usize..][..changed.len()].copy_from_slice(&changed);
    harness.fs.write_raw(&path, bytes);
}

/// The readable keys of the table, in order.
fn readable_keys(harness: &Harness) -> Vec<String> {
    let table = harness.open(&options()).unwrap();
    let keys = table.iter().unwrap().map(|entry| entry.unwrap().key().to_vec());
    keys.map(|key| String::from_utf8(key).unwrap()).collect()
}

/// The only damage, which must be in this file.
fn only(found: &[&Finding], file: &Path) -> Finding {
    assert!(found.len() == 1 && found[0].path == file, "{found:?}");
    found[0].clone()
}

#[test]
fn large_segment_is_salvaged_except_the_damaged_key() {
    let (harness, mut model) = (Harness::new(1), Model::default());
    let table = harness.create_and_open(&plain().inline_max_bytes(65_536));
    for n in 0..60 {
        let value: Vec<u8> = (0..60_000).map(|at| (at * 31 + at / 256 + n * 7) as u8).collect();
        model.put(&table, &format!("k{n:02}"), &value, n % 7 == 0);
    }
    table.seal().unwrap();
    table.close().unwrap();
    let at = model.at("k31");
    harness.fs.flip_bit(harness.file("1.keys"), u64::from(at.offset) + 33, 0);
    let plan = harness.plan();
    assert_eq!((plan.segments[0].action, plan.lost_keys()), (Action::Salvage, Some(1)), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    let rewritten = harness.fs.read_raw(harness.file("1.keys")).len();
    assert!(rewritten > 59 * 60_000, "{rewritten}");
    check_opened("3.5 MB", &harness, &model, &model.keys_of_group(at));
}

/// Segment 1 has a single put, a mark, a batch of three, a mark and a single put; if `is_sealed`,
/// it is sealed and one more put follows.
fn batch_between_marks(is_sealed: bool) -> (Harness, Model) {
    let (harness, mut model) = (Harness::new(1), Model::default());
    let table = harness.create_and_open(&plain());
    model.put(&table, "alone", b"value", false);
    table.flush().unwrap();
    let (mut batch, keys) = (Batch::new(), ["batch 1", "batch 2", "batch 3"]);
    for key in keys {
        batch.put(key, b"value");
    }
    let last = table.put_batch(&batch).unwrap();
    model.keys.extend(keys.map(|key| (key.into(), (b"value".to_vec(), last))));
    table.flush().unwrap();
    model.put(&table, "behind", b"value", false);
    if is_sealed {
        table.seal().unwrap();
        model.put(&table, "sealed", b"value", false);
    }
    table.close().unwrap();
    (harness, model)
}

#[test]
fn sealed_segment_ending_within_a_batch_is_damaged() {
    let (harness, model) = batch_between_marks(true);
    // Neither metadata nor chain record has the end of the segment any more.
    harness.fs.remove_raw(harness.file("1.metadata"));
    harness.fs.flip_bit(harness.file("2.keys"), 70, 0);
    let (keys, end) = (harness.file("1.keys"), offset_of(&harness, 1, "batch 3"));
    harness.fs.truncate_raw(&keys, end);
    let report = harness.verify();
    let start = offset_of(&harness, 1, "batch 1");
    let mut found = damage(&report);
    found.retain(|finding| finding.path == keys);
    let found = only(&found, &keys);
    let what = format!("record at {end}: the file ends inside the record");
    assert_eq!((found.offset, found.what), (Some(start), what), "{report}");
    let plan = harness.plan();
    assert_eq!((plan.segments[0].action, plan.segments[0].kept_keys), (Action::Salvage, 3));
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    check_opened("cut", &harness, &model, &["batch 3", "behind"].map(Vec::from).into());
}

#[test]
fn mark_within_a_batch_is_damage_without_key_loss() {
    for is_sealed in [true, false] {
        let (harness, model) = batch_between_marks(is_sealed);
        let name = format!("sealed: {is_sealed}");
        let open_batch = Flags::PRIMARY.with(Flags::END_OF_GROUP);
        change_record(&harness, 1, "batch 3", |record| record.flags = open_batch);
        let report = harness.verify();
        let found = only(&damage(&report), &harness.file("1.keys"));
        let start = offset_of(&harness, 1, "batch 1");
        assert_eq!((found.offset, found.lost_keys), (Some(start), Some(0)), "{name}: {report}");
        assert!(found.what.contains("expected the rest of the batch; "), "{name}: {report}");
        assert!(found.what.ends_with(" bytes were acknowledged"), "{name}: {report}");
        assert!(harness.open(&options()).is_err(), "{name}");
        let plan = harness.plan();
        assert_eq!((plan.segments[0].action, plan.lost_keys()), (Action::Salvage, Some(0)));
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        check_opened(&name, &harness, &model, &nothing());
    }
}

#[test]
fn unacknowledged_bad_value_ends_the_unsealed_segment() {
    // In a value file, and in the key file.
    for (len, file) in [(40, "1-0.values"), (9, "1.keys")] {
        let (harness, mut model) = (Harness::new(1), Model::default());
        let table = harness.create_and_open(&plain());
        model.put(&table, "acknowledged", &vec![1; len], false);
        table.flush().unwrap();
        model.put(&table, "torn", &vec![2; len], false);
        model.put(&table, "behind", &vec![3; len], false);
        // The values reach the disk, but no mark that covers them does.
        table.flush().unwrap();
        kill(&harness, table);
        harness.flip(file, &vec![2; len]);
        let report = harness.verify();
        assert!(report.is_sound() && report.findings.len() == 1, "{report}");
        let torn = Some(u64::from(model.at("torn").offset));
        let found = &report.findings[0];
        assert_eq!((&found.path, found.offset), (&harness.file("1.keys"), torn), "{report}");
        assert!(found.what.contains("nothing from here on was acknowledged"), "{report}");
        assert_eq!((report.records, report.values), (1, 1), "{report}");
        assert!(harness.plan().is_empty());
        let lost = ["torn", "behind"].map(Vec::from).into();
        check_opened(file, &harness, &model, &lost);
    }
}

#[test]
fn key_file_cut_within_a_group_loses_the_whole_group() {
    let (harness, model) = table();
    let (at, keys) = (model.at("k6"), harness.file("2.keys"));
    assert_eq!(at.segment, SegmentId(2));
    let end = offset_of(&harness, 2, "alias of k6");
    harness.fs.truncate_raw(&keys, end);
    let lost = model.keys_where(|_, found| found.segment == at.segment && found >= at);
    let report = harness.verify();
    let found = damage(&report);
    let found: Vec<_> = found.iter().map(|f| (&f.path, f.offset, f.what.as_str())).collect();
    let length = read_metadata(&harness, 2).key_end;
    let expected = [
        (
            Some(u64::from(at.offset)),
            format!(
                "the records up to {end} are damaged: expected the rest of the group, found the end"
            ),
        ),
        (Some(end), format!("expected {length} bytes, found the end of the file")),
    ];
    let expected: Vec<_> = expected.iter().map(|(at, what)| (&keys, *at, what.as_str())).collect();
    assert_eq!(found, expected, "{report}");
    assert_eq!(report.lost_keys(), Some(lost.len() as u64), "{report}");
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    check_opened("cut within a group", &harness, &model, &lost);
}

/// Two acknowledged puts, the first one damaged; then a put with three aliases and a single one,
/// both never acknowledged.
fn unacknowledged_group() -> (Harness, u64) {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&plain());
    table.put(b"acked 1", b"a").unwrap();
    table.put(b"acked 2", b"b").unwrap();
    table.flush().unwrap();
    let aliases = [b"alias 1", b"alias 2", b"alias 3"].map(SecondaryKey::whole);
    let group = table.put_with(b"group", b"value", &aliases).unwrap();
    table.put(b"last", b"c").unwrap();
    table.flush().unwrap();
    kill(&harness, table);
    harness.flip("1.keys", b"acked 1");
    (harness, u64::from(group.offset))
}

#[test]
fn incomplete_unacknowledged_group_is_neither_kept_nor_lost() {
    let all: &[&str] = &["acked 2", "alias 1", "alias 2", "alias 3", "group", "last"];
    let cut = |w: &Harness| w.fs.truncate_raw(w.file("1.keys"), offset_of(w, 1, "alias 2"));
    let harm_primary = |w: &Harness| assert!(w.flip("1.keys", b"group") > 0);
    let [acked, primary, alias] =
        ["acked 1a", "groupvalue", "alias 1"].map(|record| KEY_FIXED_LEN + record.len());
    // The damage, what is kept, and how many bytes of the group remain.
    let harms: [(&str, Damage, &[&str], usize); 3] = [
        ("nothing", |_| {}, all, 0),
        ("cut", cut, &["acked 2"], primary + alias),
        ("no primary record", harm_primary, &["acked 2", "last"], primary + 3 * alias),
    ];
    for (name, harm, expected, torn_bytes) in harms {
        let (harness, group) = unacknowledged_group();
        harm(&harness);
        let report = harness.verify();
        assert_eq!(report.lost_keys(), Some(1), "{name}: {report}");
        assert_eq!(report.records, expected.len() as u64, "{name}: {report}");
        let bytes = harness.fs.read_raw(harness.file("1.keys")).len() - acked - torn_bytes;
        assert_eq!(report.bytes, bytes as u64, "{name}: {report}");
        let what = "the batch that begins here is incomplete; it was never acknowledged";
        let notes = report.findings.iter().filter(|f| f.what == what);
        let notes: Vec<_> = notes.map(|f| (f.path.clone(), f.offset)).collect();
        let torn = (harness.file("1.keys"), Some(group));
        let torn = if name == "nothing" { vec![] } else { vec![torn] };
        assert_eq!(notes, torn, "{name}: {report}");
        let plan = harness.plan();
        assert_eq!(plan.lost_keys(), Some(1), "{name}: {plan}");
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        let mut found = readable_keys(&harness);
        found.sort();
        assert_eq!(found, expected, "{name}");
    }
}

/// A sealed segment with a put with three aliases between two others.
fn aliased() -> (Harness, Model) {
    let (harness, mut model) = (Harness::new(1), Model::default());
    let table = harness.create_and_open(&plain());
    model.put(&table, "before", &[1; 40], true);
    let aliases = ["first", "second", "third"].map(|key| SecondaryKey::range(key, 2..5));
    let at = table.put_with(b"group", &[2; 40], &aliases).unwrap();
    for (key, len) in [("group", 40), ("first", 3), ("second", 3), ("third", 3)] {
        model.keys.insert(key.into(), (vec![2; len], at));
    }
    model.put(&table, "behind", &[3; 40], true);
    table.seal().unwrap();
    table.close().unwrap();
    (harness, model)
}

#[test]
fn alias_outside_its_value_costs_only_its_group() {
    let (before, model) = aliased();
    let at = model.at("group");
    let harms: [fn(&mut KeyRecord<'_>); 4] = [
        |record| record.offset += 38,
        |record| record.offset -= 3,
        |record| record.offset = u64::MAX,
        |record| record.shard = ShardId::INLINE,
    ];
    let keys = before.file("1.keys");
    let end = offset_of(&before, 1, "behind");
    for (n, harm) in harms.into_iter().enumerate() {
        for alias in ["first", "second", "third"] {
            let (harness, name) = (before.fork(), format!("harm {n} of the {alias} alias"));
            change_record(&harness, 1, alias, harm);
            let report = harness.verify();
            let found = only(&damage(&report), &keys);
            let what = "expected a range inside the primary record's value";
            assert!(found.what.ends_with(what), "{name}: {report}");
            assert_eq!(
                (found.offset, found.lost_keys),
                (Some(at.offset.into()), Some(4)),
                "{name}"
            );
            let shown = ["group", "first", "second", "third"].map(|key| format!("{key:?}"));
            assert_eq!(found.sample_keys, shown, "{name}: {report}");
            let plan = harness.plan();
            let lost = &plan.segments[0];
            assert_eq!((lost.lost_keys, lost.lost_values), (Some(4), Some(1)), "{name}: {plan}");
            let lost: Vec<_> =
                lost.lost_at.iter().map(|range| (range.from, range.to.offset)).collect();
            assert_eq!(lost, [(at, end as u32)], "{name}: {plan}");
            lithdb_repair::apply(plan, &harness.setup).unwrap();
            check_opened(&name, &harness, &model, &model.keys_of_group(at));
        }
    }
}

#[test]
fn aliases_after_their_group_end_are_lost_value_is_kept() {
    let (harness, model) = aliased();
    let whole = Flags::PRIMARY.with(Flags::END_OF_GROUP);
    change_record(&harness, 1, "group", |record| record.flags = whole);
    let (start, end) = (offset_of(&harness, 1, "first"), offset_of(&harness, 1, "behind"));
    let report = harness.verify();
    let found = only(&damage(&report), &harness.file("1.keys"));
    let what = format!("the records up to {end} are damaged: expected a primary record before it");
    assert_eq!((found.offset, found.what), (Some(start), what), "{report}");
    let shown = ["first", "second", "third"].map(|key| format!("{key:?}"));
    assert_eq!((found.lost_keys, &found.sample_keys[..]), (Some(3), &shown[..]), "{report}");
    let plan = harness.plan();
    assert_eq!((plan.lost_keys(), plan.lost_bytes()), (Some(3), Some(end - start)), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    let lost = ["first", "second", "third"].map(Vec::from).into();
    check_opened("behind the group", &harness, &model, &lost);
}

#[test]
fn short_value_file_is_extended_if_no_value_is_lost() {
    let (before, model) = table();
    // The state has the lengths of the unsealed segment, the metadata those of a sealed one; a
    // chain record does not apply to a later revision.
    let extend_end: [(&str, Damage); 2] = [
        ("5-0.values", |harness| {
            change_state(harness, |state| {
                state.recorded_end.as_mut().unwrap().value_ends[0] += 100
            });
        }),
        ("3-0.values", |harness| {
            let mut metadata = read_metadata(harness, 3);
            metadata.value_ends[0] += 100;
            let metadata = Metadata { revision: 1, ..metadata };
            metadata.write(&harness.fs, &harness.file("3.metadata")).unwrap();
        }),
    ];
    for (name, extend_end) in extend_end {
        let harness = before.fork();
        extend_end(&harness);
        let path = harness.file(name);
        let bytes = harness.fs.read_raw(&path);
        let report = harness.verify();
        let found = only(&damage(&report), &path);
        let (len, extended_len) = (bytes.len() as u64, bytes.len() + 100);
        let what = format!("expected {extended_len} bytes, found the end of the file");
        assert_eq!((found.offset, found.what), (Some(len), what), "{report}");
        assert!(harness.open(&options()).is_err(), "{name}");
        let plan = harness.plan();
        let action = plan.segments[0].action;
        assert_eq!((action, plan.lost_keys()), (Action::RestoreValueFiles, Some(0)), "{plan}");
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        let mut extended = bytes.clone();
        extended.resize(extended_len, 0);
        assert_eq!(harness.fs.read_raw(&path), extended, "{name}");
        assert_eq!(harness.kept(), [(name.to_owned(), bytes)]);
        check_opened(name, &harness, &model, &nothing());
    }
}
