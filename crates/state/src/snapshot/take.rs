//! Taking a snapshot of a flushed memtable.

use std::path::Path;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Result, exists_as, sync_parent};
use lithdb_state_engine::{CheckLevel, Engine, Engines, Sealed};

use crate::dirs::{self, Dirs, create_dir, remove_tree};
use crate::files::{CurrentFile, SnapshotManifest, StoreId, StoreSummary};
use crate::head::Head;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// The directory of the engine's files in a snapshot.
pub(crate) const ENGINE_DIR: &str = "engine";

/// What a snapshot is taken of: an engine of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) env: &'a Env,
    pub(crate) dirs: &'a Dirs,
    pub(crate) engines: &'a dyn Engines,
    pub(crate) engine: &'a dyn Engine,
    pub(crate) store: StoreId,
}

/// Takes a snapshot of the working copy of an open store: see [`take_of`].
pub(crate) fn take(shared: &Shared, sealed: &Sealed, head: &Head) -> Result<Snapshot> {
    let subject = Subject {
        env: &shared.env,
        dirs: &shared.dirs,
        engines: &*shared.engines,
        engine: &*shared.engine,
        store: shared.id,
    };
    take_of(subject, sealed, head)
}

/// Takes a snapshot of `head`, whose last memtable is `sealed` and has been flushed. If there is
/// one of this version and root, it is that one.
///
/// Everything in `<version>.new` is durable before the rename, which makes the snapshot exist.
pub(crate) fn take_of(subject: Subject<'_>, sealed: &Sealed, head: &Head) -> Result<Snapshot> {
    let started = subject.env.clock.monotonic();
    let fs = &*subject.env.fs;
    let path = subject.dirs.snapshot(head.version);
    if exists_as(fs, &path, FileKind::Dir)? {
        return existing(subject, head, &path);
    }
    let new = subject.dirs.new_snapshot(head.version);
    remove_tree(fs, &new)?;
    let made = make(subject, sealed, head, &new).and_then(|manifest| {
        dirs::rename(fs, &new, &path)?;
        Ok(manifest)
    });
    let manifest = match made {
        Ok(manifest) => manifest,
        Err(error) => {
            if let Err(left) = remove_tree(fs, &new) {
                tracing::warn!(error = %left, "an unfinished snapshot stays until the next open");
            }
            return Err(error);
        }
    };
    if let Err(error) = CurrentFile::of(&manifest).write(fs, &subject.dirs.current()) {
        // The snapshot exists, and nobody believes the file.
        tracing::warn!(%error, "CURRENT does not name the newest snapshot");
    }
    let mut snapshot = describe(&manifest, &path);
    snapshot.set_took(subject.env.clock.monotonic().saturating_sub(started));
    Ok(snapshot)
}

fn describe(manifest: &SnapshotManifest, path: &Path) -> Snapshot {
    Snapshot {
        version: manifest.version,
        root: manifest.root,
        bytes: manifest.files.iter().map(|file| file.len).sum(),
        took_ms: 0,
        path: path.to_path_buf(),
    }
}

fn existing(subject: Subject<'_>, head: &Head, path: &Path) -> Result<Snapshot> {
    let manifest = SnapshotManifest::read(&*subject.env.fs, path)?;
    if manifest.root == head.root && manifest.store == subject.store {
        let engine = path.join(ENGINE_DIR);
        subject.engines.check(&engine, Some(&manifest.files), CheckLevel::Names)?;
        // Its rename may have been interrupted.
        sync_parent(&*subject.env.fs, path)?;
        return Ok(describe(&manifest, path));
    }
    let message = format!(
        "a snapshot of version {} with another root ({}) is there; expected {}: move it away",
        head.version, manifest.root, head.root
    );
    Err(Error::at(ErrorKind::Foreign, path, message))
}

fn make(
    subject: Subject<'_>,
    sealed: &Sealed,
    head: &Head,
    new: &Path,
) -> Result<SnapshotManifest> {
    let fs = &*subject.env.fs;
    create_dirs_of(subject, new)?;
    let files = subject.engine.checkpoint(sealed, &new.join(ENGINE_DIR))?;
    let manifest = SnapshotManifest {
        store: subject.store,
        version: head.version,
        root: head.root,
        stores: head.totals.iter().map(|(name, totals)| StoreSummary::of(name, totals)).collect(),
        engine: subject.engines.kind(),
        created: subject.env.clock.now(),
        files,
    };
    manifest.write(fs, new)?;
    sync_parent(fs, &new.join(ENGINE_DIR))?;
    Ok(manifest)
}

fn create_dirs_of(subject: Subject<'_>, new: &Path) -> Result<()> {
    let fs = &*subject.env.fs;
    dirs::create_dirs(fs, &subject.dirs.snapshots())?;
    create_dir(fs, new)?;
    create_dir(fs, &new.join(ENGINE_DIR))
}
