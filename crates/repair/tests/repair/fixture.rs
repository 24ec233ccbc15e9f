//! A table with every kind of record, on a simulated disk that can be damaged, and the checks
//! after a repair.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lithdb_repair::{DumpLine, Finding, RepairPlan, VerifyReport, dump, plan_repair, verify};
use lithdb_segment::{Metadata, Position, SegmentId};
use lithdb_sim::{SimClock, SimFs};
use lithdb_table::state::{StateFile, TableState};
use lithdb_table::verify_keymap;
use lithdb_table::{SecondaryKey, Table, TableOptions};

use super::support::{Harness, small};

/// What was put, and at which positions.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// For each key: the value, and the position of the group's primary record.
    pub(super) keys: BTreeMap<Vec<u8>, (Vec<u8>, Position)>,
    pub(super) values: u64,
}
impl Model {
    pub(super) fn segment(&self, id: u32) -> BTreeSet<Vec<u8>> {
        self.keys_where(|_, at| at.segment == SegmentId(id))
    }

    pub(super) fn keys_of_group(&self, position: Position) -> BTreeSet<Vec<u8>> {
        self.keys_where(|_, at| at == position)
    }

    pub(super) fn keys_where(&self, lost: impl Fn(&[u8], Position) -> bool) -> BTreeSet<Vec<u8>> {
        let keys = self.keys.iter().filter(|(_, (value, at))| lost(value, *at));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// The position of a key.
    pub(super) fn at(&self, key: &str) -> Position {
        self.keys[key.as_bytes()].1
    }

    pub(super) fn put(&mut self, table: &Table, key: &str, value: &[u8], alias: bool) {
        let name = format!("alias of {key}");
        let aliases = [SecondaryKey::range(name.as_bytes(), 1..value.len() - 1)];
        let aliases = if alias { &aliases[..] } else { &[] };
        let at = table.put_with(key.as_bytes(), value, aliases).unwrap();
        self.keys.insert(key.into(), (value.to_vec(), at));
        if alias {
            self.keys.insert(name.into(), (value[1..value.len() - 1].to_vec(), at));
        }
        self.values += 1;
    }
}

pub(super) fn options() -> TableOptions {
    small().segment_keys(6).shards(2)
}

pub(super) fn value(n: usize) -> Vec<u8> {
    let len = if n.is_multiple_of(3) { 9 } else { 40 + n };
    format!("value {n:03} ").bytes().cycle().take(len).collect()
}

/// Four sealed segments and a mutable one, with every kind of record; closed.
pub(super) fn table() -> (Harness, Model) {
    let (harness, mut model) = (Harness::new(2), Model::default());
    let mut table = harness.create_and_open(&options());
    for n in 0..18 {
        model.put(&table, &format!("k{n}"), &value(n), n % 2 == 0);
        if n % 2 == 1 {
            table.flush().unwrap();
        }
        if n == 9 || n == 16 {
            table.close().unwrap();
            table = harness.open(&options()).unwrap();
        }
    }
    table.close().unwrap();
    let newest = model.keys.values().map(|(_, at)| at.segment).max().unwrap();
    assert_eq!(newest, SegmentId(5));
    (harness, model)
}

/// A table of the same shape with another id.
pub(super) fn table_with_other_id() -> Harness {
    let harness = Harness::on(SimFs::new(), SimClock::new(99), 2);
    (0..2).for_each(|n| harness.fs.make_dirs(format!("/r{n}")));
    let table = harness.create_and_open(&options());
    for n in 0..18 {
        table.put(format!("k{n}").as_bytes(), &value(n)).unwrap();
    }
    table.close().unwrap();
    harness
}

impl Harness {
    pub(super) fn fork(&self) -> Self {
        self.after_crash(self.fs.fork())
    }

    pub(super) fn verify(&self) -> VerifyReport {
        verify(&self.setup, &mut |_| {}).unwrap()
    }

    pub(super) fn plan(&self) -> RepairPlan {
        plan_repair(&self.setup, &mut |_| {}).unwrap()
    }

    /// The path of a segment's file, on any root.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        let paths = self.fs.file_paths();
        let found = paths.iter().find(|p| p.ends_with(Path::new("t/segments").join(name)));
        found.unwrap_or_else(|| panic!("{name} is missing")).clone()
    }

    /// Flips a bit in the first occurrence of these bytes.
    pub(super) fn flip(&self, name: &str, bytes: &[u8]) -> u64 {
        let path = self.file(name);
        let at = find(&self.fs.read_raw(&path), bytes).expect("the bytes are in the file");
        self.fs.flip_bit(&path, at as u64, 3);
        at as u64
    }

    pub(super) fn dump(&self, segment: Option<u32>) -> Vec<DumpLine> {
        let mut lines = Vec::new();
        dump(&self.setup, segment.map(SegmentId), &mut |line| {
            lines.push(line.clone());
            Ok(())
        })
        .unwrap();
        lines
    }

    /// Names and bytes of all quarantined files.
    pub(super) fn kept(&self) -> Vec<(String, Vec<u8>)> {
        let paths = self.fs.file_paths();
        let kept = paths.iter().filter(|path| {
            let dir = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            dir.starts_with("damaged-")
        });
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        kept.map(|path| (name(path), self.fs.read_raw(path))).collect()
    }
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub(super) fn damage(report: &VerifyReport) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.is_damage()).collect()
}

pub(super) fn nothing() -> BTreeSet<Vec<u8>> {
    BTreeSet::new()
}

/// The keys whose values are in this file.
pub(super) fn keys_in_file(harness: &Harness, model: &Model, name: &str) -> BTreeSet<Vec<u8>> {
    let bytes = harness.fs.read_raw(harness.file(name));
    let id = SegmentId(name.split('-').next().unwrap().parse().unwrap());
    let groups: BTreeSet<_> = model
        .keys
        .values()
        .filter(|(value, at)| at.segment == id && find(&bytes, value).is_some())
        .map(|(_, at)| *at)
        .collect();
    assert!(!groups.is_empty(), "{name} holds values");
    model.keys_where(|_, at| groups.contains(&at))
}

/// The offset of the first record of a kind.
pub(super) fn record(harness: &Harness, segment: u32, is: fn(&DumpLine) -> Option<u32>) -> u64 {
    let lines = harness.dump(Some(segment));
    u64::from(lines.iter().find_map(is).expect("there is such a record"))
}

pub(super) fn epoch(line: &DumpLine) -> Option<u32> {
    if let DumpLine::Epoch { offset, .. } = line { Some(*offset) } else { None }
}

pub(super) fn mark(line: &DumpLine) -> Option<u32> {
    if let DumpLine::Mark { offset, .. } = line { Some(*offset) } else { None }
}

/// Removes the recorded end from the state, as if the table had not been closed.
pub(super) fn forget_recorded_end(harness: &Harness) {
    let state = StateFile::open(&harness.setup.env.fs, Path::new("/r0/t/table.state")).unwrap();
    state.update(|state| state.recorded_end = None).unwrap();
}

pub(super) fn remove_segment(harness: &Harness, id: u32) {
    for path in harness.fs.file_paths() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(&format!("{id}.")) || name.starts_with(&format!("{id}-")) {
            harness.fs.remove_raw(path);
        }
    }
}

/// Opens the table and compares all its data with the model, except `lost`, which must be missing.
pub(super) fn check_opened(name: &str, harness: &Harness, model: &Model, lost: &BTreeSet<Vec<u8>>) {
    let table = harness.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (key, (value, at)) in &model.keys {
        let shown = String::from_utf8_lossy(key);
        let found = table.get(key).unwrap_or_else(|e| panic!("{name}: {shown}: {e}"));
        let expected = (!lost.contains(key)).then_some(&value[..]);
        assert_eq!(found.as_deref(), expected, "{name}: {shown} of {at}");
    }
    let left = model.keys.len() - lost.len();
    assert_eq!(table.iter().unwrap().map(Result::unwrap).count(), left, "{name}");
    let keymap = verify_keymap(&table, &mut |_| {}).unwrap();
    assert!(keymap.is_sound() && keymap.keys == left as u64, "{name}: {keymap}");
    let counts = table.stats();
    // The table can be written, closed and opened again.
    table.put(b"new", &[7; 100]).unwrap();
    table.close().unwrap();
    let report = harness.verify();
    assert!(report.is_sound(), "{name}: {report}");
    assert_eq!(report.records, counts.keys + 1, "{name}");
    let table = harness.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(table.get(b"new").unwrap().unwrap(), &[7; 100][..]);
}

/// Asserts that each of `files` is quarantined, or unchanged in its place.
pub(super) fn check_quarantined(name: &str, before: &Harness, after: &Harness, files: &[&str]) {
    let kept = after.kept();
    for file in files {
        let find = |fs: &SimFs| fs.file_paths().into_iter().find(|path| path.ends_with(file));
        let expected = before.fs.read_raw(find(&before.fs).unwrap());
        let is_kept = kept.iter().any(|(name, bytes)| name == file && *bytes == expected);
        let is_in_place = find(&after.fs).is_some_and(|path| after.fs.read_raw(path) == expected);
        assert!(is_kept || is_in_place, "{name}: {file} is missing");
    }
}

/// Plans, applies, opens: every key has its value or, if the plan has losses, none.
pub(super) fn check_repaired(name: &str, harness: &Harness, model: &Model) -> RepairPlan {
    let plan = plan_repair(&harness.setup, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shown = plan.to_string();
    lithdb_repair::apply(plan, &harness.setup).unwrap_or_else(|e| panic!("{name}: {e}\n{shown}"));
    let plan = harness.plan();
    assert!(plan.is_empty(), "{name}: {plan}\nafter {shown}");
    let report = harness.verify();
    assert!(report.is_sound(), "{name}: {report}\nafter {shown}");
    let table = harness.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}\n{shown}"));
    let mut found = 0;
    for (key, (value, _)) in &model.keys {
        if let Some(read) = table.get(key).unwrap_or_else(|e| panic!("{name}: {e}\n{shown}")) {
            assert_eq!(read, &value[..], "{name}");
            found += 1;
        }
    }
    assert_eq!(table.iter().unwrap().map(Result::unwrap).count(), found, "{name}");
    assert_eq!(report.records, found as u64, "{name}: {report}\nafter {shown}");
    plan
}

pub(super) const STATE: &str = "/r0/t/table.state";

/// Changes the state and returns the result.
pub(super) fn change_state(harness: &Harness, change: impl FnOnce(&mut TableState)) -> TableState {
    let state = StateFile::open(&harness.setup.env.fs, Path::new(STATE)).unwrap();
    state.update(change).unwrap();
    state.get()
}

pub(super) fn read_metadata(harness: &Harness, id: u32) -> Metadata {
    Metadata::read(&harness.fs, &harness.file(&format!("{id}.metadata"))).unwrap()
}
