//! Repairs that are killed, with somebody who opens the table between, and what they must not use twice.

use std::time::Duration;

use lithdb_repair::DumpLine;
use lithdb_segment::SegmentId;
use lithdb_sim::CrashImage;

use super::harness::{Model, check_opened, nothing, options, read_metadata, remove_segment, table};
use super::support::World;

/// Five segments of inline values, the middle ones without marks and epochs.
fn plain_table() -> (World, Model) {
    let (world, mut model) = (World::new(1), Model::default());
    let table = world.create_and_open(&options());
    for n in 0..28 {
        model.put(&table, &format!("k{n}"), b"inline", false);
    }
    table.close().unwrap();
    let lines = world.dump(Some(3));
    let is_plain =
        |line: &DumpLine| !matches!(line, DumpLine::Mark { .. } | DumpLine::Epoch { .. });
    assert!(lines.iter().all(is_plain), "{lines:?}");
    assert!(read_metadata(&world, 3).records > 2 && read_metadata(&world, 4).successor.is_some());
    (world, model)
}

/// Whoever opens the table between two attempts to repair it is refused, or changes nothing that counts.
fn open_between(world: &World) {
    drop(world.open(&options()));
    world.fs.release_locks();
}

#[test]
fn a_salvage_killed_anywhere_loses_nothing_even_if_somebody_opens_the_table_between() {
    let (world, model) = plain_table();
    world.fs.flip_bit(world.file("3.keys"), 50, 2);
    let ops = {
        let world = world.fork();
        let plan = world.plan();
        assert_eq!(plan.lost_keys(), Some(0), "{plan}");
        plan.apply(&world.setup).unwrap();
        world.fs.ops()
    };
    let crash = |world: &World, after: u64, image: &CrashImage| {
        let plan = world.plan();
        world.fs.crash_after(world.fs.ops() + after);
        #[expect(clippy::let_underscore_must_use, reason = "it ends where the power fails")]
        let _ = plan.apply(&world.setup);
        world.after_crash(world.fs.crash_with(image))
    };
    for n in 0..ops {
        for image in [
            CrashImage::Nothing,
            CrashImage::Everything,
            CrashImage::LengthWithoutData,
            CrashImage::Seeded(n),
        ] {
            let after = crash(&world.fork(), n, &image);
            for opens_between in [false, true] {
                let name = format!("killed after {n}, {image:?}, opened: {opens_between}");
                let after = after.fork();
                if opens_between {
                    open_between(&after);
                }
                let plan = after.plan();
                assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
                plan.apply(&after.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                check_opened(&name, &after, &model, &nothing());
            }
            // And killed again, inside the second attempt.
            for m in (n % 3..ops).step_by(3) {
                let name = format!("killed after {n}, {image:?}, then after {m}");
                let again = crash(&after.fork(), m, &image);
                open_between(&again);
                let plan = again.plan();
                assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
                plan.apply(&again.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                check_opened(&name, &again, &model, &nothing());
            }
        }
    }
}

#[test]
fn an_old_seal_beside_a_longer_key_file_is_an_error_and_cuts_nothing() {
    let (world, _) = plain_table();
    let path = world.file("3.metadata");
    let old = world.fs.read_raw(&path);
    world.fs.flip_bit(world.file("3.keys"), 50, 2);
    world.plan().apply(&world.setup).unwrap();
    let keys = world.fs.read_raw(world.file("3.keys"));
    world.fs.write_raw(&path, old);
    assert!(
        keys.len() as u64 > read_metadata(&world, 3).key_end,
        "it passes for something to trim"
    );
    let error = world.open(&options()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("3.keys"), "{error}");
    assert_eq!(world.fs.read_raw(world.file("3.keys")), keys, "nothing was cut");
}

#[test]
fn no_id_and_revision_ever_stand_for_two_contents() {
    let (world, _) = table();
    // The mutable segment is lost: its id is sealed for good, another one goes on.
    remove_segment(&world, 5);
    world.plan().apply(&world.setup).unwrap();
    let replaced = read_metadata(&world, 5);
    assert!(replaced.revision >= 1 && replaced.records == 0, "{replaced:?}");
    assert_eq!(replaced.successor, SegmentId(6));
    // Salvaged, and without metadata salvaged again.
    let (world, model) = table();
    let mut revisions = vec![read_metadata(&world, 2).revision];
    for (round, key) in ["k4", "k5", "k6"].into_iter().enumerate() {
        world.flip("2.keys", key.as_bytes());
        match round {
            0 => {}
            1 => world.fs.remove_raw(world.file("2.metadata")),
            _ => world.fs.flip_bit(world.file("2.metadata"), 50, 0),
        }
        assert_eq!(model.at(key).segment, SegmentId(2));
        world.plan().apply(&world.setup).unwrap();
        let revision = read_metadata(&world, 2).revision;
        assert!(!revisions.contains(&revision), "{revision} after {revisions:?}");
        revisions.push(revision);
    }
    // However late it is: the time passes by every number that was counted up.
    world.clock.advance(Duration::from_secs(1_000_000));
    world.flip("2.keys", b"k7");
    world.fs.remove_raw(world.file("2.metadata"));
    world.plan().apply(&world.setup).unwrap();
    assert!(read_metadata(&world, 2).revision >= 1_000_000);
}
