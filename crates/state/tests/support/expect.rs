//! What a store may be after a crash or a fault, and the checks of it.

use std::path::Path;

use lithdb_sim::CrashImage;
use lithdb_state::{Reclone, RootHash, StateOptions};

use super::check;
use super::model::{Model, changes_of};
use super::script::{Script, Store};
use super::{DIR, Harness};

/// What the store may be after a crash.
#[derive(Debug, Clone)]
pub struct Expect {
    /// The current branch, with the version that is being committed.
    pub model: Model,
    pub branch: u64,
    /// The newest version that was acknowledged as durable.
    pub durable: u64,
    /// The target of a rollback that has begun and not returned.
    pub undecided: Option<u64>,
    /// The branches that were rolled back, and the current one while it is.
    pub branches: Vec<Model>,
    /// The newest snapshot that was acknowledged.
    pub snapshot: Option<u64>,
    /// Whether there is a working copy that nothing is replacing.
    pub is_settled: bool,
}

impl Expect {
    pub fn new(options: &StateOptions) -> Self {
        let model = Model::new(options.initial_version);
        Self {
            durable: model.base,
            model,
            branch: 0,
            undecided: None,
            branches: Vec::new(),
            snapshot: None,
            is_settled: false,
        }
    }

    fn all_branches(&self) -> Vec<&Model> {
        self.branches.iter().chain([&self.model]).collect()
    }

    /// What it is if the store is found at `head`: the newest acknowledged version or a later one,
    /// or exactly the target of a rollback that may have happened.
    pub fn found_at(&self, head: u64, root: &RootHash, context: &str) -> Self {
        let mut found = self.clone();
        let is_cut = head < self.durable && self.undecided == Some(head);
        let durable = self.durable;
        assert!(is_cut || head >= durable, "{context}: found {head}, acknowledged {durable}");
        let newest = self.model.head();
        assert!(head <= newest, "{context}: found version {head}, the newest was {newest}");
        assert_eq!(*root, self.model.at(head).root, "{context}: the root of version {head}");
        if head < newest {
            found.branches.push(self.model.clone());
            found.model.roll_back(head);
        }
        found.branch += 1;
        found.durable = head;
        found.undecided = None;
        found.is_settled = true;
        found
    }
}

/// Checks what the power loss left before anything opens it: every snapshot directory is complete
/// and every working copy is exactly one version.
pub fn check_disk(harness: &Harness, expect: &Expect, context: &str) {
    let branches = expect.all_branches();
    check::snapshots_on_disk(harness, &branches, context);
    for name in harness.names("working").iter().filter(|name| name.starts_with("engine-")) {
        let dir = Path::new(DIR).join("working").join(name);
        let found = check::engine_contents(harness, &dir)
            .unwrap_or_else(|e| panic!("{context}: the working copy: {e}"));
        let of = branches.iter().filter_map(|model| model.get(found.version));
        let of = of.into_iter().find(|expected| expected.root == found.root);
        let expected = of.unwrap_or_else(|| panic!("{context}: a working copy of no branch"));
        assert_eq!(found.rows, expected.rows, "{context}: the working copy is one version");
    }
}

/// Checks an open store, and that opening has removed what was left of interrupted operations;
/// returns what is expected of it from now on.
pub fn check_open(store: &Store, harness: &Harness, expect: &Expect, context: &str) -> Expect {
    let found = check_state(store, harness, expect, context);
    for name in ["working.new", "trash", "views"] {
        assert!(harness.names(name).is_empty(), "{context}: {name} was left");
    }
    let new = harness.names("snapshots").into_iter().find(|name| name.ends_with(".new"));
    assert_eq!(new, None, "{context}: an unfinished snapshot was left");
    found
}

/// Checks an open store; returns what is expected of it from now on.
pub fn check_state(store: &Store, harness: &Harness, expect: &Expect, context: &str) -> Expect {
    let db = store.state();
    let found = expect.found_at(db.version(), &db.root(), context);
    check::view(&db.latest(), &found.model, context);
    assert_eq!(db.durable_version(), db.version(), "{context}: what was found is durable");
    let records = store.log(harness);
    check::log(&records, &found.model, db.version(), context);
    check::snapshots(db, &found.model, context);
    let dirs = check::snapshot_dirs(harness);
    let (first, lowest) = (records[0].version, dirs.keys().next().copied());
    assert!(lowest.is_none_or(|lowest| first <= lowest), "{context}: {first}, {lowest:?}");
    let reachable = if first == found.model.base { Some(first) } else { lowest };
    check::reach(db, reachable.expect("a base"), context);
    let report = db.opened();
    assert!(report.damaged.is_empty() && report.foreign.is_empty(), "{context}: {report:?}");
    let is_explained = match &report.recloned {
        None => true,
        Some(Reclone::Absent) => !expect.is_settled,
        Some(Reclone::Ahead { .. } | Reclone::OtherBranch { .. }) => {
            expect.undecided.is_some() || (!expect.is_settled && expect.branch > 0)
        }
        Some(_) => false,
    };
    assert!(is_explained, "{context}: {:?}", report.recloned);
    if let Some(block) = store.newest_block().unwrap() {
        let head = db.version();
        assert!(block == head || block == head + 1, "{context}: block {block}, state {head}");
    }
    let kept = expect.snapshot.filter(|_| expect.undecided.is_none());
    assert!(dirs.keys().next_back() >= kept.as_ref(), "{context}: snapshot {kept:?} is lost");
    found
}

/// The store works: versions are committed with contents that no branch had, a snapshot of them is
/// taken, and both survive the next power loss.
pub fn go_on(script: &Script, harness: &Harness, mut expect: Expect, context: &str) {
    let context = format!("{context}, gone on with");
    let store = Store::try_open(script, harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    let branch = expect.branch + 100;
    for n in 0..3 {
        let changes = changes_of(branch, expect.model.head() + 1);
        let version = expect.model.commit(&changes);
        store.commit(version, &changes).unwrap_or_else(|e| panic!("{context}: {version}: {e}"));
        if n == 1 {
            let snapshot = store.state().snapshot().and_then(|ticket| ticket.wait());
            let snapshot = snapshot.unwrap_or_else(|e| panic!("{context}: snapshot: {e}"));
            assert_eq!(snapshot.version, version, "{context}");
            expect.snapshot = Some(version);
        }
    }
    store.state().flush().unwrap();
    expect.durable = expect.model.head();
    let view = store.state().latest();
    check::view(&view, &expect.model, &context);
    drop((store, view));
    let harness = harness.after_crash(&CrashImage::Nothing);
    check_disk(&harness, &expect, &context);
    let store = Store::try_open(script, &harness).unwrap_or_else(|e| panic!("{context}: {e}"));
    check_open(&store, &harness, &expect, &format!("{context}, crashed"));
}
