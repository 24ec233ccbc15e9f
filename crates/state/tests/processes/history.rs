//! When each version of a store was there: what a reader beside the writer may have seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::model::{Model, Rows};

/// What the threads know that talk to readers. Time is counted in changes of the model.
#[derive(Debug, Default)]
pub struct Beat {
    clock: AtomicU64,
    newest: AtomicU64,
    durable: AtomicU64,
}

impl Beat {
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// The newest version that was acknowledged as durable. Other processes may not see a later
    /// one.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::SeqCst)
    }

    pub fn set_durable(&self, version: u64) {
        self.durable.store(version, Ordering::SeqCst);
    }

    /// The newest version, which is perhaps still being committed.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }
}

/// A version of one branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub version: u64,
    /// Of its rows, from the model.
    pub digest: String,
    /// When it was known to be gone.
    pub ended: Option<u64>,
}

/// All versions that there were, by their roots: no two have the same rows.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub beat: Arc<Beat>,
    lives: BTreeMap<String, Life>,
    /// The roots of the versions that are there, by version.
    alive: BTreeMap<u64, String>,
    /// When versions went, and the one that was then the newest.
    ends: Vec<(u64, u64)>,
}

/// Of rows, with the versions that put them.
pub fn digest(rows: &Rows) -> String {
    let mut hasher = blake3::Hasher::new();
    for ((store, key), (value, modified_at)) in rows {
        for part in [store.as_bytes(), key, value, &modified_at.to_le_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().to_hex().to_string()
}

impl History {
    pub fn of(model: &Model) -> Self {
        let mut history = Self::default();
        history.follow(model);
        history
    }

    /// The model has a version more, or lacks some that it had.
    pub fn follow(&mut self, model: &Model) {
        let (now, head) = (self.beat.now() + 1, model.head());
        let gone = self.alive.split_off(&(head + 1));
        for root in gone.values() {
            self.lives.get_mut(root).unwrap().ended = Some(now);
        }
        if !gone.is_empty() {
            self.ends.push((now, head));
        }
        let newest = model.at(head);
        let root = newest.root.to_string();
        let before = self.alive.insert(head, root.clone());
        assert!(before.is_none_or(|before| before == root), "version {head} was replaced");
        let life = || Life { version: head, digest: digest(&newest.rows), ended: None };
        let life = self.lives.entry(root).or_insert_with(life);
        assert_eq!((life.version, life.ended), (head, None));
        self.beat.newest.store(head, Ordering::SeqCst);
        self.beat.clock.store(now, Ordering::SeqCst);
    }

    pub fn life(&self, root: &str) -> Option<&Life> {
        self.lives.get(root)
    }

    /// The lowest version that was the newest at any moment since `since`, when there was `newest`.
    pub fn lowest_newest(&self, since: u64, newest: u64) -> u64 {
        let later = self.ends.iter().rev().take_while(|(ended, _)| *ended > since);
        later.map(|(_, head)| *head).fold(newest, u64::min)
    }

    /// Whether versions went after `since`.
    pub fn lost_versions_after(&self, since: u64) -> bool {
        self.ends.last().is_some_and(|(ended, _)| *ended > since)
    }
}
