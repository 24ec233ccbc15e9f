//! A store whose log is a table of the application's database.

use lithdb::rollback::max_be_u64;
use lithdb::{Components, Db, DbOptions, NoMatch, Rollback, Table, TableOptions};
use lithdb_sim::{CrashImage, Effort, Tally};
use lithdb_state::{ErrorKind, Result, StateDb, Wal, WalFloor};

use crate::support::model::{Change, Model, change_sets, changes_of};
use crate::support::{APP, DIR, Harness, check, difference, small};

/// An application whose blocks, receipts and state are tables of one database.
struct App {
    db: Db,
    blocks: Table,
    receipts: Table,
    state: StateDb,
}

impl App {
    fn open(harness: &Harness) -> Result<Self> {
        let components = Components {
            env: Some(harness.env()),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(DbOptions::new([APP]), components)?;
        let floor = WalFloor::new();
        let table = db.table_with_filter("state", harness.options.wal.clone(), floor.filter())?;
        let blocks = db.table("blocks", TableOptions::new().segment_keys(3))?;
        let receipts = db.table("receipts", TableOptions::new().segment_keys(5))?;
        let mut components = harness.components();
        components.wal = Wal::Table { table, floor };
        let state = StateDb::open_with(DIR, harness.options.clone(), components)?;
        Ok(Self { db, blocks, receipts, state })
    }

    fn commit(&self, model: &mut Model, branch: u64) {
        let changes = changes_of(branch, model.head() + 1);
        let height = model.commit(&changes);
        self.blocks.put(height.to_be_bytes(), format!("block {height} of {branch}")).unwrap();
        for receipt in 0..2_u32 {
            let key = [&height.to_be_bytes()[..], &receipt.to_be_bytes()].concat();
            self.receipts.put(key, format!("receipt of {branch}")).unwrap();
        }
        self.db.flush().unwrap();
        self.state.commit_block(height, &change_sets(&changes)).unwrap();
    }

    /// The heights of the newest block, receipt and version.
    fn heights(&self) -> [u64; 3] {
        let newest = |table: &Table| {
            let key = table.newest_key().unwrap().unwrap();
            u64::from_be_bytes(key[..8].try_into().unwrap())
        };
        [newest(&self.blocks), newest(&self.receipts), self.state.version()]
    }

    fn close(self) {
        self.state.close().unwrap();
        self.db.close().unwrap();
    }
}

fn roll_back_app(harness: &Harness, target: u64) -> Result<()> {
    let rollback = Rollback::new([APP]).on_no_match(NoMatch::Refuse).env(harness.env());
    rollback.plan(max_be_u64(0, target))?.execute().map(drop)
}

/// sei-chain #3887, #4079, sei-cosmos #557: several stores that were rolled back one by one.
#[test]
fn blocks_receipts_and_state_go_back_together() {
    let mut tally = Tally::new("rollbacks of an application, killed");
    let effort = Effort::from_env();
    let harness = Harness::new(small());
    let mut model = Model::new(1);
    let app = App::open(&harness).unwrap();
    for height in 1..=14 {
        app.commit(&mut model, 0);
        if height == 4 || height == 12 {
            app.state.snapshot().unwrap().wait().unwrap();
        }
    }
    let error = app.state.clone().rollback_to(6).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(app.heights(), [14; 3]);
    app.close();
    let count = {
        let copy = harness.fork();
        roll_back_app(&copy, 6).unwrap();
        App::open(&copy).unwrap().close();
        copy.fs.ops()
    };
    for k in 0..=count {
        let copy = harness.fork();
        copy.fs.crash_after(k);
        // Both the rollback and the opening after it may be killed.
        if roll_back_app(&copy, 6).is_ok() {
            drop(App::open(&copy));
        }
        let seeds = (0..effort.times(1)).map(|n| effort.seed("application") + 1_000 * k + n);
        let images = [CrashImage::Nothing, CrashImage::Everything];
        for image in images.into_iter().chain(seeds.map(CrashImage::Seeded)) {
            let context = format!("crash after {k} of {count}, {image:?}");
            let found = copy.after_crash(&image);
            let app = App::open(&found).unwrap_or_else(|e| panic!("{context}: {e}"));
            let heights = app.heights();
            assert!(heights == [14; 3] || heights == [6; 3], "{context}: {heights:?}");
            let mut model = model.clone();
            model.roll_back(heights[0]);
            check::view(&app.state.latest(), &model, &context);
            // The heights are committed again with other contents.
            (0..3).for_each(|_| app.commit(&mut model, 7));
            check::view(&app.state.latest(), &model, &context);
            assert_eq!(app.heights(), [model.head(); 3], "{context}");
            tally.add(if heights == [6; 3] { "gone back" } else { "as before" }, 1);
        }
    }
    assert!(tally.get("gone back") > 10 && tally.get("as before") > 10, "{tally:?}");
}

/// sei-chain #4104: a log in the application's database that is another one than before.
#[test]
fn a_lost_wal_in_a_table_of_the_application_is_refused() {
    let harness = Harness::new(small());
    let open = |root: &str| {
        let components = Components {
            env: Some(harness.env()),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(DbOptions::new([root]), components).unwrap();
        let floor = WalFloor::new();
        let options = harness.options.wal.clone();
        let table = db.table_with_filter("state", options, floor.filter()).unwrap();
        let mut components = harness.components();
        components.wal = Wal::Table { table, floor };
        (StateDb::open_with(DIR, harness.options.clone(), components), db)
    };
    let (state, db) = open(APP);
    let state = state.unwrap();
    state.commit_block(1, &change_sets(&[Change::put("bank", "a", "1")])).unwrap();
    state.close().unwrap();
    db.close().unwrap();
    let before = harness.tree(DIR);
    let (refused, db) = open("/other");
    let error = refused.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    db.close().unwrap();
    // Nor with a log of its own.
    let error = harness.try_open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert_eq!(difference(&before, &harness.tree(DIR)), None);
    let (state, db) = open(APP);
    assert_eq!(state.unwrap().version(), 1);
    drop(db);
}
