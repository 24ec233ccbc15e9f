//! Pinned moments: what is read at a moment stays readable while a [`Pin`] of it exists.
//!
//! A moment counts the batches that were applied to an engine. A registry holds the moments that
//! are pinned. Garbage collection may drop only what no pinned moment can see.

use std::collections::BTreeMap;
use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use parking_lot::Mutex;

/// A moment of an engine that stays readable while this exists. Cheap to clone.
#[derive(Debug)]
pub struct Pin {
    moment: u64,
    registry: Arc<Registry>,
}

impl Pin {
    /// The number of batches that are visible.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.moment
    }

    /// `InvalidArgument` if another engine made the pin.
    pub(crate) fn check_from(&self, registry: &Arc<Registry>) -> Result<()> {
        if Arc::ptr_eq(&self.registry, registry) {
            return Ok(());
        }
        let message = format!("the pin of moment {} belongs to another engine", self.moment);
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        *self.registry.pinned.lock().entry(self.moment).or_default() += 1;
        Self { moment: self.moment, registry: Arc::clone(&self.registry) }
    }
}

impl Drop for Pin {
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

/// The moments of one engine that are pinned.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pinned: Mutex<BTreeMap<u64, usize>>,
}

impl Registry {
    /// Pins the moment that `now` returns. `now` runs under the registry's lock, so that no oldest
    /// moment that was read meanwhile lies past it.
    pub(crate) fn pin(self: &Arc<Self>, now: impl FnOnce() -> u64) -> Pin {
        let mut pinned = self.pinned.lock();
        let moment = now();
        *pinned.entry(moment).or_default() += 1;
        Pin { moment, registry: Arc::clone(self) }
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
        let again = early.clone();
        assert_eq!(registry.oldest(|| 9), 3);
        drop(early);
        assert_eq!(registry.oldest(|| 9), 3);
        drop(again);
        assert_eq!(registry.oldest(|| 9), 5);
        drop(later);
        assert_eq!(registry.oldest(|| 9), 9);
    }
}
