//! Every operation and every read of an import and of a reset fails.

use lithdb_sim::{CrashImage, Fault, Pages, Tally};
use lithdb_state::{ErrorKind, StateDb};

use super::origin::{Origin, options};
use super::support::expect::check_open;
use super::support::script::{Op, Run, Script, Store};
use super::support::{DIR, Harness, small};

const FAULTS: [(Fault, bool); 6] = [
    (Fault::Eio, false),
    (Fault::NoSpace, true),
    (Fault::FailedSync { pages: Pages::Lost }, false),
    (Fault::Eio, true),
    (Fault::NoSpace, false),
    (Fault::FailedSync { pages: Pages::PartlyLost }, false),
];
const READ_FAULTS: [Fault; 4] =
    [Fault::Eio, Fault::TooManyFiles, Fault::OutOfMemory, Fault::Denied];

/// Calls `each` with a copy of `before` on which one operation or one read of `action` has failed,
/// and whether the action failed.
fn every_fault(
    before: &Harness,
    tally: &mut Tally,
    action: impl Fn(&Harness) -> lithdb_state::Result<()>,
    mut each: impl FnMut(Harness, bool, &str),
) {
    let whole = before.fork();
    action(&whole).unwrap();
    let (ops, reads) = (whole.fs.ops(), whole.fs.reads());
    for at in 0..ops + reads {
        let harness = before.fork();
        let context = if at < ops {
            let (fault, sticky) = FAULTS[at as usize % FAULTS.len()];
            harness.fs.fail_op(at + 1, fault, sticky);
            format!("{fault:?} at operation {at} of {ops}, sticky: {sticky}")
        } else {
            let fault = READ_FAULTS[at as usize % READ_FAULTS.len()];
            harness.fs.fail_read(at - ops + 1, fault);
            format!("{fault:?} at read {} of {reads}", at - ops)
        };
        let done = action(&harness);
        if harness.fs.faults_hit() == 0 {
            continue;
        }
        harness.fs.clear_faults();
        tally.add("faults", 1);
        if let Err(error) = &done {
            let kinds =
                [ErrorKind::Io, ErrorKind::StorageFull, ErrorKind::Exhausted, ErrorKind::Latched];
            assert!(kinds.contains(&error.kind()), "{context}: {error}");
            tally.add("failed", 1);
        }
        let context = format!("{context}: {done:?}");
        each(harness, done.is_err(), &context);
    }
}

#[test]
fn faults_at_every_operation_of_an_import() {
    let origin = Origin::new(0, 4);
    let mut tally = Tally::new("faults of an import");
    let before = Harness::new(options());
    let import = |harness: &Harness| harness.import(&origin.export).map(drop);
    let mut turn = 0_u64;
    every_fault(&before, &mut tally, import, |harness, is_error, context| {
        turn += 1;
        if turn.is_multiple_of(2) {
            harness.fs.release_locks();
            let is_whole = origin.whole_or_refused(&harness, context);
            assert!(is_whole || is_error, "{context}");
            return;
        }
        for image in [CrashImage::Nothing, CrashImage::Everything] {
            let context = format!("{context}; {image:?}");
            let is_whole = origin.whole_or_refused(&harness.after_crash(&image), &context);
            assert!(is_whole || is_error, "{context}");
        }
    });
    assert!(tally.get("faults") > 100 && tally.get("failed") > 80, "{tally:?}");
}

#[test]
fn faults_at_every_operation_of_a_reset() {
    let ops = [Op::Commit, Op::Snapshot, Op::Commit, Op::Commit];
    let script = Script::new("reset", small(), &ops);
    let mut run = Run::new(&script);
    run.is_checked = false;
    run.until_error().unwrap();
    drop(run.store.take());
    run.views.clear();
    let before = run.harness.fork();
    let mut tally = Tally::new("faults of a reset");
    every_fault(
        &before,
        &mut tally,
        |harness| harness.reset().map(drop),
        |found, is_error, context| {
            let gone_on = found.fork();
            let after = found.after_crash(&CrashImage::Nothing);
            for (harness, what) in [(&gone_on, "gone on"), (&after, "crashed")] {
                let context = format!("{context}; {what}");
                match harness.try_open_existing() {
                    Ok(db) => {
                        drop(db);
                        assert!(is_error, "{context}");
                        let store = Store::try_open(&script, harness).unwrap();
                        check_open(&store, harness, &run.expect, &context);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Missing, "{context}: {error}");
                        assert!(error.to_string().contains("there is no state store"), "{context}");
                        let db = StateDb::open_with(DIR, small(), harness.components());
                        assert_eq!(db.unwrap_or_else(|e| panic!("{context}: {e}")).version(), 0);
                    }
                }
            }
        },
    );
    assert!(tally.get("faults") > 40 && tally.get("failed") > 30, "{tally:?}");
}
