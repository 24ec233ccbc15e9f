//! Rollback beside others: reading processes, and snapshots that hard-link the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;

use lithdb::{Db, ErrorKind, NoMatch, Rollback, Table};
use lithdb_env::Env;
use lithdb_segment::Metadata;
use lithdb_sim::Fault;
use parking_lot::Mutex;
use support::rollback_fixture::hook::HookFs;
use support::rollback_fixture::{
    self, Contents, KeepFn, check_absent, contents, contents_of, env, expected_after, filter, fork,
    height, put_batch, put_groups, roll_back, value_of,
};
use support::scenarios::link_all;
use support::{Harness, small};

const SIX: KeepFn<'static> = &|_, key, _| height(key) <= 6;

/// Sealed segments 1 to 5 of two groups or a batch each, and an unsealed one.
fn database() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    put_groups(&table, 0..4);
    put_batch(&table, 5..9);
    put_groups(&table, 9..14);
    db.close().unwrap();
    harness
}

/// A closed database of three keys that were put repeatedly, with a mark after each put.
fn overwritten_keys() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small()).unwrap();
    for n in 0..20_u64 {
        table.put(format!("k:{}", n % 3).as_bytes(), value_of(n)).unwrap();
        table.put(format!("mark:{n}").as_bytes(), b"").unwrap();
    }
    db.close().unwrap();
    drop((table, db));
    harness
}

/// The truncated segment, its metadata, and whether its value files have the length that it
/// records.
fn cut_segment(harness: &Harness) -> (u32, Metadata, bool) {
    let of = |path: &String| Metadata::read(&harness.fs, path.as_ref()).unwrap();
    let found = harness.files(".metadata").iter().map(of).find(|m| m.revision > 0).unwrap();
    let id = found.segment.0;
    let lens = found.value_ends.iter().enumerate().map(|(n, end)| {
        let path = &harness.files(&format!("/{id}-{n}.values"))[0];
        let len = harness.fs.read_raw(path).len() as u64;
        assert!(len >= *end, "{path}");
        len == *end
    });
    let is_trimmed = lens.collect::<Vec<_>>().into_iter().all(|is| is);
    (id, found, is_trimmed)
}

/// A reader's result for each record: the right bytes, nothing, or an error.
fn read_each(
    table: &Table,
    old: &[rollback_fixture::Record],
) -> Vec<Option<lithdb::Result<Vec<u8>>>> {
    let one = |(key, _, _): &rollback_fixture::Record| match table.get(key) {
        Ok(found) => found.map(|value| Ok(value.to_vec())),
        Err(error) => Some(Err(error)),
    };
    old.iter().map(one).collect()
}

#[test]
fn reader_keeps_mapped_bytes_and_sees_the_rollback_after_refresh() {
    for read_all_before in [true, false] {
        let harness = database();
        let old = contents_of(&harness);
        let new = expected_after(&old, SIX, NoMatch::Refuse);
        let reader = harness.read();
        let table = reader.existing_table("t").unwrap();
        let held: Vec<_> = match read_all_before {
            true => old["t"].iter().map(|(key, _, _)| table.get(key).unwrap().unwrap()).collect(),
            false => Vec::new(),
        };
        roll_back(&harness, SIX, NoMatch::Refuse);
        for (value, (_, _, expected)) in held.iter().zip(&old["t"]) {
            assert_eq!(**value, expected[..]);
        }
        // What is kept can be read all the time, without a refresh, too.
        for (key, _, value) in &new["t"] {
            assert_eq!(*table.get(key).unwrap().unwrap(), value[..]);
        }
        for answer in read_each(&table, &old["t"]) {
            assert!(answer.is_none_or(|answer| answer.is_ok()), "falsely damaged");
        }
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new);
        check_absent(&reader, &old, &new, "refreshed");
        // No file is shortened even without a reader: a caller may hold a value.
        drop((table, reader));
        harness.open().existing_table("t").unwrap();
        assert!(!cut_segment(&harness).2);
        for (value, (_, _, expected)) in held.iter().zip(&old["t"]) {
            assert_eq!(**value, expected[..]);
        }
        assert!(contents_of(&harness) == new);
        assert_eq!(harness.fs.bus_errors(), 0, "read past the end of a file");
    }
}

#[test]
fn iterator_over_a_rolled_back_segment_gets_missing_not_corrupt() {
    for goes_backward in [false, true] {
        let harness = database();
        let old = contents_of(&harness);
        let new = expected_after(&old, SIX, NoMatch::Refuse);
        // Only one file is open at a time: the iterator reopens the others when it reaches them.
        let options = harness.options().max_open_files(1);
        let reader = Db::open_read_only_with(options, harness.components()).unwrap();
        let table = reader.existing_table("t").unwrap();
        let entries: Vec<_> = table.iter().unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(entries.len(), old["t"].len());
        let mut walk = table.iter().unwrap();
        roll_back(&harness, SIX, NoMatch::Refuse);
        let mut given = 0;
        let end = loop {
            let next = if goes_backward { walk.next_back() } else { walk.next() };
            match next.unwrap() {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::Missing, "after {given}: {end}");
        let mut missing = 0;
        for (entry, (_, _, expected)) in entries.iter().zip(&old["t"]) {
            match entry.value() {
                Ok(value) => assert_eq!(*value, expected[..]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
                    missing += 1;
                }
            }
        }
        assert!(missing > 0, "every file was open");
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new);
    }
}

#[test]
fn reader_finds_the_older_value_of_an_overwritten_key() {
    for refreshed in [true, false] {
        let harness = overwritten_keys();
        let reader = harness.read();
        let table = reader.existing_table("t").unwrap();
        assert_eq!(*table.get(b"k:0").unwrap().unwrap(), value_of(18)[..]);
        roll_back(&harness, &|_, key, _| key == b"mark:7", NoMatch::Refuse);
        if refreshed {
            reader.refresh().unwrap();
        } else {
            // A miss makes the reader refresh by itself.
            assert!(table.get(b"k:1").unwrap().is_some());
            let _ = table.get(b"mark:19").unwrap();
            assert!(table.get(b"mark:12").unwrap().is_none(), "its file was removed");
        }
        for (key, n) in [("k:0", 6), ("k:1", 7), ("k:2", 5)] {
            let got = table.get(key.as_bytes()).unwrap().unwrap();
            let is_view = !refreshed && (8..20).any(|newer| *got == value_of(newer)[..]);
            assert!(*got == value_of(n)[..] || is_view, "{key}");
        }
        reader.refresh().unwrap();
        contents(&reader, "refreshed");
        // And it follows what is written then.
        let db = harness.open();
        let writer = db.table("t", small()).unwrap();
        writer.put(b"k:0", b"new").unwrap();
        writer.flush().unwrap();
        reader.refresh().unwrap();
        assert_eq!(table.get(b"k:0").unwrap().unwrap(), b"new");
        assert_eq!(contents(&reader, "beside a writer"), contents(&db, "the writer"));
    }
}

/// Overwritten keys have older values, which show again, even if a read of the reader's refresh
/// fails. The second rollback keeps the segment of a newer value: a stale keymap would find
/// that one there.
#[test]
fn refresh_failing_at_any_read_loses_no_older_value() {
    let base = overwritten_keys();
    for (last, newest) in [(&b"mark:7"[..], [6, 7, 5]), (b"mark:18", [18, 16, 17])] {
        for n in 1.. {
            let harness = fork(&base);
            let reader = harness.read();
            let table = reader.existing_table("t").unwrap();
            roll_back(&harness, &|_, key, _| key == last, NoMatch::Refuse);
            let before = harness.fs.faults_hit();
            harness.fs.fail_read(n, Fault::Eio);
            let refreshed = reader.refresh();
            harness.fs.clear_faults();
            if harness.fs.faults_hit() == before {
                refreshed.unwrap();
                assert!(n > 20, "{n} reads");
                break;
            }
            if refreshed.is_err() {
                reader.refresh().unwrap();
            }
            for (key, newest) in ["k:0", "k:1", "k:2"].iter().zip(newest) {
                let got = table.get(key.as_bytes()).unwrap();
                assert_eq!(got.as_deref(), Some(&value_of(newest)[..]), "{key}, read {n} failed");
            }
        }
    }
}

/// Rolls back and calls `between` before each operation, with its number.
fn hooked(harness: &Harness, between: impl Fn(u64) + Send + Sync + 'static) {
    let inner = env(harness);
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
fn reader_refreshing_at_any_rollback_step_ends_consistent() {
    let steps = Arc::new(Mutex::new(0));
    let last = Arc::clone(&steps);
    hooked(&database(), move |n| *last.lock() = n);
    let steps = *steps.lock();
    assert!(steps > 40, "{steps}");
    for refresh_at in 1..=steps {
        let harness = database();
        let old = contents_of(&harness);
        let new = expected_after(&old, SIX, NoMatch::Refuse);
        let reader = harness.read();
        let table = reader.existing_table("t").unwrap();
        let theirs = reader.clone();
        hooked(&harness, move |n| {
            if n == refresh_at {
                #[expect(clippy::let_underscore_must_use, reason = "it may see half a segment")]
                let _ = theirs.refresh();
            }
        });
        let context = format!("refreshed at {refresh_at} of {steps}");
        for ((key, _, value), answer) in old["t"].iter().zip(read_each(&table, &old["t"])) {
            let name = String::from_utf8_lossy(key);
            match answer {
                Some(Ok(found)) => assert!(found == *value, "{context}: {name}"),
                Some(Err(error)) => panic!("{context}: {name}: {error}"),
                None => assert!(!new["t"].iter().any(|(kept, _, _)| kept == key), "{context}"),
            }
        }
        reader.refresh().unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(contents(&reader, &context) == new, "{context}");
        check_absent(&reader, &old, &new, &context);
    }
}

#[test]
fn rollback_never_changes_hard_linked_files() {
    let base = database();
    let old = contents_of(&base);
    for linked in base.files("/t/segments/") {
        for last in [1, 3, 6, 9, 10, 12] {
            let harness = fork(&base);
            let keep: KeepFn<'_> = &|_, key, _| height(key) <= last;
            link_all(&harness, &linked);
            let link = &harness.files("/snapshot/")[0].clone();
            let bytes = harness.fs.read_raw(link);
            let new = expected_after(&old, keep, NoMatch::Refuse);
            let context = format!("{linked} linked, truncated at {last}");
            roll_back(&harness, keep, NoMatch::Refuse);
            assert!(harness.fs.read_raw(link) == bytes, "{context}");
            assert!(contents_of(&harness) == new, "{context}");
            let db = harness.open();
            put_groups(&db.table("t", small()).unwrap(), 20..30);
            db.close().unwrap();
            drop(db);
            assert!(harness.fs.read_raw(link) == bytes, "{context}: written to");
            rollback_fixture::check_files(&harness, &context);
        }
    }
}

#[test]
fn hard_linked_unsealed_segment_is_sealed_and_truncated_in_a_copy() {
    let harness = Harness::new();
    let db = harness.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..5);
    table.flush().unwrap();
    put_batch(&table, 5..9);
    table.flush().unwrap();
    let harness = harness.after_crash(&lithdb_sim::CrashImage::Everything);
    drop((table, db));
    let old = contents_of(&harness);
    let new = expected_after(&old, SIX, NoMatch::Refuse);
    for linked in harness.files("/t/segments/") {
        let harness = fork(&harness);
        link_all(&harness, &linked);
        let link = harness.files("/snapshot/")[0].clone();
        let bytes = harness.fs.read_raw(&link);
        roll_back(&harness, SIX, NoMatch::Refuse);
        assert!(contents_of(&harness) == new, "{linked}");
        assert!(harness.fs.read_raw(&link) == bytes, "{linked}");
        rollback_fixture::assert_usable(&harness, &old, &new, &linked);
        assert!(harness.fs.read_raw(&link) == bytes, "{linked}: later");
    }
}

#[test]
fn finishing_after_a_crash_preserves_readers_and_links() {
    let base = database();
    let run = fork(&base);
    roll_back(&run, SIX, NoMatch::Refuse);
    let total = run.fs.ops();
    let mut finished = 0;
    for k in 0..total {
        let harness = fork(&base);
        link_all(&harness, "/2-0.values");
        let link = harness.files("/snapshot/")[0].clone();
        let bytes = harness.fs.read_raw(&link);
        let harness = fork(&harness);
        // A reader that was open before and outlives the process that rolls back.
        let reader = harness.read();
        let table = reader.existing_table("t").unwrap();
        harness.fs.fail_op(k + 1, lithdb_sim::Fault::Eio, true);
        let plan = rollback_fixture::rollback(&harness).plan(filter(SIX)).unwrap();
        let result = plan.execute();
        harness.fs.clear_faults();
        if !harness.files("rollback.intent").contains(&"/r0/rollback.intent".to_owned()) {
            assert!(result.is_err() || k + 1 >= total, "{k}: {result:?}");
            continue;
        }
        rollback_fixture::rollback(&harness).finish().unwrap().unwrap();
        finished += 1;
        assert!(harness.fs.read_raw(&link) == bytes, "{k}");
        let new: Contents = expected_after(&contents_of(&base), SIX, NoMatch::Refuse);
        for (key, _, value) in &new["t"] {
            assert_eq!(*table.get(key).unwrap().unwrap(), value[..], "{k}");
        }
        reader.refresh().unwrap();
        assert!(contents(&reader, "refreshed") == new, "{k}");
    }
    assert!(finished > 15, "{finished}");
}

#[test]
fn reader_of_a_pending_rollback_gets_an_error() {
    let harness = database();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (theirs, theirs_seen) = (harness.clone(), Arc::clone(&seen));
    hooked(&harness, move |_| {
        let is_pending = theirs.files("/r0/rollback.intent") == ["/r0/rollback.intent"];
        if is_pending && theirs_seen.lock().is_empty() {
            let error = theirs.try_read().map(|_: Db| ()).unwrap_err();
            theirs_seen.lock().push(error.is_rollback_pending());
        }
    });
    assert_eq!(*seen.lock(), [true]);
    harness.read();
}
