//! Walking a tree of files: everything regular, in an order that does not change, following no link.

use std::path::{Path, PathBuf};

use lithdb::env::{FileKind, Fs};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{counted, print_note};

const NOT_UTF8: &str = "its name is not UTF-8";

/// A regular file below the root of a walk.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its path from the root of the walk, with `/` between the names.
    pub(crate) relative: String,
    /// Its length when it was seen.
    pub(crate) len_bytes: u64,
}

/// What a walk passed by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// Symbolic links.
    pub(crate) symlinks: u64,
    /// Sockets, devices, pipes.
    pub(crate) special: u64,
    /// Directories of the database itself.
    pub(crate) own: u64,
    /// Files and directories that were gone when their turn came.
    pub(crate) vanished: u64,
}

/// What a walk could not look at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Unreadable {
    /// Where.
    pub(crate) path: String,
    /// Why.
    pub(crate) cause: String,
}

/// Whether the walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    Continue,
    /// Enough was seen.
    Stop,
}

/// A walk over a tree.
pub(crate) struct Walk<'a> {
    fs: &'a dyn Fs,
    /// Directories of which nothing is taken, without links in their paths.
    own: &'a [PathBuf],
    /// What was passed by so far.
    pub(crate) skipped: Skipped,
    /// What could not be looked at so far.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl<'a> Walk<'a> {
    /// A walk that takes nothing from the directories in `own`.
    pub(crate) fn new(fs: &'a dyn Fs, own: &'a [PathBuf]) -> Self {
        Self { fs, own, skipped: Skipped::default(), unreadable: Vec::new() }
    }

    /// Hands every regular file at or below `root` to `each`: a directory's files in the order of their names, then its
    /// directories. What cannot be read is noted, said on standard error, and passed by.
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
                    // What can be opened by this name is another file.
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
            // Replaced by something else since it was listed.
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

    /// Notes that `path` could not be read.
    pub(crate) fn note_unreadable(&mut self, path: &Path, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::NotFound {
            self.skipped.vanished += 1;
            return;
        }
        self.refuse(path, error.to_string());
    }

    /// Notes that `path` is not taken, and why, and says so.
    pub(crate) fn refuse(&mut self, path: &Path, cause: String) {
        let path = path.to_string_lossy().into_owned();
        print_note(format_args!("{path}: {cause}"));
        self.unreadable.push(Unreadable { path, cause });
    }
}

/// Where a walk begins.
pub(crate) struct Start {
    /// Without links.
    pub(crate) root: PathBuf,
    /// If it is a file and no directory: the name by which it was given, which may be that of a link, and the length.
    file: Option<(String, u64)>,
}

impl Start {
    /// Looks whether there is anything to walk at `root`.
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
    /// In words, or nothing.
    pub(crate) fn describe(&self) -> Option<String> {
        let parts = [
            (self.symlinks, "symbolic link"),
            (self.special, "special file"),
            (self.own, "directory of the database itself"),
            (self.vanished, "file that vanished meanwhile"),
        ];
        let words: Vec<String> = parts
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, noun)| match noun.split_once(' ') {
                // The plural belongs to the noun, which is not always the last word.
                Some((noun @ ("directory" | "file"), rest)) if number != 1 => {
                    let nouns = if noun == "file" { "files" } else { "directories" };
                    format!("{number} {nouns} {rest}")
                }
                _ => counted(number, noun),
            })
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}
