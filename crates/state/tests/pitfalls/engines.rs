//! Engines that call a hook before what they do, which may delay it or let it fail.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_state::{Error, Result};
use lithdb_state_engine::{
    CheckLevel, Compacted, Engine, EngineFile, EngineKind, EngineStats, Engines, OpenMode, Pin,
    RowIter, Sealed,
};

/// What an engine is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    Get(&'a [u8]),
    Apply,
    Seal,
    Flush,
    Checkpoint,
    Compact,
}

type Hook = Arc<dyn Fn(Call<'_>) -> Result<()> + Send + Sync>;

/// Other engines with a hook in front of every call.
#[derive(Clone)]
pub struct HookEngines {
    inner: Arc<dyn Engines>,
    hook: Hook,
}

impl fmt::Debug for HookEngines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookEngines")
    }
}

impl HookEngines {
    pub fn new(
        inner: Arc<dyn Engines>,
        hook: impl Fn(Call<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    fn wrap(&self, engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(HookEngine { inner: engine, hook: Arc::clone(&self.hook) })
    }
}

impl Engines for HookEngines {
    fn kind(&self) -> EngineKind {
        self.inner.kind()
    }
    fn create(&self, dir: &Path) -> Result<Arc<dyn Engine>> {
        Ok(self.wrap(self.inner.create(dir)?))
    }
    fn open(&self, dir: &Path, mode: OpenMode) -> Result<Arc<dyn Engine>> {
        Ok(self.wrap(self.inner.open(dir, mode)?))
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

struct HookEngine {
    inner: Arc<dyn Engine>,
    hook: Hook,
}

impl fmt::Debug for HookEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookEngine")
    }
}

impl Engine for HookEngine {
    fn pin(&self) -> Pin {
        self.inner.pin()
    }
    fn get(&self, at: &Pin, key: &[u8]) -> Result<Option<Bytes>> {
        (self.hook)(Call::Get(key))?;
        self.inner.get(at, key)
    }
    fn range(self: Arc<Self>, at: &Pin, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RowIter {
        Arc::clone(&self.inner).range(at, from, to)
    }
    fn apply(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) -> Result<()> {
        (self.hook)(Call::Apply)?;
        self.inner.apply(rows)
    }
    fn memtable_bytes(&self) -> u64 {
        self.inner.memtable_bytes()
    }
    fn seal(&self, last: &[(&[u8], &[u8])]) -> Result<Sealed> {
        (self.hook)(Call::Seal)?;
        self.inner.seal(last)
    }
    fn flush(&self, sealed: &Sealed) -> Result<()> {
        (self.hook)(Call::Flush)?;
        self.inner.flush(sealed)
    }
    fn checkpoint(&self, sealed: &Sealed, into: &Path) -> Result<Vec<EngineFile>> {
        (self.hook)(Call::Checkpoint)?;
        self.inner.checkpoint(sealed, into)
    }
    fn compact_once(&self) -> Result<Compacted> {
        (self.hook)(Call::Compact)?;
        self.inner.compact_once()
    }
    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
    fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }
}
