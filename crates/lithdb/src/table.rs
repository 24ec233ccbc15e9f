//! The handle of an open table: the public subset of the engine's table.
//!
//! Every method forwards; the engine checks its arguments. A handle keeps the database open: the
//! last handle that is dropped closes it.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Error, Result};
use lithdb_repair::Progress;
use lithdb_segment::{Position, TableName, Value};
use lithdb_table::{
    Batch, GcFilter, GcReport, Iter, KeymapReport, SecondaryKey, Table as EngineTable,
    TableOptions, TableStats,
};

use crate::shared::CloseOnDrop;

/// An open table: a log of values, found by their keys. [`Db::table`](crate::Db::table) opens one.
///
/// Cheap to clone; all clones and all handles of one name are the same table. Every method takes
/// `&self` and may be called from any thread. A handle keeps the database open.
///
/// Keys have 1 to 65,535 bytes, values 0 to 2^32 − 2 bytes. A put of an existing key adds a newer
/// value, which [`get`](Self::get) returns from then on, unless the table [rejects
/// duplicates](crate::DuplicateKeys::Reject).
///
/// After the first failed write or sync, or a panic, the table is *latched*: every later write
/// returns [`Latched`](crate::ErrorKind::Latched), reads continue, and only reopening the table
/// clears it. Calls from inside a GC filter, an event listener or the source of
/// [`put_from`](Self::put_from) return [`InvalidArgument`](crate::ErrorKind::InvalidArgument).
///
/// ```
/// use lithdb::{Db, DbOptions, TableOptions};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// let db = Db::open(DbOptions::new([&path]))?;
/// let blocks = db.table("blocks", TableOptions::new())?;
/// blocks.put("h:1", "genesis")?;
/// blocks.flush()?;
/// assert_eq!(blocks.get("h:1")?.unwrap(), b"genesis");
/// assert_eq!(blocks.get("h:2")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Table {
    inner: EngineTable,
    /// Dropped after `inner`.
    _keeper: Arc<CloseOnDrop>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Table {
    pub(crate) fn new(inner: EngineTable, keeper: Arc<CloseOnDrop>) -> Self {
        Self { inner, _keeper: keeper }
    }

    // Writing

    /// Stores `value` under `key` and returns the position of the record. When it returns, every
    /// thread's [`get`](Self::get) sees the value; the value survives a crash once
    /// [`flush`](Self::flush) or [`wait_durable`](Self::wait_durable) has returned `Ok`.
    ///
    /// # Errors
    /// With nothing written: `InvalidArgument` (key or value too long or too short, or the
    /// database is open for reading only), `DuplicateKey`, `StorageFull`, `Exhausted`, `Closed`,
    /// `Latched` after an earlier failure. `Io` if a write failed, which latches the table.
    ///
    /// ```
    /// # use lithdb::{Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let blocks = db.table("blocks", TableOptions::new())?;
    /// let at = blocks.put(b"h:1", b"genesis")?;
    /// blocks.wait_durable(at)?;
    /// assert!(at < blocks.durable_position());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Position> {
        self.inner.put(key.as_ref(), value.as_ref())
    }

    /// Stores `value` under `key`, and under secondary keys that name the value or a byte range of
    /// it. After a crash, all of these keys are present or none.
    ///
    /// # Errors
    /// As [`put`](Self::put); `InvalidArgument` also for a range outside the value and for a key
    /// given twice.
    ///
    /// ```
    /// # use lithdb::{Db, DbOptions, SecondaryKey, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let blocks = db.table("blocks", TableOptions::new())?;
    /// let aliases = [SecondaryKey::whole(b"hash-1"), SecondaryKey::range(b"tx-9", 4..8)];
    /// blocks.put_with(b"h:1", b"the body of block 1", &aliases)?;
    /// assert_eq!(blocks.get(b"tx-9")?.unwrap(), b"body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        secondary: &[SecondaryKey<'_>],
    ) -> Result<Position> {
        self.inner.put_with(key.as_ref(), value.as_ref(), secondary)
    }

    /// Stores every value of `batch`. After a crash, the batch is present completely or not at
    /// all. Readers may see its values appear one after another while it is being written. Returns
    /// the position of the last value's record; an empty batch does nothing and returns the end of
    /// the log.
    ///
    /// # Errors
    /// As [`put_with`](Self::put_with); `InvalidArgument` also for a batch of more than
    /// [`MAX_BATCH_BYTES`](crate::MAX_BATCH_BYTES) bytes or
    /// [`MAX_BATCH_KEYS`](crate::MAX_BATCH_KEYS) keys.
    ///
    /// ```
    /// # use lithdb::{Batch, Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let blocks = db.table("blocks", TableOptions::new())?;
    /// let mut batch = Batch::new();
    /// batch.put(b"h:2", b"block 2").alias(b"hash-2", ..);
    /// batch.put(b"h:3", b"block 3").alias(b"hash-3", ..);
    /// blocks.put_batch(&batch)?;
    /// assert_eq!(blocks.get(b"hash-3")?.unwrap(), b"block 3");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_batch(&self, batch: &Batch) -> Result<Position> {
        self.inner.put_batch(batch)
    }

    /// Stores what `source` yields under `key`, holding 1 MiB of it in memory at a time.
    /// `expected_len` is the approximate length in bytes (0 if unknown): a segment that would grow
    /// too large is sealed first.
    ///
    /// While it reads the source, it blocks all other writers, flushes and new iterators of the
    /// table: intended for tools and for sources that do not block. The source must not call the
    /// database.
    ///
    /// # Errors
    /// As [`put`](Self::put); `Io` if the source fails, `InvalidArgument` if it panics; nothing is
    /// stored then, and the space is freed.
    ///
    /// ```
    /// # use lithdb::{Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let files = db.table("files", TableOptions::new())?;
    /// let mut source = std::io::Cursor::new(vec![7; 3_000_000]);
    /// files.put_from("sevens", 3_000_000, &mut source)?;
    ///
    /// let mut read = 0;
    /// let len = files.get_chunked("sevens", &mut |chunk| {
    ///     read += chunk.len();
    ///     Ok(())
    /// })?;
    /// assert_eq!((read, len), (3_000_000, Some(3_000_000)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_from(
        &self,
        key: impl AsRef<[u8]>,
        expected_len: u64,
        source: &mut dyn Read,
    ) -> Result<Position> {
        self.inner.put_from(key.as_ref(), expected_len, source)
    }

    /// Makes durable every put that returned before this call: when it returns `Ok`, they survive
    /// power loss. Does nothing if there is nothing new. Concurrent calls share syncs.
    ///
    /// # Errors
    /// `StorageFull` if there was no space to seal an older segment: nothing is lost, repeat the
    /// call when there is space. `Io` if a write or sync failed, which latches the table.
    pub fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    /// Waits until the record at `at`, the position that a put returned, is durable. Flushes if
    /// necessary.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn wait_durable(&self, at: Position) -> Result<()> {
        self.inner.wait_durable(at)
    }

    /// The end of the durable part of the log: every record before this position survives power
    /// loss. In a database that is open for reading only, the end of the view.
    pub fn durable_position(&self) -> Position {
        self.inner.durable_position()
    }

    // Reading

    /// Returns the value of `key`: the newest if the key was put more than once, `None` if it was
    /// never put or has been collected. Verifies the checksum unless [`Verify`](crate::Verify)
    /// says otherwise. Zero-copy where files are mapped.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty key or one of more than 65,535 bytes, `Corrupt` if the bytes
    /// are not those that were put, `Io`, `Exhausted`, `Closed`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.inner.get(key.as_ref())
    }

    /// Passes the value of `key` to `each` in order, in chunks of at most 1 MiB, and returns its
    /// length in bytes: for values that do not fit into memory. Reads the value twice, because it
    /// verifies the checksum before it passes the first chunk. For an example see
    /// [`put_from`](Self::put_from).
    ///
    /// # Errors
    /// As [`get`](Self::get); errors of `each`.
    pub fn get_chunked(
        &self,
        key: impl AsRef<[u8]>,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<u32>> {
        self.inner.get_chunked(key.as_ref(), each)
    }

    /// Whether the table has `key`. Does not read the value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.inner.contains(key.as_ref())
    }

    /// Iterates over all records in the order in which they were put; `rev()` begins at the
    /// newest. The iterator sees what was put before the call. A key that was put twice appears
    /// twice.
    ///
    /// # Errors
    /// `Closed`. Read errors are returned by the iterator. In a database that is open for reading
    /// only, it ends with `Missing` where another process rolled back records it had not yet
    /// returned: [`refresh`](Self::refresh) and start again.
    ///
    /// ```
    /// # use lithdb::{Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let blocks = db.table("blocks", TableOptions::new())?;
    /// # for n in 1..4 { blocks.put(format!("h:{n}"), format!("block {n}"))?; }
    /// for entry in blocks.iter()?.rev() {
    ///     let entry = entry?;
    ///     println!("{:?}: {} bytes", entry.key(), entry.value_len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Result<Iter> {
        self.inner.iter()
    }

    /// Iterates from the newest record of `key` to the newest record of the table; `None` if the
    /// table does not have the key. `rev()` goes from the newest record of the table back to
    /// `key`.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`iter`](Self::iter).
    ///
    /// ```
    /// # use lithdb::{Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// # let blocks = db.table("blocks", TableOptions::new())?;
    /// # for n in 1..4 { blocks.put(format!("h:{n}"), format!("block {n}"))?; }
    /// let entries = blocks.iter_from("h:2")?.expect("it was put");
    /// let values: Vec<_> = entries.map(|entry| entry?.value()).collect::<lithdb::Result<_>>()?;
    /// assert_eq!(values, [&b"block 2"[..], b"block 3"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_from(&self, key: impl AsRef<[u8]>) -> Result<Option<Iter>> {
        self.inner.iter_from(key.as_ref())
    }

    /// The key of the oldest record; `None` if the table is empty.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn oldest_key(&self) -> Result<Option<Vec<u8>>> {
        self.inner.oldest_key()
    }

    /// The primary key of the newest value; `None` if the table is empty.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn newest_key(&self) -> Result<Option<Vec<u8>>> {
        self.inner.newest_key()
    }

    /// Takes a new view, in a database that is open for reading only: the handle then sees at
    /// least everything that the writing process had flushed before the call. The cost is
    /// proportional to the new data. Values and iterators already returned keep the old view.
    /// Does nothing in a database that is open for writing.
    ///
    /// # Errors
    /// `Locked` while another process rolls the database back, or if a rollback was interrupted;
    /// `Closed`, `Corrupt`, `Io`. The old view remains; its data can still be read unless its
    /// files are gone.
    pub fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }

    // Retention

    /// Changes how long values are kept, counted from when their segment was sealed; `None` keeps
    /// them forever. At least one millisecond. Durable when it returns.
    ///
    /// # Errors
    /// `InvalidArgument` for a TTL below a millisecond; `Io`, which latches the table.
    pub fn set_ttl(&self, ttl: Option<Duration>) -> Result<()> {
        self.inner.set_ttl(ttl)
    }

    /// Collects what has expired: the oldest sealed segments whose age exceeds the TTL and of
    /// which the GC filter, if there is one, approves every key. Stops at the first segment to
    /// keep. Without TTL and filter nothing expires. The database does the same every
    /// [`gc_interval`](crate::DbOptions::gc_interval).
    ///
    /// # Errors
    /// `InvalidArgument` if the table was created with a GC filter and opened without one; the
    /// filter's error; `Io`. Nothing but expired data is lost.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lithdb::{Db, DbOptions, TableOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let db = Db::open(DbOptions::new([dir.path().join("data")]))?;
    /// let events = db.table("events", TableOptions::new().ttl(Duration::from_millis(1)))?;
    /// events.put("e:1", "started")?;
    /// events.seal()?;
    /// std::thread::sleep(Duration::from_millis(20));
    /// events.run_gc()?;
    /// assert_eq!(events.get("e:1")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_gc(&self) -> Result<GcReport> {
        self.inner.run_gc()
    }

    /// As [`run_gc`](Self::run_gc), but by the TTL alone, although the table has a GC filter that
    /// was not given at opening. It may collect values that the filter would have kept.
    ///
    /// # Errors
    /// `Io`.
    pub fn run_gc_without_filter(&self) -> Result<GcReport> {
        self.inner.run_gc_without_filter()
    }

    /// Whether the table is collected with a GC filter: recorded when one was first given.
    pub fn has_gc_filter(&self) -> bool {
        self.inner.has_gc_filter()
    }

    /// Whether the table was opened with this GC filter, or a clone of it. A handle of a table that
    /// was open already has the filter of the first.
    pub fn is_collected_with(&self, filter: &GcFilter) -> bool {
        self.inner.is_collected_with(filter)
    }

    /// Accepts the wall clock after a jump: expiry uses it at once, whether it is ahead or behind.
    /// Segments that were sealed at a later time than it shows, or at an untrusted time, count as
    /// sealed now. Durable when it returns.
    ///
    /// # Errors
    /// `InvalidArgument` for a clock before the year 2020 or after 9999; `Closed`; `Io`, which
    /// latches the table.
    pub fn accept_clock(&self) -> Result<()> {
        self.inner.accept_clock()
    }

    // Segments

    /// Seals the mutable segment now, if it has records, and waits until it is durable. Its TTL
    /// counts from then.
    ///
    /// # Errors
    /// `StorageFull`, with nothing lost; `Io`, which latches the table.
    pub fn seal(&self) -> Result<()> {
        self.inner.seal()
    }

    /// Begins to seal the mutable segment if it has reached
    /// [`segment_age`](crate::TableOptions::segment_age), and returns whether it did;
    /// [`seal`](Self::seal) or [`flush`](Self::flush) then waits for it. The database does the
    /// same about every half second.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_if_old(&self) -> Result<bool> {
        self.inner.seal_if_old()
    }

    /// Changes the number of value files per segment, 1 to 256, from the next segment on. Not
    /// recorded: opening uses its [options](crate::TableOptions::shards).
    ///
    /// # Errors
    /// `InvalidArgument` for a number out of range.
    pub fn set_shards(&self, shards: u16) -> Result<()> {
        self.inner.set_shards(shards)
    }

    // Information

    /// The table's name.
    pub fn name(&self) -> &TableName {
        self.inner.name()
    }

    /// The options that the table was opened with.
    pub fn options(&self) -> &TableOptions {
        self.inner.options()
    }

    /// Whether the database was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    /// Counts and sizes of the table, at one moment. Does not wait for writers and reads no file.
    pub fn stats(&self) -> TableStats {
        self.inner.stats()
    }

    /// The failed write or sync, or the panic, that latched the table, if any.
    pub fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }

    /// Looks up every record's key in the keymap, which must name that record or a newer one of
    /// the same key. Ignores records that are put or collected meanwhile. Calls `progress` about
    /// once per MiB of key files.
    ///
    /// # Errors
    /// `Closed`; `Corrupt` or `Io` for a key file that cannot be read. Mismatches are part of the
    /// report.
    pub fn verify_keymap(&self, progress: &mut dyn FnMut(Progress)) -> Result<KeymapReport> {
        lithdb_table::verify_keymap(&self.inner, progress)
    }

    // Closing

    /// Closes this table on all handles: makes everything durable, so that the next open has
    /// nothing to recover. Every later call returns `Closed`; values and iterators already
    /// returned stay valid. [`Db::table`](crate::Db::table) opens the table again. A second call
    /// waits for the first and does nothing.
    ///
    /// # Errors
    /// As [`flush`](Self::flush): some puts are not durable, and the table is closed anyway.
    /// `InvalidArgument` in a callback, which does not close it.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    /// Whether the table was closed or dropped.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Whether both are handles of one open table.
    pub fn is_same(&self, other: &Self) -> bool {
        self.inner.is_same(&other.inner)
    }
}
