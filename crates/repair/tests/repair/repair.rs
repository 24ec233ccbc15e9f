//! Repair after any damage, planned, applied, and interrupted at any point.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lithdb_repair::{Finding, plan_repair};
use lithdb_sim::{Choice, CrashImage, Fault, Pages, SeededChoice};

use super::cases::cases;
use super::fixture::{
    check_opened, check_quarantined, check_repaired, damage, find, nothing, options, table,
};
use super::support::Harness;

#[test]
fn each_kind_of_damage_is_found_and_repaired() {
    let (harness, model) = table();
    for case in cases() {
        let name = case.name;
        let harness = harness.fork();
        let lost = (case.apply_damage)(&harness, &model);
        let before = harness.fs.fork();
        let ops = harness.fs.ops();
        let report = harness.verify();
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
            assert_eq!(report.lost_keys(), Some(lost.len() as u64), "{name}: {report}");
            assert_eq!(report.records, (model.keys.len() - lost.len()) as u64, "{name}: {report}");
        }
        let plan = harness.plan();
        assert_eq!(harness.fs.ops(), ops, "{name}: neither writes");
        if case.is_refused {
            let error = harness.open(&options()).map(|_| ()).unwrap_err();
            assert!(!error.to_string().is_empty());
        }
        let actions: Vec<_> = plan.segments.iter().map(|segment| segment.action).collect();
        assert_eq!(actions, case.actions, "{name}: {plan}");
        if case.is_counted {
            assert_eq!(plan.lost_keys(), Some(lost.len() as u64), "{name}: {plan}");
        }
        let planned = plan.lost_keys();
        let done =
            lithdb_repair::apply(plan, &harness.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(done.lost_keys, planned, "{name}: {done}");
        let again = harness.plan();
        assert!(again.is_empty(), "{name}: {again}");
        let kept = harness.kept();
        assert_eq!(kept.len(), done.quarantined_files, "{name}: {kept:?}");
        for file in case.keeps {
            let path = before.file_paths().into_iter().find(|path| path.ends_with(file)).unwrap();
            let expected = ((*file).to_owned(), before.read_raw(path));
            assert!(kept.contains(&expected), "{name}: {file} is not kept as it was");
        }
        check_opened(name, &harness, &model, &lost);
        let kept_after = harness.kept();
        assert_eq!(kept, kept_after, "{name}: quarantined files never change");
    }
}

#[test]
fn interrupted_repair_can_be_planned_and_applied_again() {
    let (harness, model) = table();
    for case in cases() {
        let name = case.name;
        let harmed = harness.fork();
        let lost = (case.apply_damage)(&harmed, &model);
        let ops = {
            let harness = harmed.fork();
            lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
            harness.fs.ops()
        };
        for n in 0..ops {
            for image in [
                CrashImage::Nothing,
                CrashImage::Everything,
                CrashImage::LengthWithoutData,
                CrashImage::LengthWithOldBlocks,
                CrashImage::Seeded(n),
                CrashImage::Seeded(n + 1000),
            ] {
                let harness = harmed.fork();
                let plan = harness.plan();
                harness.fs.crash_after(n);
                assert!(lithdb_repair::apply(plan, &harness.setup).is_err(), "{name}");
                let after = harness.after_crash(harness.fs.crash_with(&image));
                let name = format!("{name}, interrupted after {n} of {ops}, {image:?}");
                if n % 2 == 0 {
                    // The table is opened before it is repaired again.
                    drop(after.open(&options()));
                    after.fs.release_locks();
                }
                let plan = plan_repair(&after.setup, &mut |_| {});
                let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
                lithdb_repair::apply(plan, &after.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                let report = after.verify();
                assert!(report.is_sound(), "{name}: {report}");
                check_quarantined(&name, &harmed, &after, case.keeps);
                check_opened(&name, &after, &model, &lost);
            }
        }
    }
}

#[test]
fn repair_makes_the_kept_unsealed_segment_durable() {
    for pages in [Pages::ReadableAndClean, Pages::Unwritable] {
        check_repair_of_unsealed_segment(pages);
    }
}

fn check_repair_of_unsealed_segment(pages: Pages) {
    let harness = Harness::new(1);
    let table = harness.create_and_open(&options().shards(1));
    table.put(b"flushed", &[1; 100]).unwrap();
    table.put(b"damaged", &[2; 100]).unwrap();
    table.flush().unwrap();
    table.put(b"behind a mark", &[3; 1000]).unwrap();
    // The pages stay readable, but no later sync writes them.
    harness.fs.fail_op(1, Fault::FailedSync { pages }, true);
    assert!(table.flush().is_err());
    drop(table);
    harness.fs.clear_faults();
    let bytes = harness.fs.read_raw(harness.file("1-0.values"));
    assert!(find(&bytes, &[3; 1000]).is_some(), "it was written, and is readable");
    let keys = harness.file("1.keys");
    let at = find(&harness.fs.read_raw(&keys), b"damaged").unwrap();
    harness.fs.flip_bit(&keys, at as u64, 0);
    let done = lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    assert_eq!(done.lost_keys, Some(1), "{done}");
    let after = harness.after_crash(harness.fs.crash_with(&CrashImage::Nothing));
    assert!(after.verify().is_sound());
    let table = after.open(&options()).unwrap();
    assert_eq!(table.get(b"flushed").unwrap().unwrap(), &[1; 100][..]);
    assert_eq!(table.get(b"behind a mark").unwrap().unwrap(), &[3; 1000][..]);
    assert_eq!(table.get(b"damaged").unwrap(), None);
}

#[test]
fn any_flipped_bit_is_found_or_harmless_and_repairable() {
    let (harness, model) = table();
    for path in harness.fs.file_paths() {
        let bytes = harness.fs.read_raw(&path);
        for at in (0..bytes.len()).step_by(5) {
            let harness = harness.fork();
            harness.fs.flip_bit(&path, at as u64, (at % 8) as u8);
            let name = format!("{} at {at}", path.display());
            let plan = harness.plan();
            if plan.is_empty() {
                let report = harness.verify();
                assert!(report.is_sound(), "{name}: {report}");
                check_opened(&name, &harness, &model, &nothing());
                continue;
            }
            let (lost, shown) = (plan.lost_keys(), plan.to_string());
            check_repaired(&name, &harness, &model);
            let left = harness.open(&options()).unwrap().stats().keys;
            // The closing mark is after everything that marks cover: once damaged, it may have
            // been a key record.
            assert!(lost.is_some() || path.ends_with("5.keys"), "{name}: {shown}");
            assert_eq!(left + lost.unwrap_or_default(), model.keys.len() as u64, "{name}: {shown}");
        }
    }
}

#[test]
fn combined_damage_can_be_repaired() {
    let (harness, model) = table();
    let paths = harness.fs.file_paths();
    for seed in 0..600 {
        let harness = harness.fork();
        let mut choice = SeededChoice::new(seed);
        let mut name = format!("seed {seed}");
        for _ in 0..=choice.choose(5) {
            let path = &paths[choice.choose(paths.len())];
            if !harness.fs.file_paths().contains(path) {
                continue;
            }
            let len = harness.fs.read_raw(path).len();
            let at = choice.choose(len.max(1));
            let harm = choice.choose(5);
            name = format!("{name}; {} {harm} at {at}", path.display());
            match harm {
                0 => harness.fs.remove_raw(path),
                1 => harness.fs.truncate_raw(path, at as u64),
                _ if len > 0 => harness.fs.flip_bit(path, at as u64, choice.choose(8) as u8),
                _ => {}
            }
        }
        check_repaired(&name, &harness, &model);
    }
}

#[test]
fn obstructing_files_are_quarantined() {
    let (harness, model) = table();
    let copied = harness.fs.read_raw(harness.file("3.keys"));
    harness.fs.write_raw("/r0/t/segments/99.keys", copied.clone());
    assert!(harness.open(&options()).is_err());
    assert!(!harness.verify().is_sound());
    let plan = harness.plan();
    assert_eq!(plan.orphans, [PathBuf::from("/r0/t/segments/99.keys")]);
    assert_eq!(plan.lost_keys(), Some(0));
    lithdb_repair::apply(plan, &harness.setup).unwrap();
    // Its id is above all ids that the state knows, so the state is replaced, too.
    assert!(harness.kept().contains(&("99.keys".to_owned(), copied)));
    check_opened("a copied key file", &harness, &model, &nothing());
}
