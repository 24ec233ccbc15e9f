//! Every read of an opening fails. An error of the operating system says nothing about the files:
//! it ends the opening, and nothing is cloned again, moved aside or removed because of it.

use lithdb::Rollback;
use lithdb::rollback::max_be_u64;
use lithdb_sim::{Effort, Fault, Tally};
use lithdb_state::ErrorKind;

use super::on_flush;
use super::support::expect::{Expect, check_open, check_state};
use super::support::script::{Op, Run, Script, Store};
use super::support::{DIR, Harness, small};

/// What an opening must not decide from a failed read: the engine directories, the snapshots, and
/// those that were moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    working: Vec<String>,
    snapshots: Vec<String>,
    abandoned: Vec<String>,
}

impl Kept {
    fn of(harness: &Harness) -> Self {
        let is_snapshot = |name: &String| name.len() == 20;
        Self {
            working: harness.names("working"),
            snapshots: harness.names("snapshots").into_iter().filter(is_snapshot).collect(),
            abandoned: harness.names("abandoned"),
        }
    }
}

/// The stopped store after a script, and what is expected of it.
fn stopped(script: &Script) -> (Harness, Expect) {
    let mut run = Run::new(script);
    run.until_error().unwrap();
    run.db().flush().unwrap();
    run.expect.durable = run.expect.model.head();
    drop(run.store.take());
    (run.harness.fork(), run.expect)
}

/// Every read of the opening of `base` fails in each way, once and from then on.
fn every_read(name: &str, script: &Script, base: &Harness, expect: &Expect) -> Tally {
    let mut tally = Tally::new(format!("failed reads of opening a state store: {name}"));
    let (before, reference) = (Kept::of(base), base.fork());
    let store = Store::try_open(script, &reference).unwrap();
    let found = check_open(&store, &reference, expect, name);
    let report = store.state().opened().clone();
    drop(store);
    let (after, count) = (Kept::of(&reference), reference.fs.reads());
    let all =
        [Fault::Eio, Fault::TooManyFiles, Fault::OutOfMemory, Fault::Denied, Fault::ShortWrite];
    for read in 0..count {
        for (n, fault) in all.into_iter().enumerate() {
            if !Effort::from_env().is_deep() && !(read as usize + n).is_multiple_of(3) {
                continue;
            }
            let sticky = (read as usize / 3).is_multiple_of(2);
            let context = format!("{name}, {fault:?} at read {read} of {count}, sticky: {sticky}");
            let harness = base.fork();
            match sticky {
                true => harness.fs.fail_reads_from(read + 1, fault),
                false => harness.fs.fail_read(read + 1, fault),
            }
            let opened = Store::try_open(script, &harness);
            if harness.fs.faults_hit() == 0 {
                continue;
            }
            tally.add("failed reads", 1);
            harness.fs.clear_faults();
            match opened {
                Ok(store) => {
                    let opened = store.state().opened();
                    assert_eq!(opened.recloned, report.recloned, "{context}");
                    // What could not be removed stays until the next open.
                    check_state(&store, &harness, expect, &context);
                    tally.add("openings in spite of it", 1);
                }
                Err(error) => {
                    let kinds = [ErrorKind::Io, ErrorKind::Exhausted];
                    assert!(kinds.contains(&error.kind()), "{context}: {error}");
                    if report.recloned.is_none() {
                        assert_eq!(Kept::of(&harness).working, before.working, "{context}");
                    }
                    if report.abandoned.is_empty() {
                        assert_eq!(Kept::of(&harness).snapshots, before.snapshots, "{context}");
                    }
                    tally.add("refused openings", 1);
                }
            }
            let store = Store::try_open(script, &harness).unwrap();
            let again = check_open(&store, &harness, expect, &context);
            assert_eq!(again.durable, found.durable, "{context}");
            drop(store);
            let kept = Kept::of(&harness);
            assert_eq!(kept.snapshots, after.snapshots, "{context}");
            assert_eq!(kept.abandoned, after.abandoned, "{context}");
            if report.recloned.is_none() {
                assert_eq!(kept.working, before.working, "{context}: cloned again");
            }
        }
    }
    tally
}

fn check(tally: &Tally) {
    assert!(tally.get("failed reads") > 100, "{tally:?}");
    assert!(tally.get("refused openings") > 60, "{tally:?}");
}

#[test]
fn failed_reads_of_opening_replace_nothing() {
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("kept", on_flush(), &ops);
    let (base, expect) = stopped(&script);
    let tally = every_read("kept", &script, &base, &expect);
    check(&tally);
}

#[test]
fn failed_reads_of_opening_a_lost_working_copy_choose_no_other_base() {
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("lost", small(), &ops);
    let (base, mut expect) = stopped(&script);
    base.fs.remove_dir_raw(format!("{DIR}/working"));
    expect.is_settled = false;
    check(&every_read("lost", &script, &base, &expect));
}

#[test]
fn failed_reads_of_opening_after_a_rollback_keep_what_it_keeps() {
    let ops = [Op::Commit, Op::Commit, Op::Snapshot, Op::Commit, Op::Snapshot, Op::Commit];
    let script = Script::new("rolled back", small(), &ops);
    let (base, mut expect) = stopped(&script);
    let rollback = Rollback::new([format!("{DIR}/wal")]).env(base.env());
    rollback.plan(max_be_u64(0, 2)).unwrap().execute().unwrap();
    let base = base.fork();
    expect.branches.push(expect.model.clone());
    expect.model.roll_back(2);
    (expect.durable, expect.snapshot, expect.undecided) = (2, None, Some(2));
    check(&every_read("rolled back", &script, &base, &expect));
}
