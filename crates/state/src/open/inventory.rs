//! The names in a store's directory: the store's own, what was left of an interrupted operation,
//! and others, which are never touched.

use std::io;
use std::path::PathBuf;

use lithdb_env::{DirEntry, Error, FileKind, Fs, Result, remove_if_exists, sync_parent};

use crate::dirs::{Dirs, FLAT_DIR, remove_tree};
use crate::files::{is_trash_name, is_view_clone_name, parse_abandoned_name, parse_snapshot_name};
use crate::open::OpenReport;
use crate::view_clone;

/// The names of a store, apart from `state.lock` and `state.id`.
const PARTS: [&str; 4] = ["wal", "snapshots", "working", "abandoned"];

/// What a store's directory holds.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    parts: Vec<&'static str>,
    foreign: Vec<String>,
    /// Entries of the store's own directories that are not the store's.
    foreign_inside: Vec<String>,
    leftover_files: Vec<PathBuf>,
    leftover_dirs: Vec<PathBuf>,
    /// Clones of views, which may be in use.
    view_clones: Vec<PathBuf>,
}

/// Lists the directory of a store.
pub(crate) fn take(fs: &dyn Fs, dirs: &Dirs) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    for entry in fs.list(dirs.root()).map_err(|e| Error::io("list", dirs.root(), e))? {
        let name = entry.name.clone();
        let path = dirs.root().join(&entry.name);
        match (&*name, entry.kind) {
            ("state.lock" | "state.id" | "CURRENT", FileKind::File)
            | ("trash" | "views", FileKind::Dir) => {}
            ("state.id.new" | "CURRENT.new", FileKind::File) => {
                inventory.leftover_files.push(path);
            }
            ("working.new", FileKind::Dir) => inventory.leftover_dirs.push(path),
            (_, FileKind::Dir) => match PARTS.iter().find(|part| **part == name) {
                Some(part) => inventory.parts.push(part),
                None => inventory.foreign.push(name),
            },
            _ => inventory.foreign.push(name),
        }
    }
    inventory.list_snapshots(fs, dirs)?;
    inventory.list_abandoned(fs, dirs)?;
    inventory.list_trash(fs, dirs)?;
    for entry in list_if_exists(fs, &dirs.views())? {
        if entry.kind == FileKind::Dir && is_view_clone_name(&entry.name) {
            inventory.view_clones.push(dirs.views().join(&entry.name));
        }
    }
    Ok(inventory)
}

impl Inventory {
    /// A part of a store that an earlier opening made.
    pub(crate) fn first_of_a_store(&self) -> Option<&'static str> {
        self.parts.first().copied()
    }

    /// An entry that no store makes. Every ext file system has a `lost+found`.
    pub(crate) fn first_foreign(&self) -> Option<&str> {
        self.foreign.iter().map(String::as_str).find(|name| *name != "lost+found")
    }

    /// Whether there is the engine of a flat layout, or another directory of that name.
    pub(crate) fn is_flat(&self) -> bool {
        self.foreign.iter().any(|name| name == FLAT_DIR)
    }

    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    fn list_snapshots(&mut self, fs: &dyn Fs, dirs: &Dirs) -> Result<()> {
        for entry in list_if_exists(fs, &dirs.snapshots())? {
            let version = entry.name.strip_suffix(".new").and_then(parse_snapshot_name);
            if let Some(version) = version
                && entry.kind == FileKind::Dir
            {
                self.leftover_dirs.push(dirs.new_snapshot(version));
            } else if !is_own_dir(&entry, |name| parse_snapshot_name(name).is_some()) {
                self.foreign_inside.push(format!("snapshots/{}", entry.name));
            }
        }
        Ok(())
    }

    fn list_abandoned(&mut self, fs: &dyn Fs, dirs: &Dirs) -> Result<()> {
        for entry in list_if_exists(fs, &dirs.abandoned())? {
            if !is_own_dir(&entry, |name| parse_abandoned_name(name).is_some()) {
                self.foreign_inside.push(format!("abandoned/{}", entry.name));
            }
        }
        Ok(())
    }

    fn list_trash(&mut self, fs: &dyn Fs, dirs: &Dirs) -> Result<()> {
        for entry in list_if_exists(fs, &dirs.trash())? {
            if is_own_dir(&entry, is_trash_name) {
                self.leftover_dirs.push(dirs.trash().join(&entry.name));
            } else {
                self.foreign_inside.push(format!("trash/{}", entry.name));
            }
        }
        Ok(())
    }

    /// Removes what an interrupted operation left.
    pub(crate) fn remove_leftovers(
        &self,
        fs: &dyn Fs,
        dirs: &Dirs,
        report: &mut OpenReport,
    ) -> Result<()> {
        let short = |path: &PathBuf| {
            let path = path.strip_prefix(dirs.root()).map_or(path.as_path(), |path| path);
            path.display().to_string()
        };
        let removed = |path: &PathBuf, removed: Result<()>| match removed {
            Ok(()) => Ok(short(path)),
            Err(error) if error.latches() => Err(error),
            // Nothing refers to it: it may stay.
            Err(error) => Ok(format!("{} (not removed: {error})", short(path))),
        };
        for file in &self.leftover_files {
            report.leftovers.push(removed(file, remove_if_exists(fs, file))?);
        }
        for dir in &self.leftover_dirs {
            let gone = remove_tree(fs, dir).and_then(|()| sync_parent(fs, dir));
            report.leftovers.push(removed(dir, gone)?);
        }
        for dir in &self.view_clones {
            let gone = view_clone::remove_orphan(fs, dir);
            if !matches!(gone, Ok(false)) {
                report.leftovers.push(removed(dir, gone.map(drop))?);
            }
        }
        report.foreign.extend(self.foreign.iter().chain(&self.foreign_inside).cloned());
        Ok(())
    }
}

fn is_own_dir(entry: &DirEntry, is_own: impl Fn(&str) -> bool) -> bool {
    entry.is_exact && entry.kind == FileKind::Dir && is_own(&entry.name)
}

fn list_if_exists(fs: &dyn Fs, dir: &std::path::Path) -> Result<Vec<DirEntry>> {
    match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io("list", dir, e)),
    }
}
