//! Tests of the small files: round trips, refusals, replacement.

use lithdb_env::exists;
use lithdb_lthash::LtHash;
use lithdb_sim::SimFs;

use super::*;

fn fs() -> SimFs {
    let fs = SimFs::new();
    fs.make_dirs("/state");
    fs
}

fn dir() -> &'static Path {
    Path::new("/state")
}

fn name(name: &str) -> StoreName {
    StoreName::new(name).unwrap()
}

fn file(name: &str) -> EngineFile {
    EngineFile { name: name.to_owned(), len: 1, digest: u128::MAX, is_linked: true }
}

fn manifest() -> SnapshotManifest {
    let totals = StoreTotals { vector: LtHash::of(b"a", b"1"), keys: 1, bytes: 2 };
    SnapshotManifest {
        store: StoreId([7; 16]),
        version: 9,
        root: RootHash([1; 32]),
        stores: vec![
            StoreSummary::of(&name("bank"), &totals),
            StoreSummary::of(&name("evm"), &totals),
        ],
        engine: EngineKind { name: "lsm-tree".to_owned(), version: "3.1.10".to_owned() },
        created: UnixMillis(4),
        files: vec![file("current"), file("tables/3"), file("tables/10")],
    }
}

#[test]
fn a_new_store_is_ready_and_its_id_is_both_numbers() {
    let (fs, path) = (fs(), dir().join("state.id"));
    assert_eq!(StateId::read(&fs, &path).unwrap(), None);
    let id = StateId::fresh(0x0102, 0x0304, 1);
    assert_eq!(id.store.to_string(), "02010000000000000403000000000000");
    id.write(&fs, &path).unwrap();
    assert_eq!(StateId::read(&fs, &path).unwrap(), Some(id.clone()));
    id.check_ready(dir()).unwrap();
}

#[test]
fn the_id_of_a_store_in_json_is_its_text() {
    let id = StoreId([0xa0; 16]);
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{}\"", "a0".repeat(16)));
    assert_eq!(serde_json::from_str::<StoreId>(&json).unwrap(), id);
    for bad in ["", "a0", &"A0".repeat(16), &format!("+{}", "a".repeat(31))] {
        let error = serde_json::from_str::<StoreId>(&format!("\"{bad}\"")).unwrap_err();
        assert!(error.to_string().contains("32 lower-case hexadecimal digits"), "{error}");
    }
}

#[test]
fn an_unfinished_import_or_reset_is_refused_with_the_remedy() {
    for (phase, says) in
        [(Phase::Importing, "import again"), (Phase::Resetting, "reset the state store")]
    {
        let id = StateId { phase, ..StateId::fresh(1, 2, 1) };
        let error = id.check_ready(dir()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Missing, Some(dir())));
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn an_id_of_another_layout_or_without_versions_is_refused() {
    let (fs, path) = (fs(), dir().join("state.id"));
    let refused = |id: StateId| {
        id.write(&fs, &path).unwrap();
        StateId::read(&fs, &path).unwrap_err()
    };
    let error = refused(StateId { layout: 2, ..StateId::fresh(1, 2, 1) });
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("expected layout 1, found 2"), "{error}");
    let error = refused(StateId::fresh(1, 2, 0));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn every_flipped_byte_of_a_manifest_is_refused() {
    let fs = fs();
    manifest().write(&fs, dir()).unwrap();
    assert_eq!(SnapshotManifest::read(&fs, dir()).unwrap(), manifest());
    let path = dir().join(SNAPSHOT_FILE);
    let bytes = fs.read_raw(&path);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x41;
        fs.write_raw(&path, flipped);
        assert!(!SnapshotManifest::read(&fs, dir()).unwrap_err().kind().is_system_failure());
        fs.write_raw(&path, bytes[..at].to_vec());
        assert_eq!(SnapshotManifest::read(&fs, dir()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    fs.remove_raw(&path);
    assert_eq!(SnapshotManifest::read(&fs, dir()).unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn a_manifest_whose_files_could_be_elsewhere_is_refused() {
    let (fs, path) = (fs(), dir().join(SNAPSHOT_FILE));
    for bad in
        ["", "/etc/passwd", "../x", "tables/../../x", "tables/", "a//b", "./a", "a\0", "current"]
    {
        let mut manifest = manifest();
        manifest.files.push(file(bad));
        let error = manifest.write(&fs, dir()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
        fs.write_raw(&path, envelope::encode(SNAPSHOT, &manifest).unwrap());
        let error = SnapshotManifest::read(&fs, dir()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("found {bad:?}")), "{error}");
    }
}

#[test]
fn a_manifest_with_repeated_stores_is_refused() {
    let fs = fs();
    let mut manifest = manifest();
    manifest.stores.swap(0, 1);
    assert!(manifest.write(&fs, dir()).is_err());
    manifest.stores[1].name = name("evm");
    let error = manifest.write(&fs, dir()).unwrap_err();
    assert!(error.to_string().contains("ascending"), "{error}");
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let fs = fs();
    BaseFile { version: 9, root: RootHash([1; 32]) }.write(&fs, dir()).unwrap();
    let error = StateId::read(&fs, &dir().join(BASE_FILE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("magic LITHSTID"), "{error}");
}

#[test]
fn current_is_written_only_if_it_says_something_else() {
    let (fs, path) = (fs(), dir().join("CURRENT"));
    let current = CurrentFile::of(&manifest());
    assert_eq!(current.directory, "snapshots/00000000000000000009");
    let replace = |current: Option<&CurrentFile>| {
        let before = fs.ops();
        CurrentFile::replace(&fs, &path, current).unwrap();
        fs.ops() > before
    };
    assert!(replace(Some(&current)));
    let bytes = fs.read_raw(&path);
    replace(Some(&current));
    assert_eq!(fs.read_raw(&path), bytes);
    fs.write_raw(&path, b"damaged".to_vec());
    replace(Some(&current));
    assert_eq!(fs.read_raw(&path), bytes);
    replace(None);
    assert!(!exists(&fs, &path).unwrap());
    replace(None);
    assert!(!exists(&fs, &path).unwrap());
}
