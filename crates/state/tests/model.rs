//! Generated histories of all operations of a state store, checked against a model.
//!
//! The model is a map of rows for every version, whose roots are computed from nothing but the
//! rows. After every step: the newest version and the pending one have exactly its rows, each with
//! the version that wrote it, by keys and by iteration from both ends; roots, numbers and bytes are
//! those of the rows; views and iterators that were kept return what they returned before; the
//! snapshots are those that were taken and not pruned, and none is overdue; what was acknowledged
//! as durable is there after every crash; rollbacks, views beside the writer and the store itself
//! agree on what can be reached.
//!
//! A failing history is shrunk, and its seed is stored in `model.proptest-regressions`, to be tried
//! first from then on. What it found becomes a test of its own below.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "pitfalls/fixture.rs"]
mod fixture;
#[path = "pitfalls/refuse.rs"]
mod refuse;
mod support;
mod support_model;

use lithdb_sim::{Effort, Tally};
use proptest::test_runner::{
    Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner,
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use support_model::op::{GeneratorState, Histories, KINDS, Op};
use support_model::run::{Run, take_counts};

struct State;

impl StateMachineTest for State {
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
const EVENTS: [&str; 10] = [
    "crashes in operations",
    "floors raised",
    "logs collected",
    "rollbacks finished by an opening",
    "rolled back",
    "snapshots pruned",
    "snapshots taken again",
    "versions refused",
    "views of past versions",
    "working copies cloned",
];

#[test]
fn random_histories_agree_with_the_model() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("the model of a state store");
    // A deep run continues with other histories after a finding: it must not start with that one
    // again.
    let is_remembered = std::env::var_os("PROPTEST_DISABLE_FAILURE_PERSISTENCE").is_none();
    let file = FileFailurePersistence::WithSource("proptest-regressions");
    let config = Config {
        cases: u32::try_from(effort.times(200)).unwrap(),
        rng_seed: RngSeed::Fixed(effort.seed("the model of a state store")),
        failure_persistence: is_remembered.then(|| Box::new(file) as _),
        source_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.rs")),
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    let histories = Histories::sequential_strategy(30..60);
    let mut runner = TestRunner::new(config.clone());
    let ended = runner.run(&histories, |(generator, ops, seen)| {
        State::test_sequential(config.clone(), generator, ops, seen);
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

/// Without crashes: what the engine does at those is tested where it is.
#[test]
fn random_histories_on_the_production_engine_agree_with_the_model() {
    support_model::production::random_histories();
}

/// `LITHDB_EFFORT=20` makes a million changes.
#[test]
fn overlapping_runs_of_a_store_never_show_an_older_value() {
    support_model::overlap::overlapping_runs();
}
