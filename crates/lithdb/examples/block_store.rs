//! The store of a blockchain node: blocks by number and by hash, transactions as byte ranges of
//! blocks, receipts in a second table, retention of the newest blocks, and a rollback when the
//! chain switches to another fork.
//!
//! ```sh
//! cargo run -p lithdb --example block_store            # in a temporary directory
//! cargo run -p lithdb --example block_store -- ./chain # continues an earlier run
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb::rollback::{Action, PerTable, max_be_u64};
use lithdb::{
    Batch, Db, DbOptions, GcFilter, NoMatch, Rollback, SecondaryKey, Table, TableOptions, Value,
};

type Hash = [u8; 32];

/// Number of newest blocks that are kept.
const KEEP: u64 = 400;

struct BlockStore {
    db: Db,
    /// Block number → body; also found by the block's hash, and each transaction in it by its own.
    blocks: Table,
    /// Block number and transaction number → receipt; also found by the hash of the transaction.
    receipts: Table,
    /// The lowest block that is kept. It only rises: a filter that approved a key must always
    /// approve it.
    lowest: Arc<AtomicU64>,
}

impl BlockStore {
    fn open(path: &Path) -> lithdb::Result<Self> {
        let db = Db::open(DbOptions::new([path]))?;
        let lowest = Arc::new(AtomicU64::new(0));
        // Space is freed by whole segments, so small segments track the limit closely. The default
        // is 512 MiB.
        let options = TableOptions::new().segment_bytes(256 << 10);
        let filter = || {
            let lowest = Arc::clone(&lowest);
            // Primary keys begin with the block number. Aliases are always approved: they are
            // collected with their values.
            GcFilter::new(move |key, is_primary| {
                Ok(!is_primary || number_of(key) < Some(lowest.load(Ordering::Relaxed)))
            })
        };
        let blocks = db.table_with_filter("blocks", options.clone(), filter())?;
        let receipts = db.table_with_filter("receipts", options, filter())?;
        let store = Self { db, blocks, receipts, lowest };
        store.keep_newest(store.next_number()?);
        Ok(store)
    }

    /// The number of the first block that is not in both tables. Each table keeps a prefix of what
    /// was put into it, but after a crash one prefix may be longer than the other. Putting a block
    /// again replaces the old values.
    fn next_number(&self) -> lithdb::Result<u64> {
        let newest = |table: &Table| -> lithdb::Result<u64> {
            for entry in table.iter()?.rev() {
                let entry = entry?;
                if entry.is_primary() {
                    return Ok(number_of(entry.key()).map_or(0, |number| number + 1));
                }
            }
            Ok(0)
        };
        Ok(newest(&self.blocks)?.min(newest(&self.receipts)?))
    }

    /// Stores a block: readable at once, durable after [`commit`](Self::commit).
    fn append(&self, block: &Block) -> lithdb::Result<()> {
        let mut batch = Batch::new(); // atomic: all receipts of a block, or none
        for (n, transaction) in (0_u32..).zip(&block.transactions) {
            let key = [&block.number.to_be_bytes()[..], &n.to_be_bytes()].concat();
            let receipt =
                format!("{} bytes, accepted in block {}", transaction.len(), block.number);
            batch.put(key, receipt).alias(digest(transaction), ..);
        }
        self.receipts.put_batch(&batch)?;

        // The body is stored once. Its transactions are ranges of it.
        let body = block.transactions.concat();
        let hashes: Vec<Hash> = block.transactions.iter().map(|t| digest(t)).collect();
        let block_hash = block.hash();
        let mut aliases = vec![SecondaryKey::whole(&block_hash)];
        let mut start = 0;
        for (hash, transaction) in hashes.iter().zip(&block.transactions) {
            aliases.push(SecondaryKey::range(hash, start..start + transaction.len()));
            start += transaction.len();
        }
        // Big-endian numbers keep their order when they are compared as bytes.
        self.blocks.put_with(block.number.to_be_bytes(), &body, &aliases)?;
        Ok(())
    }

    fn commit(&self) -> lithdb::Result<()> {
        self.db.flush()
    }

    fn by_number(&self, number: u64) -> lithdb::Result<Option<Value>> {
        self.blocks.get(number.to_be_bytes())
    }

    /// A block or a transaction.
    fn by_hash(&self, hash: &Hash) -> lithdb::Result<Option<Value>> {
        self.blocks.get(hash)
    }

    fn receipt(&self, transaction: &Hash) -> lithdb::Result<Option<Value>> {
        self.receipts.get(transaction)
    }

    /// Rolls the store, which must be closed, back to the block `number`, atomically over all
    /// tables.
    fn roll_back(path: &Path, number: u64) -> lithdb::Result<()> {
        let filter = PerTable::new()
            .table("blocks", max_be_u64(0, number))
            .table("receipts", max_be_u64(0, number))
            .table("audits", max_be_u64("audit-".len(), number));
        // All audits may be newer than that block; the other tables must have older records.
        let must_keep = ["blocks", "receipts"];
        let plan = Rollback::new([path]).on_no_match(NoMatch::Clear).plan(filter.into_filter())?;
        println!("{plan}");
        for table in &plan.tables {
            if table.action == Action::Clear && must_keep.contains(&table.table.as_str()) {
                let message = format!("table {}: no record is old enough to keep", table.table);
                return Err(lithdb::Error::new(lithdb::ErrorKind::InvalidArgument, message));
            }
        }
        let report = plan.execute()?;
        println!("rolled back to block {number} in {:?}", report.took);
        Ok(())
    }

    /// Releases all but the newest blocks before `end`. The filter thread collects them in its
    /// next round.
    fn keep_newest(&self, end: u64) {
        self.lowest.fetch_max(end.saturating_sub(KEEP), Ordering::Relaxed);
    }
}

fn number_of(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A block of the example's chain: its content follows from its number and its fork, so that what
/// is read can be checked.
struct Block {
    number: u64,
    transactions: Vec<Vec<u8>>,
}

impl Block {
    fn new(number: u64) -> Self {
        Self::on_fork(number, "main")
    }

    fn on_fork(number: u64, fork: &str) -> Self {
        let transaction = |n: u64| {
            let text = format!("transaction {n} of block {number} on {fork};");
            text.into_bytes().repeat(4 + ((number * 7 + n * 3) % 13) as usize)
        };
        Self { number, transactions: (0..3 + number % 10).map(transaction).collect() }
    }

    fn hash(&self) -> Hash {
        digest(&[&self.number.to_be_bytes()[..], &self.transactions.concat()].concat())
    }
}

/// Stands in for the chain's cryptographic hash.
fn digest(bytes: &[u8]) -> Hash {
    use std::hash::{DefaultHasher, Hash as _, Hasher};
    let mut digest = [0; 32];
    for (n, part) in digest.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (n, bytes).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_be_bytes());
    }
    digest
}

fn ensure(is_so: bool, what: impl FnOnce() -> String) -> Result<(), Box<dyn Error>> {
    if is_so { Ok(()) } else { Err(format!("not as expected: {}", what()).into()) }
}

/// Checks that the block, its transactions and its receipts are found and have the right content.
fn check(store: &BlockStore, block: &Block) -> Result<(), Box<dyn Error>> {
    let number = block.number;
    let body = block.transactions.concat();
    let is_body = |found: Option<Value>| found.is_some_and(|found| *found == *body);
    ensure(is_body(store.by_number(number)?), || format!("block {number} by number"))?;
    ensure(is_body(store.by_hash(&block.hash())?), || format!("block {number} by hash"))?;
    for transaction in &block.transactions {
        let hash = digest(transaction);
        let found = store.by_hash(&hash)?.is_some_and(|found| *found == **transaction);
        ensure(found, || format!("a transaction of block {number}"))?;
        let receipt = store.receipt(&hash)?;
        let ends = format!("accepted in block {number}");
        ensure(receipt.is_some_and(|r| r.ends_with(ends.as_bytes())), || {
            format!("receipt: {ends}")
        })?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument.unwrap_or_else(|| temporary.path().join("chain"));

    let store = BlockStore::open(&path)?;
    let first = store.next_number()?;
    let end = first + 1000;
    println!("{}: appending blocks {first} to {}", path.display(), end - 1);
    for number in first..end {
        store.append(&Block::new(number))?;
        if number % 100 == 99 {
            store.commit()?;
        }
    }
    store.commit()?;
    for number in first..end {
        check(&store, &Block::new(number))?;
    }
    println!("found all blocks by number and hash, all transactions, and their receipts");
    store.db.close()?;
    drop(store);

    let store = BlockStore::open(&path)?;
    ensure(store.next_number()? == end, || format!("continues at {end}"))?;
    let before = store.blocks.stats();
    println!(
        "reopened: {} keys, {} bytes in {} segments",
        before.keys, before.bytes, before.segments
    );

    store.keep_newest(end);
    // A filter thread would do it within seconds.
    store.blocks.run_gc()?;
    store.receipts.run_gc()?;
    let lowest = end - KEEP;
    for number in lowest..end {
        check(&store, &Block::new(number))?;
    }
    let after = store.blocks.stats();
    ensure(after.bytes < before.bytes, || "collection frees space".to_owned())?;
    ensure(store.by_number(0)?.is_none(), || "block 0 is gone".to_owned())?;
    ensure(store.by_hash(&Block::new(0).hash())?.is_none(), || "its hash, too".to_owned())?;
    println!("kept from {lowest} on: {} bytes in {} segments", after.bytes, after.segments);

    print!("the newest:");
    for entry in
        store.blocks.iter()?.rev().filter(|e| !matches!(e, Ok(e) if !e.is_primary())).take(3)
    {
        let entry = entry?;
        print!(
            " block {} ({} bytes)",
            number_of(entry.key()).unwrap_or_default(),
            entry.value_len()
        );
    }
    println!();
    turn_to_another_fork(store, &path, end)
}

/// The last hundred blocks turn out to be on the wrong fork. A third table has records of only
/// these blocks.
fn turn_to_another_fork(store: BlockStore, path: &Path, end: u64) -> Result<(), Box<dyn Error>> {
    let last = end - 101;
    let audits = store.db.table("audits", TableOptions::new())?;
    for number in last + 1..end {
        audits.put([&b"audit-"[..], &number.to_be_bytes()].concat(), b"seen")?;
    }
    store.db.close()?;
    drop((store, audits));

    BlockStore::roll_back(path, last)?;

    let store = BlockStore::open(path)?;
    ensure(store.next_number()? == last + 1, || format!("continues at {}", last + 1))?;
    check(&store, &Block::new(last))?;
    for number in last + 1..end {
        let gone = Block::new(number);
        ensure(store.by_number(number)?.is_none(), || format!("block {number} is gone"))?;
        ensure(store.by_hash(&gone.hash())?.is_none(), || format!("its hash, too: {number}"))?;
        for transaction in &gone.transactions {
            let receipt = store.receipt(&digest(transaction))?;
            ensure(receipt.is_none(), || format!("a receipt of block {number} is gone"))?;
        }
        store.append(&Block::on_fork(number, "the other fork"))?;
    }
    store.commit()?;
    for number in last + 1..end {
        check(&store, &Block::on_fork(number, "the other fork"))?;
        ensure(store.by_hash(&Block::new(number).hash())?.is_none(), || "the old one".to_owned())?;
    }
    let audits = store.db.existing_table("audits")?;
    ensure(audits.iter()?.next().is_none(), || "the audits are empty".to_owned())?;
    println!("continued from block {} on the other fork, up to {}", last + 1, end - 1);
    store.db.close()?;
    Ok(())
}
