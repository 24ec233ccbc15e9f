//! Where the tour's database is: a directory of its own, removed with everything in it, or the one to keep.

use std::path::{Path, PathBuf};

use lithdb::env::{Clock, FileKind, Fs, OsClock, OsFs};

use crate::failure::Failure;

/// The directory of the tour's database.
pub(super) struct Place {
    path: PathBuf,
    is_kept: bool,
}

impl Place {
    /// Makes a directory under the system's temporary one, or the one to keep.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let (wanted, is_kept) = match keep {
            Some(path) => (path.to_owned(), true),
            None => {
                let number = OsClock::new().random_u64().map_err(|e| Failure::io("random", &e))?;
                (std::env::temp_dir().join(format!("lith-tour-{number:016x}")), false)
            }
        };
        let cannot = |e: std::io::Error| Failure::io(wanted.display(), &e);
        match OsFs.create_dir(&wanted) {
            Ok(()) => {}
            Err(error) if is_kept && error.kind() == std::io::ErrorKind::AlreadyExists => {
                if !OsFs.list(&wanted).map_err(cannot)?.is_empty() {
                    let message =
                        format!("{}: expected a new or empty directory", wanted.display());
                    return Err(Failure::Failed(message));
                }
            }
            Err(error) => return Err(cannot(error)),
        }
        let path = OsFs.canonicalize(&wanted).map_err(cannot)?;
        let place = Self { path, is_kept };
        for root in place.roots() {
            OsFs.create_dir(&root).map_err(|e| Failure::io(root.display(), &e))?;
        }
        Ok(place)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database's roots.
    pub(super) fn roots(&self) -> [PathBuf; 2] {
        [self.path.join("root-a"), self.path.join("root-b")]
    }

    /// Whether the database stays when the tour is over.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Bytes that may be written here.
    pub(super) fn free_space(&self) -> Result<u64, Failure> {
        OsFs.free_space(&self.path).map_err(|e| Failure::io(self.path.display(), &e))
    }

    /// Removes the directory, which this program made, with everything in it.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        remove_tree(&self.path).map_err(|e| Failure::io(self.path.display(), &e))
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in OsFs.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.kind {
            FileKind::Dir => remove_tree(&path)?,
            _ => OsFs.remove_file(&path)?,
        }
    }
    OsFs.remove_dir(dir)
}
