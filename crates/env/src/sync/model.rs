//! The model checker's locks with the interface of `parking_lot`: no poison, and a wait that borrows its guard.
//!
//! A thread that panics fails the model, or is one that the code means to outlive: poison is passed over either way.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use shuttle::sync as checked;

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T>(checked::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub struct MutexGuard<'a, T> {
    /// `None` while it waits.
    held: Option<checked::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// An open lock.
    pub const fn new(value: T) -> Self {
        Self(checked::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// The lock, if nobody has it.
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

    #[expect(clippy::expect_used, reason = "nobody has a guard that waits")]
    fn deref(&self) -> &T {
        self.held.as_ref().expect("the guard is not waiting")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[expect(clippy::expect_used, reason = "nobody has a guard that waits")]
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("the guard is not waiting")
    }
}

impl<T> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutexGuard")
    }
}

/// As `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(checked::Condvar);

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(checked::Condvar::new())
    }

    /// Gives the lock back until somebody notifies.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.held.take() {
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub struct RwLock<T>(checked::RwLock<T>);

/// As `parking_lot::RwLockReadGuard`.
pub type RwLockReadGuard<'a, T> = checked::RwLockReadGuard<'a, T>;

/// As `parking_lot::RwLockWriteGuard`.
pub type RwLockWriteGuard<'a, T> = checked::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    /// An open lock.
    pub const fn new(value: T) -> Self {
        Self(checked::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else has it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if somebody else has it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// As `std::sync::OnceLock`, of which nobody waits for the value; another thread may go first at every call.
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

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        self.step.load(Ordering::SeqCst);
        self.value.get()
    }

    /// Sets the value, once.
    ///
    /// # Errors
    /// The value, if there is one already.
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
        // Nobody else has it.
        let _ = lock.value.set(value);
        lock
    }
}
