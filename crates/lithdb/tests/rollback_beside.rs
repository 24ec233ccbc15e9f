//! A rollback beside others: processes that read, and snapshots that link to the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;

use lithdb::env::Env;
use lithdb::{Db, ErrorKind, NoMatch, Rollback, Table};
use lithdb_segment::Metadata;
use lithdb_sim::Fault;
use parking_lot::Mutex;
use support::past::hook::HookFs;
use support::past::{
    self, Contents, Keep, check_gone, contents, contents_of, cut, env, filter, fork, height,
    put_batch, put_groups, roll_back, value_of,
};
use support::scenes::link_all;
use support::{World, small};

const SIX: Keep<'static> = &|_, key, _| height(key) <= 6;

/// Sealed segments 1 to 5 of two groups or a batch each, and an unsealed one.
fn database() -> World {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small()).unwrap();
    put_groups(&table, 0..4);
    put_batch(&table, 5..9);
    put_groups(&table, 9..14);
    db.close().unwrap();
    world
}

/// A closed database of three keys that were put again and again, with a mark behind each put.
fn keys_put_again() -> World {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small()).unwrap();
    for n in 0..20_u64 {
        table.put(format!("k:{}", n % 3).as_bytes(), &value_of(n)).unwrap();
        table.put(format!("mark:{n}").as_bytes(), b"").unwrap();
    }
    db.close().unwrap();
    drop((table, db));
    world
}

/// The segment that is cut, its metadata, and whether its value files are as long as that says.
fn cut_segment(world: &World) -> (u32, Metadata, bool) {
    let of = |path: &String| Metadata::read(&world.fs, path.as_ref()).unwrap();
    let found = world.files(".metadata").iter().map(of).find(|m| m.revision > 0).unwrap();
    let id = found.segment.0;
    let lens = found.value_ends.iter().enumerate().map(|(n, end)| {
        let path = &world.files(&format!("/{id}-{n}.values"))[0];
        let len = world.fs.read_raw(path).len() as u64;
        assert!(len >= *end, "{path}");
        len == *end
    });
    let is_trimmed = lens.collect::<Vec<_>>().into_iter().all(|is| is);
    (id, found, is_trimmed)
}

/// What a table of a reader gives of each record: the right bytes, or nothing, or an error.
fn ask(table: &Table, old: &[past::Record]) -> Vec<Option<lithdb::Result<Vec<u8>>>> {
    let one = |(key, _, _): &past::Record| match table.get(key) {
        Ok(found) => found.map(|value| Ok(value.to_vec())),
        Err(error) => Some(Err(error)),
    };
    old.iter().map(one).collect()
}

#[test]
fn a_process_that_reads_keeps_the_bytes_it_maps_and_sees_the_past_after_a_refresh() {
    for read_all_before in [true, false] {
        let world = database();
        let old = contents_of(&world);
        let new = cut(&old, SIX, NoMatch::Refuse);
        let reader = world.read();
        let table = reader.existing_table("t").unwrap();
        let held: Vec<_> = match read_all_before {
            true => old["t"].iter().map(|(key, _, _)| table.get(key).unwrap().unwrap()).collect(),
            false => Vec::new(),
        };
        roll_back(&world, SIX, NoMatch::Refuse);
        for (value, (_, _, expected)) in held.iter().zip(&old["t"]) {
            assert_eq!(**value, expected[..]);
        }
        // What stays is read all the time, without a refresh, too.
        for (key, _, value) in &new["t"] {
            assert_eq!(*table.get(key).unwrap().unwrap(), value[..]);
        }
        for answer in ask(&table, &old["t"]) {
            assert!(answer.is_none_or(|answer| answer.is_ok()), "falsely damaged");
        }
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new);
        check_gone(&reader, &old, &new, "refreshed");
        // Not even when nobody reads is a file cut: a value may be held.
        drop((table, reader));
        world.open().existing_table("t").unwrap();
        assert!(!cut_segment(&world).2);
        for (value, (_, _, expected)) in held.iter().zip(&old["t"]) {
            assert_eq!(**value, expected[..]);
        }
        assert!(contents_of(&world) == new);
        assert_eq!(world.fs.bus_errors(), 0, "read behind the end of a file");
    }
}

#[test]
fn a_walk_under_which_a_segment_is_rolled_back_is_told_that_it_is_gone_and_not_of_damage() {
    for goes_backward in [false, true] {
        let world = database();
        let old = contents_of(&world);
        let new = cut(&old, SIX, NoMatch::Refuse);
        // One file at a time is open: the others are opened again when the walk comes to them.
        let options = world.options().max_open_files(1);
        let reader = Db::open_read_only_with(options, world.components()).unwrap();
        let table = reader.existing_table("t").unwrap();
        let entries: Vec<_> = table.iter().unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(entries.len(), old["t"].len());
        let mut walk = table.iter().unwrap();
        roll_back(&world, SIX, NoMatch::Refuse);
        let mut given = 0;
        let end = loop {
            let next = if goes_backward { walk.next_back() } else { walk.next() };
            match next.unwrap() {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::Missing, "after {given}: {end}");
        let mut gone = 0;
        for (entry, (_, _, expected)) in entries.iter().zip(&old["t"]) {
            match entry.value() {
                Ok(value) => assert_eq!(*value, expected[..]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
                    gone += 1;
                }
            }
        }
        assert!(gone > 0, "every file was open");
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new);
    }
}

#[test]
fn a_reader_finds_the_older_value_of_a_key_that_was_put_twice() {
    for refreshed in [true, false] {
        let world = keys_put_again();
        let reader = world.read();
        let table = reader.existing_table("t").unwrap();
        assert_eq!(*table.get(b"k:0").unwrap().unwrap(), value_of(18)[..]);
        roll_back(&world, &|_, key, _| key == b"mark:7", NoMatch::Refuse);
        if refreshed {
            reader.refresh().unwrap();
        } else {
            // It notices by itself, when what it has seen is not there.
            assert!(table.get(b"k:1").unwrap().is_some());
            let _ = table.get(b"mark:19").unwrap();
            assert!(table.get(b"mark:12").unwrap().is_none(), "its file is gone");
        }
        for (key, n) in [("k:0", 6), ("k:1", 7), ("k:2", 5)] {
            let got = table.get(key.as_bytes()).unwrap().unwrap();
            let is_view = !refreshed && (8..20).any(|newer| *got == value_of(newer)[..]);
            assert!(*got == value_of(n)[..] || is_view, "{key}");
        }
        reader.refresh().unwrap();
        contents(&reader, "refreshed");
        // And goes along with what is written then.
        let db = world.open();
        let writer = db.table("t", small()).unwrap();
        writer.put(b"k:0", b"new").unwrap();
        writer.flush().unwrap();
        reader.refresh().unwrap();
        assert_eq!(table.get(b"k:0").unwrap().unwrap(), b"new");
        assert_eq!(contents(&reader, "beside a writer"), contents(&db, "the writer"));
    }
}

/// Keys that were put again have older values, which show again: also if the look that a reader takes then fails somewhere.
#[test]
fn a_refresh_that_fails_at_any_read_after_a_rollback_loses_no_older_value() {
    let world = keys_put_again();
    for n in 1.. {
        let world = fork(&world);
        let reader = world.read();
        let table = reader.existing_table("t").unwrap();
        roll_back(&world, &|_, key, _| key == b"mark:7", NoMatch::Refuse);
        let before = world.fs.faults_hit();
        world.fs.fail_read(n, Fault::Eio);
        let refreshed = reader.refresh();
        world.fs.clear_faults();
        if world.fs.faults_hit() == before {
            refreshed.unwrap();
            assert!(n > 20, "{n} reads");
            break;
        }
        if refreshed.is_err() {
            reader.refresh().unwrap();
        }
        for (key, newest) in [("k:0", 6), ("k:1", 7), ("k:2", 5)] {
            let got = table.get(key.as_bytes()).unwrap();
            assert_eq!(got.as_deref(), Some(&value_of(newest)[..]), "{key}, read {n} failed");
        }
    }
}

/// Rolls back with `between` called before each operation, with its number.
fn hooked(world: &World, between: impl Fn(u64) + Send + Sync + 'static) {
    let inner = env(world);
    let count = Mutex::new(0);
    let hook = HookFs::new(Arc::clone(&inner.fs), move |_, _, _| {
        let n = {
            let mut count = count.lock();
            *count += 1;
            *count
        };
        between(n);
    });
    let env = Env { fs: Arc::new(hook), ..inner };
    let plan = Rollback::new(["/r0", "/r1"]).env(env).plan(filter(SIX)).unwrap();
    plan.execute().unwrap();
}

#[test]
fn a_reader_that_refreshes_at_any_moment_of_a_rollback_is_right_afterwards() {
    let steps = Arc::new(Mutex::new(0));
    let last = Arc::clone(&steps);
    hooked(&database(), move |n| *last.lock() = n);
    let steps = *steps.lock();
    assert!(steps > 40, "{steps}");
    for refresh_at in 1..=steps {
        let world = database();
        let old = contents_of(&world);
        let new = cut(&old, SIX, NoMatch::Refuse);
        let reader = world.read();
        let table = reader.existing_table("t").unwrap();
        let theirs = reader.clone();
        hooked(&world, move |n| {
            if n == refresh_at {
                #[expect(clippy::let_underscore_must_use, reason = "it may see half a segment")]
                let _ = theirs.refresh();
            }
        });
        let context = format!("refreshed at {refresh_at} of {steps}");
        for ((key, _, value), answer) in old["t"].iter().zip(ask(&table, &old["t"])) {
            let name = String::from_utf8_lossy(key);
            match answer {
                Some(Ok(found)) => assert!(found == *value, "{context}: {name}"),
                Some(Err(error)) => panic!("{context}: {name}: {error}"),
                None => assert!(!new["t"].iter().any(|(kept, _, _)| kept == key), "{context}"),
            }
        }
        reader.refresh().unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(contents(&reader, &context) == new, "{context}");
        check_gone(&reader, &old, &new, &context);
    }
}

#[test]
fn what_a_snapshot_links_to_never_changes_whichever_file_it_is() {
    let base = database();
    let old = contents_of(&base);
    for linked in base.files("/t/segments/") {
        for last in [1, 3, 6, 9, 10, 12] {
            let world = fork(&base);
            let keep: Keep<'_> = &|_, key, _| height(key) <= last;
            link_all(&world, &linked);
            let link = &world.files("/snapshot/")[0].clone();
            let bytes = world.fs.read_raw(link);
            let new = cut(&old, keep, NoMatch::Refuse);
            let context = format!("{linked} linked, cut at {last}");
            roll_back(&world, keep, NoMatch::Refuse);
            assert!(world.fs.read_raw(link) == bytes, "{context}");
            assert!(contents_of(&world) == new, "{context}");
            let db = world.open();
            put_groups(&db.table("t", small()).unwrap(), 20..30);
            db.close().unwrap();
            drop(db);
            assert!(world.fs.read_raw(link) == bytes, "{context}: written to");
            past::check_files(&world, &context);
        }
    }
}

#[test]
fn an_unsealed_segment_with_a_link_is_sealed_where_it_ends_and_cut_beside() {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..5);
    table.flush().unwrap();
    put_batch(&table, 5..9);
    table.flush().unwrap();
    let world = world.after_crash(&lithdb_sim::CrashImage::Everything);
    drop((table, db));
    let old = contents_of(&world);
    let new = cut(&old, SIX, NoMatch::Refuse);
    for linked in world.files("/t/segments/") {
        let world = fork(&world);
        link_all(&world, &linked);
        let link = world.files("/snapshot/")[0].clone();
        let bytes = world.fs.read_raw(&link);
        roll_back(&world, SIX, NoMatch::Refuse);
        assert!(contents_of(&world) == new, "{linked}");
        assert!(world.fs.read_raw(&link) == bytes, "{linked}");
        past::goes_on(&world, &old, &new, &linked);
        assert!(world.fs.read_raw(&link) == bytes, "{linked}: later");
    }
}

#[test]
fn the_completion_after_a_crash_minds_readers_and_links_too() {
    let base = database();
    let run = fork(&base);
    roll_back(&run, SIX, NoMatch::Refuse);
    let total = run.fs.ops();
    let mut finished = 0;
    for k in 0..total {
        let world = fork(&base);
        link_all(&world, "/2-0.values");
        let link = world.files("/snapshot/")[0].clone();
        let bytes = world.fs.read_raw(&link);
        let world = fork(&world);
        // A reader that was there before and outlives the process that rolls back.
        let reader = world.read();
        let table = reader.existing_table("t").unwrap();
        world.fs.fail_op(k + 1, lithdb_sim::Fault::Eio, true);
        let plan = past::rollback(&world).plan(filter(SIX)).unwrap();
        let result = plan.execute();
        world.fs.clear_faults();
        if !world.files("rollback.intent").contains(&"/r0/rollback.intent".to_owned()) {
            assert!(result.is_err() || k + 1 >= total, "{k}: {result:?}");
            continue;
        }
        past::rollback(&world).finish().unwrap().unwrap();
        finished += 1;
        assert!(world.fs.read_raw(&link) == bytes, "{k}");
        let new: Contents = cut(&contents_of(&base), SIX, NoMatch::Refuse);
        for (key, _, value) in &new["t"] {
            assert_eq!(*table.get(key).unwrap().unwrap(), value[..], "{k}");
        }
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new, "{k}");
    }
    assert!(finished > 15, "{finished}");
}

#[test]
fn a_reader_of_a_pending_rollback_is_told() {
    let world = database();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (theirs, heard) = (world.clone(), Arc::clone(&seen));
    hooked(&world, move |_| {
        let is_pending = theirs.files("/r0/rollback.intent") == ["/r0/rollback.intent"];
        if is_pending && heard.lock().is_empty() {
            heard.lock().push(theirs.try_read().map(|_: Db| ()).unwrap_err().kind());
        }
    });
    assert_eq!(*seen.lock(), [ErrorKind::RollbackPending]);
    world.read();
}
