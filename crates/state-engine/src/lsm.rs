//! The production engine: tables and manifests of the crate `lsm-tree`, memtables and moments of
//! our own.
//!
//! `lsm-tree` writes, reads, merges and registers the sorted tables. This module keeps what the
//! contract needs beyond that:
//!
//! - **Memtables** (`engine.rs`). `lsm-tree` holds the lock of its memtables while it writes and
//!   syncs a manifest. Ours are swapped without I/O, and a flush that failed still has them.
//! - **Views** (`view.rs`). A pin holds the memtables and the tables that it reads. Nothing is
//!   looked up by sequence number later, so collection may drop every older version of a row: it
//!   only does so in new tables, which no older pin reads.
//! - **The guard** (`guard.rs`). `lsm-tree` believes lengths in a manifest and in the tables'
//!   tables of contents before it has checked them; one flipped bit makes it ask for gigabytes and
//!   abort. We check those bytes before it sees them.
//! - **Checkpoints** (`checkpoint.rs`), which `lsm-tree` does not offer.
//! - **Panics** (`error.rs`) become errors that latch.
//!
//! `lsm-tree` calls `std::fs` itself, past [`lithdb_env::Fs`]; so these files can only be on the
//! operating system's file system. Our own calls use [`OsFs`]. The version of `lsm-tree` is pinned:
//! this module relies on the order of its writes and on the format of its manifest, and uses
//! interfaces that its documentation hides.

mod archive;
mod checkpoint;
mod engine;
mod error;
mod guard;
mod lifetime;
mod view;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Fs, OsFs, Result, sync_parent};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, SequenceNumberCounter, Tree};
use serde::{Deserialize, Serialize};

use self::engine::LsmEngine;
use self::guard::Manifest;
use crate::engine::{CheckLevel, Engine, EngineFile, EngineKind, Engines, OpenMode};
use crate::files;

/// The directory of the tables, below the engine's.
const TABLES: &str = "tables";

/// How the production engine uses memory and disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LsmOptions {
    /// The size of the block cache, which all engines of one [`LsmEngines`] share, in bytes.
    /// Default: 256 MiB.
    pub cache_bytes: u64,
    /// The size of a table that compaction writes, in bytes: at least 4 KiB. Every table holds a
    /// file open. A flush writes tables of at most 64 MiB, whatever this is. Default: 64 MiB.
    pub table_bytes: u64,
    /// The number of tables in level 0 from which compaction merges them: at least 1. Default: 4.
    pub level_0_tables: u8,
}

impl Default for LsmOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, table_bytes: 64 << 20, level_0_tables: 4 }
    }
}

impl LsmOptions {
    fn validate(&self) -> Result<()> {
        if self.table_bytes >= 4 << 10 && self.level_0_tables >= 1 {
            return Ok(());
        }
        let message = format!(
            "expected `table_bytes` of at least 4096 and `level_0_tables` of at least 1, found {} and {}",
            self.table_bytes, self.level_0_tables
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}

/// The production engines, on the operating system's file system. Cheap to clone; clones share the
/// block cache.
#[derive(Clone)]
pub struct LsmEngines {
    options: LsmOptions,
    cache: Arc<Cache>,
    fs: Arc<dyn Fs>,
}

impl fmt::Debug for LsmEngines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmEngines").field("options", &self.options).finish_non_exhaustive()
    }
}

impl LsmEngines {
    /// Engines with these options, which are checked when the first one is created or opened.
    #[must_use]
    pub fn new(options: LsmOptions) -> Self {
        let cache = Arc::new(Cache::with_capacity_bytes(options.cache_bytes));
        Self { options, cache, fs: Arc::new(OsFs) }
    }

    fn tree(&self, dir: &Path) -> Result<Tree> {
        self.options.validate()?;
        // The tree's own counters only number its manifests: moments are counted by the engine.
        let counters = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let config = Config::new(dir, counters.0, counters.1)
            .use_cache(Arc::clone(&self.cache))
            // Every table holds its file open: the removal of the file does not matter then.
            .use_descriptor_table(None);
        let opened = error::caught(|| config.open()).map_err(|e| e.of_read("open", dir))?;
        match opened {
            AnyTree::Standard(tree) => Ok(tree),
            AnyTree::Blob(_) => unreachable!("a tree without key-value separation is standard"),
        }
    }
}

impl LsmEngines {
    /// The tree of a manifest that was checked. Where `lsm-tree` finds no directory it creates one:
    /// that is not taken for the engine whose directory somebody has moved meanwhile.
    fn tree_of(&self, dir: &Path, manifest: &Manifest) -> Result<Tree> {
        let tree = self.tree(dir)?;
        let version = tree.current_version();
        if version.id() == manifest.current.version
            && version.table_count() == manifest.tables.len()
        {
            return Ok(tree);
        }
        let message = format!(
            "expected version {} of the engine with {} tables, found version {} with {}: its \
             directory was moved or replaced while it was being opened",
            manifest.current.version,
            manifest.tables.len(),
            version.id(),
            version.table_count()
        );
        Err(Error::at(ErrorKind::Missing, dir, message))
    }
}

impl Engines for LsmEngines {
    fn kind(&self) -> EngineKind {
        EngineKind { name: "lsm-tree".to_owned(), version: "3.1.10".to_owned() }
    }

    fn create(&self, dir: &Path) -> Result<Arc<dyn Engine>> {
        self.options.validate()?;
        files::require_absent(&*self.fs, dir)?;
        lifetime::require_unread(dir)?;
        self.fs.create_dir(dir).map_err(|e| Error::io("create directory", dir, e))?;
        drop(self.tree(dir)?);
        sync_parent(&*self.fs, dir)?;
        self.open(dir, OpenMode::Write)
    }

    fn open(&self, dir: &Path, mode: OpenMode) -> Result<Arc<dyn Engine>> {
        let manifest = Manifest::read(&*self.fs, dir)?;
        manifest.check_tables(&*self.fs, dir)?;
        match mode {
            OpenMode::Write => guard::remove_leftovers(&*self.fs, dir)?,
            OpenMode::ReadInPlace => manifest.require_no_orphans(&*self.fs, dir)?,
        }
        let tree = self.tree_of(dir, &manifest)?;
        let engine = LsmEngine::new(Arc::clone(&self.fs), dir, mode, &self.options, tree)?;
        Ok(Arc::new(engine))
    }

    fn clone_into(&self, from: &Path, files: &[EngineFile], into: &Path) -> Result<()> {
        lifetime::require_unread(into)?;
        files::clone_files(&*self.fs, from, files, into, &[TABLES])
    }

    fn copy_beside_writer(&self, from: &Path, into: &Path) -> Result<()> {
        files::require_absent(&*self.fs, into)?;
        lifetime::require_unread(into)?;
        let manifest = Manifest::read(&*self.fs, from)?;
        self.fs.create_dir(into).map_err(|e| Error::io("create directory", into, e))?;
        checkpoint::copy(&*self.fs, from, &manifest, into).map(drop)
    }

    fn check(&self, dir: &Path, files: Option<&[EngineFile]>, level: CheckLevel) -> Result<()> {
        let fs = &*self.fs;
        let manifest = Manifest::read(fs, dir)?;
        manifest.check_tables(fs, dir)?;
        let files = files.unwrap_or(&[]);
        if level == CheckLevel::Bytes {
            manifest.check_digests(fs, dir, files)?;
        }
        files::check_files(fs, dir, files, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sealed;

    #[test]
    fn an_engine_that_was_moved_away_while_it_was_being_opened_is_not_one_without_rows() {
        let dir = tempfile::tempdir().unwrap();
        let (engines, path) = (LsmEngines::new(LsmOptions::default()), dir.path().join("engine"));
        let engine = engines.create(&path).unwrap();
        let sealed: Sealed = engine.seal(&[(b"key", b"value")]).unwrap();
        engine.flush(&sealed).unwrap();
        drop(engine);
        let manifest = Manifest::read(&OsFs, &path).unwrap();
        assert!(engines.tree_of(&path, &manifest).is_ok());
        OsFs.rename(&path, &dir.path().join("elsewhere")).unwrap();
        let error = engines.tree_of(&path, &manifest).err().expect("another engine");
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        let elsewhere = dir.path().join("elsewhere");
        assert_eq!(Manifest::read(&OsFs, &elsewhere).unwrap(), manifest);
    }
}
