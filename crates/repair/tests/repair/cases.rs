//! Every kind of damage, and the expected outcome.

use std::collections::BTreeSet;

use lithdb_repair::Action;
use lithdb_segment::SegmentId;

use super::fixture::{
    Model, epoch, find, forget_recorded_end, keys_in_file, mark, nothing, record, remove_segment,
};
use super::support::Harness;

/// One kind of damage, and the expected outcome.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Applies the damage and returns the lost keys.
    pub(super) apply_damage: fn(&Harness, &Model) -> BTreeSet<Vec<u8>>,
    /// A file that a finding must name (the end of its path), and the offset if it is known.
    pub(super) names: (&'static str, Option<u64>),
    /// Opening detects it. Damaged values are detected only when read.
    pub(super) is_refused: bool,
    /// The files that must be quarantined unchanged.
    pub(super) keeps: &'static [&'static str],
    pub(super) actions: &'static [Action],
    /// The number of lost keys can be known.
    pub(super) is_counted: bool,
}

pub(super) const DEFAULT_CASE: Case = Case {
    name: "",
    apply_damage: |_, _| BTreeSet::new(),
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
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("2.metadata"), 50, 1);
                nothing()
            },
            names: ("2.metadata", None),
            keeps: &["2.metadata"],
            actions: &[Action::RebuildMetadata],
            ..DEFAULT_CASE
        },
        Case {
            name: "missing metadata",
            apply_damage: |harness, _| {
                harness.fs.remove_raw(harness.file("2.metadata"));
                nothing()
            },
            names: ("2.metadata", None),
            actions: &[Action::RebuildMetadata],
            ..DEFAULT_CASE
        },
        Case {
            name: "all metadata missing",
            apply_damage: |harness, _| {
                for n in 1..=4 {
                    harness.fs.remove_raw(harness.file(&format!("{n}.metadata")));
                }
                nothing()
            },
            names: ("3.metadata", None),
            actions: &[Action::RebuildMetadata; 4],
            ..DEFAULT_CASE
        },
        Case {
            name: "a key of a sealed segment",
            apply_damage: |harness, model| {
                let at = model.at("k5");
                assert_eq!(at.segment, SegmentId(2));
                harness.fs.flip_bit(harness.file("2.keys"), u64::from(at.offset) + 33, 0);
                model.keys_of_group(at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys", "2.metadata"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "the primary record of a group with an alias",
            apply_damage: |harness, model| {
                let at = model.at("k6");
                harness.fs.flip_bit(harness.file("2.keys"), u64::from(at.offset), 0);
                model.keys_of_group(at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a value of a sealed segment",
            apply_damage: |harness, model| {
                let at = model.at("k4");
                let (value, _) = &model.keys[&b"k4"[..]];
                let path = ["2-0.values", "2-1.values"]
                    .into_iter()
                    .find(|name| find(&harness.fs.read_raw(harness.file(name)), value).is_some());
                harness.flip(path.unwrap(), value);
                model.keys_of_group(at)
            },
            names: (".values", None),
            is_refused: false,
            keeps: &["2.keys", "2-0.values", "2-1.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "an inline value of a sealed segment",
            apply_damage: |harness, model| {
                harness.flip("2.keys", &model.keys[&b"k6"[..]].0);
                model.keys_of_group(model.at("k6"))
            },
            names: ("2.keys", None),
            is_refused: false,
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a missing value file of a sealed segment",
            apply_damage: |harness, model| {
                let lost = keys_in_file(harness, model, "3-1.values");
                harness.fs.remove_raw(harness.file("3-1.values"));
                lost
            },
            names: ("3-1.values", None),
            keeps: &["3.keys", "3-0.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a short value file of a sealed segment",
            apply_damage: |harness, model| {
                let lost = keys_in_file(harness, model, "3-0.values");
                harness.fs.truncate_raw(harness.file("3-0.values"), 64);
                lost
            },
            names: ("3-0.values", Some(64)),
            keeps: &["3.keys", "3-0.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "the header of a value file",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("3-0.values"), 49, 2);
                nothing()
            },
            names: ("3-0.values", Some(0)),
            is_refused: false,
            keeps: &["3-0.values"],
            actions: &[Action::RestoreValueFiles],
            ..DEFAULT_CASE
        },
        Case {
            name: "a missing key file of a sealed segment",
            apply_damage: |harness, model| {
                harness.fs.remove_raw(harness.file("3.keys"));
                model.segment(3)
            },
            names: ("3.keys", None),
            keeps: &["3-0.values", "3-1.values"],
            actions: &[Action::Placeholder],
            ..DEFAULT_CASE
        },
        Case {
            name: "the header of a sealed key file",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
                nothing()
            },
            names: ("3.keys", Some(0)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "the header of a sealed key file and its metadata",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
                harness.fs.remove_raw(harness.file("3.metadata"));
                nothing()
            },
            names: ("3.keys", Some(0)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a chain record",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("3.keys"), 80, 2);
                nothing()
            },
            names: ("3.keys", Some(64)),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a mark in a sealed segment",
            apply_damage: |harness, _| {
                let at = record(harness, 2, mark);
                harness.fs.flip_bit(harness.file("2.keys"), at + 30, 2);
                nothing()
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "an epoch record in a sealed segment",
            apply_damage: |harness, _| {
                let at = record(harness, 3, epoch);
                harness.fs.flip_bit(harness.file("3.keys"), at + 9, 2);
                nothing()
            },
            names: ("3.keys", None),
            keeps: &["3.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a truncated sealed key file",
            apply_damage: |harness, model| {
                let at = model.at("k6");
                harness.fs.truncate_raw(harness.file("2.keys"), u64::from(at.offset));
                model.keys_where(|_, found| found.segment == at.segment && found >= at)
            },
            names: ("2.keys", None),
            keeps: &["2.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a segment that is missing between others",
            apply_damage: |harness, model| {
                remove_segment(harness, 3);
                model.segment(3)
            },
            names: ("3.keys", None),
            actions: &[Action::Placeholder],
            ..DEFAULT_CASE
        },
        Case {
            name: "two neighbours that are missing",
            apply_damage: |harness, model| {
                remove_segment(harness, 3);
                remove_segment(harness, 4);
                &model.segment(3) | &model.segment(4)
            },
            names: ("4.keys", None),
            actions: &[Action::Placeholder, Action::Placeholder],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "the newest segment is missing",
            apply_damage: |harness, model| {
                remove_segment(harness, 5);
                model.segment(5)
            },
            names: ("5.keys", None),
            actions: &[Action::Placeholder],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "the oldest segment is missing",
            apply_damage: |harness, model| {
                remove_segment(harness, 1);
                model.segment(1)
            },
            names: ("1.keys", None),
            actions: &[Action::RaiseWatermark],
            ..DEFAULT_CASE
        },
        Case {
            name: "the oldest key file is missing",
            apply_damage: |harness, model| {
                harness.fs.remove_raw(harness.file("1.keys"));
                model.segment(1)
            },
            names: ("1.keys", None),
            keeps: &["1-0.values", "1-1.values", "1.metadata"],
            actions: &[Action::RaiseWatermark],
            ..DEFAULT_CASE
        },
        Case {
            name: "all segments are missing",
            apply_damage: |harness, model| {
                (1..=5).for_each(|n| remove_segment(harness, n));
                model.keys_where(|_, _| true)
            },
            names: ("5.keys", None),
            actions: &[Action::RaiseWatermark, Action::RaiseWatermark],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "no slot of the state is valid",
            apply_damage: |harness, _| {
                harness.fs.flip_bit("/r0/t/table.state", 40, 2);
                harness.fs.flip_bit("/r0/t/table.state", 4096 + 40, 2);
                nothing()
            },
            names: ("table.state", None),
            keeps: &["table.state"],
            ..DEFAULT_CASE
        },
        Case {
            name: "the state is missing, and metadata",
            apply_damage: |harness, _| {
                harness.fs.remove_raw("/r0/t/table.state");
                harness.fs.remove_raw(harness.file("4.metadata"));
                nothing()
            },
            names: ("table.state", None),
            actions: &[Action::RebuildMetadata],
            ..DEFAULT_CASE
        },
        Case {
            name: "a key of the unsealed segment",
            apply_damage: |harness, model| {
                let at = model.at("k16");
                assert_eq!(at.segment, SegmentId(5));
                harness.fs.flip_bit(harness.file("5.keys"), u64::from(at.offset) + 33, 0);
                model.keys_of_group(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a value of the unsealed segment",
            apply_damage: |harness, model| {
                let value = &model.keys[&b"k16"[..]].0;
                let name = ["5-0.values", "5-1.values"]
                    .into_iter()
                    .find(|name| find(&harness.fs.read_raw(harness.file(name)), value).is_some());
                harness.flip(name.unwrap(), value);
                model.keys_of_group(model.at("k16"))
            },
            names: (".values", None),
            is_refused: false,
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "an unsealed segment shorter than its durable end",
            apply_damage: |harness, model| {
                let at = model.at("k17");
                harness.fs.truncate_raw(harness.file("5.keys"), u64::from(at.offset));
                model.keys_of_group(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "the header of the unsealed key file",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("5.keys"), 40, 0);
                nothing()
            },
            names: ("5.keys", Some(0)),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "a value file of the unsealed segment is missing",
            apply_damage: |harness, model| {
                let lost = keys_in_file(harness, model, "5-0.values");
                harness.fs.remove_raw(harness.file("5-0.values"));
                lost
            },
            names: ("5-0.values", None),
            keeps: &["5.keys"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "the unsealed segment is missing, its predecessor's metadata is damaged",
            apply_damage: |harness, model| {
                remove_segment(harness, 5);
                harness.fs.flip_bit(harness.file("4.metadata"), 40, 1);
                model.segment(5)
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata, Action::Placeholder],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "the metadata before the unsealed segment",
            apply_damage: |harness, _| {
                harness.fs.flip_bit(harness.file("4.metadata"), 40, 1);
                nothing()
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata],
            ..DEFAULT_CASE
        },
        Case {
            name: "the unsealed segment is missing, damaged metadata before it, no recorded end",
            apply_damage: |harness, model| {
                remove_segment(harness, 5);
                harness.fs.flip_bit(harness.file("4.metadata"), 40, 1);
                forget_recorded_end(harness);
                model.segment(5)
            },
            names: ("4.metadata", None),
            keeps: &["4.metadata"],
            actions: &[Action::RebuildMetadata],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "the last metadata and its key file are damaged, the unsealed segment is missing",
            apply_damage: |harness, model| {
                remove_segment(harness, 5);
                harness.fs.flip_bit(harness.file("4.metadata"), 40, 1);
                forget_recorded_end(harness);
                let at = model.at("k14");
                assert_eq!(at.segment, SegmentId(4));
                harness.fs.flip_bit(harness.file("4.keys"), u64::from(at.offset) + 8, 1);
                &model.segment(5) | &model.keys_of_group(at)
            },
            names: ("4.keys", None),
            keeps: &["4.metadata", "4.keys"],
            actions: &[Action::Salvage],
            is_counted: false,
            ..DEFAULT_CASE
        },
        Case {
            name: "a damaged unsealed segment of a table that was not closed",
            apply_damage: |harness, model| {
                forget_recorded_end(harness);
                let at = model.at("k16");
                harness.fs.flip_bit(harness.file("5.keys"), u64::from(at.offset) + 33, 0);
                model.keys_of_group(at)
            },
            names: ("5.keys", None),
            keeps: &["5.keys", "5-0.values", "5-1.values"],
            actions: &[Action::Salvage],
            ..DEFAULT_CASE
        },
        Case {
            name: "many things at once",
            apply_damage: |harness, model| {
                let at = model.at("k0");
                harness.fs.flip_bit(harness.file("1.keys"), u64::from(at.offset) + 5, 0);
                harness.fs.remove_raw(harness.file("2.metadata"));
                remove_segment(harness, 3);
                let second = model.at("k17");
                harness.fs.flip_bit(harness.file("5.keys"), u64::from(second.offset) + 12, 0);
                &(&model.keys_of_group(at) | &model.keys_of_group(second)) | &model.segment(3)
            },
            // The end of segment 2 is recorded nowhere any more.
            is_counted: false,
            names: ("5.keys", None),
            keeps: &["1.keys", "5.keys"],
            actions: &[
                Action::Salvage,
                Action::RebuildMetadata,
                Action::Placeholder,
                Action::Salvage,
            ],
            ..DEFAULT_CASE
        },
    ]
}
