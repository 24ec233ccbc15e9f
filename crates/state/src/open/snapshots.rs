//! Snapshots at an opening: which can be used, and those of other branches moved aside.

use std::ops::RangeInclusive;
use std::sync::Arc;

use lithdb_env::{Error, FileKind, Result, exists_as};

use crate::dirs::{self, discard};
use crate::files::{StateId, abandoned_name};
use crate::open::Opening;
use crate::rollback::Held;
use crate::snapshot::SnapshotClass;
use crate::snapshot::list::{Classified, Found, Reference, classify, list};
use crate::wal::Log;

impl Opening {
    pub(super) fn classify_snapshots(
        &self,
        log: &Log,
        id: &StateId,
        versions: &RangeInclusive<u64>,
    ) -> Result<Vec<Classified>> {
        let fs = &*self.env.fs;
        let found = list(fs, &self.dirs)?;
        let engines = &*self.engines;
        classify(fs, found, &Reference { id: id.store, engines, log, versions: versions.clone() })
    }

    /// Moves abandoned snapshots aside, durably, and returns the valid ones. From then on none of
    /// another branch can be taken for one of this. Nothing is destroyed: a log that has lost its
    /// end by a repair looks like one that was rolled back.
    pub(super) fn abandon(&mut self, snapshots: Vec<Classified>) -> Result<Vec<Classified>> {
        let mut valid = Vec::new();
        let _locks = self.lock_abandoned(&snapshots)?;
        for snapshot in snapshots {
            let version = snapshot.found.version;
            match snapshot.class {
                SnapshotClass::Valid => valid.push(snapshot),
                SnapshotClass::Abandoned => {
                    // The new branch may come to the same root at its version on another way, and
                    // its rows would say that they were written at other versions: so it is out of
                    // the way before anything is committed.
                    self.move_aside(&snapshot.found)?;
                    self.report.abandoned.push(version);
                }
                SnapshotClass::Damaged => {
                    let Some(reason) = snapshot.reason else {
                        unreachable!("a damaged snapshot has a reason")
                    };
                    self.report.damaged.push((version, reason));
                }
                SnapshotClass::Stale => {}
            }
        }
        Ok(valid)
    }

    /// Locks those that are to be moved aside, so that nobody is just opening one by its name.
    ///
    /// # Errors
    /// `Locked` if somebody is.
    fn lock_abandoned(&mut self, snapshots: &[Classified]) -> Result<Held> {
        let mut locks = std::mem::take(&mut self.held);
        for snapshot in snapshots {
            let found = &snapshot.found;
            let is_held = locks.iter().any(|(path, _)| *path == found.path);
            if snapshot.class == SnapshotClass::Abandoned && !is_held {
                locks.push((found.path.clone(), found.lock(&*self.env.fs)?));
            }
        }
        Ok(locks)
    }

    fn move_aside(&mut self, found: &Found) -> Result<()> {
        let fs = Arc::clone(&self.env.fs);
        let fs = &*fs;
        let manifest = found.manifest.as_ref().map_err(Error::clone)?;
        dirs::create_dirs(fs, &self.dirs.abandoned())?;
        let aside = self.dirs.abandoned().join(abandoned_name(found.version, &manifest.root));
        if exists_as(fs, &aside, FileKind::Dir)? {
            // The same version with the same root was abandoned before.
            let what = format!("abandoned-{:020}", found.version);
            return discard(&self.env, &self.dirs, &found.path, &what);
        }
        dirs::rename(fs, &found.path, &aside)?;
        self.report.moved_aside.push((found.version, aside));
        Ok(())
    }
}
