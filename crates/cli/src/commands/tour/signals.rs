//! What a signal does to a tour: the directory is removed, and the program ends by that signal as it would have anyway.
//!
//! A thread waits for the signal, so that it may do what a handler may not. It holds a lock from then on: whoever would
//! say how the tour ended waits with it for the end of the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lithdb::env::{OsFs, exists};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::place::remove_tree;
use crate::files::Buffer;
use crate::output::remark;

/// How often a directory is removed into which the tour, which does not know yet, puts another file meanwhile.
const TRIES: usize = 500;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// What will happen to a directory when a signal comes.
pub(super) struct Doom {
    /// Taken away when the tour has decided about the directory.
    path: Arc<Mutex<Option<PathBuf>>>,
}

impl Doom {
    /// Removes the directory at `path`, which need not be there yet, when a signal comes.
    pub(super) fn of(path: PathBuf) -> io::Result<Self> {
        let ignored = ignored_signals();
        let watched = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| {
            // Somebody wants the program to go on: nohup, a shell that put it into the background.
            ignored & (1 << (signal - 1)) == 0
        });
        let mut signals = Signals::new(watched)?;
        let path = Arc::new(Mutex::new(Some(path)));
        let theirs = Arc::clone(&path);
        lithdb::env::spawn("lith-tour-signals", move || {
            for signal in &mut signals {
                end(&theirs, signal);
            }
        })?;
        Ok(Self { path })
    }

    /// Does something that a signal does not come between. After a signal this waits for the end of the process.
    pub(super) fn unless_it_comes<T>(&self, act: impl FnOnce() -> T) -> T {
        let _none_comes = lock(&self.path);
        act()
    }

    /// The directory stays as it is when a signal comes.
    pub(super) fn avert(&self) {
        *lock(&self.path) = None;
    }
}

/// Removes the directory and ends the process, which gives the lock back.
fn end(path: &Mutex<Option<PathBuf>>, signal: i32) {
    let path = lock(path);
    if let Some(path) = &*path {
        match remove_patiently(path) {
            Ok(()) => remark("interrupted; the tour's database is removed"),
            Err(error) => {
                remark(format_args!("interrupted; {} is left: {error}", path.display()));
            }
        }
    }
    #[expect(clippy::let_underscore_must_use, reason = "if it fails, the next line ends this")]
    let _ = emulate_default_handler(signal);
    std::process::exit(128 + signal);
}

fn remove_patiently(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let removed = remove_tree(path);
        if !exists(&OsFs, path)? {
            return Ok(());
        }
        tries += 1;
        if tries == TRIES {
            return removed;
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
}

fn lock(path: &Mutex<Option<PathBuf>>) -> MutexGuard<'_, Option<PathBuf>> {
    path.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that this process was started to ignore, bit by bit.
fn ignored_signals() -> u64 {
    let mut buffer = Buffer::default();
    // Where the system does not say, none is.
    let Ok(status) = buffer.read(Path::new("/proc/self/status")) else { return 0 };
    let status = String::from_utf8_lossy(status);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    match mask.map(|mask| u64::from_str_radix(mask.trim(), 16)) {
        Some(Ok(mask)) => mask,
        Some(Err(_)) | None => 0,
    }
}
