//! What is lost or damaged, and what survives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lithdb_sim::{CrashImage, Effort, SimFs, Tally};
use lithdb_state::{
    Durability, ErrorKind, Reclone, Retention, SnapshotClass, StateDb, VerifyLevel,
};

use crate::fixture::{Fixture, path_of};
use crate::support::model::{Change, Model, change_sets};
use crate::support::{DIR, Tree, check, difference, small};

/// sei-chain #4104 and `TestWALDirectoryDeleted`.
#[test]
fn a_lost_wal_is_refused_and_not_taken_for_an_empty_one() {
    for has_snapshot in [false, true] {
        let mut store = Fixture::simulated(small());
        store.commit_to(6);
        if has_snapshot {
            store.snapshot();
        }
        store.close();
        let log = store.log();
        let is_refused = |store: &mut Fixture, what: &str| {
            let without_log = |mut tree: Tree| {
                tree.retain(|path, _| !path.starts_with(format!("{DIR}/wal")));
                tree
            };
            let before = without_log(store.tree());
            for _ in 0..2 {
                let error = store.try_open().map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Missing, "{what}: {error}");
            }
            assert_eq!(difference(&before, &without_log(store.tree())), None, "{what}");
            assert!(store.view_only(None).is_err(), "{what}");
            assert!(store.stopped_rollback().plan(3).is_err(), "{what}");
        };
        store.harness().fs.remove_dir_raw(format!("{DIR}/wal"));
        is_refused(&mut store, "the directory is gone");
        assert!(!store.tree().contains_key(Path::new(&format!("{DIR}/wal"))), "none was created");
        store.harness().fs.make_dirs(format!("{DIR}/wal"));
        store.replace_log(&[]);
        is_refused(&mut store, "the table is empty");
        store.replace_log(&log);
        store.open();
        store.check("the log is back");
    }
}

/// Damages the snapshot of version 9, of whose files one is given.
type Damage = fn(&SimFs, &Path);

/// `TestUnrepairableSnapshotSurfaces`: healing chose the same damaged snapshot again and again.
#[test]
fn a_damaged_snapshot_is_passed_over_for_an_older_one_and_healing_does_not_loop() {
    let mut store = Fixture::simulated(small());
    store.commit_to(4);
    store.snapshot();
    store.commit_to(9);
    store.snapshot();
    store.commit_to(11);
    store.close();
    let fs = &store.harness().fs;
    let engine = path_of(9).join("engine");
    let run = fs.file_paths().into_iter().rfind(|path| {
        path.starts_with(&engine) && path.file_name().unwrap().to_str().unwrap().starts_with("run")
    });
    let run = run.unwrap();
    let damages: [(&str, Damage); 5] = [
        ("manifest", |fs, _| fs.flip_bit(path_of(9).join("SNAPSHOT"), 40, 3)),
        ("no manifest", |fs, _| fs.remove_raw(path_of(9).join("SNAPSHOT"))),
        ("short file", |fs, run| fs.truncate_raw(run, 20)),
        ("lost file", |fs, run| fs.remove_raw(run)),
        ("engine", |fs, _| fs.remove_dir_raw(path_of(9).join("engine"))),
    ];
    for (name, damage) in damages {
        let mut copy = store.fork();
        damage(&copy.harness().fs, &run);
        copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
        let report = copy.open().opened().clone();
        assert_eq!((report.base, report.replayed), (4, 7), "{name}: {report:?}");
        assert_eq!(report.damaged.len(), 1, "{name}: {report:?}");
        assert_eq!(report.damaged[0].0, 9, "{name}: {report:?}");
        copy.check(name);
        let found = copy.db().snapshots().unwrap();
        let classes: Vec<_> = found.iter().map(|it| (it.version, it.class)).collect();
        assert_eq!(classes, [(4, SnapshotClass::Valid), (9, SnapshotClass::Damaged)], "{name}");
        // It is not removed, and holds the log back.
        let report = copy.db().prune_snapshots_below(11).unwrap();
        assert!(report.removed.is_empty() && report.floor == 4, "{name}: {report:?}");
    }
    // Damage that only reading finds: each opening ends with an error, none goes on for ever.
    let mut copy = store.fork();
    copy.harness().fs.flip_bit(&run, 30, 0);
    copy.harness().fs.remove_dir_raw(format!("{DIR}/working"));
    for _ in 0..3 {
        let error = copy.try_open().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    copy.harness().fs.remove_dir_raw(path_of(9));
    assert_eq!(copy.open().opened().base, 4);
    copy.check("without the damaged snapshot");
}

/// One record that nobody can read is a finding; the versions beside it are there.
#[test]
fn a_damaged_record_at_an_old_snapshot_blocks_neither_opening_nor_listing_nor_verifying() {
    let mut store = Fixture::simulated(small().retention(Retention::Manual));
    store.commit_to(4);
    store.snapshot();
    store.commit_to(9);
    store.snapshot();
    store.commit_to(11);
    store.close();
    let log = store.log();
    let valid_if = |is_valid| if is_valid { SnapshotClass::Valid } else { SnapshotClass::Damaged };
    for damaged in [&[0][..], &[4], &[4, 5], &[7]] {
        let context = format!("damaged records: {damaged:?}");
        let mut copy = store.fork();
        let records: Vec<_> = log
            .iter()
            .cloned()
            .map(|(version, mut record)| {
                record[0] ^= u8::from(damaged.contains(&version));
                (version, record)
            })
            .collect();
        copy.replace_log(&records);
        // The record of version 5 has the root after version 4, too.
        let classes = [(4, valid_if(damaged != [4, 5])), (9, SnapshotClass::Valid)];
        let report = copy.open().opened().clone();
        assert_eq!((report.base, report.recloned), (11, None), "{context}");
        assert_eq!(report.damaged.len(), usize::from(damaged == [4, 5]), "{context}");
        for (version, reason) in report.damaged {
            assert!(version == 4 && reason.contains("record of version 5"), "{context}: {reason}");
        }
        copy.check(&context);
        let found = copy.db().snapshots().unwrap();
        let found: Vec<_> = found.iter().map(|it| (it.version, it.class)).collect();
        assert_eq!(found, classes, "{context}");
        copy.commit_to(12);
        copy.close();
        check::view(&copy.view_only(None).unwrap(), &copy.model, &context);
        let light = VerifyLevel::Light;
        let found =
            StateDb::verify_with(copy.dir(), light, small(), copy.components(), |_| {}).unwrap();
        for version in damaged {
            let named = format!("version {version} of the log: ");
            assert!(found.findings.iter().any(|it| it.starts_with(&named)), "{context}: {found:?}");
        }
    }
}

/// What a rollback would replay is read before anything is truncated.
#[test]
fn a_rollback_that_would_end_at_a_damaged_record_is_refused_and_the_store_stays_open() {
    let mut store = Fixture::simulated(small().retention(Retention::Manual));
    store.commit_to(4);
    store.snapshot();
    store.commit_to(11);
    store.close();
    let log = store.log();
    // The record of the target itself, which would be the newest; and one on the way to it.
    for (damaged, target, good) in [(4, 4, 3), (7, 8, 6)] {
        let mut copy = store.fork();
        let mut records = log.clone();
        let record = &mut records.iter_mut().find(|(version, _)| *version == damaged).unwrap().1;
        record.truncate(record.len() - 1);
        copy.replace_log(&records);
        let is_refused = |error: lithdb_state::Error| {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let named = format!("record of version {damaged}");
            assert!(error.to_string().contains(&named), "{error}");
        };
        is_refused(copy.stopped_rollback().plan(target).unwrap_err());
        copy.open();
        is_refused(copy.db().clone().rollback_to(target).unwrap_err());
        copy.commit_to(12);
        copy.check("gone on");
        copy.roll_back(good);
        copy.check("rolled back to another version");
    }
}

/// sei-chain #3928 and `TestPerDBLtHashSkewRecovery`: several databases that were at different
/// versions after a crash.
#[test]
fn whatever_survives_a_crash_is_one_version() {
    const STORES: [&str; 5] = ["a", "a-", "bank", "log", "z"];
    let mut tally = Tally::new("versions that survive a crash");
    let effort = Effort::from_env();
    // Every commit is flushed by the engine, and durable in the log only then.
    let options = small().durability(Durability::OnFlush).memtable_bytes(1);
    let changes = |version: u64| -> Vec<Change> {
        STORES.iter().map(|store| Change::put(store, "version", version.to_le_bytes())).collect()
    };
    let run = |store: &mut Fixture| {
        for version in 1..=4 {
            let sets = change_sets(&changes(version));
            if store.db().commit_block(version, &sets).is_err() {
                return;
            }
        }
    };
    let mut model = Model::new(1);
    for version in 1..=4 {
        model.commit(&changes(version));
    }
    let count = {
        let mut store = Fixture::simulated(options.clone());
        run(&mut store);
        store.harness().fs.ops()
    };
    for k in 0..=count {
        let mut store = Fixture::simulated(options.clone());
        let done = store.harness().fs.ops();
        let Some(after) = k.checked_sub(done) else { continue };
        store.harness().fs.crash_after(after);
        run(&mut store);
        let durable = store.db().durable_version();
        drop(store.take_db());
        store.model = model.clone();
        let seeds = (0..effort.times(4)).map(|n| effort.seed("one version") + 1_000 * k + n);
        let images = [CrashImage::Nothing, CrashImage::Everything];
        for image in images.into_iter().chain(seeds.map(CrashImage::Seeded)) {
            let context = format!("crash after {k} of {count}, {image:?}");
            let mut found = store.on(store.harness().fs.crash_with(&image));
            for name in found.harness().names("working") {
                let dir = PathBuf::from(DIR).join("working").join(name);
                let Ok(engine) = check::engine_contents(found.harness(), &dir) else { continue };
                let written: BTreeMap<_, _> =
                    engine.rows.values().map(|(value, at)| (value.clone(), *at)).collect();
                assert!(written.len() <= 1, "{context}: versions {written:?} at once");
                assert_eq!(engine.rows.len(), if engine.version == 0 { 0 } else { 5 }, "{context}");
                assert!(written.values().all(|at| *at == engine.version), "{context}");
            }
            let version = found.open().version();
            assert!((durable..=4).contains(&version), "{context}: {version}, {durable}");
            // The working copy is never ahead of the log.
            let recloned = &found.db().opened().recloned;
            assert!(!matches!(recloned, Some(Reclone::Ahead { .. })), "{context}: {recloned:?}");
            found.model.roll_back(version);
            found.check(&context);
            tally.add(["0", "1", "2", "3", "4"][version as usize], 1);
        }
    }
    for version in ["0", "1", "2", "3", "4"] {
        assert!(tally.get(version) > 0, "{tally:?}");
    }
}

#[test]
fn a_hole_of_the_log_is_one_finding() {
    let mut store = Fixture::simulated(small());
    store.commit_to(20);
    store.close();
    let is_kept = |(version, _): &(u64, Vec<u8>)| !(5..=9).contains(version) && *version != 14;
    let records: Vec<_> = store.log().into_iter().filter(is_kept).collect();
    store.replace_log(&records);
    let found =
        StateDb::verify_with(DIR, VerifyLevel::Light, small(), store.components(), |_| {}).unwrap();
    assert_eq!(found.findings, ["the log has no versions 5 to 9", "the log has no version 14"]);
    assert_eq!(found.records, 15, "0 to 4, 10 to 13, 15 to 20");
}
