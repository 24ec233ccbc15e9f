//! Walks a directory tree: every regular file, in a stable order, without following symbolic
//! links.

use std::path::{Path, PathBuf};

use lithdb_env::{FileKind, Fs};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::count;
use crate::stderr::print_note;

const NOT_UTF8: &str = "its name is not UTF-8";

/// A regular file.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Path relative to the root of the walk, with `/` between the names.
    pub(crate) relative: String,
    /// Length at the time of the walk.
    pub(crate) len_bytes: u64,
}

/// What a walk skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    pub(crate) symlinks: u64,
    /// Sockets, devices, pipes.
    pub(crate) special: u64,
    /// Directories of the database.
    pub(crate) own: u64,
    /// Files and directories that were removed during the walk.
    pub(crate) vanished: u64,
}

/// A file or directory that a walk could not read.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Unreadable {
    pub(crate) path: String,
    pub(crate) cause: String,
}

/// Whether the walk continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Stop,
}

/// A walk over a directory tree.
pub(crate) struct Walk<'a> {
    fs: &'a dyn Fs,
    /// The canonical paths of the database's roots, which the walk skips.
    own: &'a [PathBuf],
    /// Skipped so far.
    pub(crate) skipped: Skipped,
    /// Unreadable so far.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl<'a> Walk<'a> {
    /// A walk that skips the directories in `own`.
    pub(crate) fn new(fs: &'a dyn Fs, own: &'a [PathBuf]) -> Self {
        Self { fs, own, skipped: Skipped::default(), unreadable: Vec::new() }
    }

    /// Calls `each` for every regular file at or below `root`: the files of a directory by name,
    /// then its subdirectories. What cannot be read is recorded, printed on standard error, and
    /// skipped.
    pub(crate) fn run(
        &mut self,
        root: &Path,
        each: &mut dyn FnMut(&Found, &mut Self) -> Result<Flow, Failure>,
    ) -> Result<(), Failure> {
        let fs = self.fs;
        let Start { root, file } = Start::find(fs, root)?;
        if let Some((relative, len_bytes)) = file {
            if self.is_own(&root) {
                self.skipped.own += 1;
                return Ok(());
            }
            return each(&Found { path: root, relative, len_bytes }, self).map(|_| ());
        }
        let mut dirs = vec![(root, String::new())];
        while let Some((dir, relative)) = dirs.pop() {
            if self.is_own(&dir) {
                self.skipped.own += 1;
                continue;
            }
            let entries = match fs.list(&dir) {
                Ok(entries) => entries,
                Err(error) => {
                    self.note_unreadable(&dir, &error);
                    continue;
                }
            };
            let mut below = Vec::new();
            for entry in entries {
                let path = dir.join(&entry.name);
                let is_taken = matches!(entry.kind, FileKind::Dir | FileKind::File);
                if is_taken && !entry.is_exact {
                    // `name` is lossy: opening it could reach another file.
                    self.refuse(&path, NOT_UTF8.to_owned());
                    continue;
                }
                let relative = match relative.as_str() {
                    "" => entry.name,
                    relative => format!("{relative}/{}", entry.name),
                };
                match entry.kind {
                    FileKind::Dir => below.push((path, relative)),
                    FileKind::Symlink => self.skipped.symlinks += 1,
                    FileKind::Other => self.skipped.special += 1,
                    FileKind::File => {
                        let Some(found) = self.stat_file(path, relative) else { continue };
                        if each(&found, self)? == Flow::Stop {
                            return Ok(());
                        }
                    }
                }
            }
            dirs.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn is_own(&self, path: &Path) -> bool {
        self.own.iter().any(|own| path.starts_with(own))
    }

    fn stat_file(&mut self, path: PathBuf, relative: String) -> Option<Found> {
        match self.fs.metadata(&path) {
            Ok(metadata) if metadata.kind == FileKind::File => {
                Some(Found { path, relative, len_bytes: metadata.len_bytes })
            }
            // No regular file any more since it was listed.
            Ok(_) => {
                self.skipped.vanished += 1;
                None
            }
            Err(error) => {
                self.note_unreadable(&path, &error);
                None
            }
        }
    }

    /// Records that `path` could not be read.
    pub(crate) fn note_unreadable(&mut self, path: &Path, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::NotFound {
            self.skipped.vanished += 1;
            return;
        }
        self.refuse(path, error.to_string());
    }

    /// Records that `path` is skipped, and prints why.
    pub(crate) fn refuse(&mut self, path: &Path, cause: String) {
        let path = path.to_string_lossy().into_owned();
        print_note(format_args!("{path}: {cause}"));
        self.unreadable.push(Unreadable { path, cause });
    }
}

/// The start of a walk.
pub(crate) struct Start {
    /// The canonical path.
    pub(crate) root: PathBuf,
    /// For a file: its name as given, which may be that of a link, and its length.
    file: Option<(String, u64)>,
}

impl Start {
    /// Checks that `root` is a directory or a regular file.
    pub(crate) fn find(fs: &dyn Fs, root: &Path) -> Result<Self, Failure> {
        let cannot = |e| Failure::io(root.display(), &e);
        let real = fs.canonicalize(root).map_err(cannot)?;
        let metadata = fs.metadata(&real).map_err(cannot)?;
        match metadata.kind {
            FileKind::Dir => Ok(Self { root: real, file: None }),
            FileKind::File => {
                let name = root.file_name().unwrap_or_default().to_str();
                let Some(name) = name else {
                    return Err(Failure::failed(format_args!("{}: {NOT_UTF8}", root.display())));
                };
                Ok(Self { root: real, file: Some((name.to_owned(), metadata.len_bytes)) })
            }
            _ => Err(Failure::failed(format_args!(
                "{}: expected a directory or a regular file",
                root.display()
            ))),
        }
    }
}

impl Skipped {
    /// A description; `None` if nothing was skipped.
    pub(crate) fn describe(&self) -> Option<String> {
        let parts = [
            ("symbolic links", self.symlinks),
            ("special files", self.special),
            ("directories of this database", self.own),
            ("files removed meanwhile", self.vanished),
        ];
        let parts = parts.into_iter().filter(|(_, number)| *number > 0);
        let parts: Vec<String> =
            parts.map(|(noun, number)| format!("{noun}: {}", count(number))).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
