//! A store in use, for as long as it is given: one process commits, takes snapshots, prunes, rolls
//! back, closes and opens, others read random versions beside it, and export and import them; both
//! are killed at random moments. Every answer is compared with a model, which outlives them all.

use std::time::{Duration, Instant};

use lithdb_sim::{Effort, Tally};

use crate::harness::Harness;
use crate::reading::{EXPORTED, NEWEST, PAST, Readers};

const NAME: &str = "a state store in use";

/// Uses stores for `duration`, with `readers` processes that read beside the writer. Whatever is
/// wrong is a panic.
pub fn run(duration: Duration, readers: u64) -> Harness {
    let mut harness = Harness::new(NAME, Tally::new(NAME));
    harness.pace = 10;
    let seed = Effort::from_env().seed(NAME);
    let (began, mut reported) = (Instant::now(), Instant::now());
    let mut reading: Option<Readers> = None;
    for round in 0.. {
        let is_over = began.elapsed() >= duration && round > 0;
        if is_over || Harness::is_first(round) {
            if let Some(mut readers) = reading.take() {
                // The check of the last round has closed the store.
                readers.wait_for_a_view(&format!("round {round}"));
                readers.stop();
                check(&readers, &mut harness, round);
            }
            if is_over {
                break;
            }
            harness.begin_store();
            let beat = &harness.known.history.beat;
            reading = Some(Readers::start(harness.store(), beat, readers, seed ^ round));
        }
        let readers = reading.as_ref().unwrap();
        if round % 3 == 1 {
            readers.kill_one();
        }
        harness.round(round);
        check(readers, &mut harness, round);
        if reported.elapsed() > Duration::from_secs(60) {
            reported = Instant::now();
            let commits = harness.commits();
            println!("{} s, {commits} commits: {:?}", began.elapsed().as_secs(), harness.tally);
        }
    }
    let commits = harness.commits();
    harness.tally.add("commits acknowledged", commits);
    harness.tally.add("seconds", began.elapsed().as_secs());
    // One for each store, at least: however short the run, the readers were there.
    assert!(views(&harness).iter().sum::<u64>() >= harness.tally.get("stores"));
    harness
}

/// How many views of other processes were compared, by kind.
fn views(harness: &Harness) -> [u64; 3] {
    [NEWEST, PAST, EXPORTED].map(|what| harness.tally.get(what))
}

fn check(readers: &Readers, harness: &mut Harness, round: u64) {
    let context = format!("round {round}");
    readers.check(&harness.known.history, harness.floor, &context, &mut harness.tally);
}

#[test]
fn a_store_in_use_answers_as_the_model_while_processes_are_killed() {
    let effort = Effort::from_env();
    let seconds = if effort.is_deep() { effort.times(60) } else { 4 };
    let harness = run(Duration::from_secs(seconds), 2);
    if effort.is_deep() {
        assert!(views(&harness).iter().all(|seen| *seen > 0), "{:?}", views(&harness));
    }
    assert!(harness.tally.get("kills") > 0 && harness.commits() > 0);
}
