//! What opening refuses; a refusal changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb::{ErrorKind, Result};
use lithdb_sim::Fault;
use support::{Harness, check, key, put, small};

/// A database that was closed cleanly: table `t` of several segments.
fn closed() -> Harness {
    let harness = Harness::new();
    let db = harness.open();
    put(&db.table("t", small()).unwrap(), 0..10);
    db.close().unwrap();
    harness
}

/// Opens the database and its table, and reads everything.
fn open_all(harness: &Harness, read_only: bool) -> Result<()> {
    let db = if read_only { harness.try_read()? } else { harness.try_open()? };
    let table = db.existing_table("t")?;
    // Sealed segments are opened on demand.
    for n in 0..10 {
        table.get(key(n))?;
    }
    check(&table, 0..10);
    db.close()
}

type Image = Vec<(String, Vec<u8>)>;

fn image(harness: &Harness) -> Image {
    // Every read-write open gives all roots a new generation, and an opened table records that in
    // its state.
    let changes = [".lock", "root.id", "table.state"];
    let is_kept = |path: &String| !changes.iter().any(|end| path.ends_with(end));
    let files = harness.files("").into_iter().filter(is_kept);
    files.map(|path| (path.clone(), harness.fs.read_raw(&path))).collect()
}

#[test]
fn damaged_rollback_intent_is_refused() {
    let harness = closed();
    harness.fs.write_raw("/r0/rollback.intent", b"whatever".repeat(9));
    let before = image(&harness);
    for (read_only, kind) in [(true, ErrorKind::Locked), (false, ErrorKind::Corrupt)] {
        let error = open_all(&harness, read_only).unwrap_err();
        assert_eq!((error.kind(), error.is_rollback_pending()), (kind, read_only), "{error}");
        assert!(error.to_string().contains("/r0/rollback.intent"), "{error}");
    }
    assert_eq!(image(&harness), before);
    harness.fs.remove_raw("/r0/rollback.intent");
    open_all(&harness, false).unwrap();
}

/// The location of a file's checksum and the bytes it covers.
#[derive(Clone, Copy)]
enum Kind {
    /// 64 bytes; the checksum is the last four.
    Header,
    /// The whole file is one envelope.
    Envelope,
    /// Two envelopes in slots of 4,096 bytes.
    Slots,
}

/// Changes bytes of the start and corrects the checksum.
fn patch(bytes: &mut [u8], kind: Kind, change: impl Fn(&mut [u8])) {
    let envelope = |bytes: &mut [u8]| {
        change(bytes);
        let len = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
        let head = crc32c::crc32c(&bytes[..28]);
        let checksum = crc32c::crc32c_append(head, &bytes[32..32 + len]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
    };
    match kind {
        Kind::Header => {
            change(bytes);
            let checksum = crc32c::crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        }
        Kind::Envelope => envelope(bytes),
        Kind::Slots => bytes.chunks_mut(4096).for_each(envelope),
    }
}

const FILES: [(&str, Kind); 8] = [
    ("/r0/root.id", Kind::Slots),
    ("/r1/root.id", Kind::Slots),
    ("/r0/t/table.state", Kind::Slots),
    ("/r0/t/segments/1.metadata", Kind::Envelope),
    ("/r0/t/segments/1.keys", Kind::Header),
    ("/r0/t/segments/3.keys", Kind::Header),
    ("/r1/t/segments/1-0.values", Kind::Header),
    ("/r0/t/segments/3-1.values", Kind::Header),
];

fn patched(path: &str, kind: Kind, change: impl Fn(&mut [u8])) -> Harness {
    let harness = closed();
    let mut bytes = harness.fs.read_raw(path);
    patch(&mut bytes, kind, change);
    harness.fs.write_raw(path, bytes);
    harness
}

#[test]
fn unpatched_files_are_accepted() {
    for (path, kind) in FILES {
        open_all(&patched(path, kind, |_| {}), false).unwrap();
    }
}

#[test]
fn other_format_version_is_refused_and_left_untouched() {
    for (path, kind) in FILES {
        for version in [0_u16, 2, u16::MAX] {
            let harness = patched(path, kind, |b| b[8..10].copy_from_slice(&version.to_le_bytes()));
            let (before, itself) = (image(&harness), harness.fs.read_raw(path));
            for read_only in [true, false] {
                let error = open_all(&harness, read_only).expect_err(path);
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}: {error}");
                let message = error.to_string();
                assert!(message.contains(path), "{path}: {message}");
                assert!(message.contains(&version.to_string()), "{path}: {message}");
            }
            // Readable files may have been made durable again: nothing else has changed.
            assert_eq!(image(&harness), before, "{path}");
            assert_eq!(harness.fs.read_raw(path), itself, "{path}");
        }
    }
}

#[test]
fn an_unknown_incompatible_feature_is_refused() {
    for (path, kind) in FILES {
        let harness = patched(path, kind, |b| b[20] = 4);
        for read_only in [true, false] {
            let error = open_all(&harness, read_only).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}: {error}");
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}

#[test]
fn an_unknown_compatible_feature_is_ignored() {
    for (path, kind) in FILES {
        let harness = patched(path, kind, |b| b[12] = 1);
        open_all(&harness, true).unwrap_or_else(|error| panic!("{path}: {error}"));
        open_all(&harness, false).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn unknown_read_only_feature_allows_reading() {
    for (path, kind) in FILES {
        let harness = patched(path, kind, |b| b[16] = 1);
        open_all(&harness, true).unwrap_or_else(|error| panic!("{path}: {error}"));
        if path == "/r1/t/segments/1-0.values" {
            // The values of a sealed segment are never written, and opening does not read them.
            continue;
        }
        let error = open_all(&harness, false).expect_err(path);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{path}: {error}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn absent_or_foreign_root_is_refused_by_name() {
    let harness = closed();
    let before = image(&harness);
    let open = |roots: &[&str]| {
        let options = lithdb::DbOptions::new(roots.iter().copied());
        lithdb::Db::open_with(options, harness.components()).unwrap_err()
    };
    let error = open(&["/r0"]);
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    let error = open(&["/r0", "/r1", "/r2"]);
    assert!(error.to_string().contains("/r2"), "{error}");
    let error = open(&["/r0", "/r0"]);
    assert!(error.to_string().contains("/r0"), "{error}");
    assert_eq!(image(&harness), before);
}

/// A file system without `fallocate`: creating a database fails; a database copied there can be
/// read but not written.
#[test]
fn file_system_without_fallocate_is_unsupported() {
    let harness = Harness::new();
    harness.fs.fail_op(0, Fault::Unsupported, true);
    let error = harness.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("/r0") && error.message().contains("fallocate"), "{error}");
    assert!(harness.files("root.id").is_empty(), "nothing was created");
    harness.fs.clear_faults();
    harness.open().close().unwrap();
    let harness = closed();
    let copied = harness.on(harness.fs.fork());
    copied.fs.fail_op(0, Fault::Unsupported, true);
    let db = copied.open();
    let table = db.existing_table("t").unwrap();
    check(&table, 0..10);
    for _ in 0..2 {
        let error = table.put(key(10), [7; 300]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("/t/segments/"), "it names the file: {error}");
    }
    // The refusal changed nothing: on another file system the database works.
    copied.fs.clear_faults();
    put(&table, 10..12);
    db.close().unwrap();
    check(&copied.open().existing_table("t").unwrap(), 0..12);
}

#[test]
fn foreign_directory_is_not_a_database() {
    let harness = Harness::new();
    harness.fs.make_dirs("/r1");
    harness.fs.write_raw("/r0/notes", b"mine".to_vec());
    let before = image(&harness);
    let error = harness.try_read().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("/r0 holds \"notes\" but no root.id"), "{error}");
    assert_eq!(image(&harness), before);
}

#[test]
fn lock_file_without_a_process_id_still_locks() {
    use lithdb_env::{Fs, LockKind};
    let harness = closed();
    harness.fs.write_raw("/r0/lith.lock", Vec::new());
    let lock = harness.fs.try_lock("/r0/lith.lock".as_ref(), LockKind::Exclusive).unwrap().unwrap();
    let error = harness.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(
        error.to_string().contains("another process (with no process id in the lock file)"),
        "{error}"
    );
    drop(lock);
    open_all(&harness, false).unwrap();
}
