//! Which files the tour takes.

use std::path::{Path, PathBuf};

use lithdb::env::{Fs, OsFs, exists};

use super::Args;
use super::tour_dir::TourDir;
use crate::failure::Failure;
use crate::files::MAX_BUFFERED_BYTES;
use crate::output::{counted, size};
use crate::walk::{Flow, Found, Skipped, Walk};

/// The files of the tour.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: Vec<Found>,
    pub(super) bytes: u64,
    skipped: Skipped,
    /// How many files are too large to be compared in memory.
    large: u64,
    /// There are more than were taken.
    is_truncated: bool,
    /// The disk has no room for all that was allowed.
    is_limited_by_space: bool,
}

impl Tree {
    /// Chooses the tree and looks at what is in it.
    pub(super) fn choose(args: &Args, tour_dir: &TourDir) -> Result<Self, Failure> {
        let root = match &args.path {
            Some(path) => path.clone(),
            None => default_root()?,
        };
        // The database needs as much again, and the disk has other users.
        let room = tour_dir.free_space()? / 2;
        let is_limited_by_space = room < args.max_bytes;
        let most = args.max_bytes.min(room);
        let mut walk = Walk::new(&OsFs, &[]);
        let (mut files, mut bytes, mut is_truncated, mut large) = (Vec::new(), 0, false, 0);
        walk.run(&root, &mut |found, _| {
            if files.len() as u64 >= args.max_files || most - bytes < most / 64 {
                is_truncated = true;
                return Ok(Flow::Stop);
            }
            // Files are compared in memory. One that is too large does not keep out the smaller ones behind it.
            if found.len_bytes >= MAX_BUFFERED_BYTES as u64 {
                large += 1;
                return Ok(Flow::Continue);
            }
            if found.len_bytes > most - bytes {
                is_truncated = true;
                return Ok(Flow::Continue);
            }
            bytes += found.len_bytes;
            files.push(found.clone());
            Ok(Flow::Continue)
        })?;
        let root = OsFs.canonicalize(&root).map_err(|e| Failure::io(root.display(), &e))?;
        if files.is_empty() {
            let message = format!("{}: expected files for the tour, found none", root.display());
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

    /// What there is to say about the choice.
    pub(super) fn notes(&self, args: &Args) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_limited_by_space {
            notes
                .push("not all of it: half of the free disk space is enough for a tour".to_owned());
        } else if self.is_truncated {
            notes.push(format!(
                "not all of it: the limit is {} and {} (--max-bytes, --max-files)",
                size(args.max_bytes),
                counted(args.max_files, "file")
            ));
        }
        if self.large > 0 {
            let files = counted(self.large, "file");
            notes.push(format!("left out: {files} of {} or more", size(MAX_BUFFERED_BYTES as u64)));
        }
        if let Some(skipped) = self.skipped.describe() {
            notes.push(format!("passed by: {skipped}"));
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
    let current = std::env::current_dir().map_err(|e| Failure::io("current directory", &e))?;
    // A workspace has its lock file at the top; the nearest manifest may be that of a member.
    for needs_lock in [true, false] {
        for dir in current.ancestors() {
            if has(dir, "Cargo.toml")? && (!needs_lock || has(dir, "Cargo.lock")?) {
                return Ok(dir.to_owned());
            }
        }
    }
    let program = std::env::current_exe().map_err(|e| Failure::io("this program", &e))?;
    match program.parent() {
        Some(dir) => Ok(dir.to_owned()),
        None => {
            Err(Failure::failed("expected a Cargo project here; name a directory: lith tour PATH"))
        }
    }
}
