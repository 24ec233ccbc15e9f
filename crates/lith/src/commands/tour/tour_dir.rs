//! The directory of the tour's database: a temporary one that is removed however the tour ends, or
//! the one of `--keep`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lithdb_env::{Clock, FileKind, Fs, OsClock, OsFs, exists};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;
use crate::files::Buffer;
use crate::stderr::print_note;

/// How often the signal thread retries to remove a directory in which the tour still creates
/// files.
const REMOVE_RETRIES: usize = 500;
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The directory; removed on drop or when a signal ends the tour, unless it is kept.
pub(super) struct TourDir {
    path: PathBuf,
    is_kept: bool,
    /// The directory to remove. The signal thread takes the lock before it acts.
    delete_on_drop: Arc<Mutex<Option<PathBuf>>>,
}

impl TourDir {
    /// Chooses a new name in the system's temporary directory, or `keep`, which must be empty or
    /// not exist. Creates nothing.
    pub(super) fn choose(keep: Option<&Path>) -> Result<Self, Failure> {
        let tour_dir = |path, is_kept| Self { path, is_kept, delete_on_drop: Arc::default() };
        let Some(path) = keep else {
            let dir = std::env::temp_dir();
            let dir = OsFs.canonicalize(&dir).map_err(|e| Failure::io(dir.display(), &e))?;
            let number = OsClock.random_u64().map_err(|e| Failure::io("read random bytes", &e))?;
            return Ok(tour_dir(dir.join(format!("lith-tour-{number:016x}")), false));
        };
        let cannot = |e: io::Error| Failure::io(path.display(), &e);
        if exists(&OsFs, path).map_err(cannot)? && !OsFs.list(path).map_err(cannot)?.is_empty() {
            let shown = path.display();
            return Err(Failure::failed(format_args!(
                "{shown}: expected a new or empty directory"
            )));
        }
        Ok(tour_dir(path.to_owned(), true))
    }

    /// Free bytes of its file system.
    pub(super) fn free_space(&self) -> Result<u64, Failure> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let free = OsFs.free_space(&self.path).or_else(|_| OsFs.free_space(parent));
        free.map_err(|e| Failure::io(parent.display(), &e))
    }

    /// Creates the directory, and one for each root.
    pub(super) fn make(&mut self) -> Result<(), Failure> {
        let cannot = |path: &Path, e: io::Error| Failure::io(path.display(), &e);
        // Before the directory exists: no signal may come in between.
        if !self.is_kept {
            remove_on_signals(&self.delete_on_drop)
                .map_err(|e| Failure::io("install signal handlers", &e))?;
        }
        let mut delete_on_drop = lock(&self.delete_on_drop);
        match OsFs.create_dir(&self.path) {
            Err(error) if self.is_kept && error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created.map_err(|e| cannot(&self.path, e))?,
        }
        if !self.is_kept {
            *delete_on_drop = Some(self.path.clone());
        }
        self.path = OsFs.canonicalize(&self.path).map_err(|e| cannot(&self.path, e))?;
        let create = |root: &PathBuf| OsFs.create_dir(root).map_err(|e| cannot(root, e));
        self.roots().iter().try_for_each(create).inspect_err(|_| {
            #[expect(clippy::let_underscore_must_use, reason = "the first error is returned")]
            let _ = self.roots().map(|root| OsFs.remove_dir(&root));
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database's roots.
    pub(super) fn roots(&self) -> [PathBuf; 2] {
        [self.path.join("root-a"), self.path.join("root-b")]
    }

    /// The directory of the state store, which the tour creates.
    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Keeps the directory, whatever happens later.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
        *lock(&self.delete_on_drop) = None;
    }

    /// Removes the directory with everything in it.
    pub(super) fn remove(self) -> Result<(), Failure> {
        delete_now(&self.delete_on_drop).map_err(|e| Failure::io(self.path.display(), &e))
    }
}

impl Drop for TourDir {
    fn drop(&mut self) {
        #[expect(
            clippy::let_underscore_must_use,
            reason = "the error that ended the tour is reported"
        )]
        let _ = delete_now(&self.delete_on_drop);
    }
}

fn delete_now(delete_on_drop: &Mutex<Option<PathBuf>>) -> io::Result<()> {
    let mut delete_on_drop = lock(delete_on_drop);
    delete_on_drop.take().map_or(Ok(()), |path| remove_tree(&path))
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in OsFs.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.kind {
            FileKind::Dir => remove_tree(&path)?,
            _ => OsFs.remove_file(&path)?,
        }
    }
    OsFs.remove_dir(dir)
}

/// Starts a thread that, on a signal, removes the directory and ends the process by that signal.
/// The thread keeps the lock, so the main thread cannot report an outcome meanwhile.
fn remove_on_signals(delete_on_drop: &Arc<Mutex<Option<PathBuf>>>) -> io::Result<()> {
    let ignored = ignored_signals();
    let watched = [SIGINT, SIGTERM, SIGHUP].into_iter();
    // A signal ignored from the start (nohup, a background job) stays ignored.
    let mut signals = Signals::new(watched.filter(|signal| ignored & (1 << (signal - 1)) == 0))?;
    let delete_on_drop = Arc::clone(delete_on_drop);
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        let delete_on_drop = lock(&delete_on_drop);
        if let Some(path) = &*delete_on_drop {
            match remove_with_retries(path) {
                Ok(()) => print_note("interrupted; removed the tour's database"),
                Err(e) => {
                    print_note(format_args!("interrupted; cannot remove {}: {e}", path.display()))
                }
            }
        }
        #[expect(
            clippy::let_underscore_must_use,
            reason = "if it fails, the next line ends the process"
        )]
        let _ = emulate_default_handler(signal);
        std::process::exit(128 + signal);
    };
    lithdb_env::spawn("lith-tour-signals", wait).map(|_| ())
}

fn remove_with_retries(path: &Path) -> io::Result<()> {
    let mut removed = remove_tree(path);
    for _ in 0..REMOVE_RETRIES {
        if !exists(&OsFs, path)? {
            return Ok(());
        }
        std::thread::sleep(RETRY_INTERVAL);
        removed = remove_tree(path);
    }
    removed
}

fn lock(delete_on_drop: &Mutex<Option<PathBuf>>) -> MutexGuard<'_, Option<PathBuf>> {
    delete_on_drop.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that this process was started to ignore, as a bit mask; 0 if unknown.
fn ignored_signals() -> u64 {
    let mut buffer = Buffer::default();
    let Ok(status) = buffer.read(Path::new("/proc/self/status")) else { return 0 };
    let status = String::from_utf8_lossy(status);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    match mask.map(|mask| u64::from_str_radix(mask.trim(), 16)) {
        Some(Ok(mask)) => mask,
        Some(Err(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_removed_after_a_panic_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tour");
        for (is_kept, left) in [(false, false), (true, true)] {
            let mut tour_dir =
                TourDir { path: path.clone(), is_kept: false, delete_on_drop: Arc::default() };
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                tour_dir.make().unwrap();
                if is_kept {
                    tour_dir.keep();
                }
                panic!("in the middle of the tour");
            }));
            assert!(panicked.is_err());
            assert_eq!(exists(&OsFs, &path).unwrap(), left);
        }
    }

    #[test]
    fn kept_directory_must_be_new_or_empty_and_is_created_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        let mut tour_dir = TourDir::choose(Some(&path)).unwrap();
        assert!(tour_dir.free_space().unwrap() > 0);
        assert!(!exists(&OsFs, &path).unwrap());
        tour_dir.make().unwrap();
        assert!(tour_dir.is_kept());
        assert!(TourDir::choose(Some(&path)).is_err());
    }
}
