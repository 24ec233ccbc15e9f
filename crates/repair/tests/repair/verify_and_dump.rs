//! Verification and dump of intact tables, and beside a writer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Metadata, OpenMode};
use lithdb_repair::{DumpLine, Progress, dump, plan_repair, verify};
use lithdb_segment::SegmentId;
use lithdb_segment::envelope::{Magic, decode_file, encode};
use lithdb_sim::SimFs;
use lithdb_table::state::StateFile;
use lithdb_table::verify_keymap;
use lithdb_table::{Batch, SecondaryKey};
use parking_lot::Mutex;

use super::fixture::{options, table, value};
use super::support::Harness;

#[test]
fn intact_table_has_no_findings_and_exact_counts() {
    let (harness, model) = table();
    let before = harness.fs.ops();
    let mut reports = Vec::new();
    let report = verify(&harness.setup, &mut |progress| reports.push(progress)).unwrap();
    assert_eq!(report.findings, vec![], "{report}");
    assert!(report.is_sound());
    assert_eq!(report.segments, 5);
    assert_eq!(report.records, model.keys.len() as u64);
    assert_eq!(report.values, model.values);
    let key_files = (1..=5).map(|n| harness.fs.read_raw(harness.file(&format!("{n}.keys"))).len());
    let values: usize = (0..18).map(|n| value(n).len()).filter(|len| *len > 16).sum();
    assert_eq!(report.bytes, (key_files.sum::<usize>() + values) as u64);
    let last: Progress = *reports.last().unwrap();
    assert_eq!(last.bytes_done, last.bytes_total);
    assert!(last.bytes_total > report.bytes);
    let plan = harness.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.to_string(), "table t: nothing to repair");
    let done = lithdb_repair::apply(plan, &harness.setup).unwrap();
    assert_eq!((done.segments, done.quarantined_files), (0, 0));
    assert_eq!(harness.fs.ops(), before, "none of this may write");
}

#[test]
fn one_corrupt_state_slot_is_a_note_and_is_rewritten() {
    let (harness, _) = table();
    for slot in 0..2 {
        let harness = harness.fork();
        harness.fs.flip_bit("/r0/t/table.state", slot * 4096 + 40, 0);
        let report = harness.verify();
        assert!(report.is_sound() && report.findings.len() == 1, "{report}");
        assert!(report.findings[0].what.contains("harmless"), "{report}");
        assert!(harness.plan().is_empty());
        drop(harness.open(&options()).unwrap());
        assert_eq!(harness.verify().findings, vec![]);
    }
}

#[test]
fn foreign_files_and_leftovers_are_notes() {
    let (harness, _) = table();
    for path in ["/r0/t/segments/notes.txt", "/r1/t/segments/2.metadata.new", "/r0/t/readme"] {
        harness.fs.write_raw(path, b"x".to_vec());
    }
    let report = harness.verify();
    assert!(report.is_sound(), "{report}");
    let paths: BTreeSet<_> = report.findings.iter().map(|f| f.path.to_str().unwrap()).collect();
    let expected = ["/r0/t/segments/notes.txt", "/r1/t/segments/2.metadata.new", "/r0/t/readme"];
    assert_eq!(paths, expected.into_iter().collect());
    assert!(harness.plan().is_empty());
}

#[test]
fn torn_end_is_a_note() {
    let (harness, model) = table();
    let table = harness.open(&options()).unwrap();
    table.put(b"never acknowledged", &[1; 50]).unwrap();
    table.put(b"nor this", b"x").unwrap();
    table.flush().unwrap();
    drop(table);
    let path = harness.file("5.keys");
    let len = harness.fs.read_raw(&path).len() as u64;
    harness.fs.truncate_raw(&path, len - 2);
    let report = harness.verify();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records, model.keys.len() as u64 + 1);
    assert!(report.findings.iter().any(|f| f.path == path), "{report}");
    assert!(harness.plan().is_empty());
}

#[test]
fn verify_reports_no_damage_with_an_open_writer() {
    let harness = Harness::new(2);
    let table = harness.create_and_open(&options());
    for n in 0..60_u32 {
        table.put(format!("k{n}").as_bytes(), &vec![n as u8; (n * 7 % 90) as usize]).unwrap();
        if n % 7 == 0 {
            table.flush().unwrap();
        }
        let report = harness.verify();
        assert!(report.is_sound(), "{n}: {report}");
        assert!(report.records <= u64::from(n) + 1);
    }
    table.flush().unwrap();
    assert_eq!(harness.verify().records, 60);
    table.run_gc().unwrap();
}

/// A file system that runs a hook before every operation on a name.
struct InterposedFs {
    fs: SimFs,
    act: Mutex<Box<dyn FnMut() + Send>>,
}

impl fmt::Debug for InterposedFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterposedFs")
    }
}

impl InterposedFs {
    fn now(&self) -> &SimFs {
        (self.act.lock())();
        &self.fs
    }
}

impl Fs for InterposedFs {
    fn create_new(&self, _: &Path) -> io::Result<Arc<dyn File>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        assert_eq!(mode, OpenMode::Read);
        self.now().open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.now().list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.now().metadata(path)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn hard_link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn try_lock(&self, _: &Path, _: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.fs.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.fs.canonicalize(path)
    }
}

#[test]
fn file_vanishing_during_a_dump_is_named_unless_collected() {
    for name in ["3.keys", "3.metadata", "3-0.values"] {
        for is_collected in [false, true] {
            let (harness, _) = table();
            let whole = harness.dump(Some(3)).len();
            let (fs, path) = (harness.fs.clone(), harness.file(name));
            let mut calls = 0;
            let act = move || {
                calls += 1;
                // After the state, the four directories and the listings of two roots.
                if calls != 9 {
                    return;
                }
                if is_collected {
                    let fs: Arc<dyn lithdb_env::Fs> = Arc::new(fs.clone());
                    let state = StateFile::open(&fs, Path::new("/r0/t/table.state")).unwrap();
                    state.update(|state| state.watermark = SegmentId(4)).unwrap();
                }
                fs.remove_raw(&path);
            };
            let between = InterposedFs { fs: harness.fs.clone(), act: Mutex::new(Box::new(act)) };
            let mut setup = harness.setup.clone();
            setup.env.fs = Arc::new(between);
            let mut lines = Vec::new();
            let mut each = |line: &DumpLine| {
                lines.push(line.clone());
                Ok(())
            };
            dump(&setup, Some(SegmentId(3)), &mut each).unwrap_or_else(|e| panic!("{name}: {e}"));
            let unreadable = |line: &&DumpLine| matches!(line, DumpLine::Unreadable { path, .. } if path.ends_with(name));
            let unreadable = lines.iter().filter(unreadable).count();
            let expected = if is_collected { (0, true) } else { (1, false) };
            assert_eq!((unreadable, lines.is_empty()), expected, "{name}: {lines:?}");
            assert!(lines.len() <= whole);
        }
    }
}

#[test]
fn dump_completes_while_the_writer_collects() {
    for every in 1..12 {
        let harness = Harness::new(2);
        let table = harness.create_and_open(&options().ttl(Duration::from_secs(100)));
        let mut n = 0_usize;
        let mut write = {
            let (table, clock) = (table.clone(), harness.clock.clone());
            move || {
                n += 1;
                table.put(format!("k{n}").as_bytes(), &value(n % 50)).unwrap();
                if n.is_multiple_of(4) {
                    clock.advance(Duration::from_secs(60));
                    table.run_gc().unwrap();
                }
            }
        };
        (0..40).for_each(|_| write());
        let mut reads = 0_usize;
        let act = move || {
            reads += 1;
            if reads.is_multiple_of(every) {
                write();
            }
        };
        let between = InterposedFs { fs: harness.fs.clone(), act: Mutex::new(Box::new(act)) };
        let mut setup = harness.setup.clone();
        setup.env.fs = Arc::new(between);
        let mut each = |line: &DumpLine| {
            assert!(!matches!(line, DumpLine::Unreadable { .. }), "every {every}: {line}");
            Ok(())
        };
        dump(&setup, None, &mut each).unwrap_or_else(|e| panic!("every {every}: {e}"));
    }
}

#[test]
fn concurrent_writer_changes_are_not_damage() {
    // Including the first put: until then the state says that nothing was ever acknowledged.
    let later_puts = (1..12).map(|every| (every, 0, 40));
    for (every, begins, before) in later_puts.chain((0..20).map(|begins| (1, begins, 0))) {
        let harness = Harness::new(2);
        let table = harness.create_and_open(&options().ttl(Duration::from_secs(100)));
        let mut n = 0_usize;
        let mut write = {
            let (table, clock) = (table.clone(), harness.clock.clone());
            move || {
                n += 1;
                table.put(format!("k{n}").as_bytes(), &value(n % 50)).unwrap();
                if before == 0 || n.is_multiple_of(4) {
                    table.flush().unwrap();
                }
                if n.is_multiple_of(9) {
                    clock.advance(Duration::from_secs(60));
                    table.run_gc().unwrap();
                }
            }
        };
        (0..before).for_each(|_| write());
        let mut reads = 0_usize;
        // The writer is fast and then stops: no reader can keep up with one that never stops.
        let act = move || {
            reads += 1;
            if reads > begins && reads < 150 && reads.is_multiple_of(every) {
                write();
            }
        };
        let between = InterposedFs { fs: harness.fs.clone(), act: Mutex::new(Box::new(act)) };
        let mut setup = harness.setup.clone();
        setup.env.fs = Arc::new(between);
        let report = verify(&setup, &mut |_| {}).unwrap();
        assert!(report.is_sound(), "every {every} from {begins}, after {before}: {report}");
    }
}

#[test]
fn verify_and_plan_of_an_empty_or_absent_table() {
    let harness = Harness::new(1);
    assert!(verify(&harness.setup, &mut |_| {}).is_err());
    assert!(plan_repair(&harness.setup, &mut |_| {}).is_err());
    harness.create().unwrap();
    let report = harness.verify();
    assert_eq!((report.segments, report.records, report.findings.len()), (0, 0, 0));
    assert!(harness.plan().is_empty());
}

#[test]
fn a_dump_lists_every_kind_of_record() {
    let (harness, model) = table();
    let lines = harness.dump(None);
    let count = |is: fn(&DumpLine) -> bool| lines.iter().filter(|line| is(line)).count();
    assert_eq!(count(|l| matches!(l, DumpLine::Key { .. })), model.keys.len());
    assert_eq!(count(|l| matches!(l, DumpLine::Key { is_primary: true, .. })), 18);
    assert_eq!(count(|l| matches!(l, DumpLine::KeyHeader { .. })), 5);
    assert_eq!(count(|l| matches!(l, DumpLine::ValueHeader { .. })), 10);
    assert_eq!(count(|l| matches!(l, DumpLine::Metadata { .. })), 4);
    assert_eq!(count(|l| matches!(l, DumpLine::Chain { .. })), 4);
    assert_eq!(count(|l| matches!(l, DumpLine::Verdict { .. })), 5);
    assert!(count(|l| matches!(l, DumpLine::Epoch { .. })) >= 2);
    assert!(count(|l| matches!(l, DumpLine::Mark { .. })) >= 5);
    assert!(count(|l| matches!(l, DumpLine::Padding { .. })) >= 1);
    assert_eq!(count(|l| matches!(l, DumpLine::Damage { .. })), 0);
    for line in &lines {
        assert!(!line.to_string().contains('\n'));
    }
    assert!(lines.iter().any(|line| line.to_string().contains("\"alias of k4\"")));
    let one = harness.dump(Some(3));
    assert!(one.iter().all(|line| lines.contains(line)) && one.len() < lines.len());
    let at = model.at("k9");
    harness.fs.flip_bit(harness.file("3.keys"), u64::from(at.offset) + 8, 0);
    let damaged = harness.dump(Some(at.segment.0));
    assert!(damaged.iter().any(
        |line| matches!(line, DumpLine::Damage { offset, .. } if *offset == u64::from(at.offset))
    ));
    assert!(dump(&harness.setup, Some(SegmentId(77)), &mut |_| Ok(())).is_err());
}

#[test]
fn keymap_is_compared_with_the_records() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options());
    let mut batch = Batch::new();
    batch.put(b"a".to_vec(), b"one".to_vec()).alias(b"b".to_vec(), 0..1);
    table.put_batch(&batch).unwrap();
    table.put(b"a", b"two").unwrap();
    let report = verify_keymap(&table, &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.records, report.keys, report.superseded), (3, 2, 1));
}

/// Above the limit, damaged ranges are counted instead of listed, with all their losses.
#[test]
fn many_damaged_ranges_are_summarized_and_lose_no_key() {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().segment_keys(1000).shards(1));
    let put = |n| {
        let (key, alias) = (format!("key {n}"), format!("alias {n}"));
        table.put_with(key.as_bytes(), b"value", &[SecondaryKey::whole(&alias)]).unwrap()
    };
    let ats: Vec<_> = (0..60).map(put).collect();
    table.seal().unwrap();
    table.close().unwrap();
    drop(table);
    for at in ats.iter().skip(1).step_by(3) {
        harness.fs.flip_bit(harness.file("1.keys"), u64::from(at.offset) + 33, 0);
    }
    let report = harness.verify();
    assert_eq!(report.lost_keys(), Some(40), "{report}");
    assert_eq!(report.records, 80, "{report}");
    let rest = report.findings.iter().find(|f| f.what.contains("4 more ranges")).unwrap();
    assert_eq!((rest.lost_keys, rest.sample_keys.len()), (Some(4), 4), "{report}");
}

/// Leftover files of an expired segment are no damage; the next open removes them.
#[test]
fn files_below_the_watermark_are_notes() {
    let harness = Harness::new(1);
    let options = options().ttl(Duration::from_secs(60)).segment_age(super::support::DAY);
    let table = harness.create_and_open(&options);
    table.put(b"a", b"1").unwrap();
    table.seal().unwrap();
    let keys = harness.fs.read_raw(harness.file("1.keys"));
    harness.clock.advance(Duration::from_secs(61));
    assert_eq!(table.run_gc().unwrap().segments, 1);
    table.close().unwrap();
    drop(table);
    harness.fs.write_raw("/r0/t/segments/1.keys", keys);
    let report = harness.verify();
    assert!(report.is_sound(), "{report}");
    let expected = "note: /r0/t/segments/1.keys: below the watermark: expired";
    assert!(report.to_string().contains(expected), "{report}");
    assert!(harness.plan().is_empty());
}

/// Two segments with the same predecessor: only a person can decide which belongs to the table.
#[test]
fn forked_chain_needs_a_manual_decision() {
    let (harness, _) = table();
    let path = harness.file("2.metadata");
    let bytes = harness.fs.read_raw(&path);
    let mut metadata: lithdb_segment::Metadata =
        decode_file(Magic::METADATA, &path, &bytes).unwrap();
    assert_eq!(metadata.successor, SegmentId(3));
    metadata.successor = SegmentId(4);
    harness.fs.write_raw(&path, encode(Magic::METADATA, &metadata).unwrap());
    let report = harness.verify();
    assert!(report.to_string().contains("the chain forks"), "{report}");
    assert!(harness.open(&options()).is_err());
    let before = harness.fs.ops();
    let plan = plan_repair(&harness.setup, &mut |_| {});
    assert!(plan.is_err(), "{:?}", plan.map(|plan| plan.to_string()));
    assert_eq!(harness.fs.ops(), before);
}

#[test]
fn dump_with_header_from_value_files_reports_clean_records() {
    let (harness, _) = table();
    let verdict = |harness: &Harness| {
        let lines = harness.dump(Some(3)).into_iter();
        let mut verdicts = lines.filter(|line| matches!(line, DumpLine::Verdict { .. }));
        verdicts.next().unwrap().to_string()
    };
    let whole = verdict(&harness);
    harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
    harness.fs.remove_raw(harness.file("3.metadata"));
    assert_eq!(verdict(&harness), whole);
}
