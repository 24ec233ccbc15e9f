//! A process that commits, takes snapshots, prunes, rolls back and opens in a loop is killed
//! (SIGKILL) at random moments, many times on one store.
//!
//! What this proves: recovery after the death of a process, with the production engine on a real
//! file system. The store is at exactly one version, not older than what was acknowledged, with its
//! rows and roots; every snapshot is whole; the log has no gap. What it does not prove: that
//! anything was synced, because the page cache outlives a process. See `syncs.rs`, the crash images
//! of the engine, and the crash tests on the simulated disk.
//!
//! `LITHDB_EFFORT` multiplies the rounds; `LITHDB_SEED` changes the choices (the moments of death
//! always vary).

use lithdb_sim::{Effort, Tally};

use crate::harness::Harness;

#[test]
fn killed_writers_leave_one_version_not_older_than_acknowledged() {
    let name = "killed_writers_leave_one_version_not_older_than_acknowledged";
    let rounds = Effort::from_env().times(8);
    let mut harness = Harness::new(name, Tally::new("process crashes of a state store"));
    for round in 0..rounds {
        if Harness::is_first(round) {
            harness.begin_store();
        }
        harness.round(round);
    }
    let commits = harness.commits();
    let tally = &mut harness.tally;
    tally.add("commits acknowledged", commits);
    // A run in which nothing was written, or in which nobody died in what matters, proves nothing.
    assert!(commits > 0 && tally.get("kills") >= rounds);
    let matters = [
        "killed in an opening",
        "killed in a commit",
        "killed in a snapshot",
        "killed in a rollback",
        "killed in a rollback of a stopped store",
    ];
    for what in matters.iter().filter(|_| rounds >= 200) {
        assert!(tally.get(what) > 0, "no {what} in {rounds} rounds");
    }
}
