//! The process that the tests trace: this test binary, which runs [`scenario`] alone and reports
//! on standard output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Fs, OsFs, Result};
use lithdb_state_engine::{CheckLevel, Compacted, Engine, EngineFile, Engines, OpenMode, Sealed};

use crate::rows::{self, engines, meta_of};

/// The directory of the child; without it, the test does nothing.
pub const DIR: &str = "LITHDB_ENGINE_CHILD";
/// The test that the child runs.
pub const TEST: &str = "child::scenario";
/// The last version that the child makes.
pub const VERSIONS: u64 = 12;
/// The versions of which it makes a checkpoint, after it has compacted.
pub const COPIES: [u64; 2] = [4, 9];
/// The calls of every kind that it makes before those that matter. `strace` counts the calls of
/// each thread separately: the few of the other thread have lower numbers.
const IDLE_CALLS: usize = 200;

pub fn copy_name(version: u64) -> String {
    format!("copy-{version}")
}

pub fn clone_name(version: u64) -> String {
    format!("clone-{version}")
}

fn mark(text: impl std::fmt::Display) {
    println!("MARK {text}");
}

/// Calls until it succeeds, at most three times; `None` once a failure has latched.
fn attempt<T>(what: &str, mut call: impl FnMut() -> Result<T>) -> Option<T> {
    for _ in 0..3 {
        match call() {
            Ok(value) => {
                if what != "get" {
                    mark(format_args!("ok {what}"));
                }
                return Some(value);
            }
            Err(error) => {
                let is_latched = error.latches() || error.kind() == ErrorKind::Latched;
                let kind = error.kind();
                mark(format_args!("error {what}: {kind:?} latched={is_latched} {error}"));
                if is_latched {
                    return None;
                }
            }
        }
    }
    panic!("{what} does not succeed when it is repeated");
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir, error))
        }
        _ => Ok(()),
    }
}

/// Renames a directory and syncs its parent, as the state store does: then it exists.
fn publish(from: &Path, to: &Path) -> Result<()> {
    // A call that is repeated may have renamed it.
    if lithdb_env::exists(&OsFs, from).map_err(|e| Error::io("stat", from, e))? {
        OsFs.rename(from, to).map_err(|e| Error::io("rename", to, e))?;
    }
    lithdb_env::sync_parent(&OsFs, to)
}

struct Child {
    dir: PathBuf,
    engine: Arc<dyn Engine>,
    files: BTreeMap<u64, Vec<EngineFile>>,
}

impl Child {
    fn commit(&mut self, version: u64) -> Option<()> {
        attempt(&format!("apply {version}"), || rows::apply(&self.engine, version))?;
        let meta = meta_of(version);
        let sealed =
            attempt(&format!("seal {version}"), || self.engine.seal(&[(rows::META, &meta)]))?;
        attempt(&format!("flush {version}"), || self.engine.flush(&sealed))?;
        if matches!(version, 4 | 7 | 9 | 11) {
            while attempt("compact", || self.engine.compact_once())? == Compacted::Some {}
        }
        if COPIES.contains(&version) {
            self.checkpoint(version, &sealed)?;
        }
        Some(())
    }

    fn checkpoint(&mut self, version: u64, sealed: &Sealed) -> Option<()> {
        let to = self.dir.join(copy_name(version));
        let new = to.with_extension("new");
        let files = attempt(&format!("checkpoint {version}"), || {
            remove(&new)?;
            OsFs.create_dir(&new).map_err(|e| Error::io("create directory", &new, e))?;
            self.engine.checkpoint(sealed, &new)
        })?;
        attempt(&format!("publish {version}"), || publish(&new, &to))?;
        attempt("check", || engines().check(&to, Some(&files), CheckLevel::Bytes))?;
        self.files.insert(version, files);
        Some(())
    }

    fn clone_copy(&self, version: u64) -> Option<()> {
        let from = self.dir.join(copy_name(version));
        let files = &self.files[&version];
        let to = self.dir.join(clone_name(version));
        let new = to.with_extension("new");
        attempt(&format!("clone {version}"), || {
            remove(&new)?;
            Engines::clone_into(&engines(), &from, files, &new)
        })?;
        attempt(&format!("publish clone {version}"), || publish(&new, &to))?;
        let clone = attempt("open", || engines().open(&to, OpenMode::Write))?;
        let found = attempt("read", || rows::read(&clone))?;
        assert_eq!(found, rows::rows_at(version));
        Some(())
    }

    /// Reads are right, whatever has failed.
    fn assert_reads(&self, version: u64) {
        let found = attempt("read", || rows::read(&self.engine)).unwrap();
        assert!(found == rows::rows_at(version), "not exactly version {version}");
        for (key, value) in &found {
            let got = attempt("get", || self.engine.get(&self.engine.pin(), key)).unwrap();
            assert_eq!(got.as_deref(), Some(&value[..]));
        }
    }
}

/// Everything that changes an engine must be refused after a failure of its own, and what was
/// applied before can be read.
fn assert_latched(child: &Child, version: u64) {
    let engine = &child.engine;
    child.assert_reads(version);
    let Some(error) = engine.failure() else {
        mark("stopped by a failure that is not the engine's");
        return;
    };
    mark(format_args!("latched {error}"));
    let kinds = [
        rows::apply(engine, 1).unwrap_err().kind(),
        engine.seal(&[]).unwrap_err().kind(),
        engine.compact_once().unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Latched; 3]);
    child.assert_reads(version);
}

fn run(dir: &Path) -> Option<()> {
    let path = dir.join("engine");
    let create = || {
        remove(&path)?;
        engines().create(&path)
    };
    let engine = attempt("create", create)?;
    let mut child = Child { dir: dir.to_owned(), engine, files: BTreeMap::new() };
    for version in 1..=VERSIONS {
        if child.commit(version).is_none() {
            assert_latched(&child, version);
            return None;
        }
        child.assert_reads(version);
        if version == 6 {
            child.engine = attempt("open", || engines().open(&path, OpenMode::Write))?;
            child.assert_reads(version);
        }
        if version == 10 {
            child.clone_copy(COPIES[1])?;
        }
    }
    let reader =
        attempt("open", || engines().open(&dir.join(copy_name(4)), OpenMode::ReadInPlace))?;
    assert_eq!(attempt("read", || rows::read(&reader))?, rows::rows_at(4));
    Some(())
}

/// Calls of every kind that a test makes fail.
fn idle() {
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;
    let absent = Path::new("/nonexistent/lithdb");
    let mut file = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    for _ in 0..IDLE_CALLS {
        drop(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(file.write(b"x").unwrap(), 1);
        assert_eq!(file.read(&mut [0]).unwrap(), 0);
        assert_eq!(file.write_at(b"x", 0).unwrap(), 1);
        assert_eq!(file.read_at(&mut [0], 0).unwrap(), 0);
        assert!(file.sync_all().is_err());
        assert!(std::fs::metadata(absent).is_err());
        assert!(std::fs::create_dir(absent).is_err());
        assert!(std::fs::hard_link(absent, absent).is_err());
        assert!(std::fs::rename(absent, absent).is_err());
        assert!(std::fs::remove_file(absent).is_err());
    }
}

#[test]
fn scenario() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    idle();
    mark("begin");
    let done = run(Path::new(&dir));
    mark(format_args!("end {}", done.is_some()));
}
