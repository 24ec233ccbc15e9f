//! Tests of opening, creating and repairing the set of roots: what is accepted, what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lithdb_env::{LockKind, OsFs, read_file, remove_if_exists, spawn, write_all_at};
use lithdb_segment::envelope::{self, Magic};
use proptest::prelude::*;
use tempfile::TempDir;

use super::root_id::RootId;
use super::*;

pub(super) fn os() -> Env {
    Env::os(0).unwrap()
}

pub(super) fn put(path: &Path, bytes: &[u8]) {
    remove_if_exists(&OsFs, path).unwrap();
    write_all_at(&*OsFs.create_new(path).unwrap(), bytes, 0).unwrap();
}

pub(super) fn copy_of(path: &Path) -> Vec<u8> {
    read_file(&OsFs, path, 1 << 20).unwrap()
}

/// Directories `a`, `b`, `c` … in a temporary directory.
pub(super) struct Dirs(TempDir);

impl Dirs {
    pub(super) fn new(names: &str) -> Self {
        let dirs = Self(tempfile::tempdir().unwrap());
        dirs.all(names).iter().for_each(|dir| OsFs.create_dir(dir).unwrap());
        dirs
    }

    /// With a database in them, root 0 first.
    pub(super) fn with_database(names: &str) -> Self {
        let dirs = Self::new(names);
        assert!(dirs.create(names).unwrap().created());
        dirs
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        OsFs.canonicalize(self.0.path()).unwrap().join(name)
    }

    pub(super) fn all(&self, names: &str) -> Vec<PathBuf> {
        names.chars().map(|name| self.path(&name.to_string())).collect()
    }

    pub(super) fn create(&self, names: &str) -> Result<Roots> {
        Roots::open_for_writing(&os(), &self.all(names), true)
    }

    pub(super) fn open(&self, names: &str) -> Result<Roots> {
        Roots::open_for_writing(&os(), &self.all(names), false)
    }

    pub(super) fn read(&self, names: &str) -> Result<Roots> {
        Roots::open_for_reading(&os(), &self.all(names))
    }

    pub(super) fn id(&self, name: &str) -> RootId {
        RootId::read(&OsFs, &self.path(name), Access::Read).unwrap().unwrap()
    }

    /// All paths, with the contents of files.
    pub(super) fn content(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let (mut all, mut work) = (BTreeMap::new(), vec![self.0.path().to_owned()]);
        while let Some(dir) = work.pop() {
            for entry in OsFs.list(&dir).unwrap() {
                let path = dir.join(&entry.name);
                match entry.kind {
                    FileKind::File => drop(all.insert(path.clone(), Some(copy_of(&path)))),
                    FileKind::Dir => {
                        work.push(path.clone());
                        all.insert(path, None);
                    }
                    _ => drop(all.insert(path, None)),
                }
            }
        }
        all
    }

    /// Asserts that opening in every mode fails with `kind`, that the message contains all of
    /// `says`, and that nothing changed.
    pub(super) fn refuses(&self, names: &str, kind: ErrorKind, says: &[&str]) {
        let before = self.content();
        for opened in [self.create(names), self.open(names), self.read(names)] {
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            for part in says {
                assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
            }
        }
        assert_eq!(self.content(), before);
    }
}

#[test]
fn root_id_bytes_match_the_format() {
    let id = RootId {
        database_id: 0x0102_0304_0506_0708,
        number: 1,
        version: 3,
        sequence: 4,
        token: 5,
        previous_token: 6,
        root_ids: vec![9, 10],
    };
    let bytes = envelope::encode(Magic::ROOT, &id).unwrap();
    let mut payload = vec![8, 7, 6, 5, 4, 3, 2, 1, 1, 0, 3, 0, 0, 0];
    for number in [4_u64, 5, 6, 2, 9, 10] {
        payload.extend(number.to_le_bytes());
    }
    assert_eq!((&bytes[..8], &bytes[32..]), (&b"LITHROOT"[..], &payload[..]));
}

#[test]
fn database_is_created_with_its_directories_and_reopens() {
    let dirs = Dirs::new("");
    let roots = [dirs.path("new/deep/a"), dirs.path("new/b")];
    let created = Roots::open_for_writing(&os(), &roots, true).unwrap();
    assert!(created.created());
    assert_eq!(created.paths(), roots);
    let id = created.database_id();
    drop(created);
    let opened = Roots::open_for_writing(&os(), &roots, true).unwrap();
    assert_eq!((opened.created(), opened.database_id()), (false, id));
    assert_eq!(opened.access, Access::Write);
}

#[test]
fn roots_are_ordered_by_number_in_any_listing() {
    let dirs = Dirs::with_database("cab");
    for names in ["abc", "cba", "bca"] {
        assert_eq!(dirs.open(names).unwrap().paths(), dirs.all("cab"));
        assert_eq!(dirs.read(names).unwrap().paths(), dirs.all("cab"));
    }
}

#[test]
fn path_through_symlinks_resolves_to_its_target() {
    let dirs = Dirs::with_database("a");
    symlink(dirs.path("a"), dirs.path("link")).unwrap();
    let opened = Roots::open_for_writing(&os(), &[dirs.path("link")], false).unwrap();
    assert_eq!(opened.paths(), dirs.all("a"));
    let refused = |roots: &[&str], says: &str| {
        let roots: Vec<_> = roots.iter().map(|root| dirs.path(root)).collect();
        let error = Roots::open_for_writing(&os(), &roots, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        for root in roots {
            assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
        }
    };
    refused(&["a", "link"], "same directory");
    refused(&["a", "a/../a"], "same directory");
    refused(&["link/x", "a/x"], "same directory");
    refused(&["a", "link/x"], "inside the other");
    assert!(!dirs.content().contains_key(&dirs.path("a/x")));
}

#[test]
fn path_that_cannot_be_a_root_is_refused() {
    let dirs = Dirs::new("a");
    let try_with = |roots: &[PathBuf]| Roots::open_for_writing(&os(), roots, true).unwrap_err();
    assert_eq!(try_with(&[]).kind(), ErrorKind::InvalidArgument);
    assert_eq!(try_with(&[PathBuf::new()]).kind(), ErrorKind::InvalidArgument);
    put(&dirs.path("file"), b"");
    assert_eq!(try_with(&[dirs.path("file")]).kind(), ErrorKind::InvalidArgument);
    assert!(try_with(&[dirs.path("file/x")]).to_string().contains("file/x"));
    symlink(dirs.path("gone"), dirs.path("dangling")).unwrap();
    for root in ["dangling", "dangling/x", "gone/../x"] {
        let error = try_with(&[dirs.path(root)]);
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    }
    assert_eq!(OsFs.list(dirs.0.path()).unwrap().len(), 3);
}

#[test]
fn nothing_is_created_unless_requested() {
    let dirs = Dirs::new("a");
    let before = dirs.content();
    for (names, says) in [("a", "is empty"), ("b", "does not exist"), ("ab", "does not exist")] {
        for opened in [dirs.open(names), dirs.read(names)] {
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
    assert_eq!(dirs.content(), before);
}

#[test]
fn a_database_is_not_created_among_other_files() {
    let dirs = Dirs::new("abc");
    for ours in ["lith.lock", "root.id.new"] {
        put(&dirs.path("b").join(ours), b"rubbish");
    }
    OsFs.create_dir(&dirs.path("b/lost+found")).unwrap();
    for name in ["notes.txt", "lith.lock.old", "blocks", "root.id"] {
        let path = dirs.path("c").join(name);
        match name {
            "blocks" => OsFs.create_dir(&path).unwrap(),
            "root.id" => symlink("/nowhere", &path).unwrap(),
            _ => put(&path, b""),
        }
        let error = dirs.create("abc").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(OsFs.list(&dirs.path("a")).unwrap().is_empty());
        OsFs.remove_file(&path).or_else(|_| OsFs.remove_dir(&path)).unwrap();
    }
    assert!(dirs.create("abc").unwrap().created());
    assert!(!dirs.content().contains_key(&dirs.path("b/root.id.new")));
}

#[test]
fn a_root_without_its_id_is_missing_and_never_created() {
    let dirs = Dirs::with_database("abc");
    OsFs.create_dir(&dirs.path("m")).unwrap();
    for (names, number) in [("amc", 1), ("mbc", 0), ("abm", 2)] {
        let (what, empty) = (format!("root {number} "), dirs.path("m"));
        dirs.refuses(names, ErrorKind::Missing, &[&what, empty.to_str().unwrap(), "no root.id"]);
    }
    dirs.refuses("axc", ErrorKind::Missing, &["root 1 ", "/x", "does not exist"]);
    for (names, number) in [("ac", 1), ("bc", 0), ("b", 0)] {
        let id = dirs.id("a").root_ids[number];
        let what = format!("root {number} (id {id:016x})");
        dirs.refuses(names, ErrorKind::Missing, &[&what, "is missing"]);
    }
    OsFs.remove_file(&dirs.path("a/root.id")).unwrap();
    dirs.refuses("abc", ErrorKind::Missing, &["root 0 "]);
}

#[test]
fn foreign_duplicate_or_extra_root_is_refused() {
    let dirs = Dirs::with_database("abc");
    let other = Dirs::with_database("xy");
    let (b, y) = (copy_of(&dirs.path("b/root.id")), copy_of(&other.path("y/root.id")));
    for name in ["m", "n"] {
        OsFs.create_dir(&dirs.path(name)).unwrap();
    }
    dirs.refuses("abcm", ErrorKind::Foreign, &["/m", "remove it from the list"]);
    put(&dirs.path("m/root.id"), &b);
    dirs.refuses("abcm", ErrorKind::Foreign, &["/b", "/m", "copy"]);
    dirs.refuses("abm", ErrorKind::Foreign, &["/b", "/m", "copy"]);
    assert!(dirs.open("amc").is_ok(), "a root may be moved to another directory");
    put(&dirs.path("n/root.id"), &y);
    dirs.refuses("anc", ErrorKind::Foreign, &["/n", "/a", "different databases"]);
    dirs.refuses("abcn", ErrorKind::Foreign, &["/n", "/a"]);
    dirs.refuses("bn", ErrorKind::Foreign, &["/n", "/b"]);
    put(&dirs.path("n/root.id"), &copy_of(&other.path("x/root.id")));
    dirs.refuses("abn", ErrorKind::Foreign, &["/n", "/a"]);
    let later = RootId { version: 1, ..dirs.id("b") };
    later.create(&OsFs, &dirs.path("b")).unwrap();
    dirs.refuses("abc", ErrorKind::Corrupt, &["/b", "/a", "version"]);
}

#[test]
fn an_empty_or_unknown_root_id_is_not_a_new_database() {
    let dirs = Dirs::with_database("ab");
    let good = copy_of(&dirs.path("b/root.id"));
    put(&dirs.path("b/root.id"), b"");
    dirs.refuses("ab", ErrorKind::Corrupt, &["b/root.id", "0 bytes"]);
    dirs.refuses("b", ErrorKind::Corrupt, &["b/root.id"]);
    let resealed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] = 2;
        let checksum = {
            let mut covered = bytes[..28].to_vec();
            let len = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
            covered.extend(&bytes[32..32 + len]);
            crc32c(&covered)
        };
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        let slot = bytes[..4096].to_vec();
        put(&dirs.path("b/root.id"), &slot.repeat(2));
    };
    resealed(8);
    dirs.refuses("ab", ErrorKind::Unsupported, &["b/root.id", "version"]);
    resealed(20);
    dirs.refuses("ab", ErrorKind::Unsupported, &["b/root.id", "features"]);
    resealed(16);
    assert_eq!(dirs.open("ab").unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(dirs.read("ab").is_ok(), "a write-incompatible feature allows reading");
    resealed(12);
    assert!(dirs.open("ab").is_ok(), "a compatible feature allows everything");
}

/// The CRC-32C of RFC 3720, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
    })
}

#[test]
fn inconsistent_root_id_is_corrupt() {
    let dirs = Dirs::with_database("ab");
    let good = dirs.id("b");
    for bad in [
        RootId { number: 2, ..good.clone() },
        RootId { root_ids: vec![], ..good.clone() },
        RootId { root_ids: vec![7, 7], ..good.clone() },
        RootId { number: 0, sequence: 0, ..good.clone() },
        RootId { sequence: 5, ..good },
    ] {
        assert!(bad.create(&OsFs, &dirs.path("b")).is_err());
        let mut slot = envelope::encode(Magic::ROOT, &bad).unwrap();
        slot.resize(4096, 0);
        put(&dirs.path("b/root.id"), &slot.repeat(2));
        dirs.refuses("ab", ErrorKind::Corrupt, &["b/root.id"]);
    }
}

/// The id of a root just before the first renewal of a creation.
pub(super) fn as_interrupted(id: RootId) -> RootId {
    let (sequence, token) = if id.number == 0 { (1, id.token) } else { (0, id.previous_token) };
    RootId { sequence, token, ..id }
}

/// Roots `abc` as a creation leaves them that was interrupted after its commit point.
fn interrupted() -> Dirs {
    let dirs = Dirs::with_database("abc");
    for name in ["a", "b", "c"] {
        as_interrupted(dirs.id(name)).create(&OsFs, &dirs.path(name)).unwrap();
    }
    dirs
}

#[test]
fn next_writer_completes_a_creation_past_its_commit_point() {
    let dirs = interrupted();
    let id = dirs.id("a").database_id;
    assert_eq!(dirs.read("abc").unwrap().database_id(), id);
    assert!(!dirs.id("b").is_complete(), "a reader completes nothing");
    let opened = dirs.open("abc").unwrap();
    assert_eq!((opened.database_id(), opened.created()), (id, false));
    assert!(dirs.id("b").is_complete() && dirs.id("c").is_complete());
}

#[test]
fn uncommitted_creation_restarts_only_on_request_in_empty_roots() {
    let dirs = interrupted();
    let id = dirs.id("a").database_id;
    OsFs.remove_file(&dirs.path("a/root.id")).unwrap();
    for opened in [dirs.open("abc"), dirs.read("abc")] {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.to_string().contains("interrupted"), "{error}");
    }
    dirs.refuses("bc", ErrorKind::Missing, &["interrupted"]);
    for name in ["a", "c"] {
        let table = dirs.path(name).join("blocks");
        OsFs.create_dir(&table).unwrap();
        assert_eq!(dirs.create("abc").unwrap_err().kind(), ErrorKind::Foreign);
        OsFs.remove_dir(&table).unwrap();
    }
    assert_eq!(dirs.id("b").database_id, id, "nothing was changed");
    let created = dirs.create("cab").unwrap();
    assert!(created.created() && created.database_id() != id);
    assert_eq!(created.paths(), dirs.all("cab"));
    let complete = dirs.id("a");
    drop(created);
    OsFs.remove_file(&dirs.path("c/root.id")).unwrap();
    assert!(complete.is_complete());
    dirs.refuses("abc", ErrorKind::Missing, &["root 0 "]);
}

#[test]
fn second_writer_is_refused_with_the_holders_process_id() {
    let dirs = Dirs::with_database("abc");
    let writer = dirs.open("abc").unwrap();
    let error = dirs.create("cab").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let pid = std::process::id().to_string();
    for part in [dirs.path("a").to_str().unwrap(), &pid] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let reader = dirs.read("abc").unwrap();
    assert_eq!(reader.access, Access::Read);
    drop(writer);
    assert!(dirs.open("abc").is_ok(), "a reader does not keep a writer out");
    for name in ["a", "b", "c"] {
        let left = copy_of(&dirs.path(name).join("lith.lock"));
        assert_eq!(left, format!("{pid}\n").as_bytes());
    }
}

#[test]
fn every_root_is_locked_and_a_refused_writer_keeps_no_lock() {
    let dirs = Dirs::with_database("abc");
    let lock = dirs.path("c/lith.lock");
    put(&lock, b"4242\nrest of something longer");
    let stranger = OsFs.try_lock(&lock, LockKind::Exclusive).unwrap().unwrap();
    let error = dirs.open("abc").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("process 4242"), "{error}");
    let a = dirs.path("a/lith.lock");
    assert!(OsFs.try_lock(&a, LockKind::Exclusive).unwrap().is_some());
    drop(stranger);
    assert!(dirs.open("abc").is_ok());
}

/// Roots `a` and `b`, and copies of both from before one opening and one close.
fn renewed() -> (Dirs, Dirs) {
    let (dirs, older) = (Dirs::with_database("ab"), Dirs::new("ab"));
    for name in ["a", "b"] {
        put(&older.path(name).join("root.id"), &copy_of(&dirs.path(name).join("root.id")));
    }
    dirs.open("ab").unwrap().renew().unwrap();
    (dirs, older)
}

#[test]
fn restored_stale_root_is_refused_by_name() {
    for (name, other) in [("a", "b"), ("b", "a")] {
        let (dirs, older) = renewed();
        assert!(dirs.id(name).sequence >= older.id(name).sequence + 4, "an opening and a close");
        let id = format!("{name}/root.id");
        put(&dirs.path(&id), &copy_of(&older.path(&id)));
        let (first, second) =
            (format!("/{name} (root"), format!("older than {}", dirs.path(other).display()));
        dirs.refuses("ab", ErrorKind::Corrupt, &[&first, &second]);
        // Both roots restored to the same time are the database of that time.
        put(&dirs.path(other).join("root.id"), &copy_of(&older.path(other).join("root.id")));
        dirs.open("ab").unwrap();
    }
}

#[test]
fn roots_with_equal_generations_of_two_histories_are_refused() {
    let (dirs, older) = renewed();
    // The older copy is opened and closed as often.
    older.open("ab").unwrap().renew().unwrap();
    assert_eq!(older.id("b").sequence, dirs.id("b").sequence);
    put(&dirs.path("b/root.id"), &copy_of(&older.path("b/root.id")));
    dirs.refuses("ab", ErrorKind::Corrupt, &["diverged from", "/a", "/b"]);
}

#[test]
fn an_interrupted_renewal_is_finished_and_read() {
    // Root 0 is between 4 and 6; the others are at one of the two.
    for done in ["", "b", "c", "bc"] {
        let dirs = Dirs::with_database("abc");
        drop(dirs.open("abc").unwrap());
        let before: Vec<RootId> = ["a", "b", "c"].map(|name| dirs.id(name)).into();
        drop(dirs.open("abc").unwrap());
        let begun = RootId { sequence: before[0].sequence + 1, ..dirs.id("a") };
        assert_eq!(begun.previous_token, before[0].token);
        begun.create(&OsFs, &dirs.path("a")).unwrap();
        for (name, id) in ["b", "c"].iter().zip(&before[1..]) {
            if !done.contains(name) {
                id.create(&OsFs, &dirs.path(name)).unwrap();
            }
        }
        dirs.read("abc").unwrap();
        let opened = dirs.open("abc").unwrap();
        drop(opened);
        let ids = ["a", "b", "c"].map(|name| dirs.id(name));
        assert!(ids.iter().all(|id| (id.sequence, id.token) == (6, begun.token)), "{ids:?}");
        // An older generation is not part of the renewal.
        begun.create(&OsFs, &dirs.path("a")).unwrap();
        let early = RootId { sequence: before[1].sequence - 2, ..before[1].clone() };
        early.create(&OsFs, &dirs.path("b")).unwrap();
        dirs.refuses("abc", ErrorKind::Corrupt, &["/b", "older"]);
    }
}

#[test]
fn hard_linked_root_id_is_replaced() {
    let dirs = Dirs::with_database("ab");
    for name in ["a", "b"] {
        let path = dirs.path(name).join("root.id");
        OsFs.hard_link(&path, &dirs.path(&format!("{name}-snapshot"))).unwrap();
    }
    let before = ["a-snapshot", "b-snapshot"].map(|name| copy_of(&dirs.path(name)));
    dirs.open("ab").unwrap();
    assert_eq!(["a-snapshot", "b-snapshot"].map(|name| copy_of(&dirs.path(name))), before);
    dirs.open("ab").unwrap();
}

#[test]
fn removed_lock_file_admits_no_second_writer() {
    let dirs = Dirs::with_database("ab");
    let writer = dirs.open("ab").unwrap();
    for name in ["a", "b"] {
        OsFs.remove_file(&dirs.path(name).join("lith.lock")).unwrap();
    }
    assert_eq!(dirs.open("ab").unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(Roots::open_stopped(&os(), &dirs.all("ab")).unwrap_err().kind(), ErrorKind::Locked);
    drop(writer);
    dirs.open("ab").unwrap();
}

#[test]
fn concurrent_openers_agree_on_one_database() {
    for _ in 0..20 {
        let dirs = Dirs::new("ab");
        let open = |names: &str| {
            let roots = dirs.all(names);
            spawn("opener", move || {
                let opened = Roots::open_for_writing(&os(), &roots, true);
                let kind = opened.map_err(|e| e.kind()).err();
                assert!(matches!(kind, None | Some(ErrorKind::Locked)), "{kind:?}");
            })
        };
        let openers: Vec<_> = ["ab", "ba", "ab", "ba"].into_iter().map(open).collect();
        openers.into_iter().for_each(|opener| opener.unwrap().join().unwrap());
        let created = dirs.create("ab").unwrap();
        assert_eq!(dirs.id("a").database_id, dirs.id("b").database_id);
        assert_eq!(created.database_id(), dirs.id("a").database_id);
    }
}

#[test]
fn table_list_includes_directories_and_symlinks_of_any_root() {
    let dirs = Dirs::with_database("ab");
    for dir in ["a/blocks", "b/blocks", "b/half-dropped", "a/A_1", "a/lost+found", "a/.hidden"] {
        OsFs.create_dir(&dirs.path(dir)).unwrap();
    }
    put(&dirs.path("a/file"), b"");
    symlink(dirs.path("a/blocks"), dirs.path("a/link")).unwrap();
    let roots = dirs.open("ba").unwrap();
    let names = roots.table_names().unwrap();
    let names: Vec<_> = names.iter().map(TableName::as_str).collect();
    // A link is refused by name: see the tests of `lith`.
    assert_eq!(names, ["A_1", "blocks", "half-dropped", "link"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `abc` and `xy` are databases, `m` is a copy of root `b`, `e` is empty, `n` does not exist.
    #[test]
    fn only_the_exact_root_set_of_one_database_opens(
        names in proptest::sample::subsequence(vec!['a', 'b', 'c', 'e', 'm', 'n', 'x', 'y'], 1..=5)
            .prop_shuffle(),
        create: bool,
    ) {
        let dirs = Dirs::with_database("abc");
        for dir in ["e", "m", "x", "y"] {
            OsFs.create_dir(&dirs.path(dir)).unwrap();
        }
        dirs.create("xy").unwrap();
        put(&dirs.path("m/root.id"), &copy_of(&dirs.path("b/root.id")));
        let before = dirs.content();
        let given: String = names.iter().collect();
        let set: BTreeSet<char> = names.iter().copied().collect();
        let is = |names: &str| set == names.chars().collect();
        let whole = ["abc", "amc", "xy"].into_iter().find(|names| is(names));
        let new = create && ["e", "n", "en"].into_iter().any(is);
        let opened = if create { dirs.create(&given) } else { dirs.open(&given) };
        match (opened, whole) {
            (Ok(opened), Some(in_order)) => {
                prop_assert_eq!(opened.paths(), dirs.all(in_order));
                prop_assert!(!opened.created());
            }
            (Ok(opened), None) => prop_assert!(new && opened.created()),
            (Err(error), _) => {
                prop_assert!(whole.is_none() && !new, "{}", error);
                prop_assert_eq!(dirs.content(), before);
            }
        }
    }
}
