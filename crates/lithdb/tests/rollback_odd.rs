//! Rolling back what is not as usual: files that are gone or in other places, leftovers, times around a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use lithdb::rollback::written_before;
use lithdb::{ErrorKind, NoMatch};
use lithdb_sim::CrashImage;
use support::past::{contents_of, fork, image, put_groups, rollback};
use support::{World, scenes, small};

const INTENT: &str = "/r0/rollback.intent";

/// A rollback that was decided, interrupted where `is_there` says so of the intent's bytes.
fn interrupted(is_there: impl Fn(&[u8]) -> bool) -> World {
    let scene = scenes::everything();
    for k in 0.. {
        let run = scene.copy();
        run.fs.crash_after(k);
        scene.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files(INTENT) == [INTENT] && is_there(&after.fs.read_raw(INTENT)) {
            return after;
        }
    }
    unreachable!()
}

/// Where an intent says that everything is done: the first byte behind the envelope's head.
fn is_done(intent: &[u8]) -> bool {
    intent[32] == 1
}

#[test]
fn a_value_file_of_what_stays_that_is_gone_stops_it_and_costs_nothing_else() {
    let base = interrupted(|_| true);
    let new = scenes::everything().new;
    let mut refused = 0;
    for path in base.files(".values") {
        let world = fork(&base);
        let bytes = world.fs.read_raw(&path);
        world.fs.remove_raw(&path);
        let before = image(&world.fs);
        let Err(error) = rollback(&world).finish() else {
            // It belongs to what goes, or to what nobody asks about: an older segment.
            continue;
        };
        refused += 1;
        assert_eq!(error.kind(), ErrorKind::Missing, "{path}: {error}");
        let after = image(&world.fs);
        assert!(before.iter().all(|(name, _)| after.iter().any(|(n, _)| n == name)), "{path}");
        world.fs.write_raw(&path, bytes);
        rollback(&world).finish().unwrap().unwrap();
        assert!(contents_of(&world) == new, "{path}");
    }
    assert!(refused >= 2, "{refused}");
}

#[test]
fn leftovers_of_the_boundary_on_another_root_are_not_in_the_way() {
    for name in ["metadata", "keys"] {
        let scene = scenes::sealed();
        let world = scene.copy();
        let cut = {
            let plan = scene.plan(&world).unwrap();
            plan.tables[0].segment_cut.unwrap()
        };
        let (here, there) = ("/r0/t/segments", "/r1/t/segments");
        let bytes = world.fs.read_raw(format!("{here}/{cut}.{name}"));
        world.fs.write_raw(format!("{there}/{cut}.{name}"), bytes);
        world.fs.remove_raw(format!("{here}/{cut}.{name}"));
        world.fs.write_raw(format!("{here}/{cut}.{name}.new"), vec![1; 70]);
        scene.execute(&world).unwrap();
        assert!(contents_of(&world) == scene.new, "{name}");
    }
}

#[test]
fn the_first_mark_counts_even_if_a_recovery_writes_another_one_of_the_same() {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..3);
    table.flush().unwrap();
    db.maintain().unwrap();
    world.clock.advance(Duration::from_secs(5));
    db.maintain().unwrap(); // the idle mark
    let world = world.after_crash(&CrashImage::Nothing);
    drop((table, db));
    let hour = Duration::from_secs(3600);
    let then = world.components().env.unwrap().clock.now().plus(hour);
    world.clock.advance(24 * hour);
    let db = world.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 3..6);
    db.close().unwrap();
    let plan = rollback(&world).plan(written_before(then)).unwrap();
    assert_eq!(plan.tables[0].discarded.values, 3, "{plan}");
    plan.execute().unwrap();
}

#[test]
fn the_seal_of_a_cut_segment_that_is_lost_is_missed() {
    let scene = scenes::sealed();
    let world = scene.copy();
    let cut = scene.plan(&world).unwrap().tables[0].segment_cut.unwrap();
    scene.execute(&world).unwrap();
    let path = format!("/r0/t/segments/{cut}.metadata");
    assert!(world.files(&path) == [path.clone()]);
    world.fs.remove_raw(&path);
    let before = image(&world.fs);
    let error = world.open().existing_table("t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&path), "{error}");
    assert!(before.iter().all(|(name, _)| world.files(name).contains(name)));
}

#[test]
fn an_intent_that_is_done_and_comes_back_is_only_removed() {
    let world = interrupted(is_done);
    let intent = world.fs.read_raw(INTENT);
    assert!(contents_of(&fork(&world)) == scenes::everything().new);
    let db = world.open();
    let tables = db.tables().unwrap();
    db.drop_table(tables[0].as_str()).unwrap();
    for name in &tables {
        put_groups(&db.table(name.as_str(), small()).unwrap(), 40..50);
    }
    db.close().unwrap();
    drop(db);
    let expected = contents_of(&world);
    world.fs.write_raw(INTENT, intent);
    assert!(contents_of(&world) == expected);
    world.open().close().unwrap();
    assert_eq!(world.files(INTENT), Vec::<String>::new());
    rollback(&world).on_no_match(NoMatch::Keep).plan(|_| Ok(lithdb::Verdict::Keep)).unwrap();
}
