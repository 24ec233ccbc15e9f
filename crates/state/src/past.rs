//! Versions that are not in memory: a snapshot, opened in place, or the empty state, and the log's
//! versions after it. For views and verifications, of an open store and of another process's alike.
//!
//! The versions are replayed in memory, up to a limit. What outgrows it is replayed from the
//! beginning in a clone of the snapshot on disk, in pieces of the size of the limit; the clone's
//! files are open when the view exists, so that it is removed at once. So a view holds open files
//! and memory, and nothing in the store's directory: no lock, no name, nothing that the writer has
//! to know.

use std::path::Path;
use std::sync::Arc;

use lithdb_env::{Error, FileLock, Result};
use lithdb_state_engine::{Compacted, Engine, OpenMode};

use crate::commit::{apply_rows, flush_at};
use crate::head::Head;
use crate::meta::Meta;
use crate::metrics::{Label, ViewMetrics};
use crate::reach::Base;
use crate::reader::{Reader, Start};
use crate::record::StoreDelta;
use crate::snapshot::take::ENGINE_DIR;
use crate::view::View;
use crate::view_clone::ViewClone;

/// The versions of a log that are replayed onto a base.
pub(crate) struct Replay<'a> {
    reader: &'a Reader,
    /// The version that is wanted, for messages.
    target: u64,
    base: Base,
    /// The base, to begin again.
    first: Meta,
    meta: Meta,
    engine: Arc<dyn Engine>,
    /// Where the engine is, if it outgrew memory.
    clone: Option<ViewClone>,
    /// Until the end: the snapshot keeps the log's versions after it.
    _lock: Option<Box<dyn FileLock>>,
}

impl Reader {
    /// A view of `target`. `None` if the snapshot from which it was to be reached was removed
    /// meanwhile.
    pub(crate) fn view(&self, target: u64) -> Result<Option<View>> {
        let Some(mut replay) = Replay::begin(self, target, target)? else { return Ok(None) };
        while replay.meta.version < target {
            if !replay.step(|_, _| Ok(()))? {
                return Ok(None);
            }
        }
        replay.into_view().map(Some)
    }

    /// A new engine in `dir` that holds the rows of `base`.
    fn clone_of(&self, base: Base, dir: &Path) -> Result<Arc<dyn Engine>> {
        let Base::Snapshot { version } = base else { return self.engines.create(dir) };
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.found.version == version);
        let Some(snapshot) = snapshot else {
            unreachable!("version {version} was chosen among the snapshots")
        };
        let manifest = snapshot.found.manifest.as_ref().map_err(Error::clone)?;
        (*self.engines).clone_into(&snapshot.found.path.join(ENGINE_DIR), &manifest.files, dir)?;
        self.engines.open(dir, OpenMode::Write)
    }
}

impl<'a> Replay<'a> {
    /// The base of version `from`, on the way to `target`. `None` if it was removed meanwhile.
    pub(crate) fn begin(reader: &'a Reader, from: u64, target: u64) -> Result<Option<Self>> {
        let Some(Start { base, engine, meta, lock }) = reader.start(from)? else { return Ok(None) };
        let first = meta.clone();
        Ok(Some(Self { reader, target, base, first, meta, engine, clone: None, _lock: lock }))
    }

    pub(crate) fn base(&self) -> Base {
        self.base
    }

    /// The version so far, by the log.
    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The rows of this version.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Replays the next version. `look` sees the rows before it, and what it changes. Returns
    /// `false` if the directory of its clone was removed meanwhile.
    pub(crate) fn step(
        &mut self,
        look: impl FnOnce(&Arc<dyn Engine>, &[StoreDelta]) -> Result<()>,
    ) -> Result<bool> {
        let deltas = self.reader.advance(&mut self.meta)?;
        look(&self.engine, &deltas)?;
        apply_rows(&*self.engine, self.meta.version, &deltas)?;
        let (bytes, limit) = (self.engine.memtable_bytes(), self.reader.view_memory_bytes);
        match self.clone {
            None if bytes > limit => self.begin_again_on_disk().map_err(|e| self.in_context(&e)),
            Some(_) if bytes >= limit => {
                flush(&*self.engine, &self.meta).map_err(|e| self.in_context(&e))?;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    /// Moves the rows to a clone of the base, in which they are replayed from the beginning.
    fn begin_again_on_disk(&mut self) -> Result<bool> {
        let reader = self.reader;
        let Some(clone) = ViewClone::create(&reader.env, &reader.dirs)? else { return Ok(false) };
        // From here nothing holds what was in memory.
        self.engine = reader.clone_of(self.base, &clone.engine_dir())?;
        self.clone = Some(clone);
        let mut meta = self.first.clone();
        while meta.version < self.meta.version {
            let deltas = reader.advance(&mut meta)?;
            apply_rows(&*self.engine, meta.version, &deltas)?;
            if self.engine.memtable_bytes() >= reader.view_memory_bytes {
                flush(&*self.engine, &meta)?;
            }
        }
        Ok(true)
    }

    fn into_view(self) -> Result<View> {
        if self.clone.is_some() && self.engine.memtable_bytes() > 0 {
            flush(&*self.engine, &self.meta).map_err(|e| self.in_context(&e))?;
        }
        let Self { reader, meta, mut engine, clone, _lock, .. } = self;
        if let Some(clone) = &clone {
            drop(engine);
            // All files are open then, and nothing is in memory.
            engine = reader.engines.open(&clone.engine_dir(), OpenMode::ReadInPlace)?;
        }
        let Meta { version, root, totals, .. } = meta;
        let head = Arc::new(Head { version, root, totals, pin: engine.pin() });
        let label = Label::of(reader.dirs.root());
        let metrics = ViewMetrics::new(&label, Arc::clone(&reader.env.clock));
        Ok(View::new(head, engine, Arc::new(metrics)))
    }

    fn in_context(&self, error: &Error) -> Error {
        let (target, limit) = (self.target, self.reader.view_memory_bytes);
        error.context(format_args!(
            "the replay to version {target} outgrows view_memory_bytes ({limit} bytes; a program \
             can raise it) and needs a clone on disk"
        ))
    }
}

/// Makes an engine in a clone forget what it has in memory.
fn flush(engine: &dyn Engine, meta: &Meta) -> Result<()> {
    flush_at(engine, meta)?;
    while engine.compact_once()? == Compacted::Some {}
    Ok(())
}
