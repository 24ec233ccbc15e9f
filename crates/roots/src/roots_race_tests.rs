//! Races with other processes between two operations, and operations that the system refuses.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lithdb_env::{DirEntry, File, FileLock, LockKind, Metadata, OpenMode, OsFs};

use super::tests::{Dirs, copy_of, os, put};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    CreateNew,
    Open,
    List,
    SyncDir,
    Lock,
    Other,
}

type Hook = dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync;

/// The operating system's file system, with a hook that runs before each operation or fails it.
struct HookedFs {
    before: Box<Hook>,
    /// The second path is a mount of the first.
    bound: Option<(PathBuf, PathBuf)>,
}

fn env_with(before: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static) -> Env {
    Env { fs: Arc::new(HookedFs { before: Box::new(before), bound: None }), ..os() }
}

impl fmt::Debug for HookedFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedFs")
    }
}

impl Fs for HookedFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        (self.before)(Call::CreateNew, path)?;
        OsFs.create_new(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        (self.before)(Call::Open, path)?;
        OsFs.open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        (self.before)(Call::List, dir)?;
        OsFs.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        (self.before)(Call::Other, path)?;
        match &self.bound {
            Some((original, mount)) if path == mount => OsFs.metadata(original),
            _ => OsFs.metadata(path),
        }
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.before)(Call::Other, from)?;
        OsFs.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.before)(Call::Other, path)?;
        OsFs.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        (self.before)(Call::Other, path)?;
        OsFs.remove_dir(path)
    }
    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        (self.before)(Call::Other, link)?;
        OsFs.hard_link(original, link)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        (self.before)(Call::Other, path)?;
        OsFs.create_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.before)(Call::SyncDir, dir)?;
        OsFs.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        (self.before)(Call::Lock, path)?;
        OsFs.try_lock(path, kind)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        OsFs.free_space(path)
    }
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        OsFs.canonicalize(path)
    }
}

/// An environment in which another process creates a database in `roots` and closes it, once, just
/// before the first `call` on a path that ends with `end`.
fn with_another_creator(roots: Vec<PathBuf>, call: Call, end: &'static str) -> Env {
    let calls = AtomicU32::new(0);
    env_with(move |this, path| {
        let first =
            this == call && path.ends_with(end) && calls.fetch_add(1, Ordering::SeqCst) == 0;
        if first {
            assert!(Roots::open_for_writing(&os(), &roots, true).unwrap().created());
        }
        Ok(())
    })
}

#[test]
fn concurrently_created_database_is_opened_not_recreated() {
    for (call, end) in [
        (Call::Other, "a/root.id"),
        (Call::Other, "b/root.id"),
        (Call::List, "a"),
        (Call::List, "b"),
        (Call::Lock, "b"),
    ] {
        let dirs = Dirs::new("ab");
        let env = with_another_creator(dirs.all("ab"), call, end);
        let opened = Roots::open_for_writing(&env, &dirs.all("ba"), true).unwrap();
        assert!(!opened.created(), "{call:?} {end}");
        assert_eq!(opened.paths(), dirs.all("ab"));
        assert_eq!(opened.database_id(), dirs.id("b").database_id);
    }
}

#[test]
fn reader_rescans_a_database_that_is_being_created() {
    for (call, end) in [(Call::Other, "a/root.id"), (Call::Other, "b/root.id"), (Call::List, "a")] {
        let dirs = Dirs::new("ab");
        let env = with_another_creator(dirs.all("ab"), call, end);
        let opened = Roots::open_for_reading(&env, &dirs.all("ab")).unwrap();
        assert_eq!(opened.paths(), dirs.all("ab"), "{call:?} {end}");
    }
}

#[test]
fn root_replaced_before_locking_is_detected() {
    let (dirs, other) = (Dirs::with_database("ab"), Dirs::with_database("ab"));
    let (b, stranger) = (dirs.path("b/root.id"), copy_of(&other.path("b/root.id")));
    let env = env_with(move |call, path| {
        if call == Call::Lock && path.parent() == b.parent() {
            put(&b, &stranger);
        }
        Ok(())
    });
    let error = Roots::open_for_writing(&env, &dirs.all("ab"), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
}

#[test]
fn one_directory_mounted_twice_is_one_root() {
    let dirs = Dirs::new("am");
    let bound = Some((dirs.path("a"), dirs.path("m")));
    let env = Env { fs: Arc::new(HookedFs { before: Box::new(|_, _| Ok(())), bound }), ..os() };
    let error = Roots::open_for_writing(&env, &dirs.all("am"), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("same directory"), "{error}");
}

#[test]
fn directory_whose_name_cannot_be_synced_is_not_created() {
    let dirs = Dirs::new("a");
    let (a, open_to_all) = (dirs.path("a"), dirs.path(""));
    let env = env_with(move |call, path| match call {
        Call::SyncDir if path == a => Err(io::ErrorKind::PermissionDenied.into()),
        Call::SyncDir if !path.starts_with(&open_to_all) => {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        _ => Ok(()),
    });
    let error = Roots::open_for_writing(&env, &[dirs.path("a/new")], true).unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    assert!(error.to_string().contains(&dirs.path("a").display().to_string()), "{error}");
    let there = [dirs.path("b")];
    OsFs.create_dir(&there[0]).unwrap();
    assert!(
        Roots::open_for_writing(&env, &there, true).is_ok(),
        "directories above that this user may not sync are skipped"
    );
}
