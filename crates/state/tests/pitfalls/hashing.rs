//! What is hashed, and which old value is hashed out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_lthash::LtHash;
use lithdb_sim::{Effort, SeededChoice};
use lithdb_state::{
    ChangeSet, Durability, Error, ErrorKind, Retention, RootHash, StateDb, StateOptions,
};
use lithdb_state_engine::ModelEngines;

use crate::engines::{Call, HookEngines};
use crate::fixture::Fixture;
use crate::support::model::{Change, Model, change_sets, rows_of};
use crate::support::{DIR, Harness, check, small};

fn put(key: &str, value: &str) -> Change {
    Change::put("bank", key, value)
}

fn delete(key: &str) -> Change {
    Change::delete("bank", key)
}

/// The hash of pairs of physical keys and values.
fn root_of(pairs: &[(&str, &str)]) -> RootHash {
    let mut hash = LtHash::default();
    pairs.iter().for_each(|(key, value)| hash.add_pair(key.as_bytes(), value.as_bytes()));
    hash.root()
}

/// sei-chain #3000: the zero value of an account that did not exist was hashed out.
#[test]
fn a_new_key_mixes_nothing_out() {
    for mut store in Fixture::both(&small()) {
        let empty = store.db().root();
        assert_eq!(empty, root_of(&[]));
        store.commit(&[delete("never put")]);
        assert_eq!(store.db().root(), empty, "deleting what is absent changes nothing");
        store.commit(&[put("new", "value")]);
        assert_eq!(store.db().root(), root_of(&[("bank/new", "value")]));
        store.commit(&[put("new", "value")]);
        assert_eq!(store.db().root(), root_of(&[("bank/new", "value")]), "the same again");
        store.commit(&[put("other", ""), delete("absent")]);
        let both = root_of(&[("bank/new", "value"), ("bank/other", "")]);
        assert_eq!(store.db().root(), both, "an empty value is a member of the set");
        store.commit(&[delete("new"), delete("other")]);
        assert_eq!((store.db().root(), store.db().latest().stores()), (empty, vec![]));
    }
}

/// A random change; keys and values repeat.
fn change(random: &mut SeededChoice) -> Change {
    let mut number = |count: u64| random.next_u64() % count;
    let store = ["bank", "a", "a-"][number(3) as usize];
    let key = format!("{}", number(60)).repeat(1 + number(3) as usize);
    match number(10) {
        0..3 => Change::delete(store, key),
        3 => Change::put(store, key, ""),
        4 => Change::put(store, key, "same"),
        _ => Change::put(store, key, format!("{}", number(u64::MAX))),
    }
}

/// sei-chain #3000, and the test of FlatKV that found most of its kind.
#[test]
fn incremental_equals_full_scan_over_random_histories() {
    let effort = Effort::from_env();
    let options = StateOptions::new()
        .durability(Durability::OnFlush)
        .memtable_bytes(20_000)
        .snapshot_interval(40)
        .hash_threads(2);
    let mut random = SeededChoice::new(effort.seed("incremental equals full scan"));
    let mut store = Fixture::on_disk(options);
    for version in 1..=effort.times(150) {
        let changes: Vec<Change> =
            (0..random.next_u64() % 30).map(|_| change(&mut random)).collect();
        let applied = changes.len() / 3;
        let (applied, rest) = changes.split_at(applied);
        store.apply(applied);
        // Compares the root with the one of the model, which scans.
        store.commit_after(applied, rest);
        match random.next_u64() % 40 {
            0 => drop(store.reopen()),
            1 => {
                drop(store.take_db());
                store.open();
            }
            2 => drop(store.snapshot()),
            _ => {}
        }
        if version % 30 == 0 {
            let expected = &store.model.at(version).rows;
            assert_eq!(rows_of(&store.db().latest()), *expected, "version {version}");
        }
    }
    store.reopen();
    let head = store.model.head();
    assert_eq!(rows_of(&store.db().latest()), store.model.at(head).rows);
}

/// sei-chain #2972: the old value was that of the last commit, not that of the apply before.
#[test]
fn several_applies_before_one_commit_hash_from_the_pending_value() {
    let histories: [&[Change]; 6] = [
        &[put("a", "1"), delete("a"), put("a", "2")],
        &[put("old", "1"), delete("old"), put("old", "2")],
        &[delete("old"), put("old", "before"), delete("old")],
        &[put("a", "1"), delete("a")],
        &[delete("old"), delete("old"), delete("a"), put("a", "")],
        &[put("old", "before"), put("old", ""), put("old", "before")],
    ];
    for mut store in Fixture::both(&small()) {
        for history in histories {
            store.commit(&[put("old", "before"), delete("a")]);
            let next = store.model.head() + 1;
            for (n, change) in history.iter().enumerate() {
                store.db().apply(next, &change_sets(std::slice::from_ref(change))).unwrap();
                let mut so_far = store.model.clone();
                so_far.commit(&history[..=n]);
                let root = store.db().pending().root().unwrap();
                assert_eq!(root, so_far.at(next).root, "{history:?}, {n}");
            }
            store.model.commit(history);
            assert_eq!(store.db().commit(next).unwrap().root, store.model.at(next).root);
            store.check("committed");
        }
        drop(store.take_db());
        store.open();
        store.check("replayed");
    }
}

fn many(n: u64) -> Change {
    put(&format!("many {n}"), "before")
}

/// A store whose engine fails as `hook` says.
fn with_hook(
    options: StateOptions,
    hook: impl Fn(Call<'_>) -> Result<(), Error> + Send + Sync + 'static,
) -> StateDb {
    let harness = Harness::new(options);
    let mut components = harness.components();
    let engines = ModelEngines::new(harness.env());
    components.engines = Some(Arc::new(HookEngines::new(Arc::new(engines), hook)));
    StateDb::open_with(DIR, harness.options.clone(), components).unwrap()
}

/// sei-chain #3853 and `TestApplyChangeSetsKeepsPendingClean`: the first store of a call was
/// applied before the second was refused; a thread of the hash pool panicked.
#[test]
fn a_failing_apply_leaves_pending_and_hash_as_they_were() {
    for threads in [1, 3] {
        let reads = Arc::new(AtomicU64::new(u64::MAX));
        let (left, panics) = (Arc::clone(&reads), Arc::new(AtomicU64::new(0)));
        let is_panic = Arc::clone(&panics);
        let db = with_hook(small().hash_threads(threads), move |call| {
            if matches!(call, Call::Get(_)) && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                assert_eq!(is_panic.load(Ordering::SeqCst), 0, "a read that panics");
                return Err(Error::new(ErrorKind::Io, "a read that fails"));
            }
            Ok(())
        });
        let mut model = Model::new(1);
        let old = [put("old", "1"), Change::put("a", "old", "2")].into_iter();
        let changes: Vec<_> = old.chain((0..300).map(many)).collect();
        db.commit_block(model.commit(&changes), &change_sets(&changes)).unwrap();
        let pending = [put("pending", "3"), delete("old")];
        db.apply(2, &change_sets(&pending)).unwrap();
        let (root, bytes) = (db.pending().root().unwrap(), db.stats().pending_bytes);
        let is_unchanged = |what: &str| {
            let now = db.pending();
            assert_eq!(now.root().unwrap(), root, "{threads} threads, {what}");
            assert_eq!(db.stats().pending_bytes, bytes, "{threads} threads, {what}");
            assert_eq!(now.get("bank", "pending").unwrap().unwrap(), "3", "{what}");
            assert_eq!(now.get("bank", "old").unwrap(), None, "{what}");
            assert_eq!(now.get("bank", "many 7").unwrap().unwrap(), "before", "{what}");
        };
        let set = || ChangeSet::new("bank").unwrap().put("many 7", "after").put("pending", "4");
        let other = || ChangeSet::new("a").unwrap();
        let long = other().delete(vec![0; 70_000]);
        for (what, second) in [("an empty key", other().put("", "x")), ("a long key", long)] {
            let error = db.apply(2, &[set(), second.clone()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
            is_unchanged(what);
            db.commit_block(2, &[set(), second]).unwrap_err();
            is_unchanged(what);
        }
        db.apply(3, &[set()]).unwrap_err();
        is_unchanged("another version");
        // More keys than one thread takes at a time: some threads succeed.
        let many = (0..900).fold(set(), |set, n| set.put(format!("many {n}"), "after"));
        for is_panic in [0, 1] {
            panics.store(is_panic, Ordering::SeqCst);
            for after in [0, 1, 300, 899] {
                reads.store(after, Ordering::SeqCst);
                let what = format!("read {after} fails, panics: {is_panic}");
                db.apply(2, std::slice::from_ref(&many)).unwrap_err();
                reads.store(u64::MAX, Ordering::SeqCst);
                is_unchanged(&what);
            }
        }
        db.apply(2, &[many]).unwrap();
        db.discard_pending();
        db.apply(2, &change_sets(&pending)).unwrap();
        let version = model.commit(&pending);
        assert_eq!(db.commit(2).unwrap().root, model.at(version).root);
        check::view(&db.latest(), &model, "committed after all");
    }
}

/// sei-chain #3545, #3869: after a replay an empty value was a deletion.
#[test]
fn an_empty_value_is_a_value_after_replay_view_export_and_import() {
    for mut store in Fixture::both(&small().flush_on_close(false).retention(Retention::Manual)) {
        store.commit(&[put("empty", ""), put("full", "1"), put("both", "")]);
        store.commit(&[put("full", ""), delete("both")]);
        let is_there = |view: &lithdb_state::View, context: &str| {
            assert_eq!(view.get("bank", "empty").unwrap().unwrap(), "", "{context}");
            assert_eq!(view.get("bank", "full").unwrap().unwrap(), "", "{context}");
            assert_eq!(view.get("bank", "both").unwrap(), None, "{context}");
            assert_eq!(view.modified_at("bank", "empty").unwrap(), Some(1), "{context}");
            let keys: Vec<_> = view.iter("bank").unwrap().map(|row| row.unwrap().key).collect();
            assert_eq!(keys, ["empty", "full"], "{context}");
            assert_eq!(view.root(), root_of(&[("bank/empty", ""), ("bank/full", "")]));
        };
        is_there(&store.db().latest(), "committed");
        is_there(&store.view_only(None).unwrap(), "beside, without a snapshot");
        assert_eq!(store.reopen().opened().replayed, 2);
        is_there(&store.db().latest(), "replayed");
        store.snapshot();
        is_there(&store.view_only(None).unwrap(), "beside, from a snapshot");
        let mut imported = store.absent();
        imported.import(&store.export()).unwrap();
        is_there(&imported.open().latest(), "imported");
        is_there(&imported.view_only(None).unwrap(), "imported, beside");
        assert!(imported.export() == store.export());
        store.commit_to(4);
        store.roll_back(2);
        is_there(&store.db().latest(), "rolled back to the snapshot");
        store.roll_back(1);
        assert_eq!(store.db().latest().get("bank", "both").unwrap().unwrap(), "");
    }
}
