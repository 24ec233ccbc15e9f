//! The model engine: the contract on [`lithdb_env::Fs`], as simply as it can be kept.
//!
//! `ModelEngines::new(env: Env)` makes the factory. All rows are in memory, with all their moments
//! that somebody may still read. A flush writes one sorted file, `run-<id>`, and then replaces the
//! file `manifest`, which names the runs from the oldest to the newest with lengths and digests.
//! Runs are never written again, and an id is not used twice while an engine is open.
//!
//! For tests of what stands on an engine: a simulated disk can crash it or fail it at every
//! operation. Not for production: it holds everything in memory.

mod engine;
mod rows;
mod run;

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Env, Error, FileKind, Result, leftover_of, remove_if_exists, sync_parent};

use self::engine::ModelEngine;
use self::run::Manifest;
use crate::engine::{CheckLevel, Engine, EngineFile, EngineKind, Engines, OpenMode};
use crate::files;

/// The engines of tests: see the module's description in the source.
#[derive(Debug, Clone)]
pub struct ModelEngines {
    env: Env,
}

impl ModelEngines {
    /// Engines on the file system of `env`.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self { env }
    }
}

/// An empty engine without a directory: what is applied stays in memory. For reading a history
/// that begins with nothing.
///
/// # Errors
/// `Exhausted` without memory.
pub fn in_memory(env: Env) -> Result<Arc<dyn Engine>> {
    let (mode, nothing) = (OpenMode::ReadInPlace, Manifest::default());
    Ok(Arc::new(ModelEngine::open(env, Path::new(""), mode, nothing, 0)?))
}

impl Engines for ModelEngines {
    fn kind(&self) -> EngineKind {
        EngineKind { name: "model".to_owned(), version: "1".to_owned() }
    }

    fn create(&self, dir: &Path) -> Result<Arc<dyn Engine>> {
        let fs = &*self.env.fs;
        files::require_absent(fs, dir)?;
        fs.create_dir(dir).map_err(|e| Error::io("create directory", dir, e))?;
        Manifest::default().write(fs, dir)?;
        sync_parent(fs, dir)?;
        self.open(dir, OpenMode::Write)
    }

    fn open(&self, dir: &Path, mode: OpenMode) -> Result<Arc<dyn Engine>> {
        self.check(dir, None, CheckLevel::Names)?;
        let manifest = Manifest::read(&*self.env.fs, dir)?;
        let last_id = match mode {
            OpenMode::Write => remove_orphans(&self.env, dir, &manifest)?,
            OpenMode::ReadInPlace => 0,
        };
        let engine = ModelEngine::open(self.env.clone(), dir, mode, manifest, last_id)?;
        Ok(Arc::new(engine))
    }

    fn clone_into(&self, from: &Path, files: &[EngineFile], into: &Path) -> Result<()> {
        files::clone_files(&*self.env.fs, from, files, into, &[])
    }

    fn copy_beside_writer(&self, from: &Path, into: &Path) -> Result<()> {
        let fs = &*self.env.fs;
        files::require_absent(fs, into)?;
        let manifest = Manifest::read(fs, from)?;
        fs.create_dir(into).map_err(|e| Error::io("create directory", into, e))?;
        manifest.copy(fs, from, into).map(drop)
    }

    fn check(&self, dir: &Path, files: Option<&[EngineFile]>, level: CheckLevel) -> Result<()> {
        let fs = &*self.env.fs;
        let manifest = Manifest::read(fs, dir)?;
        for run in &manifest.runs {
            files::require_len(fs, &run.path(dir), run.len)?;
            if level == CheckLevel::Bytes {
                run.read(fs, dir)?;
            }
        }
        files.map_or(Ok(()), |files| files::check_files(fs, dir, files, level))
    }
}

/// Removes what an interrupted flush or compaction left, by exact name. Returns the highest id of
/// a run that is or was there: a removal that a crash undoes must not meet a new run of its id.
fn remove_orphans(env: &Env, dir: &Path, manifest: &Manifest) -> Result<u64> {
    let entries = env.fs.list(dir).map_err(|e| Error::io("list", dir, e))?;
    let mut last_id = 0;
    for entry in entries.iter().filter(|entry| entry.is_exact && entry.kind == FileKind::File) {
        let id = run::id_of(&entry.name);
        last_id = last_id.max(id.unwrap_or(0));
        let is_orphan = id.is_some_and(|id| manifest.runs.iter().all(|run| run.id != id));
        if is_orphan || leftover_of(&entry.name) == Some(run::MANIFEST) {
            remove_if_exists(&*env.fs, &dir.join(&entry.name))?;
        }
    }
    Ok(last_id)
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
