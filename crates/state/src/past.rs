//! Views of versions that are not in memory: a snapshot, opened in place, or the empty state, and
//! the log's versions after it. For an open store and for another process's alike.
//!
//! The versions are replayed in memory, up to a limit. What outgrows it is replayed from the
//! beginning in a clone of the snapshot on disk, in pieces of the size of the limit; the clone's
//! files are open when the view exists, so that it is removed at once. So a view holds open files
//! and memory, and nothing in the store's directory: no lock, no name, nothing that the writer has
//! to know.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_state_engine::{Compacted, Engine, OpenMode};

use crate::commit::{apply_rows, flush_at};
use crate::head::Head;
use crate::meta::Meta;
use crate::reach::Base;
use crate::reader::{Reader, Start};
use crate::snapshot::take::ENGINE_DIR;
use crate::view::View;
use crate::view_clone::ViewClone;

impl Reader {
    /// A view of `target`. `None` if the snapshot from which it was to be reached was removed
    /// meanwhile.
    pub(crate) fn view(&self, target: u64) -> Result<Option<View>> {
        let Some(start) = self.start(target)? else { return Ok(None) };
        // Until the end: the snapshot keeps the log's versions after it.
        let Start { base, engine, meta: first, lock: _lock } = start;
        let mut meta = first.clone();
        while meta.version < target {
            let deltas = self.advance(&mut meta)?;
            apply_rows(&*engine, meta.version, &deltas)?;
            if engine.memtable_bytes() > self.view_memory_bytes {
                drop(engine);
                return self.view_in_clone(base, first, target).map_err(|error| {
                    let limit = self.view_memory_bytes;
                    error.context(format_args!(
                        "a view of version {target} outgrows view_memory_bytes ({limit} bytes: \
                         raise it) and needs a clone on disk"
                    ))
                });
            }
        }
        Ok(Some(view_of(meta, engine)))
    }

    /// As [`view`](Self::view), with the rows on disk. The caller holds the lock of the base.
    fn view_in_clone(&self, base: Base, mut meta: Meta, target: u64) -> Result<Option<View>> {
        let Some(clone) = ViewClone::create(&self.env, &self.dirs)? else { return Ok(None) };
        let dir = clone.engine_dir();
        let engine = self.clone_of(base, &dir)?;
        while meta.version < target {
            let deltas = self.advance(&mut meta)?;
            apply_rows(&*engine, meta.version, &deltas)?;
            if engine.memtable_bytes() >= self.view_memory_bytes || meta.version == target {
                flush_at(&*engine, &meta)?;
                while engine.compact_once()? == Compacted::Some {}
            }
        }
        drop(engine);
        // All files are open then, and nothing is in memory.
        Ok(Some(view_of(meta, self.engines.open(&dir, OpenMode::ReadInPlace)?)))
    }

    /// A new engine in `dir` that holds the rows of `base`.
    fn clone_of(&self, base: Base, dir: &std::path::Path) -> Result<Arc<dyn Engine>> {
        let Base::Snapshot { version } = base else { return self.engines.create(dir) };
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.found.version == version);
        let Some(snapshot) = snapshot else {
            unreachable!("version {version} was chosen among the snapshots")
        };
        let manifest = snapshot.found.manifest.as_ref().map_err(lithdb_env::Error::clone)?;
        (*self.engines).clone_into(&snapshot.found.path.join(ENGINE_DIR), &manifest.files, dir)?;
        self.engines.open(dir, OpenMode::Write)
    }
}

fn view_of(meta: Meta, engine: Arc<dyn Engine>) -> View {
    let Meta { version, root, totals, .. } = meta;
    let pin = engine.pin();
    View::new(Arc::new(Head { version, root, totals, pin }), engine)
}
