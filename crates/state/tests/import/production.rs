//! The production engine on the disk of the machine.

use lithdb_state::{ChangeSet, StateDb, StateOptions, VerifyLevel};

use super::origin::{Origin, export};
use super::support::model::rows_of;

/// Rows of several frames and several memtables; one is longer than a frame.
#[test]
fn a_large_state_is_exported_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let db = StateDb::open(&old, StateOptions::new()).unwrap();
    for version in 1..=4_u64 {
        let mut set = ChangeSet::new(&format!("store-{}", version % 3)).unwrap();
        for n in 0..3_000_u64 {
            let key = (n * 7 + version).to_be_bytes();
            set = set.put(key, vec![version as u8; (n % 200) as usize]);
        }
        db.commit_block(version, &[set]).unwrap();
    }
    db.commit_block(5, &[ChangeSet::new("a").unwrap().put("long", vec![9; 3 << 20])]).unwrap();
    let first = export(&db.latest());
    let options = StateOptions::new().memtable_bytes(256 << 10);
    let report = StateDb::import(&new, &first[..], options, Some(db.root())).unwrap();
    assert_eq!((report.version, report.root), (5, db.root()));
    let copy = StateDb::open(&new, StateOptions::new().create_if_missing(false)).unwrap();
    assert!(copy.opened().recloned.is_none(), "{:?}", copy.opened());
    assert!(export(&copy.latest()) == first);
    assert!(rows_of(&copy.latest()) == rows_of(&db.latest()));
    copy.commit_block(6, &[ChangeSet::new("a").unwrap().delete("long")]).unwrap();
    let found = StateDb::verify(&new, VerifyLevel::Content, |_| {}).unwrap();
    assert!(found.is_ok(), "{found:?}");
    let then = StateDb::view_only(&new, Some(5)).unwrap();
    assert!(export(&then) == first);
    drop(then);
    copy.close().unwrap();
    drop(copy);
    let report = StateDb::reset(&new).unwrap();
    assert!(!report.is_log_elsewhere, "{report:?}");
    StateDb::import(&new, &first[..], StateOptions::new(), None).unwrap();
    assert_eq!(StateDb::open(&new, StateOptions::new()).unwrap().root(), db.root());
}

/// The way to another engine: an export of the model engine.
#[test]
fn an_export_of_another_engine_is_imported() {
    let origin = Origin::new(0, 6);
    let dir = tempfile::tempdir().unwrap();
    StateDb::import(dir.path(), &origin.export[..], StateOptions::new(), None).unwrap();
    let db = StateDb::open(dir.path(), StateOptions::new()).unwrap();
    origin.check(&db, "production");
}
