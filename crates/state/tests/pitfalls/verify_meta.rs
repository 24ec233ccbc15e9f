//! META rows that are not those of their rows: an engine returns another one than was put.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_state::{Error, Result, Retention, StateDb, StateVerification, VerifyLevel};
use lithdb_state_engine::{
    CheckLevel, Compacted, Engine, EngineFile, EngineKind, EngineStats, Engines, ModelEngines,
    OpenMode, Pin, RowIter, Sealed,
};

use crate::fixture::Fixture;
use crate::support::small;

const META_KEY: &[u8] = &[0x00, 0x6d];

/// What an engine returns in the place of its META row.
type Alter = fn(Vec<u8>) -> Option<Vec<u8>>;

/// The engines of directories that have `place` in their path return another META row.
#[derive(Debug)]
struct MetaEngines {
    inner: Arc<dyn Engines>,
    place: &'static str,
    alter: Alter,
}

impl Engines for MetaEngines {
    fn kind(&self) -> EngineKind {
        self.inner.kind()
    }
    fn create(&self, dir: &Path) -> Result<Arc<dyn Engine>> {
        self.inner.create(dir)
    }
    fn open(&self, dir: &Path, mode: OpenMode) -> Result<Arc<dyn Engine>> {
        let (inner, alter) = (self.inner.open(dir, mode)?, self.alter);
        let is_here = dir.to_str().unwrap().contains(self.place);
        Ok(if is_here { Arc::new(MetaEngine { inner, alter }) } else { inner })
    }
    fn clone_into(&self, from: &Path, files: &[EngineFile], into: &Path) -> Result<()> {
        (*self.inner).clone_into(from, files, into)
    }
    fn copy_beside_writer(&self, from: &Path, into: &Path) -> Result<()> {
        self.inner.copy_beside_writer(from, into)
    }
    fn check(&self, dir: &Path, files: Option<&[EngineFile]>, level: CheckLevel) -> Result<()> {
        self.inner.check(dir, files, level)
    }
}

struct MetaEngine {
    inner: Arc<dyn Engine>,
    alter: Alter,
}

impl fmt::Debug for MetaEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaEngine")
    }
}

impl Engine for MetaEngine {
    fn pin(&self) -> Pin {
        self.inner.pin()
    }
    fn get(&self, at: &Pin, key: &[u8]) -> Result<Option<Bytes>> {
        let row = self.inner.get(at, key)?;
        match key == META_KEY {
            true => Ok((self.alter)(row.unwrap().to_vec()).map(Bytes::from)),
            false => Ok(row),
        }
    }
    fn range(self: Arc<Self>, at: &Pin, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RowIter {
        Arc::clone(&self.inner).range(at, from, to)
    }
    fn apply(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> Result<()> {
        self.inner.apply(rows)
    }
    fn memtable_bytes(&self) -> u64 {
        self.inner.memtable_bytes()
    }
    fn seal(&self, last: &[(&[u8], &[u8])]) -> Result<Sealed> {
        self.inner.seal(last)
    }
    fn flush(&self, sealed: &Sealed) -> Result<()> {
        self.inner.flush(sealed)
    }
    fn checkpoint(&self, sealed: &Sealed, into: &Path) -> Result<Vec<EngineFile>> {
        self.inner.checkpoint(sealed, into)
    }
    fn compact_once(&self) -> Result<Compacted> {
        self.inner.compact_once()
    }
    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
    fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }
}

fn none(_: Vec<u8>) -> Option<Vec<u8>> {
    None
}

fn of_another_version(mut row: Vec<u8>) -> Option<Vec<u8>> {
    row[24] ^= 1;
    Some(row)
}

/// One key more in the first store: the root covers no counts.
fn with_another_count(mut row: Vec<u8>) -> Option<Vec<u8>> {
    let name_len = usize::from(row[66]);
    row[67 + name_len + 2048] ^= 64;
    Some(row)
}

fn verify(store: &Fixture, place: &'static str, alter: Alter) -> Result<StateVerification> {
    let mut components = store.components();
    let inner = Arc::new(ModelEngines::new(store.env()));
    components.engines = Some(Arc::new(MetaEngines { inner, place, alter }));
    let (dir, options) = (store.dir(), store.options.clone());
    StateDb::verify_with(dir, VerifyLevel::Replay, options, components, |_| {})
}

/// A rollback or an opening would not use it, or begin with wrong counts.
#[test]
fn a_meta_row_that_is_not_that_of_its_rows_is_found_by_a_replay() {
    let mut store = Fixture::simulated(small().retention(Retention::Manual));
    for version in [4, 8, 10] {
        store.commit_to(version);
        store.snapshot();
    }
    store.commit_to(11);
    store.close();
    let (base, snapshot) = ("/snapshots/00000000000000000004/", "/snapshots/00000000000000000008/");
    let all: [(&str, Alter, &str); 6] = [
        (snapshot, none, "snapshot 8: missing: "),
        (snapshot, of_another_version, "snapshot 8, its META row: expected version 8 of store "),
        (snapshot, with_another_count, "snapshot 8, its META row: store "),
        (base, of_another_version, "snapshot 4, its META row: expected version 4 of store "),
        ("/views/", with_another_count, "the working copy of version 11, its META row: store "),
        ("/views/", none, "the working copy: missing: "),
    ];
    for (place, alter, named) in all {
        let found = verify(&store, place, alter).unwrap_or_else(|e| panic!("{named}: {e}"));
        let findings = found.findings;
        let of_it = findings.iter().filter(|it| it.starts_with(named)).count();
        assert!(of_it == 1 && findings.len() == 1, "{named}: {findings:?}");
    }
    // The snapshot with which the replay begins.
    store.open();
    store.db().prune_snapshots_below(8).unwrap();
    store.close();
    for (alter, named) in [
        (of_another_version as Alter, "the snapshot's META row: expected version 8 of store "),
        (with_another_count, "snapshot 8: "),
    ] {
        let findings = verify(&store, snapshot, alter).unwrap().findings;
        assert!(findings.iter().any(|it| it.contains(named)), "{named}: {findings:?}");
    }
}
