//! Random histories on the production engine and a real disk, without crashes.

use lithdb_sim::{Effort, SeededChoice, Tally};
use lithdb_state::{Durability, StateDb, StateOptions, VerifyLevel, View};

use super::op::{KEYS, STORES};
use crate::fixture::Fixture;
use crate::support::model::{Change, Rows, rows_of};

const VERIFY_LEVELS: [VerifyLevel; 3] =
    [VerifyLevel::Files, VerifyLevel::Content, VerifyLevel::Replay];

struct Random(SeededChoice);

impl Random {
    fn below(&mut self, count: u64) -> u64 {
        self.0.next_u64() % count
    }

    fn changes(&mut self) -> Vec<Change> {
        (0..self.below(12)).map(|_| self.change()).collect()
    }

    fn change(&mut self) -> Change {
        let store = STORES[self.below(STORES.len() as u64) as usize];
        let key = KEYS[self.below(KEYS.len() as u64) as usize];
        match self.below(6) {
            0 | 1 => Change::delete(store, key),
            2 => Change::put(store, key, ""),
            3 => Change::put(store, key, "x".repeat(300)),
            _ => Change::put(store, key, self.0.next_u64().to_string()),
        }
    }

    fn options(&mut self) -> StateOptions {
        let durability = [Durability::EveryCommit, Durability::OnFlush][self.below(2) as usize];
        StateOptions::new()
            .durability(durability)
            .memtable_bytes([1, 2_000, 64 << 20][self.below(3) as usize])
            .snapshot_interval([0, 5][self.below(2) as usize])
            .keep_snapshots(self.below(3) as usize)
            .flush_on_close(self.below(2) == 0)
            .view_memory_bytes([0, 2_000, 256 << 20][self.below(3) as usize])
            .hash_threads(2)
    }
}

/// A version to go to: not always one that can be reached.
fn target(random: &mut Random, store: &Fixture) -> (u64, bool) {
    let head = store.model.head();
    let version = (head + 1).saturating_sub(random.below(10));
    (version, store.db().reach(version).is_ok())
}

fn step(random: &mut Random, store: &mut Fixture, held: &mut Vec<(View, Rows)>, tally: &mut Tally) {
    let next = store.model.head() + 1;
    match random.below(21) {
        0 => {
            store.snapshot();
            tally.add("snapshots", 1);
        }
        1 => drop(store.db().prune_snapshots_below(random.below(next)).unwrap()),
        2 => {
            store.reopen();
            tally.add("openings", 1);
        }
        3 => {
            drop(store.take_db());
            store.open();
            tally.add("openings", 1);
        }
        4 | 5 => {
            let (version, _) = target(random, store);
            let is_open = random.below(2) == 0;
            if !is_open {
                drop(store.take_db());
            }
            // The background may have removed what the version would be reached from.
            if version < next - 1 && store.try_roll_back(version, is_open) {
                tally.add("rollbacks", 1);
            }
            if !is_open {
                store.open();
            }
        }
        6 => {
            store.db().flush().unwrap();
            let (version, can_be_reached) = target(random, store);
            // A snapshot may be pruned in the background meanwhile.
            if let Ok(view) = store.view_only(Some(version)) {
                assert!(can_be_reached, "version {version}");
                assert_eq!(rows_of(&view), store.model.at(version).rows);
                tally.add("views beside", 1);
                let mut export = Vec::new();
                view.export(&mut export).unwrap();
                let mut copy = store.absent();
                copy.import(&export).unwrap();
                let latest = copy.open().latest();
                assert_eq!((latest.version(), latest.root()), (version, view.root()));
                assert_eq!(rows_of(&latest), store.model.at(version).rows);
                assert_eq!(view.diff(&latest, None).unwrap().count(), 0);
                tally.add("imports", 1);
            }
        }
        7 => {
            let (version, can_be_reached) = target(random, store);
            let is_newest = version + 1 == next;
            // A snapshot may be pruned in the background meanwhile.
            if let Ok(view) = store.db().view(version) {
                assert!(can_be_reached || is_newest, "version {version}");
                assert_eq!(rows_of(&view), store.model.at(version).rows);
                tally.add("views of versions", 1);
                held.push((view, store.model.at(version).rows.clone()));
            }
        }
        8 => {
            let level = VERIFY_LEVELS[random.below(3) as usize];
            let found = StateDb::verify(store.dir(), level, |_| {}).unwrap();
            assert!(found.is_ok(), "{:?}", found.findings);
            tally.add("verifications", 1);
        }
        9..12 => {
            let (first, second) = (random.changes(), random.changes());
            store.apply(&first);
            store.commit_after(&first, &second);
            tally.add("commits", 1);
        }
        _ => {
            store.commit(&random.changes());
            tally.add("commits", 1);
        }
    }
}

pub fn random_histories() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("histories on the production engine");
    let mut random = Random(SeededChoice::new(effort.seed("the production engine")));
    for _ in 0..effort.times(8) {
        let mut store = Fixture::on_disk(random.options());
        let mut held: Vec<(View, Rows)> = Vec::new();
        for n in 0..60 {
            step(&mut random, &mut store, &mut held, &mut tally);
            let expected = store.model.at(store.model.head());
            let latest = store.db().latest();
            assert_eq!((latest.version(), latest.root()), (store.model.head(), expected.root));
            assert_eq!(rows_of(&latest), expected.rows, "step {n}");
            if n % 9 == 0 {
                held.push((latest, expected.rows.clone()));
            }
            let (view, rows) = &held[n % held.len()];
            assert_eq!(rows_of(view), *rows, "a view that was kept, step {n}");
            if held.len() > 4 {
                held.remove(0);
            }
        }
        store.close();
        tally.add("histories", 1);
    }
    let kinds = ["commits", "snapshots", "openings", "rollbacks", "verifications", "imports"];
    for what in kinds.into_iter().chain(["views beside", "views of versions"]) {
        assert!(tally.get(what) > 0, "no {what}");
    }
}
