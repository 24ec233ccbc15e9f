//! Pinned moments: what is read at a moment stays readable while a [`Pin`] of it exists.
//!
//! A moment counts the batches that were applied to an engine. What a pin holds is its engine's
//! business: the production engine puts there what the pin reads, the model engine an entry of a
//! [`Registry`], below which it collects nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind};
use parking_lot::Mutex;

/// A moment of an engine that stays readable while this exists. Cheap to clone.
#[derive(Clone)]
pub struct Pin {
    moment: u64,
    held: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.moment).finish()
    }
}

impl Pin {
    /// The number of batches that are visible.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.moment
    }

    /// A pin that holds what its engine needs to read at `moment`.
    pub(crate) fn new(moment: u64, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self { moment, held }
    }

    /// What the pin holds; `None` if another kind of engine made it.
    pub(crate) fn held<T: Any>(&self) -> Option<&T> {
        self.held.downcast_ref()
    }

    /// The error for a pin that another engine made.
    pub(crate) fn foreign(&self) -> Error {
        let message = format!("the pin of moment {} belongs to another engine", self.moment);
        Error::new(ErrorKind::InvalidArgument, message)
    }
}

/// The moments of one engine that are pinned.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pinned: Mutex<BTreeMap<u64, usize>>,
}

/// An entry of a registry.
#[derive(Debug)]
pub(crate) struct Entry {
    moment: u64,
    registry: Arc<Registry>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut pinned = self.registry.pinned.lock();
        let count = pinned.get_mut(&self.moment).map(|count| {
            *count -= 1;
            *count
        });
        assert!(count.is_some(), "moment {} was pinned", self.moment);
        if count == Some(0) {
            pinned.remove(&self.moment);
        }
    }
}

impl Registry {
    /// Pins the moment that `now` returns. `now` runs under the registry's lock, so that no oldest
    /// moment that was read meanwhile lies past it.
    pub(crate) fn pin(self: &Arc<Self>, now: impl FnOnce() -> u64) -> Pin {
        let mut pinned = self.pinned.lock();
        let moment = now();
        *pinned.entry(moment).or_default() += 1;
        Pin::new(moment, Arc::new(Entry { moment, registry: Arc::clone(self) }))
    }

    /// Whether this registry made the pin.
    pub(crate) fn has_made(&self, pin: &Pin) -> bool {
        pin.held::<Entry>().is_some_and(|entry| std::ptr::eq(&*entry.registry, self))
    }

    /// The oldest moment that must stay readable: the oldest pinned one, or `now` if none is.
    pub(crate) fn oldest(&self, now: impl FnOnce() -> u64) -> u64 {
        let pinned = self.pinned.lock();
        let now = now();
        pinned.first_key_value().map_or(now, |(moment, _)| (*moment).min(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_pinned_moment_bounds_collection_until_its_last_pin_drops() {
        let registry = Arc::new(Registry::default());
        assert_eq!(registry.oldest(|| 7), 7);
        let early = registry.pin(|| 3);
        let later = registry.pin(|| 5);
        let (again, other) = (early.clone(), registry.pin(|| 3));
        assert_eq!(registry.oldest(|| 9), 3);
        drop((early, other));
        assert_eq!(registry.oldest(|| 9), 3);
        drop(again);
        assert_eq!(registry.oldest(|| 9), 5);
        drop(later);
        assert_eq!(registry.oldest(|| 9), 9);
    }

    #[test]
    fn pin_of_another_registry_is_told_apart() {
        let (ours, theirs) = (Arc::new(Registry::default()), Arc::new(Registry::default()));
        assert!(ours.has_made(&ours.pin(|| 1)));
        assert!(!ours.has_made(&theirs.pin(|| 1)));
        assert_eq!(theirs.pin(|| 1).foreign().kind(), ErrorKind::InvalidArgument);
    }
}
