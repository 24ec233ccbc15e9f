//! Taking a snapshot of a flushed memtable.

use std::path::Path;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Result, exists_as, sync_parent};
use lithdb_state_engine::{CheckLevel, Engine, Engines, Sealed};

use crate::dirs::{self, Dirs, create_dir, remove_tree};
use crate::files::{CurrentFile, SnapshotManifest, StoreId, StoreSummary};
use crate::head::Head;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::totals::Totals;

/// The directory of the engine's files in a snapshot.
pub(crate) const ENGINE_DIR: &str = "engine";

/// Takes a snapshot of `head`, whose last memtable is `sealed` and has been flushed. If there is
/// one of this version and root, it is that one.
///
/// Everything in `<version>.new` is durable before the rename, which makes the snapshot exist.
pub(crate) fn take(shared: &Shared, sealed: &Sealed, head: &Head) -> Result<Snapshot> {
    let started = shared.env.clock.monotonic();
    let fs = &*shared.env.fs;
    let path = shared.dirs.snapshot(head.version);
    if exists_as(fs, &path, FileKind::Dir)? {
        return existing(shared, head, &path);
    }
    let new = shared.dirs.new_snapshot(head.version);
    remove_tree(fs, &new)?;
    let source = Source {
        env: &shared.env,
        dirs: &shared.dirs,
        engines: &*shared.engines,
        engine: &*shared.engine,
        store: shared.id,
        version: head.version,
        totals: &head.totals,
    };
    let made = make(&source, sealed, &new).and_then(|manifest| {
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
    if let Err(error) = CurrentFile::of(&manifest).write(fs, &shared.dirs.current()) {
        // The snapshot exists, and nobody believes the file.
        tracing::warn!(%error, "CURRENT does not name the newest snapshot");
    }
    let mut snapshot = describe(&manifest, &path);
    snapshot.set_took(shared.env.clock.monotonic().saturating_sub(started));
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

fn existing(shared: &Shared, head: &Head, path: &Path) -> Result<Snapshot> {
    let manifest = SnapshotManifest::read(&*shared.env.fs, path)?;
    if manifest.root == head.root && manifest.store == shared.id {
        let engine = path.join(ENGINE_DIR);
        shared.engines.check(&engine, Some(&manifest.files), CheckLevel::Names)?;
        // Its rename may have been interrupted.
        sync_parent(&*shared.env.fs, path)?;
        return Ok(describe(&manifest, path));
    }
    let message = format!(
        "a snapshot of version {} with another root ({}) is there; expected {}: move it away",
        head.version, manifest.root, head.root
    );
    Err(Error::at(ErrorKind::Foreign, path, message))
}

/// What a snapshot is made of.
pub(crate) struct Source<'a> {
    pub(crate) env: &'a Env,
    pub(crate) dirs: &'a Dirs,
    pub(crate) engines: &'a dyn Engines,
    pub(crate) engine: &'a dyn Engine,
    pub(crate) store: StoreId,
    pub(crate) version: u64,
    pub(crate) totals: &'a Totals,
}

/// Makes the snapshot in `new`, durable but for its name.
pub(crate) fn make(source: &Source<'_>, sealed: &Sealed, new: &Path) -> Result<SnapshotManifest> {
    let Source { env, dirs, engines, engine, store, version, totals } = source;
    let fs = &*env.fs;
    let into = new.join(ENGINE_DIR);
    dirs::create_dirs(fs, &dirs.snapshots())?;
    create_dir(fs, new)?;
    create_dir(fs, &into)?;
    let files = engine.checkpoint(sealed, &into)?;
    let manifest = SnapshotManifest {
        store: *store,
        version: *version,
        root: totals.root(),
        stores: totals.iter().map(|(name, totals)| StoreSummary::of(name, totals)).collect(),
        engine: engines.kind(),
        created: env.clock.now(),
        files,
    };
    manifest.write(fs, new)?;
    sync_parent(fs, &into)?;
    Ok(manifest)
}
