//! What is refused: exports that are damaged or crafted, directories with a store in them.

use lithdb_env::Fs;
use lithdb_state::{ErrorKind, RootHash, StateDb, StateOptions};

use super::origin::{Origin, options};
use super::support::{DIR, Harness, difference, small, without_openings};

/// No bit of an export can be flipped without the import being refused, and what a refused import
/// leaves is not opened.
#[test]
fn every_flipped_bit_of_an_imported_export_is_refused() {
    let origin = Origin::new(0, 2);
    let base = Harness::new(small());
    for bit in 0..origin.export.len() * 8 {
        let mut export = origin.export.clone();
        export[bit / 8] ^= 1 << (bit % 8);
        let harness = base.fork();
        let error = harness.import(&export).unwrap_err();
        let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "bit {bit}: {error}");
        let error = harness.try_open_existing().expect_err("a refused import");
        assert_eq!(error.kind(), ErrorKind::Missing, "bit {bit}: {error}");
    }
}

#[test]
fn an_export_that_is_cut_off_is_refused_and_can_be_imported_again() {
    let origin = Origin::new(0, 2);
    for len in (0..origin.export.len()).step_by(7) {
        let harness = Harness::new(small());
        let error = harness.import(&origin.export[..len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
        assert!(!origin.whole_or_refused(&harness, &format!("cut off at {len}")));
    }
}

/// Reads an export, and then fails.
struct Unplugged<'a>(&'a [u8]);

impl std::io::Read for Unplugged<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        match std::io::Read::read(&mut self.0, room)? {
            0 => Err(std::io::Error::other("unplugged")),
            got => Ok(got),
        }
    }
}

#[test]
fn a_source_that_cannot_be_read_is_not_a_damaged_export() {
    let origin = Origin::new(0, 2);
    let harness = Harness::new(small());
    let source = Unplugged(&origin.export[..origin.export.len() / 2]);
    let imported = StateDb::import_with(DIR, source, small(), None, harness.components());
    let error = imported.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(!origin.whole_or_refused(&harness, "unplugged"));
}

#[test]
fn a_refused_import_changes_nothing() {
    let (origin, other) = (Origin::new(0, 3), Origin::new(4, 3));
    let import = |harness: &Harness, export: &[u8], root: Option<RootHash>| {
        let before = harness.tree("/");
        let imported = StateDb::import_with(DIR, export, small(), root, harness.components());
        let error = imported.expect_err("a refused import");
        assert_eq!(difference(&before, &harness.tree("/")), None, "{error}");
        error
    };
    // Another root than the expected one, on an empty disk and after an interrupted import.
    let harness = Harness::new(options());
    let root = other.model.at(other.model.head()).root;
    let error = import(&harness, &origin.export, Some(root));
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains(&format!("expected root {root}")), "{error}");
    import(&harness, b"no export", None);
    harness.import(&origin.export[..origin.export.len() - 1]).unwrap_err();
    import(&harness, &origin.export, Some(root));
    let own = origin.model.at(origin.model.head()).root;
    StateDb::import_with(DIR, &origin.export[..], small(), Some(own), harness.components())
        .unwrap();
    // A store, whether it is open or not.
    let error = import(&harness, &other.export, None);
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("there is a state store"), "{error}");
    let db = harness.try_open_existing().unwrap();
    import(&harness, &other.export, None);
    assert_eq!(harness.reset().unwrap_err().kind(), ErrorKind::Locked);
    origin.check(&db, "after refused imports");
    // The files of others.
    let foreign = Harness::new(small());
    foreign.fs.make_dirs(DIR);
    foreign.fs.write_raw(format!("{DIR}/notes"), b"mine".to_vec());
    assert_eq!(import(&foreign, &origin.export, None).kind(), ErrorKind::Foreign);
}

/// What is not the store's is not removed with it, and not left where nothing would open any more.
#[test]
fn a_reset_refuses_what_is_not_the_stores_among_its_snapshots() {
    let harness = Harness::new(small());
    let db = harness.open();
    db.commit(1).unwrap();
    db.snapshot().unwrap().wait().unwrap();
    db.close().unwrap();
    drop(db);
    harness.fs.make_dirs(format!("{DIR}/snapshots/mine"));
    let before = without_openings(harness.tree("/"));
    let error = harness.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    assert!(error.to_string().contains("mine"), "{error}");
    assert_eq!(difference(&before, &without_openings(harness.tree("/"))), None);
    harness.fs.remove_dir_raw(format!("{DIR}/snapshots/mine"));
    harness.fs.write_raw(format!("{DIR}/notes"), b"mine".to_vec());
    let report = harness.reset().unwrap();
    assert!(!report.is_log_elsewhere, "{report:?}");
    assert_eq!(report.removed, ["wal", "snapshots", "working", "CURRENT"]);
    let mut names = harness.names("");
    names.sort();
    assert_eq!(names, ["notes", "state.lock"]);
    assert_eq!(harness.reset().unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn a_reset_of_no_store_is_refused_and_makes_none() {
    let harness = Harness::new(small());
    let error = harness.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(!harness.fs.list(std::path::Path::new("/")).unwrap().iter().any(|e| e.name == "state"));
}

#[test]
fn the_last_version_there_can_be_is_not_imported() {
    let options = StateOptions::initial_version(small(), u64::MAX);
    let harness = Harness::new(options.clone());
    let db = harness.open();
    db.commit(u64::MAX).unwrap();
    let export = super::origin::export(&db.latest());
    let target = Harness::new(options);
    let error = target.import(&export).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(target.try_open_existing().unwrap_err().kind(), ErrorKind::Missing);
}
