//! Chooses the files that the tour loads.

use std::path::{Path, PathBuf};

use lithdb_env::{Fs, OsFs, exists};

use super::Args;
use super::tour_dir::TourDir;
use crate::failure::Failure;
use crate::files::MAX_BUFFERED_BYTES;
use crate::output::{count, counted, size};
use crate::walk::{Flow, Found, Skipped, Walk};

/// The files of the tour.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: Vec<Found>,
    pub(super) bytes: u64,
    skipped: Skipped,
    /// The number of files too large to compare in memory.
    large: u64,
    /// A limit left files out.
    is_truncated: bool,
    /// The limit was free disk space.
    is_limited_by_space: bool,
}

impl Tree {
    /// Chooses the directory and lists its files, up to the limits.
    pub(super) fn choose(args: &Args, tour_dir: &TourDir) -> Result<Self, Failure> {
        let root = match &args.path {
            Some(path) => path.clone(),
            None => default_root()?,
        };
        // Leaves half of the free space to the disk's other users.
        let room = tour_dir.free_space()? / 2;
        let is_limited_by_space = room < args.max_bytes;
        let max_bytes = args.max_bytes.min(room);
        let mut walk = Walk::new(&OsFs, &[]);
        let (mut files, mut bytes, mut is_truncated, mut large) = (Vec::new(), 0, false, 0);
        walk.run(&root, &mut |found, _| {
            if files.len() as u64 >= args.max_files || max_bytes - bytes < max_bytes / 64 {
                is_truncated = true;
                return Ok(Flow::Stop);
            }
            // A file that is too large to compare in memory does not end the walk.
            if found.len_bytes >= MAX_BUFFERED_BYTES as u64 {
                large += 1;
                return Ok(Flow::Continue);
            }
            if found.len_bytes > max_bytes - bytes {
                is_truncated = true;
                return Ok(Flow::Continue);
            }
            bytes += found.len_bytes;
            files.push(found.clone());
            Ok(Flow::Continue)
        })?;
        let root = OsFs.canonicalize(&root).map_err(|e| Failure::io(root.display(), &e))?;
        if files.is_empty() {
            let message =
                format!("{}: expected at least one regular file, found none", root.display());
            return Err(Failure::Failed(message));
        }
        let is_limited_by_space = is_limited_by_space && is_truncated;
        Ok(Self {
            root,
            files,
            bytes,
            skipped: walk.skipped,
            large,
            is_truncated,
            is_limited_by_space,
        })
    }

    /// What was left out, and why.
    pub(super) fn notes(&self, args: &Args) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_limited_by_space {
            notes.push("limited to half of the free disk space".to_owned());
        } else if self.is_truncated {
            notes.push(format!(
                "limited to {} and {} (--max-bytes, --max-files)",
                size(args.max_bytes),
                counted(args.max_files, "file")
            ));
        }
        if self.large > 0 {
            let limit = size(MAX_BUFFERED_BYTES as u64);
            notes.push(format!("skipped files of {limit} or more: {}", count(self.large)));
        }
        if let Some(skipped) = self.skipped.describe() {
            notes.push(format!("skipped {skipped}"));
        }
        notes
    }
}

fn has(dir: &Path, name: &str) -> Result<bool, Failure> {
    let path = dir.join(name);
    exists(&OsFs, &path).map_err(|e| Failure::io(path.display(), &e))
}

/// The Cargo project around the current directory, or the directory of this program.
fn default_root() -> Result<PathBuf, Failure> {
    let current =
        std::env::current_dir().map_err(|e| Failure::io("find the current directory", &e))?;
    // The lock file marks the root of a workspace; the nearest manifest may be that of a member.
    for needs_lock in [true, false] {
        for dir in current.ancestors() {
            if has(dir, "Cargo.toml")? && (!needs_lock || has(dir, "Cargo.lock")?) {
                return Ok(dir.to_owned());
            }
        }
    }
    let program = std::env::current_exe().map_err(|e| Failure::io("find this program", &e))?;
    match program.parent() {
        Some(dir) => Ok(dir.to_owned()),
        None => {
            Err(Failure::failed("expected a Cargo project here, found none; use lith tour PATH"))
        }
    }
}
