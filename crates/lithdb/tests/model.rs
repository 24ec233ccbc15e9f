//! Generated histories of all operations of a database, checked against a model.
//!
//! After every open: everything acknowledged exists byte-exact; what survives is a prefix of what
//! was put, in complete batches; nothing appears that was never put, was collected or was rolled
//! back; the files, as the format oracle reads them, contain the same; reopening changes nothing;
//! no segment id has two contents; a rollback happened to all tables or to none; hard links keep
//! their bytes; no file or handle is left over. The keymap is only in memory here: every open
//! rebuilds it.
//!
//! A failing history is shrunk, and its seed is stored in `model.proptest-regressions`, to be
//! tried first from then on. What it found becomes a test of its own below: a seed is useful only
//! as long as the generator stays the same.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "support/model/mod.rs"]
mod model;

use lithdb_sim::{CrashImage, Effort, Fault, Pages, Tally};
use model::op::{Crash, Environment, GeneratorState, Histories, Item, KINDS, Op, WallClock};
use model::run::{Run, take_counts};
use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

struct Database;

impl StateMachineTest for Database {
    type SystemUnderTest = Run;
    type Reference = Histories;

    fn init_test(generator: &GeneratorState) -> Run {
        Run::new(generator.environment)
    }

    fn apply(mut run: Run, _: &GeneratorState, op: Op) -> Run {
        run.step(&op);
        run
    }

    fn teardown(run: Run, _: GeneratorState) {
        run.end();
    }
}

/// Events that must occur in a run, besides every kind of operation.
const EVENTS: [&str; 18] = [
    "batches collected",
    "clocks accepted",
    "closed and opened again",
    "crashes in openings",
    "duplicates refused",
    "faults injected",
    "files linked",
    "kills",
    "openings",
    "openings that failed",
    "power losses",
    "reader's views",
    "rollbacks executed",
    "rollbacks interrupted",
    "rollbacks left to the next open",
    "rollbacks refused",
    "rollbacks that failed",
    "tables emptied by their TTL",
];

#[test]
fn random_histories_agree_with_the_model() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("the model");
    // A deep run continues with other histories after a finding: it must not start with that one
    // again.
    let is_remembered = std::env::var_os("PROPTEST_DISABLE_FAILURE_PERSISTENCE").is_none();
    let file = FileFailurePersistence::WithSource("proptest-regressions");
    let config = Config {
        cases: u32::try_from(effort.times(300)).unwrap(),
        rng_seed: RngSeed::Fixed(effort.seed("model")),
        failure_persistence: is_remembered.then(|| Box::new(file) as _),
        source_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.rs")),
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let histories = Histories::sequential_strategy(30..60);
    let mut runner = TestRunner::new(config.clone());
    let ended = runner.run(&histories, |(generator, ops, seen)| {
        Database::test_sequential(config.clone(), generator, ops, seen);
        Ok::<(), TestCaseError>(())
    });
    for (what, count) in take_counts() {
        tally.add(what, count);
    }
    if let Err(TestError::Fail(reason, (generator, ops, _))) = ended {
        panic!("{reason}\nin {:?}:\n{ops:#?}", generator.environment);
    }
    ended.map_err(|e| e.to_string()).unwrap();
    for kind in KINDS.iter().chain(&EVENTS) {
        assert!(tally.get(kind) > 0, "no {kind} occurred");
    }
}

/// Runs one history: a shrunk failure becomes a call of this.
fn history(environment: Environment, ops: &[Op]) {
    let mut run = Run::new(environment);
    ops.iter().for_each(|op| run.step(op));
    run.end();
}

const TWO_ROOTS: Environment = Environment { roots: 2, pread: false, short_transfers: false };

fn put(len: usize) -> Op {
    Op::Put { table: 0, item: Item { again: None, len, aliases: 3 } }
}

/// The shortest history in which the page cache deceives: the sync of a value fails and leaves its
/// pages readable and clean.
#[test]
fn data_served_after_a_failed_sync_survives_power_loss() {
    for changes in 0..6 {
        let fault = Fault::FailedSync { pages: Pages::ReadableAndClean };
        let fails = Op::FaultSoon { after: changes, fault, sticky: false };
        for len in [10, 200] {
            let (kill, loss) = (Crash::Kill, Crash::Power(CrashImage::Nothing));
            let flush = Op::Flush { table: 0 };
            let ops =
                [put(len), fails.clone(), flush, Op::Crash(kill), Op::Refresh, Op::Crash(loss)];
            history(TWO_ROOTS, &ops);
        }
    }
}

/// A rollover interrupted by a crash leaves a segment that is discarded; its id is never reused.
#[test]
fn discarded_segment_id_is_never_reused() {
    for after in 0..12 {
        for crash in [Crash::Kill, Crash::Power(CrashImage::Everything)] {
            let seal = Op::Seal { table: 0 };
            let ops =
                [put(100), Op::CrashSoon { after, crash }, seal.clone(), put(100), seal, put(20)];
            history(TWO_ROOTS, &ops);
        }
    }
}

/// A segment sealed while the clock is not trusted is not as old as the downtime before it.
#[test]
fn wrong_clock_between_restarts_does_not_age_segments() {
    let stop = |crash, secs, wall| Op::Stop { crash, secs, wall: Some(wall) };
    for days in [400, -400, -18_000] {
        for crash in [None, Some(Crash::Kill), Some(Crash::Power(CrashImage::Nothing))] {
            let (put, seal, gc) = (put(100), Op::Seal { table: 0 }, Op::Gc { table: 0 });
            let ops = [
                put.clone(),
                Op::Ttl { table: 0, secs: Some(100) },
                seal.clone(),
                stop(crash, 3_000, WallClock::Off(days)),
                put,
                seal,
                gc.clone(),
                stop(crash, 10, WallClock::Right),
                gc.clone(),
                Op::Run { secs: 80 },
                gc,
            ];
            history(TWO_ROOTS, &ops);
        }
    }
}
