//! Listeners that call the state store they listen to, and panic.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_sim::OpKind;
use lithdb_state::{
    Error, ErrorKind, Prune, Result, SnapshotTicket, StateDb, StateEvent, StateListener,
    StateOptions, VerifyLevel,
};
use lithdb_state_engine::ModelEngines;
use parking_lot::Mutex;

use crate::engines::{Call, HookEngines};
use crate::fixture::refusing;
use crate::support::model::{change_sets, changes_of};
use crate::support::{DIR, Harness, small};
use crate::watchdog::must_end;

/// What goes wrong, so that there is an event of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    Nothing,
    Checkpoint,
    Space,
    Engine,
    SyncOfSnapshots,
}

/// Calls that a listener may make.
const WORKS: [&str; 15] = [
    "contains",
    "discard_pending",
    "inspect",
    "latest_version",
    "opened",
    "pending",
    "plan of a rollback",
    "reach",
    "rollback_floor",
    "rows",
    "snapshots",
    "stats",
    "verify",
    "view",
    "view_only",
];
/// Calls that are refused in a listener.
const REFUSED: [&str; 11] = [
    "apply",
    "close",
    "commit",
    "commit_block",
    "flush",
    "open",
    "prune_abandoned",
    "prune_snapshots",
    "prune_snapshots_below",
    "rollback_to",
    "snapshot",
];

/// The name of an event.
fn name(event: &StateEvent) -> String {
    let shown = format!("{event:?}");
    shown.split(' ').next().unwrap().to_owned()
}

/// A call that cannot fail has returned this.
fn done<T>(_answer: T) -> Result<()> {
    Ok(())
}

/// Makes every call, and returns how each went.
fn call_everything(db: &StateDb, harness: &Harness) -> Vec<(&'static str, Result<()>)> {
    let next = db.version() + 1;
    let sets = change_sets(&changes_of(0, next));
    let view = db.latest();
    db.discard_pending();
    let discarded = Ok(());
    let components = || harness.components();
    vec![
        ("contains", view.contains("bank", "a").map(drop)),
        ("rows", view.iter("bank").and_then(|rows| rows.rev().try_for_each(|row| row.map(drop)))),
        ("pending", db.pending().root().and_then(|_| db.pending().iter("bank")).map(drop)),
        ("opened", done((db.opened().clone(), db.root(), db.durable_version()))),
        ("stats", done(db.stats())),
        ("reach", db.reach(db.version()).map(drop)),
        ("rollback_floor", db.rollback_floor().map(drop)),
        ("snapshots", db.snapshots().map(drop)),
        ("inspect", StateDb::inspect_with(DIR, components()).map(drop)),
        ("latest_version", StateDb::latest_version_with(DIR, components()).map(drop)),
        ("view", db.rollback_floor().and_then(|version| db.view(version)).map(drop)),
        (
            "view_only",
            StateDb::view_only_with(DIR, None, harness.options.clone(), components()).map(drop),
        ),
        (
            "verify",
            StateDb::verify_with(DIR, VerifyLevel::Content, small(), components(), |_| {})
                .map(drop),
        ),
        (
            "plan of a rollback",
            match harness.rollback().plan(1) {
                Err(error) if error.kind() == ErrorKind::Locked => Ok(()),
                planned => planned.map(drop),
            },
        ),
        ("discard_pending", discarded),
        ("apply", db.apply(next, &sets)),
        ("commit", db.commit(next).map(drop)),
        ("commit_block", db.commit_block(next, &sets).map(drop)),
        ("flush", db.flush().map(drop)),
        ("snapshot", db.snapshot().map(drop)),
        ("prune_snapshots", db.prune_snapshots(Prune::Beyond(0)).map(drop)),
        ("prune_snapshots_below", db.prune_snapshots_below(1).map(drop)),
        ("prune_abandoned", db.prune_abandoned().map(drop)),
        ("rollback_to", db.clone().rollback_to(db.version()).map(drop)),
        ("close", db.close()),
        ("open", harness.try_open().map(drop)),
    ]
}

/// The store that a listener calls, and what came of it.
#[derive(Default)]
struct Heard {
    db: Mutex<Option<StateDb>>,
    ticket: Mutex<Option<SnapshotTicket>>,
    outcomes: Mutex<BTreeMap<(String, &'static str), Kinds>>,
}

/// How the calls of one name went in the events of one name: the kinds of the errors, `None` for
/// success.
type Kinds = BTreeSet<Option<&'static str>>;

impl Heard {
    fn hear(&self, event: &StateEvent, harness: &Harness) {
        let Some(db) = self.db.lock().clone() else { return };
        let ticket = self.ticket.lock().clone();
        let mut calls = call_everything(&db, harness);
        calls.push(("wait_durable", db.wait_durable(db.version())));
        calls.extend(ticket.map(|ticket| ("wait", ticket.wait().map(drop))));
        let mut outcomes = self.outcomes.lock();
        for (call, done) in calls {
            let kind = done.err().map(|error| error.kind().as_str());
            outcomes.entry((name(event), call)).or_default().insert(kind);
        }
        drop(outcomes);
        panic!("a listener that panics");
    }
}

/// The hooks that let something fail once `is_failing` is set.
fn failing(harness: &mut Harness, fails: Fails, is_failing: &Arc<AtomicBool>) -> HookEngines {
    let fs = harness.fs.clone();
    let is_removing = Arc::new(AtomicBool::new(false));
    let is_on = Arc::clone(is_failing);
    harness.wrapped = Some(refusing(&fs, move |kind, path: &Path| {
        if fails != Fails::SyncOfSnapshots || !is_on.load(Ordering::SeqCst) {
            return None;
        }
        let of_snapshots = |path: &Path| path.ends_with("snapshots");
        if kind == OpKind::Rename && path.extension().is_none() {
            is_removing.fetch_or(path.parent().is_some_and(of_snapshots), Ordering::SeqCst);
        }
        let is_refused =
            kind == OpKind::SyncDir && of_snapshots(path) && is_removing.load(Ordering::SeqCst);
        is_refused.then(|| io::Error::from(io::ErrorKind::PermissionDenied))
    }));
    let is_on = Arc::clone(is_failing);
    let hook = move |call: Call<'_>| {
        if !is_on.load(Ordering::SeqCst) {
            return Ok(());
        }
        match (fails, call) {
            (Fails::Checkpoint, Call::Checkpoint) => Err(Error::new(ErrorKind::Io, "no links")),
            (Fails::Space, Call::Flush) => Err(Error::new(ErrorKind::StorageFull, "no space")),
            (Fails::Engine, Call::Flush) => {
                Err(Error::new(ErrorKind::Io, "the engine is broken").latching())
            }
            _ => Ok(()),
        }
    };
    HookEngines::new(Arc::new(ModelEngines::new(harness.env())), hook)
}

/// Commits with events of all kinds, in which the listener makes every call and panics. Returns the
/// events in which it did.
fn listens(fails: Fails, without_background: bool) -> BTreeSet<String> {
    let context = format!("{fails:?}, without background: {without_background}");
    let mut options: StateOptions = small().snapshot_interval(2).keep_snapshots(0);
    options.wal = options.wal.segment_keys(1);
    let mut harness = Harness::new(options.clone());
    let (heard, is_failing) = (Arc::new(Heard::default()), Arc::new(AtomicBool::new(false)));
    let mut components = harness.components();
    components.engines = Some(Arc::new(failing(&mut harness, fails, &is_failing)));
    components.env = Some(harness.env());
    components.without_background = without_background;
    let (hears, theirs) = (Arc::clone(&heard), harness.clone());
    components.listener = StateListener::new(move |event| hears.hear(event, &theirs));
    let db = StateDb::open_with(DIR, options, components).unwrap();
    let commit = |version: u64| db.commit_block(version, &change_sets(&changes_of(0, version)));
    commit(1).unwrap();
    db.snapshot().unwrap().wait().unwrap();
    *heard.db.lock() = Some(db.clone());
    is_failing.store(true, Ordering::SeqCst);
    for version in 2..=7 {
        let done = commit(version);
        assert!(done.is_ok() || fails == Fails::Engine, "{context}: {done:?}");
        if let Ok(ticket) = db.snapshot() {
            *heard.ticket.lock() = Some(ticket.clone());
            drop(ticket.wait());
        }
    }
    is_failing.store(false, Ordering::SeqCst);
    // The listener's panics and calls have left nothing behind.
    if fails != Fails::Engine {
        commit(8).unwrap();
        assert_eq!(db.durable_version(), 8, "{context}");
    }
    assert_eq!(db.stats().failure.is_some(), fails == Fails::Engine, "{context}");
    *heard.db.lock() = None;
    let closed = db.close();
    // The flush that found no space may still wait to be repeated.
    let may_fail = matches!(fails, Fails::Engine | Fails::Space);
    assert!(closed.is_ok() || may_fail, "{context}: {closed:?}");
    drop(db);
    let outcomes = std::mem::take(&mut *heard.outcomes.lock());
    for ((event, call), kinds) in &outcomes {
        // The background thread may deliver an event while the store is being closed.
        let closed = (!without_background).then_some(ErrorKind::Closed.as_str());
        let is_late = |kind: &Option<&str>| kind.is_some() && *kind == closed;
        let found: Vec<_> = kinds.iter().copied().filter(|kind| !is_late(kind)).collect();
        let refused = Some(ErrorKind::InvalidArgument.as_str());
        match *call {
            _ if found.is_empty() => {}
            call if WORKS.contains(&call) => {
                assert_eq!(found, [None], "{context}: {event}, {call}")
            }
            call if REFUSED.contains(&call) => {
                assert_eq!(found, [refused], "{context}: {event}, {call}");
            }
            // They work unless they would have to wait.
            "wait_durable" => assert!(found.iter().all(|kind| [None, refused].contains(kind))),
            // A snapshot that failed is an answer, too.
            _ => assert_eq!(*call, "wait"),
        }
    }
    outcomes.into_keys().map(|(event, _)| event).collect()
}

#[test]
fn every_call_in_a_listener_works_or_is_refused_and_none_waits_for_ever() {
    let all =
        [Fails::Nothing, Fails::Checkpoint, Fails::Space, Fails::Engine, Fails::SyncOfSnapshots];
    for without_background in [true, false] {
        let events = Arc::new(Mutex::new(BTreeSet::new()));
        for fails in all {
            let events = Arc::clone(&events);
            must_end(move || events.lock().append(&mut listens(fails, without_background)));
        }
        let expected = [
            "FloorRaised",
            "FlushDeferred",
            "Latched",
            "RetentionFailed",
            "SnapshotFailed",
            "SnapshotNotRemoved",
            "SnapshotTaken",
            "SnapshotsPruned",
        ];
        assert!(events.lock().iter().eq(expected), "{without_background}: {:?}", events.lock());
    }
}
