//! Unusual headers, metadata, states and directories.

use std::path::{Path, PathBuf};

use lithdb_env::{ErrorKind, Result};
use lithdb_format_oracle::crc32c;
use lithdb_repair::{Action, DumpLine, dump, plan_repair, verify};
use lithdb_segment::{KeyHeader, Metadata, SegmentId};
use lithdb_sim::Fault;
use lithdb_table::presence;
use lithdb_table::truncate::{KeptSegment, TruncateStep, check};

use super::fixture::{
    STATE, change_state, check_opened, damage, nothing, options, read_metadata, table,
};
use super::support::{DAY, Harness};

/// Asserts that verification and planning fail with this kind of error and change nothing. Returns
/// the messages.
fn refused(harness: &Harness, kind: ErrorKind) -> [String; 2] {
    let before = harness.fs.ops();
    let errors = [
        verify(&harness.setup, &mut |_| {}).map(drop).unwrap_err(),
        plan_repair(&harness.setup, &mut |_| {}).map(drop).unwrap_err(),
    ];
    assert_eq!(harness.fs.ops(), before);
    errors.map(|error| {
        assert_eq!(error.kind(), kind, "{error}");
        error.to_string()
    })
}

/// Sets format version 2, with a valid checksum.
fn set_newer_version(file: &Path, bytes: &mut [u8]) {
    bytes[8..10].copy_from_slice(&2_u16.to_le_bytes());
    let is_header = file.extension().is_some_and(|kind| kind == "keys" || kind == "values");
    let (at, checksum) = if is_header {
        (60, crc32c(0, &bytes[..60]))
    } else {
        let len = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
        (28, crc32c(crc32c(0, &bytes[..28]), &bytes[32..32 + len]))
    };
    bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn newer_format_version_is_not_damage() {
    let (before, _) = table();
    let names = ["2.keys", "2.metadata", "2-0.values", "5.keys", "5-1.values"];
    let mut paths = names.map(|name| before.file(name)).to_vec();
    paths.push(PathBuf::from(STATE));
    for path in paths {
        let harness = before.fork();
        let mut bytes = harness.fs.read_raw(&path);
        set_newer_version(&path, &mut bytes);
        harness.fs.write_raw(&path, bytes);
        let expected = format!("{}: format version: expected 1, found 2", path.display());
        for error in refused(&harness, ErrorKind::Unsupported) {
            assert!(error.contains(&expected), "{error}");
        }
        let dumped = dump(&harness.setup, None, &mut |_| Ok(())).map_err(|error| error.kind());
        // A dump reads no records from a value file.
        let is_values = path.extension().unwrap() == "values";
        let kind = if is_values { Ok(()) } else { Err(ErrorKind::Unsupported) };
        assert_eq!(dumped, kind, "{}", path.display());
    }
}

#[test]
fn unreadable_state_is_not_treated_as_lost() {
    let (harness, _) = table();
    for n in 1..=3 {
        let harness = harness.fork();
        harness.fs.fail_reads_from(n, Fault::Eio);
        for error in refused(&harness, ErrorKind::Io) {
            assert!(error.contains("table.state"), "{n}: {error}");
        }
    }
}

#[test]
fn one_failing_read_is_an_error_or_a_finding() {
    let (harness, _) = table();
    harness.fs.flip_bit(harness.file("3.keys"), 20, 0);
    let verified = |harness: &Harness| {
        verify(&harness.setup, &mut |_| {}).map(|report| vec![report.to_string()])
    };
    let dumped = |harness: &Harness| {
        let mut lines = Vec::new();
        let mut each = |line: &DumpLine| {
            lines.push(format!("{line:?}"));
            Ok(())
        };
        dump(&harness.setup, None, &mut each).map(|()| lines)
    };
    for look in [&verified as &dyn Fn(&Harness) -> Result<Vec<String>>, &dumped] {
        let expected = look(&harness.fork()).unwrap();
        for n in 1.. {
            let harness = harness.fork();
            harness.fs.fail_read(n, Fault::Eio);
            let found = look(&harness);
            if harness.fs.faults_hit() == 0 {
                assert!(n > 20, "{n}");
                break;
            }
            let named = |line: &String| line.contains("Unreadable") && line.contains("os error 5");
            match found {
                Ok(found) => {
                    assert!(found == expected || found.iter().any(named), "{n}: {found:?}")
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{n}: {error}"),
            }
        }
    }
}

#[test]
fn wrong_predecessor_in_header_needs_a_manual_decision() {
    let (harness, _) = table();
    let (keys, predecessor) = (harness.file("3.keys"), SegmentId(1));
    let mut bytes = harness.fs.read_raw(&keys);
    let header = KeyHeader { predecessor, ..KeyHeader::decode(&keys, &bytes).unwrap() };
    bytes[..64].copy_from_slice(&header.encode());
    harness.fs.write_raw(&keys, bytes);
    let metadata = Metadata { predecessor, ..read_metadata(&harness, 3) };
    metadata.write(&harness.fs, &harness.file("3.metadata")).unwrap();
    let forks =
        "the chain forks: segment 2 precedes it, but the header names segment 1 as predecessor;";
    let report = harness.verify();
    let found = damage(&report);
    assert!(found.iter().any(|f| f.path == keys && f.what.starts_with(forks)), "{report}");
    let before = harness.fs.ops();
    let error = plan_repair(&harness.setup, &mut |_| {}).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&format!("3.keys: {forks}")), "{error}");
    assert_eq!(harness.fs.ops(), before);
}

#[test]
fn foreign_unfinished_repair_metadata_discards_nothing() {
    let (harness, model) = table();
    let path = harness.file("3.metadata");
    let ours = read_metadata(&harness, 3);
    // If it counted, the segment would be replaced by an empty one.
    let extras = vec![(1, vec![0; 9])];
    let foreign = Metadata { table_id: ours.table_id ^ 1, key_end: u64::MAX, extras, ..ours };
    foreign.write(&harness.fs, &path).unwrap();
    let report = harness.verify();
    let expected = "expected the metadata of segment 3 of this table, found segment 3 of";
    let found = damage(&report);
    assert!(found.len() == 1 && found[0].path == path, "{report}");
    assert!(found[0].what.starts_with(expected), "{report}");
    let plan = harness.plan();
    let action = plan.segments[0].action;
    assert_eq!((action, plan.lost_keys()), (Action::RebuildMetadata, Some(0)), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    check_opened("another table's", &harness, &model, &nothing());
}

#[test]
fn metadata_with_impossible_shard_count_is_ignored() {
    let (before, model) = table();
    for shards in [0, 257, 65_537] {
        for has_header in [true, false] {
            let (harness, name) = (before.fork(), format!("{shards} files, header: {has_header}"));
            let path = harness.file("3.metadata");
            let metadata = Metadata { value_ends: vec![64; shards], ..read_metadata(&harness, 3) };
            metadata.write(&harness.fs, &path).unwrap();
            if !has_header {
                harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
            }
            let report = harness.verify();
            let found: Vec<_> = damage(&report);
            let found = found.iter().find(|f| f.path == path).unwrap_or_else(|| panic!("{report}"));
            assert!(found.what.starts_with("expected 1 to 256 value files, found"), "{name}");
            let plan = harness.plan();
            let action = if has_header { Action::RebuildMetadata } else { Action::Salvage };
            assert_eq!((plan.segments[0].action, plan.lost_keys()), (action, Some(0)), "{name}");
            lithdb_repair::apply(plan, &harness.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(read_metadata(&harness, 3).value_ends.len(), 2, "{name}");
            check_opened(&name, &harness, &model, &nothing());
        }
    }
}

#[test]
fn foreign_obstacles_to_opening_are_reported_and_untouched() {
    let harness = Harness::new(1);
    let options = options().ttl(DAY).segment_age(DAY);
    let table = harness.create_and_open(&options);
    table.put(b"expired", b"1").unwrap();
    table.seal().unwrap();
    let expired = harness.fs.read_raw(harness.file("1.keys"));
    harness.clock.advance(2 * DAY);
    assert_eq!(table.run_gc().unwrap().segments, 1);
    table.put(b"kept", b"2").unwrap();
    table.close().unwrap();
    drop(table);
    // A segment of another table, with an id below the watermark.
    let path = harness.setup.segment_dirs()[0].join("1.keys");
    let mut header = KeyHeader::decode(&path, &expired).unwrap();
    header.identity.table_id ^= 1;
    let foreign = [&header.encode()[..], &expired[64..]].concat();
    harness.fs.write_raw(&path, foreign.clone());
    let expected = format!("{}: expected a segment of table", path.display());
    let error = harness.open(&options).map(drop).unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
    let report = harness.verify();
    assert!(damage(&report)[0].what.starts_with(&expected), "{report}");
    assert_eq!((report.records, report.lost_keys()), (1, Some(0)), "{report}");
    let before = harness.fs.ops();
    let error = plan_repair(&harness.setup, &mut |_| {}).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!((harness.fs.ops(), harness.fs.read_raw(&path)), (before, foreign));
}

#[test]
fn table_without_state_and_segments_is_missing() {
    let harness = Harness::new(2);
    harness.create().unwrap();
    harness.fs.remove_raw(STATE);
    for error in refused(&harness, ErrorKind::Missing) {
        assert!(error.contains(STATE), "{error}");
    }
}

#[test]
fn table_without_any_known_id_gets_a_new_one() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().shards(1));
    table.put(b"a", &[1; 40]).unwrap();
    table.close().unwrap();
    drop(table);
    let before = change_state(&harness, |_| {});
    harness.fs.remove_raw(STATE);
    harness.fs.remove_raw(harness.file("1-0.values"));
    let keys = harness.file("1.keys");
    harness.fs.flip_bit(&keys, 50, 2);
    let damaged = harness.fs.read_raw(keys);
    let plan = harness.plan();
    assert!(plan.rebuilds_state, "{plan}");
    assert_eq!(
        (plan.segments[0].action, plan.lost_keys()),
        (Action::RaiseWatermark, None),
        "{plan}"
    );
    assert_eq!(plan.lost_bytes(), Some(damaged.len() as u64), "{plan}");
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    assert_eq!(harness.kept(), [("1.keys".to_owned(), damaged)]);
    let state = change_state(&harness, |_| {});
    assert!(![0, before.table_id].contains(&state.table_id), "{state:?}");
    assert!(state.empty && state.watermark > SegmentId(1), "{state:?}");
    check_opened("a new id", &harness, &super::fixture::Model::default(), &nothing());
}

/// The lines of a dump that show records.
fn records(lines: &[DumpLine]) -> Vec<DumpLine> {
    let is_record = |line: &&DumpLine| {
        !matches!(
            line,
            DumpLine::Unreadable { .. }
                | DumpLine::Metadata { .. }
                | DumpLine::ValueHeader { .. }
                | DumpLine::KeyHeader { .. }
        )
    };
    lines.iter().filter(is_record).cloned().collect()
}

/// The files that a dump could not read, and why.
fn unreadable(lines: &[DumpLine]) -> Vec<(PathBuf, String)> {
    let unreadable = lines.iter().filter_map(|line| match line {
        DumpLine::Unreadable { path, what } => Some((path.clone(), what.clone())),
        _ => None,
    });
    unreadable.collect()
}

#[test]
fn dump_of_files_with_damaged_headers_shows_every_record() {
    let (before, _) = table();
    let whole = before.dump(Some(3));
    // The header is reconstructed from the metadata or from the value files.
    for has_metadata in [true, false] {
        let harness = before.fork();
        let (keys, values) = (harness.file("3.keys"), harness.file("3-0.values"));
        if !has_metadata {
            harness.fs.remove_raw(harness.file("3.metadata"));
        }
        for path in [&keys, &values] {
            harness.fs.flip_bit(path, 50, 2);
        }
        let lines = harness.dump(Some(3));
        let found = unreadable(&lines);
        let paths: Vec<_> = found.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [&values, &keys]);
        assert!(
            found.iter().all(|(_, what)| what.contains("expected header checksum")),
            "{found:?}"
        );
        let count = |is: fn(&DumpLine) -> bool| lines.iter().filter(|line| is(line)).count();
        assert_eq!(count(|line| matches!(line, DumpLine::ValueHeader { .. })), 1);
        assert_eq!(count(|line| matches!(line, DumpLine::KeyHeader { .. })), 1);
        let is_same = |line: &DumpLine| has_metadata || !matches!(line, DumpLine::Verdict { .. });
        let [mut found, mut expected] = [records(&lines), records(&whole)];
        found.retain(is_same);
        expected.retain(is_same);
        assert_eq!(found, expected, "metadata: {has_metadata}");
    }
}

#[test]
fn dump_reports_an_unfinished_repair_and_shows_records() {
    let (before, model) = table();
    before.fs.flip_bit(before.file("3.keys"), 50, 2);
    let harmed = before.dump(Some(3));
    let mut seen = 0;
    for n in 0.. {
        let harness = before.fork();
        let plan = harness.plan();
        harness.fs.crash_after(n);
        let is_done = lithdb_repair::apply(plan, &harness.setup).is_ok();
        if is_done {
            break;
        }
        let harness =
            harness.after_crash(harness.fs.crash_with(&lithdb_sim::CrashImage::Everything));
        let path = harness.file("3.metadata");
        if read_metadata(&harness, 3).extras.is_empty() {
            continue;
        }
        seen += 1;
        let lines = harness.dump(Some(3));
        let said = (path.clone(), "a repair was interrupted".to_owned());
        assert_eq!(unreadable(&lines)[0], said, "after {n}");
        let is_key = |line: &&DumpLine| matches!(line, DumpLine::Key { .. });
        let keys = |lines: &[DumpLine]| lines.iter().filter(is_key).count();
        assert_eq!(keys(&lines), keys(&harmed), "after {n}");
        let report = harness.verify();
        let what = "a repair of this segment was interrupted; plan and apply it again";
        assert!(damage(&report).iter().any(|f| f.path == path && f.what == what), "{report}");
        lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
        check_opened("continued", &harness, &model, &nothing());
    }
    assert!(seen > 1, "{seen}");
}

#[test]
fn segments_directory_that_is_a_file_is_an_error() {
    let harness = Harness::new(1);
    harness.fs.write_raw("/r0/t/segments", b"x".to_vec());
    let error = presence(&harness.fs, &harness.setup.dirs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("/r0/t/segments"), "{error}");
}

#[test]
fn rollback_step_is_done_if_its_segment_was_salvaged_later() {
    let (harness, model) = table();
    harness.fs.flip_bit(harness.file("2.keys"), u64::from(model.at("k5").offset) + 33, 0);
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    let metadata = read_metadata(&harness, 2);
    let step = |revision: u32| {
        let kept = KeptSegment {
            segment: SegmentId(2),
            revision,
            rewritten: true,
            successor: SegmentId(100),
            key_end: 1,
            value_ends: vec![1, 1],
            digest: None,
        };
        let (table, table_id) = (harness.setup.name.clone(), metadata.table_id);
        TruncateStep { table, table_id, floor: SegmentId(101), kept: Some(kept) }
    };
    let before = harness.fs.ops();
    check(&harness.setup, &step(metadata.revision - 1)).unwrap();
    // With the same or a later revision, it must be what was prepared.
    for revision in [metadata.revision, metadata.revision + 1] {
        let error = check(&harness.setup, &step(revision)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("2.metadata"), "{error}");
        assert!(error.to_string().contains("which a rollback had prepared"), "{error}");
    }
    assert_eq!(harness.fs.ops(), before);
}

#[test]
fn repair_writes_no_file_with_read_only_features() {
    for name in ["2.keys", "2.metadata", "2-0.values"] {
        let (harness, model) = table();
        let path = harness.file(name);
        let mut bytes = harness.fs.read_raw(&path);
        bytes[16] = 1;
        let (at, covered) = match name {
            "2.metadata" => (28, [&bytes[..28], &bytes[32..]].concat()),
            _ => (60, bytes[..60].to_vec()),
        };
        let checksum = crc32c(0, &covered).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&checksum);
        harness.fs.write_raw(&path, bytes);
        harness.fs.flip_bit(harness.file("2.keys"), u64::from(model.at("k5").offset) + 33, 0);
        let ops = harness.fs.ops();
        let error = plan_repair(&harness.setup, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert_eq!(harness.fs.ops(), ops, "{name}");
        // Verifying does not write.
        assert_eq!(harness.verify().lost_keys(), Some(1), "{name}");
    }
}
