//! An application with blocks, receipts and a state. Everything that must go together is in one
//! LithDB database: the blocks, the receipts, and the log of the state. The working copy and the
//! snapshots of the state follow the log.
//!
//! The application loses its process in three ways, and rolls everything back with one rollback.
//!
//! ```sh
//! cargo run -p lithdb-state --example block_and_state
//! ```

#![allow(clippy::indexing_slicing, reason = "an example stops where it fails")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use lithdb::rollback::{Action, RollbackReport, max_be_u64};
use lithdb::{Batch, Db, DbOptions, DuplicateKeys, NoMatch, Rollback, Table, TableOptions};
use lithdb_state::{ChangeSet, Reclone, RootHash, StateComponents, StateDb, StateOptions};
use lithdb_state::{Wal, WalFloor};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The branch of the chain that a block is on. Blocks up to `common` are on both.
#[derive(Clone, Copy)]
struct Branch {
    name: &'static str,
    common: u64,
}

const MAIN: Branch = Branch { name: "main", common: 0 };

impl Branch {
    fn of(self, height: u64) -> &'static str {
        if height <= self.common { MAIN.name } else { self.name }
    }

    /// The transfers of a block: accounts, each with an amount.
    fn transfers(self, height: u64) -> Vec<(String, u64)> {
        let amount = if self.of(height) == MAIN.name { height } else { 1_000 + height };
        (0..=height % 4)
            .map(|n| (format!("account {}", (height * 7 + n * 3) % 50), amount))
            .collect()
    }

    /// The balances after a block, computed from the beginning.
    fn balances(self, height: u64) -> BTreeMap<String, u64> {
        let mut balances = BTreeMap::new();
        for (account, amount) in (1..=height).flat_map(|height| self.transfers(height)) {
            *balances.entry(account).or_default() += amount;
        }
        balances
    }
}

struct App {
    db: Db,
    /// Height → block, which names its branch and the root of the state before it.
    blocks: Table,
    /// Height and number of the transfer → receipt.
    receipts: Table,
    /// A version is a height. Its log is the table `state` of the same database.
    state: StateDb,
}

impl App {
    /// Opens the application. A block is complete when its version of the state is committed:
    /// what a crash left of later blocks is rolled back. Returns how many blocks those were.
    fn open(dir: &Path) -> Outcome<(Self, u64)> {
        let app = Self::open_as_it_is(dir)?;
        let height = app.state.version();
        let begun = app.newest_block()?.saturating_sub(height);
        if begun == 0 {
            return Ok((app, 0));
        }
        app.close()?;
        roll_back(dir, height)?;
        Ok((Self::open_as_it_is(dir)?, begun))
    }

    fn open_as_it_is(dir: &Path) -> Outcome<Self> {
        let db = Db::open(DbOptions::new([dir.join("chain")]))?;
        let blocks = db.table("blocks", TableOptions::new())?;
        let receipts = db.table("receipts", TableOptions::new())?;
        // The state says which versions its log may lose.
        let floor = WalFloor::new();
        let options = TableOptions::new().duplicate_keys(DuplicateKeys::Reject);
        let table = db.table_with_filter("state", options, floor.filter())?;
        let mut components = StateComponents::default();
        components.wal = Wal::Table { table, floor };
        // Snapshots on demand, so that this example is the same in every run.
        let options = StateOptions::new().snapshot_interval(0);
        let state = StateDb::open_with(dir.join("state"), options, components)?;
        Ok(Self { db, blocks, receipts, state })
    }

    fn close(self) -> Outcome<()> {
        self.state.close()?;
        self.db.close()?;
        Ok(())
    }

    fn newest_block(&self) -> Outcome<u64> {
        Ok(self.blocks.newest_key()?.map_or(0, |key| number_in(&key)))
    }

    /// Block and receipts, durable; the state does not know them yet.
    fn put_block(&self, height: u64, branch: Branch) -> Outcome<()> {
        let block = format!("{} {} {}", height, branch.of(height), self.state.root());
        self.blocks.put(height.to_be_bytes(), block)?;
        let mut batch = Batch::new();
        for (n, (account, amount)) in (0_u32..).zip(branch.transfers(height)) {
            let key = [&height.to_be_bytes()[..], &n.to_be_bytes()].concat();
            batch.put(key, format!("{account} +{amount}"));
        }
        self.receipts.put_batch(&batch)?;
        self.blocks.flush()?;
        self.receipts.flush()?;
        Ok(())
    }

    /// The decision: the block is complete when this returns.
    fn commit_state(&self, height: u64, branch: Branch) -> Outcome<RootHash> {
        let before = self.state.latest();
        let mut bank = ChangeSet::new("bank")?;
        for (account, amount) in branch.transfers(height) {
            let balance = match before.get("bank", &account)? {
                Some(balance) => std::str::from_utf8(&balance)?.parse()?,
                None => 0,
            };
            bank = bank.put(account, (balance + amount).to_string());
        }
        Ok(self.state.commit_block(height, &[bank])?.root)
    }

    /// Executes the blocks up to `last`; returns the root after each.
    fn execute(&self, last: u64, branch: Branch) -> Outcome<Vec<RootHash>> {
        let mut roots = Vec::new();
        for height in self.state.version() + 1..=last {
            self.put_block(height, branch)?;
            roots.push(self.commit_state(height, branch)?);
        }
        Ok(roots)
    }

    /// Blocks, receipts and state are exactly those of `branch` up to `height`.
    fn check(&self, height: u64, branch: Branch) -> Outcome<()> {
        assert_eq!(self.state.version(), height);
        assert_eq!(self.newest_block()?, height);
        for number in 1..=height {
            let block = self.blocks.get(number.to_be_bytes())?;
            let block = String::from_utf8(block.ok_or("a block is missing")?.to_vec())?;
            assert!(block.starts_with(&format!("{number} {} ", branch.of(number))), "{block}");
        }
        let receipts = self.receipts.iter()?.map(|entry| {
            let entry = entry?;
            let receipt = String::from_utf8_lossy(&entry.value()?).into_owned();
            Ok((number_in(entry.key()), receipt))
        });
        let receipts: Vec<(u64, String)> = receipts.collect::<lithdb::Result<_>>()?;
        let transfers = |height| {
            let transfers = branch.transfers(height).into_iter();
            transfers.map(move |(account, amount)| (height, format!("{account} +{amount}")))
        };
        assert_eq!(receipts, (1..=height).flat_map(transfers).collect::<Vec<_>>());
        let mut balances = BTreeMap::new();
        for row in self.state.latest().iter("bank")? {
            let row = row?;
            let account = String::from_utf8(row.key.to_vec())?;
            balances.insert(account, std::str::from_utf8(&row.value)?.parse()?);
        }
        assert_eq!(balances, branch.balances(height));
        Ok(())
    }
}

fn number_in(key: &[u8]) -> u64 {
    let Some(bytes) = key.first_chunk() else { unreachable!("every key begins with a height") };
    u64::from_be_bytes(*bytes)
}

/// Rolls the closed application back: blocks, receipts and the log of the state, all or none. Every
/// key begins with the height. The rest of the state follows when it is opened.
fn roll_back(dir: &Path, height: u64) -> Outcome<RollbackReport> {
    let plan = Rollback::new([dir.join("chain")]).on_no_match(NoMatch::Refuse);
    Ok(plan.plan(max_be_u64(0, height))?.execute()?)
}

/// Runs this program again, which executes blocks and is then killed.
fn die(dir: &Path, how: &str) -> Outcome<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let status = command.arg(how).arg(dir).status()?;
    assert_eq!(status.code(), None, "{how}: it was not killed: {status}");
    Ok(())
}

/// The other process.
fn child(how: &str, dir: &Path) -> Outcome<()> {
    let (app, _) = App::open(dir)?;
    match how {
        "between" => {
            app.execute(39, MAIN)?;
            app.put_block(40, MAIN)?;
        }
        "after" => {
            app.execute(50, MAIN)?;
            app.state.snapshot()?.wait()?;
            app.execute(60, MAIN)?;
        }
        _ => return Err(format!("expected between or after, found {how}").into()),
    }
    std::process::abort()
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(how), Some(dir)) = (arguments.next(), arguments.next()) {
        return child(&how.to_string_lossy(), &PathBuf::from(dir));
    }
    let temporary = tempfile::tempdir()?;
    let dir = temporary.path();

    let (app, _) = App::open(dir)?;
    app.execute(25, MAIN)?;
    let snapshot = app.state.snapshot()?.wait()?;
    let roots = app.execute(35, MAIN)?;
    app.check(35, MAIN)?;
    app.close()?;
    println!("35 blocks with receipts and state; snapshot of {}", snapshot.version);

    die(dir, "between")?;
    let (app, begun) = App::open(dir)?;
    assert_eq!(begun, 1);
    app.check(39, MAIN)?;
    app.close()?;
    println!("killed between the puts and the commit of 40: at 39, {begun} begun block removed");

    die(dir, "after")?;
    let (app, begun) = App::open(dir)?;
    let opened = app.state.opened().clone();
    assert_eq!((begun, opened.base, opened.replayed), (0, 50, 10));
    app.check(60, MAIN)?;
    let root = app.state.root();
    // As after a crash: nothing is flushed.
    drop(app.state);
    app.db.close()?;
    println!("killed after the commit of 60: at 60, replayed {} versions", opened.replayed);

    lose_working_copy(dir)?;
    let (app, _) = App::open(dir)?;
    let opened = app.state.opened().clone();
    assert_eq!(opened.recloned, Some(Reclone::Absent));
    assert_eq!((opened.base, opened.replayed), (50, 10));
    assert_eq!(app.state.root(), root);
    app.check(60, MAIN)?;
    app.close()?;
    println!("working copy deleted: made again from snapshot 50, replayed 10 versions");

    let report = roll_back(dir, 30)?;
    assert!(report.tables.iter().all(|table| table.action == Action::Truncate), "{report}");
    let removed = |n: usize| report.tables[n].discarded.values;
    println!(
        "rolled back to 30: removed {} blocks, {} receipts, {} versions of the state",
        removed(0),
        removed(1),
        removed(2)
    );
    let (app, begun) = App::open(dir)?;
    let opened = app.state.opened().clone();
    assert_eq!((begun, opened.base, opened.replayed), (0, 25, 5));
    assert_eq!(opened.abandoned, [50]);
    assert_eq!(app.state.root(), roots[4], "the root after the commit of 30");
    app.check(30, MAIN)?;
    assert_eq!(app.state.prune_abandoned()?, [50]);

    // The chain went another way.
    let other = Branch { name: "other", common: 30 };
    let other_roots = app.execute(70, other)?;
    assert_ne!(other_roots[0], roots[5], "31 has another content");
    app.check(70, other)?;
    app.state.snapshot()?.wait()?;
    app.close()?;
    let (app, _) = App::open(dir)?;
    assert_eq!(app.state.opened().replayed, 0);
    app.check(70, other)?;
    app.close()?;
    println!("went on from 30 on another branch, up to 70");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "an accident outside of the database")]
fn lose_working_copy(dir: &Path) -> Outcome<()> {
    Ok(std::fs::remove_dir_all(dir.join("state/working"))?)
}
