//! Budgets: how many descriptors, mappings and bytes of write buffers a database may hold at a
//! time.
//!
//! A holder keeps a [`Permit`] and returns its share by dropping it. When a budget is exhausted,
//! the registered [`Reclaim`] implementations are asked to release something idle. If none can,
//! the call fails with an error that names the limit, and nothing was done.
//! [`Env::with_budgets`](crate::Env::with_budgets) counts descriptors and mappings at the [`Fs`]
//! interface, so none is missed, including those of locks, listings and directory syncs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::error::is_out_of_files;
use crate::fs::{DirEntry, File, FileLock, Fs, LockKind, Map, Metadata, OpenMode};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A holder of resources that may be idle.
pub trait Reclaim: Send + Sync {
    /// Releases something idle; returns `false` if nothing is idle. The caller may hold any lock,
    /// so implementations must not wait for one.
    fn reclaim(self: Arc<Self>) -> bool;
}

/// The limit on one kind of resource, and how much of it is in use.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    what: &'static str,
    remedy: &'static str,
    idle: Mutex<Vec<Weak<dyn Reclaim>>>,
}

/// A share of a budget, returned when dropped.
#[derive(Debug, Default)]
pub struct Permit {
    budget: Option<Arc<Budget>>,
    amount: u64,
}

/// The budgets of a database.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Descriptors: files, directories, locks.
    pub files: Arc<Budget>,
    /// Mappings, including those that only values keep alive.
    pub maps: Arc<Budget>,
    /// Bytes of write buffers.
    pub buffers: Arc<Budget>,
}

impl Budgets {
    /// Budgets of `files` descriptors, `maps` mappings and `buffers` bytes of write buffers.
    pub fn new(files: u64, maps: u64, buffers: u64) -> Self {
        let budget = |limit, what, remedy| {
            let (used, idle) = (AtomicU64::new(0), Mutex::default());
            Arc::new(Budget { limit, used, what, remedy, idle })
        };
        Self {
            files: budget(files, "open files", "raise `max_open_files`, and `ulimit -n` with it"),
            maps: budget(
                maps,
                "mappings",
                "hold fewer values at a time, or raise `max_mappings`, and `sysctl vm.max_map_count` with it",
            ),
            buffers: budget(
                buffers,
                "bytes of write buffers",
                "flush more often, or raise `write_buffer_bytes`",
            ),
        }
    }
}

impl Default for Budgets {
    /// Budgets without a limit.
    fn default() -> Self {
        Self::new(u64::MAX, u64::MAX, u64::MAX)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.used(), self.limit, self.what)
    }
}

impl Budget {
    /// How much is in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Registers a holder to reclaim from when the budget is exhausted.
    pub fn register_reclaim(&self, idle: Weak<dyn Reclaim>) {
        let mut all = self.idle.lock();
        all.retain(|idle| idle.strong_count() > 0);
        all.push(idle);
    }

    /// Takes a share. `OutOfMemory`, with the budget's own message, if the budget is exhausted and
    /// nothing can be reclaimed.
    pub fn take(self: &Arc<Self>, amount: u64) -> io::Result<Permit> {
        while !self.try_take(amount) {
            if amount > self.limit || !self.reclaim() {
                let (limit, what, remedy) = (self.limit, self.what, self.remedy);
                let message = format!("all {limit} {what} of the database are in use; {remedy}");
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
            }
        }
        Ok(Permit { budget: Some(Arc::clone(self)), amount })
    }

    /// Takes a share if it is free, without reclaiming.
    pub fn try_acquire(self: &Arc<Self>, amount: u64) -> Option<Permit> {
        self.try_take(amount).then(|| Permit { budget: Some(Arc::clone(self)), amount })
    }

    /// Takes a share, over the limit if necessary: for what can no longer be refused.
    pub fn acquire_over_limit(self: &Arc<Self>, amount: u64) -> Permit {
        self.used.fetch_add(amount, Ordering::AcqRel);
        Permit { budget: Some(Arc::clone(self)), amount }
    }

    fn try_take(&self, amount: u64) -> bool {
        let more = |used: u64| used.checked_add(amount).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Asks the holders to release something idle; returns `false` if none can.
    fn reclaim(&self) -> bool {
        let idle = self.idle.lock().clone();
        idle.iter().filter_map(Weak::upgrade).any(|idle| idle.reclaim())
    }

    /// Runs `act` with a permit for one unit. If the system itself is out of them, reclaims and
    /// tries again.
    fn acquire_for<T>(
        self: &Arc<Self>,
        is_exhausted: impl Fn(&io::Error) -> bool,
        mut act: impl FnMut(&mut Permit) -> io::Result<T>,
    ) -> io::Result<(T, Permit)> {
        loop {
            let mut permit = self.take(1)?;
            match act(&mut permit) {
                Err(error) if is_exhausted(&error) && self.reclaim() => {}
                answer => return answer.map(|done| (done, permit)),
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.used.fetch_sub(self.amount, Ordering::AcqRel);
        }
    }
}

/// Methods that forward to the same method of a field.
macro_rules! forward {
    ($to:ident: $(fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $answer:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> $answer {
            self.$to.$name($($arg),*)
        })*
    };
}

/// A file system that counts descriptors and mappings.
#[derive(Debug)]
pub(crate) struct CountedFs {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) budgets: Budgets,
}

#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn File>,
    maps: Arc<Budget>,
    _permit: Permit,
}

#[derive(Debug)]
struct CountedLock {
    lock: Box<dyn FileLock>,
    _permit: Permit,
}

impl CountedFs {
    fn with_file<T>(&self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<(T, Permit)> {
        self.budgets.files.acquire_for(is_out_of_files, |_| act())
    }

    fn counted(&self, (file, permit): (Arc<dyn File>, Permit)) -> Arc<dyn File> {
        Arc::new(CountedFile { file, maps: Arc::clone(&self.budgets.maps), _permit: permit })
    }
}

impl Fs for CountedFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.with_file(|| self.fs.create_new(path)).map(|file| self.counted(file))
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.with_file(|| self.fs.open(path, mode)).map(|file| self.counted(file))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.with_file(|| self.fs.list(dir)).map(|(entries, _)| entries)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.with_file(|| self.fs.sync_dir(dir)).map(|_| ())
    }
    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn FileLock>>> {
        let (lock, permit) = self.with_file(|| self.fs.try_lock(path, kind))?;
        Ok(lock.map(|lock| Box::new(CountedLock { lock, _permit: permit }) as Box<dyn FileLock>))
    }
    forward! { fs:
        fn metadata(&self, path: &Path) -> io::Result<Metadata>;
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
        fn remove_file(&self, path: &Path) -> io::Result<()>;
        fn remove_dir(&self, path: &Path) -> io::Result<()>;
        fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()>;
        fn create_dir(&self, path: &Path) -> io::Result<()>;
        fn free_space(&self, path: &Path) -> io::Result<u64>;
        fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
    }
}

impl File for CountedFile {
    fn map(&self, len_bytes: u64, _: Permit) -> io::Result<Arc<dyn Map>> {
        let is_exhausted = |error: &io::Error| error.kind() == io::ErrorKind::OutOfMemory;
        let map = |permit: &mut Permit| self.file.map(len_bytes, std::mem::take(permit));
        self.maps.acquire_for(is_exhausted, map).map(|(map, _)| map)
    }
    forward! { file:
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
        fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
        fn sync_data(&self) -> io::Result<()>;
        fn sync_all(&self) -> io::Result<()>;
        fn set_len(&self, len_bytes: u64) -> io::Result<()>;
        fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
        fn len(&self) -> io::Result<u64>;
        fn links(&self) -> io::Result<u64>;
        fn start_writeback(&self, offset: u64, len_bytes: u64) -> io::Result<()>;
    }
}

impl FileLock for CountedLock {
    fn file(&self) -> &dyn File {
        self.lock.file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Env, Error, ErrorKind};

    struct IdlePermits(Mutex<Vec<Permit>>);

    impl Reclaim for IdlePermits {
        fn reclaim(self: Arc<Self>) -> bool {
            self.0.lock().pop().is_some()
        }
    }

    #[test]
    fn exhausted_budget_reclaims_idle_then_refuses() {
        let budget = Budgets::new(3, 0, 0).files;
        let idle = (0..2).map(|_| budget.take(1).unwrap()).collect();
        let hoard = Arc::new(IdlePermits(Mutex::new(idle)));
        let registered: Arc<dyn Reclaim> = hoard.clone();
        budget.register_reclaim(Arc::downgrade(&registered));
        let held: Vec<_> = (0..3).map(|_| budget.take(1).unwrap()).collect();
        let refused = Error::io("open", Path::new("d"), budget.take(1).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert!(refused.to_string().contains("max_open_files"), "{refused}");
        assert_eq!(budget.used(), 3);
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn descriptors_and_mappings_are_counted_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let env = Env::os(0).unwrap().with_budgets(Budgets::new(2, 1, 0));
        let file = env.fs.create_new(&path).unwrap();
        crate::write_all_at(&*file, b"bytes", 0).unwrap();
        let lock = env.fs.try_lock(&path, LockKind::Shared).unwrap().unwrap();
        assert_eq!(env.fs.list(dir.path()).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(
            env.fs.sync_dir(dir.path()).is_err() && env.fs.open(&path, OpenMode::Read).is_err()
        );
        drop(lock);
        assert_eq!(env.fs.list(dir.path()).unwrap().len(), 1);
        let bytes = file.map(5, Permit::default()).unwrap().bytes(0, 5).unwrap();
        drop(file);
        assert_eq!((env.budgets.files.used(), env.budgets.maps.used()), (0, 1));
        let file = env.fs.open(&path, OpenMode::Read).unwrap();
        assert!(file.map(5, Permit::default()).is_err(), "a value holds the only mapping");
        assert_eq!(bytes, &b"bytes"[..]);
        drop(bytes);
        assert!(file.map(5, Permit::default()).is_ok());
    }
}
