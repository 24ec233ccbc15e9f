//! What a repair plans and does, interrupted anywhere, after any damage.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lithdb_repair::{Finding, plan_repair};
use lithdb_sim::{Choice, CrashImage, Fault, Pages, SeededChoice};

use super::cases::cases;
use super::harness::{
    check_kept, check_opened, check_repaired, damage, find, nothing, options, table,
};
use super::support::World;

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
            assert_eq!(report.lost_keys(), Some(lost.len() as u64), "{name}: {report}");
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
            assert_eq!(plan.lost_keys(), Some(lost.len() as u64), "{name}: {plan}");
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
                CrashImage::LengthWithOldBlocks,
                CrashImage::Seeded(n),
                CrashImage::Seeded(n + 1000),
            ] {
                let world = harmed.fork();
                let plan = world.plan();
                world.fs.crash_after(n);
                assert!(plan.apply(&world.setup).is_err(), "{name}");
                let after = world.after_crash(world.fs.crash_with(&image));
                let name = format!("{name}, interrupted after {n} of {ops}, {image:?}");
                if n % 2 == 0 {
                    // Somebody opens the table before it is repaired again.
                    drop(after.open(&options()));
                    after.fs.release_locks();
                }
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

#[test]
fn what_a_repair_keeps_of_a_tail_is_durable_whatever_the_page_cache_says() {
    for pages in [Pages::ReadableAndClean, Pages::Unwritable] {
        keeps_of_a_tail(pages);
    }
}

fn keeps_of_a_tail(pages: Pages) {
    let world = World::new(1);
    let table = world.create_and_open(&options().shards(1));
    table.put(b"flushed", &[1; 100]).unwrap();
    table.put(b"damaged", &[2; 100]).unwrap();
    table.flush().unwrap();
    table.put(b"behind a mark", &[3; 1000]).unwrap();
    // Its pages stay readable, and no later sync writes them.
    world.fs.fail_op(1, Fault::FailedSync { pages }, true);
    assert!(table.flush().is_err());
    drop(table);
    world.fs.clear_faults();
    let bytes = world.fs.read_raw(world.file("1-0.values"));
    assert!(find(&bytes, &[3; 1000]).is_some(), "it was written, and is readable");
    let keys = world.file("1.keys");
    let at = find(&world.fs.read_raw(&keys), b"damaged").unwrap();
    world.fs.flip_bit(&keys, at as u64, 0);
    let done = world.plan().apply(&world.setup).unwrap();
    assert_eq!(done.lost_keys, Some(1), "{done}");
    let after = world.after_crash(world.fs.crash_with(&CrashImage::Nothing));
    assert!(after.verify().is_sound());
    let table = after.open(&options()).unwrap();
    assert_eq!(table.get(b"flushed").unwrap().unwrap(), &[1; 100][..]);
    assert_eq!(table.get(b"behind a mark").unwrap().unwrap(), &[3; 1000][..]);
    assert_eq!(table.get(b"damaged").unwrap(), None);
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
            // Of what stands behind all that is marked, the closing mark itself, nobody knows that it is no key.
            assert!(lost.is_some() || path.ends_with("5.keys"), "{name}: {shown}");
            assert_eq!(left + lost.unwrap_or_default(), model.keys.len() as u64, "{name}: {shown}");
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
    assert_eq!(plan.lost_keys(), Some(0));
    plan.apply(&world.setup).unwrap();
    // Its id is above every one that the state knows: the state, too, is replaced.
    assert!(world.kept().contains(&("99.keys".to_owned(), copied)));
    check_opened("a copied key file", &world, &model, &nothing());
}
