//! Every kind of damage, and what is to come of it.

use std::collections::BTreeSet;

use lithdb_repair::Action;
use lithdb_segment::SegmentId;

use super::harness::{
    Model, epoch, find, forget_tail, in_file, mark, nothing, record, remove_segment,
};
use super::support::World;

/// One kind of damage, and what is to come of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Does the damage and says which keys are lost.
    pub(super) harm: fn(&World, &Model) -> BTreeSet<Vec<u8>>,
    /// A file that a finding must name (the end of its path), and at which offset if that is known.
    pub(super) names: (&'static str, Option<u64>),
    /// Opening sees it: a value is only read when it is asked for.
    pub(super) is_refused: bool,
    /// The files that must be kept as they were.
    pub(super) keeps: &'static [&'static str],
    pub(super) actions: &'static [Action],
    /// How many keys are lost can be known.
    pub(super) is_counted: bool,
}

pub(super) const CASE: Case = Case {
    name: "",
    harm: |_, _| BTreeSet::new(),
    names: ("", None),
    is_refused: true,
    keeps: &[],
    actions: &[],
    is_counted: true,
};

pub(super) fn cases() -> Vec<Case> {
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
            actions: &[Action::Placeholder],
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
            actions: &[Action::RebuildMetadata, Action::Placeholder],
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
            // Nothing says any more where segment 2 ended.
            is_counted: false,
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
