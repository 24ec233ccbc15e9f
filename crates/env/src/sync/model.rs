//! The model checker's locks with the interface of `parking_lot`: no poisoning, and a wait that
//! borrows its guard.
//!
//! A panicking thread fails the model, or is one that the code is meant to survive: poisoning is
//! ignored either way.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use shuttle::sync as checked;

/// Like `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T>(checked::Mutex<T>);

/// Like `parking_lot::MutexGuard`.
pub struct MutexGuard<'a, T> {
    /// `None` while the guard waits on a condition variable.
    held: Option<checked::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self(checked::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(held) => Some(MutexGuard { held: Some(held) }),
            Err(checked::TryLockError::Poisoned(held)) => {
                Some(MutexGuard { held: Some(held.into_inner()) })
            }
            Err(checked::TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "a waiting guard is not accessible")]
    fn deref(&self) -> &T {
        self.held.as_ref().expect("the guard is not waiting")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[expect(clippy::expect_used, reason = "a waiting guard is not accessible")]
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("the guard is not waiting")
    }
}

impl<T> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutexGuard")
    }
}

/// Like `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(checked::Condvar);

impl Condvar {
    /// A condition variable without waiters.
    pub const fn new() -> Self {
        Self(checked::Condvar::new())
    }

    /// Releases the lock and waits for a notification.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.held.take() {
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Like `parking_lot::RwLock`.
#[derive(Default)]
pub struct RwLock<T>(checked::RwLock<T>);

/// Like `parking_lot::RwLockReadGuard`.
pub type RwLockReadGuard<'a, T> = checked::RwLockReadGuard<'a, T>;

/// Like `parking_lot::RwLockWriteGuard`.
pub type RwLockWriteGuard<'a, T> = checked::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self(checked::RwLock::new(value))
    }

    /// Waits for shared access.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for exclusive access.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes exclusive access if the lock is free.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// Like `std::sync::OnceLock` without waiting for the value. Every call is a scheduling point.
#[derive(Debug)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    step: checked::atomic::AtomicBool,
}

impl<T> OnceLock<T> {
    /// No value yet.
    pub const fn new() -> Self {
        let step = checked::atomic::AtomicBool::new(false);
        Self { value: std::sync::OnceLock::new(), step }
    }

    /// The value, if it is set.
    pub fn get(&self) -> Option<&T> {
        self.step.load(Ordering::SeqCst);
        self.value.get()
    }

    /// Sets the value, once.
    ///
    /// # Errors
    /// The given value, if one is already set.
    pub fn set(&self, value: T) -> Result<(), T> {
        self.step.store(true, Ordering::SeqCst);
        self.value.set(value)
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> Self {
        let lock = Self::new();
        // The lock is not shared yet.
        let _ = lock.value.set(value);
        lock
    }
}
