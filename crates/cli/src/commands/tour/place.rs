//! Where the tour's database is: a directory of its own, removed with everything in it however the tour ends, or the one
//! to keep.

use std::path::{Path, PathBuf};

use lithdb::env::{Clock, FileKind, Fs, OsClock, OsFs, exists};

use super::signals::Doom;
use crate::failure::Failure;

/// Where the directory will be. Nothing is made yet.
pub(super) struct Site {
    path: PathBuf,
    is_kept: bool,
}

/// The directory of the tour's database. Dropped, it is gone, unless it is kept.
pub(super) struct Place {
    path: PathBuf,
    is_kept: bool,
    /// Removes it if a signal ends the tour. `None` for one that is kept.
    doom: Option<Doom>,
}

impl Site {
    /// A name under the system's temporary directory, or the directory to keep, which must be new or empty.
    pub(super) fn choose(keep: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = keep else {
            let dir = std::env::temp_dir();
            let dir = OsFs.canonicalize(&dir).map_err(|e| Failure::io(dir.display(), &e))?;
            let number = OsClock::new().random_u64().map_err(|e| Failure::io("random", &e))?;
            return Ok(Self { path: dir.join(format!("lith-tour-{number:016x}")), is_kept: false });
        };
        let site = Self { path: path.to_owned(), is_kept: true };
        let cannot = |e: std::io::Error| Failure::io(path.display(), &e);
        if exists(&OsFs, path).map_err(cannot)? && !OsFs.list(path).map_err(cannot)?.is_empty() {
            let message = format!("{}: expected a new or empty directory", path.display());
            return Err(Failure::Failed(message));
        }
        Ok(site)
    }

    /// Bytes that may be written there.
    pub(super) fn free_space(&self) -> Result<u64, Failure> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        OsFs.free_space(&self.path)
            .or_else(|_| OsFs.free_space(parent))
            .map_err(|e| Failure::io(parent.display(), &e))
    }

    /// Makes the directory, and one for each root.
    pub(super) fn make(self) -> Result<Place, Failure> {
        let Self { path, is_kept } = self;
        let cannot = |e: std::io::Error| Failure::io(path.display(), &e);
        if is_kept {
            match OsFs.create_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(cannot(error));
                }
                _ => {}
            }
            let path = OsFs.canonicalize(&path).map_err(cannot)?;
            return Place { path, is_kept, doom: None }.with_roots();
        }
        // Whatever comes is removed: the watch begins before there is anything.
        let doom = Doom::of(path.clone()).map_err(|e| Failure::io("watch for signals", &e))?;
        doom.unless_it_comes(|| OsFs.create_dir(&path)).map_err(cannot)?;
        Place { path, is_kept, doom: Some(doom) }.with_roots()
    }
}

impl Place {
    fn with_roots(self) -> Result<Self, Failure> {
        for root in self.roots() {
            if let Err(error) = OsFs.create_dir(&root) {
                #[expect(clippy::let_underscore_must_use, reason = "what failed first is said")]
                let _ = self.roots().map(|root| OsFs.remove_dir(&root));
                return Err(Failure::io(root.display(), &error));
            }
        }
        Ok(self)
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

    /// It stays, whatever comes.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
        if let Some(doom) = &self.doom {
            doom.avert();
        }
    }

    /// Removes the directory, which this program made, with everything in it.
    pub(super) fn remove(mut self) -> Result<(), Failure> {
        self.is_kept = true;
        let remove = || remove_tree(&self.path);
        let removed = match &self.doom {
            Some(doom) => doom.unless_it_comes(remove),
            None => remove(),
        };
        if let Some(doom) = &self.doom {
            doom.avert();
        }
        removed.map_err(|e| Failure::io(self.path.display(), &e))
    }
}

impl Drop for Place {
    /// The tour ended in a way that nobody thought of.
    fn drop(&mut self) {
        if !self.is_kept {
            #[expect(clippy::let_underscore_must_use, reason = "a panic says why it ended")]
            let _ = remove_tree(&self.path);
        }
    }
}

/// Removes a directory with everything in it.
pub(super) fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in OsFs.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.kind {
            FileKind::Dir => remove_tree(&path)?,
            _ => OsFs.remove_file(&path)?,
        }
    }
    OsFs.remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_gone_after_a_panic_and_one_to_keep_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let asked = dir.path().join("asked");
        for (is_kept, left) in [(false, 0), (true, 2)] {
            let path = asked.clone();
            let panicked = std::panic::catch_unwind(move || {
                let place = Site { path, is_kept: true }.make().unwrap();
                let _place = Place { is_kept, path: place.path().to_owned(), doom: None };
                place.keep();
                panic!("in the middle of the tour");
            });
            assert!(panicked.is_err());
            assert_eq!(OsFs.list(&asked).map_or(0, |entries| entries.len()), left);
        }
    }

    #[test]
    fn a_directory_to_keep_is_new_or_empty_and_not_made_too_early() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        let site = Site::choose(Some(&path)).unwrap();
        assert!(site.free_space().unwrap() > 0);
        assert!(!exists(&OsFs, &path).unwrap());
        assert!(site.make().unwrap().is_kept());
        assert!(Site::choose(Some(&path)).is_err());
    }
}
