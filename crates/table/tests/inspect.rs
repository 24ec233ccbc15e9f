//! What verification, dump and repair say of a table's files, and do to them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use lithdb_env::{DirEntry, File, FileLock, Fs, LockKind, Metadata, OpenMode};
use lithdb_segment::{Position, SegmentId};
use lithdb_sim::{Choice, CrashImage, Fault, Pages, SeededChoice, SimFs};
use lithdb_table::inspect::{
    Action, DumpLine, Finding, Progress, RepairPlan, VerifyReport, dump, plan_repair, verify,
    verify_keymap,
};
use lithdb_table::state::StateFile;
use lithdb_table::{Batch, SecondaryKey, Table, TableOptions};
use parking_lot::Mutex;
use support::{World, small};

/// What was put, and where.
#[derive(Clone, Default)]
struct Model {
    /// By key: the value, and the position of the group's primary record.
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Position)>,
    values: u64,
}

impl Model {
    fn segment(&self, id: u32) -> BTreeSet<Vec<u8>> {
        self.lost_if(|_, at| at.segment == SegmentId(id))
    }

    fn group_at(&self, position: Position) -> BTreeSet<Vec<u8>> {
        self.lost_if(|_, at| at == position)
    }

    fn lost_if(&self, lost: impl Fn(&[u8], Position) -> bool) -> BTreeSet<Vec<u8>> {
        let keys = self.keys.iter().filter(|(_, (value, at))| lost(value, *at));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// The position of a key.
    fn at(&self, key: &str) -> Position {
        self.keys[key.as_bytes()].1
    }

    fn put(&mut self, table: &Table, key: &str, value: &[u8], alias: bool) {
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

fn options() -> TableOptions {
    small().segment_keys(6).shards(2)
}

fn value(n: usize) -> Vec<u8> {
    let len = if n.is_multiple_of(3) { 9 } else { 40 + n };
    format!("value {n:03} ").bytes().cycle().take(len).collect()
}

/// Four sealed segments and a mutable one, with everything in them that there is; closed.
fn table() -> (World, Model) {
    let (world, mut model) = (World::new(2), Model::default());
    let mut table = world.create_and_open(&options());
    for n in 0..18 {
        model.put(&table, &format!("k{n}"), &value(n), n % 2 == 0);
        if n % 2 == 1 {
            table.flush().unwrap();
        }
        if n == 9 || n == 16 {
            table.close().unwrap();
            table = world.open(&options()).unwrap();
        }
    }
    table.close().unwrap();
    let newest = model.keys.values().map(|(_, at)| at.segment).max().unwrap();
    assert_eq!(newest, SegmentId(5));
    (world, model)
}

impl World {
    fn fork(&self) -> Self {
        self.after_crash(self.fs.fork())
    }

    fn verify(&self) -> VerifyReport {
        verify(&self.setup, &mut |_| {}).unwrap()
    }

    fn plan(&self) -> RepairPlan {
        plan_repair(&self.setup, &mut |_| {}).unwrap()
    }

    /// The path of a segment's file, on whichever root it is.
    fn file(&self, name: &str) -> PathBuf {
        let paths = self.fs.file_paths();
        let found = paths.iter().find(|p| p.ends_with(Path::new("t/segments").join(name)));
        found.unwrap_or_else(|| panic!("{name} is not there")).clone()
    }

    /// Flips a bit of the first place where these bytes stand.
    fn flip(&self, name: &str, bytes: &[u8]) -> u64 {
        let path = self.file(name);
        let at = find(&self.fs.read_raw(&path), bytes).expect("the bytes stand in the file");
        self.fs.flip_bit(&path, at as u64, 3);
        at as u64
    }

    fn dump(&self, segment: Option<u32>) -> Vec<DumpLine> {
        let mut lines = Vec::new();
        dump(&self.setup, segment.map(SegmentId), &mut |line| {
            lines.push(line.clone());
            Ok(())
        })
        .unwrap();
        lines
    }

    /// The bytes of all files that repairs kept, by name.
    fn kept(&self) -> Vec<(String, Vec<u8>)> {
        let paths = self.fs.file_paths();
        let kept = paths.iter().filter(|path| {
            let dir = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            dir.starts_with("damaged-")
        });
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        kept.map(|path| (name(path), self.fs.read_raw(path))).collect()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn damage(report: &VerifyReport) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.is_damage()).collect()
}

/// One kind of damage, and what is to come of it.
struct Case {
    name: &'static str,
    /// Does the damage and says which keys are lost.
    harm: fn(&World, &Model) -> BTreeSet<Vec<u8>>,
    /// A file that a finding must name (the end of its path), and at which offset if that is known.
    names: (&'static str, Option<u64>),
    /// Opening sees it: a value is only read when it is asked for.
    is_refused: bool,
    /// The files that must be kept as they were.
    keeps: &'static [&'static str],
    actions: &'static [Action],
    /// How many keys are lost can be known.
    is_counted: bool,
}

const CASE: Case = Case {
    name: "",
    harm: |_, _| BTreeSet::new(),
    names: ("", None),
    is_refused: true,
    keeps: &[],
    actions: &[],
    is_counted: true,
};

fn nothing() -> BTreeSet<Vec<u8>> {
    BTreeSet::new()
}

/// The keys whose values stand in this file.
fn in_file(world: &World, model: &Model, name: &str) -> BTreeSet<Vec<u8>> {
    let bytes = world.fs.read_raw(world.file(name));
    let id = SegmentId(name.split('-').next().unwrap().parse().unwrap());
    let groups: BTreeSet<_> = model
        .keys
        .values()
        .filter(|(value, at)| at.segment == id && find(&bytes, value).is_some())
        .map(|(_, at)| *at)
        .collect();
    assert!(!groups.is_empty(), "{name} holds values");
    model.lost_if(|_, at| groups.contains(&at))
}

/// The offset of the first record of a kind.
fn record(world: &World, segment: u32, is: fn(&DumpLine) -> Option<u32>) -> u64 {
    let lines = world.dump(Some(segment));
    u64::from(lines.iter().find_map(is).expect("there is such a record"))
}

fn epoch(line: &DumpLine) -> Option<u32> {
    if let DumpLine::Epoch { offset, .. } = line { Some(*offset) } else { None }
}

fn mark(line: &DumpLine) -> Option<u32> {
    if let DumpLine::Mark { offset, .. } = line { Some(*offset) } else { None }
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "damaged metadata",
            harm: |world, _| {
                world.fs.flip_bit(world.file("2.metadata"), 50, 1);
                nothing()
            },
            names: ("2.metadata", None),
            keeps: &["2.metadata"],
            actions: &[Action::RebuildMetadata],
            ..CASE
        },
        Case {
            name: "missing metadata",
            harm: |world, _| {
                world.fs.remove_raw(world.file("2.metadata"));
                nothing()
            },
            names: ("2.metadata", None),
            actions: &[Action::RebuildMetadata],
            ..CASE
        },
        Case {
            name: "all metadata missing",
            harm: |world, _| {
                for n in 1..=4 {
                    world.fs.remove_raw(world.file(&format!("{n}.metadata")));
                }
                nothing()
            },
            names: ("3.metadata", None),
            actions: &[Action::RebuildMetadata; 4],
            ..CASE
        },
        Case {
            name: "a key of a sealed segment",
            harm: |world, model| {
                let at = model.at("k5");
                assert_eq!(at.segment, SegmentId(2));
                world.fs.flip_bit(world.file("2.keys"), u64::from(at.offset) + 33, 0);
                model.group_at(at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys", "2.metadata"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "the primary record of a group with an alias",
            harm: |world, model| {
                let at = model.at("k6");
                world.fs.flip_bit(world.file("2.keys"), u64::from(at.offset), 0);
                model.group_at(at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a value of a sealed segment",
            harm: |world, model| {
                let at = model.at("k4");
                let (value, _) = &model.keys[&b"k4"[..]];
                let path = ["2-0.values", "2-1.values"]
                    .into_iter()
                    .find(|name| find(&world.fs.read_raw(world.file(name)), value).is_some());
                world.flip(path.unwrap(), value);
                model.group_at(at)
            },
            names: (".values", None),
            is_refused: false,
            keeps: &["2.keys", "2-0.values", "2-1.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "an inline value of a sealed segment",
            harm: |world, model| {
                world.flip("2.keys", &model.keys[&b"k6"[..]].0);
                model.group_at(model.at("k6"))
            },
            names: ("2.keys", None),
            is_refused: false,
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a missing value file of a sealed segment",
            harm: |world, model| {
                let lost = in_file(world, model, "3-1.values");
                world.fs.remove_raw(world.file("3-1.values"));
                lost
            },
            names: ("3-1.values", None),
            keeps: &["3.keys", "3-0.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a short value file of a sealed segment",
            harm: |world, model| {
                let lost = in_file(world, model, "3-0.values");
                world.fs.truncate_raw(world.file("3-0.values"), 64);
                lost
            },
            names: ("3-0.values", Some(64)),
            keeps: &["3.keys", "3-0.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "the header of a value file",
            harm: |world, _| {
                world.fs.flip_bit(world.file("3-0.values"), 49, 2);
                nothing()
            },
            names: ("3-0.values", Some(0)),
            is_refused: false,
            keeps: &["3-0.values"],
            actions: &[Action::RestoreValueFiles],
            ..CASE
        },
        Case {
            name: "a missing key file of a sealed segment",
            harm: |world, model| {
                world.fs.remove_raw(world.file("3.keys"));
                model.segment(3)
            },
            names: ("3.keys", None),
            keeps: &["3-0.values", "3-1.values"],
            actions: &[Action::Placeholder],
            ..CASE
        },
        Case {
            name: "the header of a sealed key file",
            harm: |world, _| {
                world.fs.flip_bit(world.file("3.keys"), 50, 2);
                nothing()
            },
            names: ("3.keys", Some(0)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "the header of a sealed key file and its metadata",
            harm: |world, _| {
                world.fs.flip_bit(world.file("3.keys"), 50, 2);
                world.fs.remove_raw(world.file("3.metadata"));
                nothing()
            },
            names: ("3.keys", Some(0)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a chain record",
            harm: |world, _| {
                world.fs.flip_bit(world.file("3.keys"), 80, 2);
                nothing()
            },
            names: ("3.keys", Some(64)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a mark in a sealed segment",
            harm: |world, _| {
                let at = record(world, 2, mark);
                world.fs.flip_bit(world.file("2.keys"), at + 30, 2);
                nothing()
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "an epoch record in a sealed segment",
            harm: |world, _| {
                let at = record(world, 3, epoch);
                world.fs.flip_bit(world.file("3.keys"), at + 9, 2);
                nothing()
            },
            names: ("3.keys", None),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a sealed key file that is cut",
            harm: |world, model| {
                let at = model.at("k6");
                world.fs.truncate_raw(world.file("2.keys"), u64::from(at.offset));
                model.lost_if(|_, found| found.segment == at.segment && found >= at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a segment that is missing between others",
            harm: |world, model| {
                remove_segment(world, 3);
                model.segment(3)
            },
            names: ("3.keys", None),
            actions: &[Action::Placeholder],
            ..CASE
        },
        Case {
            name: "two neighbours that are missing",
            harm: |world, model| {
                remove_segment(world, 3);
                remove_segment(world, 4);
                &model.segment(3) | &model.segment(4)
            },
            names: ("4.keys", None),
            actions: &[Action::Placeholder, Action::Placeholder],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "the newest segment is missing",
            harm: |world, model| {
                remove_segment(world, 5);
                model.segment(5)
            },
            names: ("5.keys", None),
            actions: &[Action::EmptyTail],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "the oldest segment is missing",
            harm: |world, model| {
                remove_segment(world, 1);
                model.segment(1)
            },
            names: ("1.keys", None),
            actions: &[Action::GiveUp],
            ..CASE
        },
        Case {
            name: "the oldest key file is missing",
            harm: |world, model| {
                world.fs.remove_raw(world.file("1.keys"));
                model.segment(1)
            },
            names: ("1.keys", None),
            keeps: &["1-0.values", "1-1.values", "1.metadata"],
            actions: &[Action::GiveUp],
            ..CASE
        },
        Case {
            name: "all segments are missing",
            harm: |world, model| {
                (1..=5).for_each(|n| remove_segment(world, n));
                model.lost_if(|_, _| true)
            },
            names: ("5.keys", None),
            actions: &[Action::GiveUp, Action::GiveUp],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "no slot of the state holds",
            harm: |world, _| {
                world.fs.flip_bit("/r0/t/table.state", 40, 2);
                world.fs.flip_bit("/r0/t/table.state", 4096 + 40, 2);
                nothing()
            },
            names: ("table.state", None),
            keeps: &["table.state"],
            ..CASE
        },
        Case {
            name: "the state is missing, and metadata",
            harm: |world, _| {
                world.fs.remove_raw("/r0/t/table.state");
                world.fs.remove_raw(world.file("4.metadata"));
                nothing()
            },
            names: ("table.state", None),
            actions: &[Action::RebuildMetadata],
            ..CASE
        },
        Case {
            name: "a key of the tail",
            harm: |world, model| {
                let at = model.at("k16");
                assert_eq!(at.segment, SegmentId(5));
                world.fs.flip_bit(world.file("5.keys"), u64::from(at.offset) + 33, 0);
                model.group_at(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a value of the tail",
            harm: |world, model| {
                let value = &model.keys[&b"k16"[..]].0;
                let name = ["5-0.values", "5-1.values"]
                    .into_iter()
                    .find(|name| find(&world.fs.read_raw(world.file(name)), value).is_some());
                world.flip(name.unwrap(), value);
                model.group_at(model.at("k16"))
            },
            names: (".values", None),
            is_refused: false,
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a tail that is shorter than was promised",
            harm: |world, model| {
                let at = model.at("k17");
                world.fs.truncate_raw(world.file("5.keys"), u64::from(at.offset));
                model.group_at(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "the header of the tail's key file",
            harm: |world, _| {
                world.fs.flip_bit(world.file("5.keys"), 40, 0);
                nothing()
            },
            names: ("5.keys", Some(0)),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "a value file of the tail is missing",
            harm: |world, model| {
                let lost = in_file(world, model, "5-0.values");
                world.fs.remove_raw(world.file("5-0.values"));
                lost
            },
            names: ("5-0.values", None),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "the tail is missing and the metadata before it damaged",
            harm: |world, model| {
                remove_segment(world, 5);
                world.fs.flip_bit(world.file("4.metadata"), 40, 1);
                model.segment(5)
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata, Action::EmptyTail],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "the metadata before the tail",
            harm: |world, _| {
                world.fs.flip_bit(world.file("4.metadata"), 40, 1);
                nothing()
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata],
            ..CASE
        },
        Case {
            name: "the tail is missing, the metadata before it damaged, and nothing names the tail",
            harm: |world, model| {
                remove_segment(world, 5);
                world.fs.flip_bit(world.file("4.metadata"), 40, 1);
                forget_tail(world);
                model.segment(5)
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "the last seal is damaged with its key file, and the tail is missing",
            harm: |world, model| {
                remove_segment(world, 5);
                world.fs.flip_bit(world.file("4.metadata"), 40, 1);
                forget_tail(world);
                let at = model.at("k14");
                assert_eq!(at.segment, SegmentId(4));
                world.fs.flip_bit(world.file("4.keys"), u64::from(at.offset) + 8, 1);
                &model.segment(5) | &model.group_at(at)
            },
            names: ("4.keys", None),
            keeps: &["4.metadata", "4.keys"],
            actions: &[Action::Salvage],
            is_counted: false,
            ..CASE
        },
        Case {
            name: "a damaged tail that was not closed",
            harm: |world, model| {
                forget_tail(world);
                let at = model.at("k16");
                world.fs.flip_bit(world.file("5.keys"), u64::from(at.offset) + 33, 0);
                model.group_at(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..CASE
        },
        Case {
            name: "many things at once",
            harm: |world, model| {
                let at = model.at("k0");
                world.fs.flip_bit(world.file("1.keys"), u64::from(at.offset) + 5, 0);
                world.fs.remove_raw(world.file("2.metadata"));
                remove_segment(world, 3);
                let second = model.at("k17");
                world.fs.flip_bit(world.file("5.keys"), u64::from(second.offset) + 12, 0);
                &(&model.group_at(at) | &model.group_at(second)) | &model.segment(3)
            },
            names: ("5.keys", None),
            keeps: &["1.keys", "5.keys"],
            actions: &[
                Action::Salvage,
                Action::RebuildMetadata,
                Action::Placeholder,
                Action::Salvage,
            ],
            ..CASE
        },
    ]
}

/// As if the table had not been closed: the state names no tail.
fn forget_tail(world: &World) {
    let state = StateFile::open(&world.fs, Path::new("/r0/t/table.state")).unwrap();
    state.update(|state| state.durable_tail = None).unwrap();
}

fn remove_segment(world: &World, id: u32) {
    for path in world.fs.file_paths() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(&format!("{id}.")) || name.starts_with(&format!("{id}-")) {
            world.fs.remove_raw(path);
        }
    }
}

/// Opens the table and compares everything in it with the model, but for `lost`, which must be gone.
fn check_opened(name: &str, world: &World, model: &Model, lost: &BTreeSet<Vec<u8>>) {
    let table = world.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}"));
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
    // It can be written to, and be closed and opened again.
    table.put(b"new", &[7; 100]).unwrap();
    table.close().unwrap();
    let report = world.verify();
    assert!(report.is_sound(), "{name}: {report}");
    assert_eq!(report.records, counts.keys + 1, "{name}");
    let table = world.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(table.get(b"new").unwrap().unwrap(), &[7; 100][..]);
}

#[test]
fn a_sound_table_has_no_findings_and_exact_counts() {
    let (world, model) = table();
    let before = world.fs.ops();
    let mut told = Vec::new();
    let report = verify(&world.setup, &mut |progress| told.push(progress)).unwrap();
    assert_eq!(report.findings, vec![], "{report}");
    assert!(report.is_sound());
    assert_eq!(report.segments, 5);
    assert_eq!(report.records, model.keys.len() as u64);
    assert_eq!(report.values, model.values);
    let key_files = (1..=5).map(|n| world.fs.read_raw(world.file(&format!("{n}.keys"))).len());
    let values: usize = (0..18).map(|n| value(n).len()).filter(|len| *len > 16).sum();
    assert_eq!(report.bytes, (key_files.sum::<usize>() + values) as u64);
    let last: Progress = *told.last().unwrap();
    assert_eq!(last.bytes_done, last.bytes_total);
    assert!(last.bytes_total > report.bytes);
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.to_string(), "table t: nothing to repair");
    let done = plan.apply(&world.setup).unwrap();
    assert_eq!((done.segments, done.kept_files), (0, 0));
    assert_eq!(world.fs.ops(), before, "nothing of this may write");
}

#[test]
fn each_kind_of_damage_is_found_planned_and_repaired() {
    let (world, model) = table();
    for case in cases() {
        let name = case.name;
        let world = world.fork();
        let lost = (case.harm)(&world, &model);
        let before = world.fs.fork();
        let ops = world.fs.ops();
        let report = world.verify();
        let found = damage(&report);
        let (file, offset) = case.names;
        let names = |f: &&&Finding| f.path.to_string_lossy().ends_with(file);
        let named: Vec<_> = found.iter().filter(names).collect();
        assert!(!named.is_empty(), "{name}: {report}");
        assert!(offset.is_none() || named.iter().any(|f| f.offset == offset), "{name}: {report}");
        let shown: BTreeSet<_> = lost.iter().map(|key| lithdb_table::show_key(key)).collect();
        for key in found.iter().flat_map(|finding| &finding.sample_keys) {
            assert!(shown.contains(key), "{name}: {key} is not lost: {report}");
        }
        if case.is_counted {
            assert_eq!(report.lost_keys(), lost.len() as u64, "{name}: {report}");
            assert_eq!(report.records, (model.keys.len() - lost.len()) as u64, "{name}: {report}");
        }
        let plan = world.plan();
        assert_eq!(world.fs.ops(), ops, "{name}: neither writes");
        if case.is_refused {
            let error = world.open(&options()).map(|_| ()).unwrap_err();
            assert!(!error.to_string().is_empty());
        }
        let actions: Vec<_> = plan.segments.iter().map(|segment| segment.action).collect();
        assert_eq!(actions, case.actions, "{name}: {plan}");
        if case.is_counted {
            assert_eq!(plan.lost_keys(), lost.len() as u64, "{name}: {plan}");
        }
        let planned = plan.lost_keys();
        let done = plan.apply(&world.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(done.lost_keys, planned, "{name}: {done}");
        let again = world.plan();
        assert!(again.is_empty(), "{name}: {again}");
        let kept = world.kept();
        assert_eq!(kept.len(), done.kept_files, "{name}: {kept:?}");
        for file in case.keeps {
            let path = before.file_paths().into_iter().find(|path| path.ends_with(file)).unwrap();
            let expected = ((*file).to_owned(), before.read_raw(path));
            assert!(kept.contains(&expected), "{name}: {file} is not kept as it was");
        }
        check_opened(name, &world, &model, &lost);
        let kept_after = world.kept();
        assert_eq!(kept, kept_after, "{name}: what was kept stays as it is");
    }
}

#[test]
fn a_repair_that_is_interrupted_anywhere_can_be_planned_and_applied_again() {
    let (world, model) = table();
    for case in cases() {
        let name = case.name;
        let harmed = world.fork();
        let lost = (case.harm)(&harmed, &model);
        let ops = {
            let world = harmed.fork();
            world.plan().apply(&world.setup).unwrap();
            world.fs.ops()
        };
        for n in 0..ops {
            for image in [
                CrashImage::Nothing,
                CrashImage::Everything,
                CrashImage::LengthWithoutData,
                CrashImage::Seeded(n),
                CrashImage::Seeded(n + 1000),
            ] {
                let world = harmed.fork();
                let plan = world.plan();
                world.fs.crash_after(n);
                assert!(plan.apply(&world.setup).is_err(), "{name}");
                let after = world.after_crash(world.fs.crash_with(&image));
                let name = format!("{name}, interrupted after {n} of {ops}, {image:?}");
                let plan = plan_repair(&after.setup, &mut |_| {});
                let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
                plan.apply(&after.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                let report = after.verify();
                assert!(report.is_sound(), "{name}: {report}");
                check_kept(&name, &harmed, &after, case.keeps);
                check_opened(&name, &after, &model, &lost);
            }
        }
    }
}

/// What must be kept is somewhere: set aside, or still in its place.
fn check_kept(name: &str, before: &World, after: &World, files: &[&str]) {
    let kept = after.kept();
    for file in files {
        let find = |fs: &SimFs| fs.file_paths().into_iter().find(|path| path.ends_with(file));
        let expected = before.fs.read_raw(find(&before.fs).unwrap());
        let is_kept = kept.iter().any(|(name, bytes)| name == file && *bytes == expected);
        let is_there = find(&after.fs).is_some_and(|path| after.fs.read_raw(path) == expected);
        assert!(is_kept || is_there, "{name}: {file} is gone");
    }
}

#[test]
fn one_bad_slot_of_the_state_is_a_note_and_heals() {
    let (world, _) = table();
    for slot in 0..2 {
        let world = world.fork();
        world.fs.flip_bit("/r0/t/table.state", slot * 4096 + 40, 0);
        let report = world.verify();
        assert!(report.is_sound() && report.findings.len() == 1, "{report}");
        assert!(report.findings[0].what.contains("harmless"), "{report}");
        assert!(world.plan().is_empty());
        drop(world.open(&options()).unwrap());
        assert_eq!(world.verify().findings, vec![]);
    }
}

#[test]
fn files_of_others_and_leftovers_are_notes() {
    let (world, _) = table();
    for path in ["/r0/t/segments/notes.txt", "/r1/t/segments/2.metadata.new", "/r0/t/readme"] {
        world.fs.write_raw(path, b"x".to_vec());
    }
    let report = world.verify();
    assert!(report.is_sound(), "{report}");
    let paths: BTreeSet<_> = report.findings.iter().map(|f| f.path.to_str().unwrap()).collect();
    let expected = ["/r0/t/segments/notes.txt", "/r1/t/segments/2.metadata.new", "/r0/t/readme"];
    assert_eq!(paths, expected.into_iter().collect());
    assert!(world.plan().is_empty());
}

#[test]
fn a_torn_tail_is_a_note() {
    let (world, model) = table();
    let table = world.open(&options()).unwrap();
    table.put(b"never acknowledged", &[1; 50]).unwrap();
    table.put(b"nor this", b"x").unwrap();
    table.flush().unwrap();
    drop(table);
    let path = world.file("5.keys");
    let len = world.fs.read_raw(&path).len() as u64;
    world.fs.truncate_raw(&path, len - 2);
    let report = world.verify();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.records, model.keys.len() as u64 + 1);
    assert!(report.findings.iter().any(|f| f.path == path), "{report}");
    assert!(world.plan().is_empty());
}

#[test]
fn beside_an_open_writer_there_is_no_damage() {
    let world = World::new(2);
    let table = world.create_and_open(&options());
    for n in 0..60_u32 {
        table.put(format!("k{n}").as_bytes(), &vec![n as u8; (n * 7 % 90) as usize]).unwrap();
        if n % 7 == 0 {
            table.flush().unwrap();
        }
        let report = world.verify();
        assert!(report.is_sound(), "{n}: {report}");
        assert!(report.records <= u64::from(n) + 1);
    }
    table.flush().unwrap();
    assert_eq!(world.verify().records, 60);
    table.run_gc().unwrap();
}

/// A file system that lets somebody else act before every look at a name.
struct Between {
    fs: SimFs,
    act: Mutex<Box<dyn FnMut() + Send>>,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

impl Between {
    fn now(&self) -> &SimFs {
        (self.act.lock())();
        &self.fs
    }
}

impl Fs for Between {
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
fn what_a_writer_does_between_two_reads_is_not_taken_for_damage() {
    for every in 1..12 {
        let world = World::new(2);
        let table = world.create_and_open(&options().ttl(Duration::from_secs(100)));
        let mut n = 0_usize;
        let mut write = {
            let (table, clock) = (table.clone(), world.clock.clone());
            move || {
                n += 1;
                table.put(format!("k{n}").as_bytes(), &value(n % 50)).unwrap();
                if n.is_multiple_of(4) {
                    table.flush().unwrap();
                }
                if n.is_multiple_of(9) {
                    clock.advance(Duration::from_secs(60));
                    table.run_gc().unwrap();
                }
            }
        };
        (0..40).for_each(|_| write());
        let mut reads = 0_usize;
        // The writer is fast at first and leaves off, as no reader can keep up with one that never does.
        let act = move || {
            reads += 1;
            if reads < 150 && reads.is_multiple_of(every) {
                write();
            }
        };
        let between = Between { fs: world.fs.clone(), act: Mutex::new(Box::new(act)) };
        let mut setup = world.setup.clone();
        setup.env.fs = Arc::new(between);
        let report = verify(&setup, &mut |_| {}).unwrap();
        assert!(report.is_sound(), "every {every}: {report}");
    }
}

#[test]
fn what_a_repair_keeps_of_a_tail_is_durable_whatever_the_page_cache_says() {
    let world = World::new(1);
    let table = world.create_and_open(&options().shards(1));
    table.put(b"flushed", &[1; 100]).unwrap();
    table.put(b"damaged", &[2; 100]).unwrap();
    table.flush().unwrap();
    table.put(b"behind a mark", &[3; 100]).unwrap();
    // Its pages stay readable, and no later sync writes them.
    world.fs.fail_op(1, Fault::FailedSync { pages: Pages::ReadableAndClean }, true);
    assert!(table.flush().is_err());
    drop(table);
    world.fs.clear_faults();
    let bytes = world.fs.read_raw(world.file("1-0.values"));
    assert!(find(&bytes, &[3; 100]).is_some(), "it was written, and is readable");
    let keys = world.file("1.keys");
    let at = find(&world.fs.read_raw(&keys), b"damaged").unwrap();
    world.fs.flip_bit(&keys, at as u64, 0);
    let done = world.plan().apply(&world.setup).unwrap();
    assert_eq!(done.lost_keys, 1, "{done}");
    let after = world.after_crash(world.fs.crash_with(&CrashImage::Nothing));
    assert!(after.verify().is_sound());
    let table = after.open(&options()).unwrap();
    assert_eq!(table.get(b"flushed").unwrap().unwrap(), &[1; 100][..]);
    assert_eq!(table.get(b"behind a mark").unwrap().unwrap(), &[3; 100][..]);
    assert_eq!(table.get(b"damaged").unwrap(), None);
}

#[test]
fn a_table_that_is_empty_or_absent() {
    let world = World::new(1);
    assert!(verify(&world.setup, &mut |_| {}).is_err());
    assert!(plan_repair(&world.setup, &mut |_| {}).is_err());
    world.create().unwrap();
    let report = world.verify();
    assert_eq!((report.segments, report.records, report.findings.len()), (0, 0, 0));
    assert!(world.plan().is_empty());
}

#[test]
fn a_dump_lists_every_kind_of_record() {
    let (world, model) = table();
    let lines = world.dump(None);
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
    let one = world.dump(Some(3));
    assert!(one.iter().all(|line| lines.contains(line)) && one.len() < lines.len());
    let at = model.at("k9");
    world.fs.flip_bit(world.file("3.keys"), u64::from(at.offset) + 8, 0);
    let damaged = world.dump(Some(at.segment.0));
    assert!(damaged.iter().any(
        |line| matches!(line, DumpLine::Damage { offset, .. } if *offset == u64::from(at.offset))
    ));
    assert!(dump(&world.setup, Some(SegmentId(77)), &mut |_| Ok(())).is_err());
}

#[test]
fn a_keymap_is_compared_with_the_records() {
    let world = World::new(1);
    let table = world.create_and_open(&options());
    let mut batch = Batch::new();
    batch.put(b"a".to_vec(), b"one".to_vec()).alias(b"b".to_vec(), 0..1);
    table.put_batch(&batch).unwrap();
    table.put(b"a", b"two").unwrap();
    let report = verify_keymap(&table, &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.records, report.keys, report.superseded), (3, 2, 1));
}

/// Plans, applies, opens: every key has its value, or none if the plan names losses.
fn check_repaired(name: &str, world: &World, model: &Model) -> RepairPlan {
    let plan = plan_repair(&world.setup, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
    let shown = plan.to_string();
    plan.apply(&world.setup).unwrap_or_else(|e| panic!("{name}: {e}\n{shown}"));
    let plan = world.plan();
    assert!(plan.is_empty(), "{name}: {plan}\nafter {shown}");
    let report = world.verify();
    assert!(report.is_sound(), "{name}: {report}\nafter {shown}");
    let table = world.open(&options()).unwrap_or_else(|e| panic!("{name}: {e}\n{shown}"));
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

#[test]
fn a_bit_that_flips_anywhere_is_found_or_harmless_and_can_be_repaired() {
    let (world, model) = table();
    for path in world.fs.file_paths() {
        let bytes = world.fs.read_raw(&path);
        for at in (0..bytes.len()).step_by(5) {
            let world = world.fork();
            world.fs.flip_bit(&path, at as u64, (at % 8) as u8);
            let name = format!("{} at {at}", path.display());
            let plan = world.plan();
            if plan.is_empty() {
                let report = world.verify();
                assert!(report.is_sound(), "{name}: {report}");
                check_opened(&name, &world, &model, &nothing());
                continue;
            }
            let (lost, shown) = (plan.lost_keys(), plan.to_string());
            check_repaired(&name, &world, &model);
            let left = world.open(&options()).unwrap().stats().keys;
            assert_eq!(left + lost, model.keys.len() as u64, "{name}: {shown}");
        }
    }
}

#[test]
fn whatever_is_harmed_together_can_be_repaired() {
    let (world, model) = table();
    let paths = world.fs.file_paths();
    for seed in 0..600 {
        let world = world.fork();
        let mut choice = SeededChoice::new(seed);
        let mut name = format!("seed {seed}");
        for _ in 0..=choice.choose(5) {
            let path = &paths[choice.choose(paths.len())];
            if !world.fs.file_paths().contains(path) {
                continue;
            }
            let len = world.fs.read_raw(path).len();
            let at = choice.choose(len.max(1));
            let harm = choice.choose(5);
            name = format!("{name}; {} {harm} at {at}", path.display());
            match harm {
                0 => world.fs.remove_raw(path),
                1 => world.fs.truncate_raw(path, at as u64),
                _ if len > 0 => world.fs.flip_bit(path, at as u64, choice.choose(8) as u8),
                _ => {}
            }
        }
        check_repaired(&name, &world, &model);
    }
}

#[test]
fn files_that_only_stand_in_the_way_are_moved_aside() {
    let (world, model) = table();
    let copied = world.fs.read_raw(world.file("3.keys"));
    world.fs.write_raw("/r0/t/segments/99.keys", copied.clone());
    assert!(world.open(&options()).is_err());
    assert!(!world.verify().is_sound());
    let plan = world.plan();
    assert_eq!(plan.strays, [PathBuf::from("/r0/t/segments/99.keys")]);
    assert_eq!(plan.lost_keys(), 0);
    plan.apply(&world.setup).unwrap();
    assert_eq!(world.kept(), [("99.keys".to_owned(), copied)]);
    check_opened("a copied key file", &world, &model, &nothing());
}
