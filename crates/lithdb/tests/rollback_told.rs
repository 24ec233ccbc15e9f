//! What a rollback is told and tells: the ready-made filters, the report, and files that are not those of the plan.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb::rollback::{PerTable, max_be_u64, through_position};
use lithdb::{ErrorKind, NoMatch, Position, ReadMode, SecondaryKey, SegmentId, Verdict};
use lithdb_sim::{CrashImage, SimClock};
use support::past::{contents_of, filter, fork, height, image, put_groups, rollback};
use support::{World, scenes, small};

const INTENT: &str = "/r0/rollback.intent";

fn one_table(numbers: std::ops::Range<u64>) -> World {
    let world = World::new();
    let db = world.open();
    put_groups(&db.table("t", small()).unwrap(), numbers);
    db.close().unwrap();
    world
}

/// A rollback of everything that was decided and not carried out.
fn decided() -> World {
    decided_of(&scenes::everything())
}

fn decided_of(scene: &scenes::Scene) -> World {
    for k in 0.. {
        let run = scene.copy();
        run.fs.crash_after(k);
        scene.execute(&run).unwrap_err();
        let after = run.after_crash(&CrashImage::Nothing);
        if after.files(INTENT) == [INTENT] {
            return after;
        }
    }
    unreachable!()
}

#[test]
fn through_a_position_keeps_it_and_what_is_before_it() {
    let world = one_table(0..20);
    let positions: Vec<_> = {
        let copy = fork(&world);
        let table = copy.open().existing_table("t").unwrap();
        table.iter().unwrap().map(|entry| entry.unwrap().position()).collect()
    };
    let old = contents_of(&world);
    for (n, at) in positions.iter().enumerate().step_by(3) {
        let world = fork(&world);
        rollback(&world).plan(through_position(*at)).unwrap().execute().unwrap();
        let left = &contents_of(&world)["t"];
        assert!(left.len() > n && left.len() <= n + 3, "{n}: {} are left", left.len());
        assert_eq!(left[..], old["t"][..left.len()], "{n}");
        // Whole groups stay: the next record, if there is one, begins a group.
        assert!(old["t"].get(left.len()).is_none_or(|(_, is_primary, _)| *is_primary), "{n}");
    }
}

/// Nothing is rolled back to a place that was mistyped, or was read off another table, whatever is to become of tables in
/// which nothing is to be kept.
#[test]
fn a_position_without_a_record_is_refused_with_its_neighbours() {
    let world = one_table(0..20);
    let (positions, shown): (Vec<_>, Vec<_>) = {
        let copy = fork(&world);
        let table = copy.open().existing_table("t").unwrap();
        let of = |entry: lithdb::Entry| {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            (entry.position(), format!("{key:?} at {}", entry.position()))
        };
        table.iter().unwrap().map(|entry| of(entry.unwrap())).unzip()
    };
    let (last, before) = (positions.len() - 1, image(&world.fs));
    let at = |segment, offset| Position { segment: SegmentId(segment), offset };
    let (oldest, newest) = (positions[0], positions[last]);
    let between = (1..=last).map(|n| {
        let at = Position { offset: positions[n].offset - 1, ..positions[n] };
        (at, vec![&shown[n - 1], &shown[n]])
    });
    let outside = [
        (Position { offset: oldest.offset - 1, ..oldest }, vec![&shown[0]]),
        (at(oldest.segment.0, 0), vec![&shown[0]]),
        (Position { offset: newest.offset + 1, ..newest }, vec![&shown[last]]),
        (at(newest.segment.0 + 1, newest.offset), vec![&shown[last]]),
        (at(u32::MAX, u32::MAX), vec![&shown[last]]),
    ];
    for (at, neighbours) in between.chain(outside) {
        for no_match in [NoMatch::Refuse, NoMatch::Keep, NoMatch::Clear] {
            let plan = rollback(&world).on_no_match(no_match).plan(through_position(at));
            let error = plan.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{at}: {error}");
            let told = error.to_string();
            assert!(told.contains(&format!("expected a record at {at}")), "{told}");
            for (n, shown) in shown.iter().enumerate() {
                let is_named =
                    told.contains(&format!("{shown}.")) || told.contains(&format!("{shown} and"));
                assert_eq!(is_named, neighbours.contains(&shown), "{n}: {told}");
            }
        }
    }
    assert!(image(&world.fs) == before);
}

#[test]
fn numbers_are_read_of_primary_keys_alone_and_a_key_without_one_is_named() {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small()).unwrap();
    for n in 0..9_u64 {
        let (key, alias) = ([b"h", &n.to_be_bytes()[..]].concat(), format!("{n}"));
        table.put_with(&key, b"value", &[SecondaryKey::whole(&alias)]).unwrap();
    }
    db.close().unwrap();
    drop((table, db));
    let cut = fork(&world);
    rollback(&cut).plan(max_be_u64(1, 5)).unwrap().execute().unwrap();
    assert_eq!(contents_of(&cut)["t"].len(), 12);
    // Two bytes further the primary keys are too short.
    let before = image(&world.fs);
    let error = rollback(&world).plan(max_be_u64(3, 5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    for named in ["table t", "offset 3", "of 9 bytes"] {
        assert!(error.to_string().contains(named), "{error}");
    }
    assert!(image(&world.fs) == before);
}

#[test]
fn a_filter_sees_of_a_record_what_iteration_gives() {
    let world = one_table(0..12);
    let mut entries = Vec::new();
    {
        let copy = fork(&world);
        let table = copy.open().existing_table("t").unwrap();
        for entry in table.iter().unwrap() {
            let entry = entry.unwrap();
            let value = entry.value().unwrap();
            entries.push((entry.position(), entry.key().to_vec(), entry.is_primary(), value.len()));
        }
    }
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let mut seen = Vec::new();
        let plan = rollback(&world).read_mode(mode).on_no_match(NoMatch::Keep).plan(|record| {
            assert_eq!(record.segment(), record.position().segment);
            let len = record.value_len() as usize;
            seen.push((record.position(), record.key().to_vec(), record.is_primary(), len));
            Ok(Verdict::Discard)
        });
        assert!(plan.unwrap().is_empty());
        // From the newest to the oldest.
        seen.reverse();
        assert_eq!(seen, entries, "{mode:?}");
    }
}

#[test]
fn the_report_is_a_table_of_what_went() {
    let scene = scenes::everything();
    let world = scene.copy();
    let old = contents_of(&world);
    let report = scene.plan(&world).unwrap().execute().unwrap();
    let new = contents_of(&world);
    let shown = report.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 1 + report.tables.len(), "{shown}");
    for title in ["table", "done", "last key that stayed", "position", "segment cut"] {
        assert!(lines[0].contains(title), "{shown}");
    }
    for (line, table) in lines[1..].iter().zip(&report.tables) {
        let name = table.table.as_str();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], [name, table.action.as_str()], "{shown}");
        let boundary = table.boundary.as_ref();
        let key = boundary.map_or("–".to_owned(), |b| String::from_utf8(b.key.clone()).unwrap());
        let gone = (old[name].len() - new[name].len()).to_string();
        assert!(words.contains(&&*key) && words.contains(&&*gone), "{shown}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["took_seconds"], report.took.as_secs_f64());
    let keys = report.tables.iter().filter_map(|t| t.boundary.as_ref()).map(|b| height(&b.key));
    let told =
        json["tables"].as_array().unwrap().iter().filter_map(|t| t["boundary"]["key"].as_str());
    assert_eq!(
        told.map(|key| height(key.as_bytes())).collect::<Vec<_>>(),
        keys.collect::<Vec<_>>()
    );
    let plan = scene.plan(&scene.copy()).unwrap();
    assert_eq!(serde_json::to_value(&plan).unwrap()["roots"][0], "/r0");
    let filters = PerTable::new().table("t", filter(&|_, _, _| true));
    assert_eq!(format!("{filters:?}"), "{\"t\"}");
}

#[test]
fn the_intent_of_another_database_is_refused_and_nothing_is_changed() {
    let world = decided();
    let other = World { clock: SimClock::new(99), ..World::new() };
    let db = other.open();
    put_groups(&db.table("a-sealed", small()).unwrap(), 0..9);
    db.close().unwrap();
    drop(db);
    other.fs.write_raw(INTENT, world.fs.read_raw(INTENT));
    let before = image(&other.fs);
    for error in [rollback(&other).finish().map(drop), other.try_open().map(drop)] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(INTENT), "{error}");
    }
    let ours = |image: Vec<(String, Vec<u8>)>| -> Vec<_> {
        image.into_iter().filter(|(name, _)| !name.ends_with(".lock")).collect()
    };
    assert!(ours(image(&other.fs)) == ours(before));
}

/// Before anything goes, everything that is to stay must be there: each value file in its whole length.
#[test]
fn a_value_file_of_what_stays_that_is_cut_short_stops_it_and_costs_nothing_else() {
    let base = decided();
    let new = scenes::everything().new;
    let mut refused = 0;
    for path in base.files(".values") {
        let world = fork(&base);
        let bytes = world.fs.read_raw(&path);
        world.fs.truncate_raw(&path, 65.min(bytes.len() as u64 - 1));
        let before = world.files("");
        let Err(error) = rollback(&world).finish() else { continue };
        refused += 1;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path}: {error}");
        assert!(error.to_string().contains(&path), "{error}");
        assert!(before.iter().all(|name| world.files(name).contains(name)), "{path}");
        world.fs.write_raw(&path, bytes);
        rollback(&world).finish().unwrap().unwrap();
        assert!(contents_of(&world) == new, "{path}");
    }
    assert!(refused >= 2, "{refused}");
}

#[test]
fn a_state_of_another_table_stops_it_and_costs_nothing_else() {
    let world = decided();
    let own = world.fs.read_raw("/r0/b-tail/table.state");
    world.fs.write_raw("/r0/b-tail/table.state", world.fs.read_raw("/r0/a-sealed/table.state"));
    let error = rollback(&world).finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("/r0/b-tail/table.state"), "{error}");
    world.fs.write_raw("/r0/b-tail/table.state", own);
    rollback(&world).finish().unwrap().unwrap();
    assert!(contents_of(&world) == scenes::everything().new);
}
