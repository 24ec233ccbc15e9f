//! What the parent knows of a store: from the marks of its children, and from what it finds.

use lithdb_state::RootHash;

use crate::child::changes;
use crate::history::History;
use crate::support::model::{Change, Model};

/// What a store may be.
#[derive(Debug, Clone)]
pub struct Known {
    /// All versions, with the one that is being committed.
    pub model: Model,
    /// When each version was there.
    pub history: History,
    /// The newest version that was acknowledged as durable.
    pub durable: u64,
    /// The target of a rollback that has begun and not returned.
    pub undecided: Option<u64>,
    /// What the child is doing, if it has not said that it has done it.
    pub doing: Option<&'static str>,
    /// Commits that returned.
    pub commits: u64,
}

/// What a child begins, and the word for it.
const BEGINNINGS: [(&str, &str); 8] = [
    ("open", "killed in an opening"),
    ("commit", "killed in a commit"),
    ("snapshot", "killed in a snapshot"),
    ("prune", "killed in pruning"),
    ("flush", "killed in a flush"),
    ("close", "killed in closing"),
    ("rollback", "killed in a rollback"),
    ("stop", "killed in a rollback of a stopped store"),
];

impl Known {
    pub fn new() -> Self {
        let model = Model::new(1);
        let history = History::of(&model);
        Self { model, history, durable: 0, undecided: None, doing: None, commits: 0 }
    }

    /// The next version is being committed.
    pub fn commit(&mut self, changes: &[Change]) -> u64 {
        let version = self.model.commit(changes);
        self.history.follow(&self.model);
        version
    }

    fn roll_back(&mut self, target: u64) {
        let beat = &self.history.beat;
        // Before the time of this: nobody relies on more from then on.
        beat.set_durable(target.min(beat.durable()));
        self.model.roll_back(target);
        self.history.follow(&self.model);
    }

    /// A child has marked something.
    pub fn note(&mut self, mark: &str) {
        let words: Vec<&str> = mark.split(' ').collect();
        if let Some((_, doing)) = BEGINNINGS.iter().find(|(word, _)| *word == words[0]) {
            self.doing = Some(doing);
        }
        let number = |word: &str| word.parse::<u64>().unwrap();
        match words[..] {
            ["commit", version, branch] => {
                let next = self.commit(&changes(number(branch), number(version)));
                assert_eq!(next, number(version), "the version after the newest");
            }
            ["committed", version, root, durability] => {
                self.is_at(number(version), root, mark);
                if durability == "EveryCommit" {
                    self.durable = number(version);
                }
                self.commits += 1;
                self.doing = None;
            }
            ["snapshotted", version, root] => {
                self.is_at(number(version), root, mark);
                self.durable = self.durable.max(number(version));
                self.doing = None;
            }
            // Of the background thread: the main thread goes on with what it does.
            ["taken", version] => {
                let (version, newest) = (number(version), self.model.head());
                assert!(version <= newest, "a snapshot of {version}, the newest is {newest}");
                self.durable = self.durable.max(version);
            }
            ["flushed", version] => {
                assert_eq!(number(version), self.model.head(), "{mark}");
                self.durable = self.model.head();
                self.doing = None;
            }
            ["closed"] => {
                self.durable = self.model.head();
                self.doing = None;
            }
            ["rollback" | "stop", target] => self.undecided = Some(number(target)),
            ["rolled" | "stopped", version, root] => {
                assert_eq!(self.undecided.take(), Some(number(version)), "{mark}");
                // A rollback to the newest version makes nothing durable.
                if number(version) < self.model.head() {
                    self.durable = number(version);
                }
                self.roll_back(number(version));
                self.is_at(number(version), root, mark);
                self.doing = None;
            }
            ["refused"] => (self.undecided, self.doing) = (None, None),
            ["opened", version, root] => {
                self.found_at(number(version), root, mark);
                self.doing = None;
            }
            ["pruned"] => self.doing = None,
            ["open" | "snapshot" | "prune" | "flush" | "close"] | ["removed" | "floor", _] => {}
            _ => panic!("unexpected mark {mark:?}"),
        }
        self.history.beat.set_durable(self.durable);
    }

    /// The newest version has this root.
    fn is_at(&self, version: u64, root: &str, context: &str) {
        assert_eq!(version, self.model.head(), "{context}");
        assert_eq!(root, self.model.at(version).root.to_string(), "{context}");
    }

    /// Whether a store that nothing has opened since may be at `version`.
    pub fn may_be_at(&self, version: u64, root: &RootHash) -> bool {
        let is_target = self.undecided == Some(version);
        let is_committed = (self.durable..=self.model.head()).contains(&version);
        (is_target || is_committed) && self.model.at(version).root == *root
    }

    /// An opening has found the store at `version`: what it was uncertain about is decided.
    pub fn found_at(&mut self, version: u64, root: &str, context: &str) {
        let (durable, newest) = (self.durable, self.model.head());
        let is_target = self.undecided.take() == Some(version);
        assert!(
            is_target || (durable..=newest).contains(&version),
            "{context}: found version {version}, acknowledged {durable}, the newest {newest}"
        );
        self.roll_back(version);
        self.is_at(version, root, context);
        self.durable = version;
    }
}
