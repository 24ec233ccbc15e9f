//! The floor of a log in the application's database: what may be collected, and for whom.

use lithdb::rollback::max_be_u64;
use lithdb::{Components, Db, DbOptions, GcFilter, NoMatch, Rollback, Table};
use lithdb_state::{ErrorKind, Result, StateDb, StateOptions, Wal, WalFloor};

use crate::support::model::{Model, change_sets, changes_of};
use crate::support::{APP, DIR, Harness, check, small};

/// No segment is full before the test seals it.
fn options() -> StateOptions {
    let options = small().keep_snapshots(0);
    let wal = options.wal.clone().segment_keys(1_000);
    options.wal(wal)
}

fn open_app(harness: &Harness) -> Db {
    let components =
        Components { env: Some(harness.env()), without_maintenance: true, ..Components::default() };
    Db::open_with(DbOptions::new([APP]), components).unwrap()
}

fn log_of(harness: &Harness, app: &Db, name: &str, filter: GcFilter) -> Table {
    app.table_with_filter(name, harness.options.wal.clone(), filter).unwrap()
}

fn open_at(harness: &Harness, dir: &str, table: &Table, floor: &WalFloor) -> Result<StateDb> {
    let mut components = harness.components();
    components.wal = Wal::Table { table: table.clone(), floor: floor.clone() };
    StateDb::open_with(dir, harness.options.clone(), components)
}

fn commit_to(db: &StateDb, model: &mut Model, branch: u64, last: u64) {
    while model.head() < last {
        let changes = changes_of(branch, model.head() + 1);
        let version = model.commit(&changes);
        db.commit_block(version, &change_sets(&changes)).unwrap();
    }
}

fn collect(table: &Table) -> usize {
    table.seal().unwrap();
    table.run_gc().unwrap().segments
}

/// How the application opens the table again after a rollback.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Again {
    /// With another floor.
    Fresh,
    /// With the filter of the same floor.
    SameFloor,
    /// With the filter that it kept.
    SameFilter,
    /// With the filter of the same floor, while the store of before is still open.
    NotClosed,
}

/// The floor was raised to version 8. After a rollback below it the versions 4 to 7 are committed
/// again: LithDB must not collect them, neither before the store is open nor afterwards.
#[test]
fn a_floor_that_is_used_again_after_a_rollback_collects_nothing_of_the_new_branch() {
    for again in [Again::Fresh, Again::SameFloor, Again::SameFilter, Again::NotClosed] {
        let harness = Harness::new(options());
        let mut model = Model::new(1);
        let (app, floor) = (open_app(&harness), WalFloor::new());
        let filter = floor.filter();
        let table = log_of(&harness, &app, "state", filter.clone());
        let state = open_at(&harness, DIR, &table, &floor).unwrap();
        commit_to(&state, &mut model, 0, 8);
        state.snapshot().unwrap().wait().unwrap();
        assert_eq!(state.stats().floor, 8, "{again:?}");
        if again != Again::NotClosed {
            state.close().unwrap();
        }
        app.close().unwrap();
        drop((table, app));
        let rollback = Rollback::new([APP]).on_no_match(NoMatch::Refuse).env(harness.env());
        rollback.plan(max_be_u64(0, 3)).unwrap().execute().unwrap();
        model.roll_back(3);

        let (app, other) = (open_app(&harness), WalFloor::new());
        let (floor, filter) = match again {
            Again::Fresh => (&other, other.filter()),
            Again::SameFloor | Again::NotClosed => (&floor, floor.filter()),
            Again::SameFilter => (&floor, filter),
        };
        let table = log_of(&harness, &app, "state", filter);
        assert_eq!(collect(&table), 0, "{again:?}: before the store is open");
        // The log cannot be flushed any more: its database was closed.
        let closed = state.close();
        assert_eq!(closed.is_err(), again == Again::NotClosed, "{again:?}: {closed:?}");
        let state = open_at(&harness, DIR, &table, floor).unwrap();
        commit_to(&state, &mut model, 1, 7);
        assert_eq!(collect(&table), 0, "{again:?}: committed again");
        check::view(&state.latest(), &model, "committed again");
        state.close().unwrap();
        harness.fs.remove_dir_raw(format!("{DIR}/working"));
        let state = open_at(&harness, DIR, &table, floor).unwrap();
        assert_eq!(state.opened().replayed, 7, "{again:?}");
        check::view(&state.latest(), &model, "replayed");
        // The floor rises for the new branch as it did for the old one.
        let oldest = table.oldest_key().unwrap();
        state.snapshot().unwrap().wait().unwrap();
        assert_eq!(state.stats().floor, 7, "{again:?}");
        assert!(table.oldest_key().unwrap() > oldest, "{again:?}: it lets versions be collected");
        drop((state, table));
        app.close().unwrap();
    }
}

/// With another filter the log would lose records that the store needs, or keep them for ever.
#[test]
fn a_log_with_another_filter_than_that_of_its_floor_is_refused() {
    let harness = Harness::new(options());
    let (app, floor) = (open_app(&harness), WalFloor::new());
    let filters = [WalFloor::new().filter(), GcFilter::new(|_, _| Ok(false))];
    for (n, filter) in filters.into_iter().enumerate() {
        let table = log_of(&harness, &app, &format!("state{n}"), filter);
        let error = open_at(&harness, DIR, &table, &floor).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("expected the filter of the WalFloor"), "{error}");
        assert_eq!(table.oldest_key().unwrap(), None, "nothing was put");
    }
    // The filter is that with which the table was opened first, whatever is given later.
    let first = log_of(&harness, &app, "state", floor.filter());
    let other = WalFloor::new();
    let again = log_of(&harness, &app, "state", other.filter());
    let error = open_at(&harness, DIR, &again, &other).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let state = open_at(&harness, DIR, &again, &floor).unwrap();
    // A floor is that of one store: the versions of another one are other versions.
    let elsewhere = log_of(&harness, &app, "elsewhere", floor.filter());
    let error = open_at(&harness, "/elsewhere", &elsewhere, &floor).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("in use by another open state store"), "{error}");
    // A store that is dropped gives it back.
    drop(state);
    let state = open_at(&harness, DIR, &first, &floor).unwrap();
    assert_eq!(state.version(), 0);
}
