//! get: from a key through the keymap and the key file to the bytes.

use std::sync::Arc;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_keymap::{Candidates, KeyHash, Keymap};
use lithdb_segment::{Address, Position, Segment, SegmentId, Value};

use crate::read::view::View;
use crate::table::{Inner, Mode, Table, WriteSide};

/// So often a reader looks again for what goes while it looks.
const MAX_CATCH_UPS: usize = 3;

/// A key that was found.
pub(crate) struct Found {
    pub(crate) at: Position,
    pub(crate) segment: Arc<Segment>,
    pub(crate) address: Address,
}

/// A read that failed, and the segment in which it did.
#[derive(Debug)]
pub(crate) struct FailedRead {
    pub(crate) segment: Arc<Segment>,
    pub(crate) error: Error,
}

impl From<FailedRead> for Error {
    fn from(failed: FailedRead) -> Self {
        failed.error
    }
}

/// What a question is put to.
pub(crate) enum ReadSource<'a> {
    /// A table that is open for writing, and its watermark.
    Live(&'a WriteSide, SegmentId),
    /// What a reader sees.
    View(Arc<View>),
}

impl ReadSource<'_> {
    pub(crate) fn keymap(&self) -> &dyn Keymap {
        match self {
            Self::Live(side, _) => &*side.keymap,
            Self::View(view) => &*view.keymap,
        }
    }

    fn segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        match self {
            Self::Live(side, _) => side.segments.read().find(id).cloned(),
            Self::View(view) => view.segments.find(id).cloned(),
        }
    }
}

impl Table {
    /// The newest value of `key`, verified as the options say.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let inner = &*self.inner;
        inner.enter()?;
        inner.check_lookup_key(key)?;
        inner.counters.gets.increment(1);
        let read = || {
            let Some(Found { segment, address, .. }) = inner.find(key)? else { return Ok(None) };
            let value = segment.read_value(&address);
            value.map(Some).map_err(|error| FailedRead { segment, error })
        };
        inner.retry_if_removed(read).map_err(|e| inner.in_context(&e))
    }

    /// Passes the value of `key` to `each` in chunks of at most a mebibyte; returns its length.
    /// Reads the value twice: no chunk is passed before the whole value was verified.
    pub fn get_chunked(
        &self,
        key: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<u32>> {
        let inner = &*self.inner;
        inner.enter()?;
        inner.check_lookup_key(key)?;
        inner.counters.gets.increment(1);
        let check = || {
            let Some(found) = inner.find(key)? else { return Ok(None) };
            match found.segment.read_chunked(&found.address, &mut |_| Ok(())) {
                Ok(()) => Ok(Some(found)),
                Err(error) => Err(FailedRead { segment: Arc::clone(&found.segment), error }),
            }
        };
        let found = inner.retry_if_removed(check).map_err(|e| inner.in_context(&e))?;
        let Some(Found { segment, address, .. }) = found else { return Ok(None) };
        segment.read_chunked(&address, each)?;
        Ok(Some(address.len_bytes))
    }

    /// Whether `key` is present. Reads no value.
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        let inner = &*self.inner;
        inner.enter()?;
        inner.check_lookup_key(key)?;
        let found = inner.retry_if_removed(|| Ok(inner.find(key)?.map(|_| ())));
        Ok(found.map_err(|e| inner.in_context(&e))?.is_some())
    }
}

impl Inner {
    /// The newest record of `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Found>, FailedRead> {
        let hash = KeyHash::of(self.hash_seed, key);
        let mut candidates = Candidates::new();
        loop {
            let read_source = self.read_source();
            read_source.keymap().candidates(hash, &mut candidates);
            let mut passed_over = false;
            for at in candidates.iter().copied() {
                // Collected since the keymap was asked, or of a segment that is newer than the view.
                let Some(segment) = read_source.segment(at.segment) else {
                    passed_over = true;
                    continue;
                };
                match segment.lookup(at.offset, key) {
                    Ok(Some(address)) => return Ok(Some(Found { at, segment, address })),
                    Ok(None) => {}
                    Err(error) => return Err(FailedRead { segment, error }),
                }
            }
            // The key may have been put again between the question and the collection, or a newer view may be there. Asked
            // again, the keymap says so.
            if !passed_over || self.is_unchanged_since(&read_source) {
                return Ok(None);
            }
        }
    }

    /// What is seen now.
    pub(crate) fn read_source(&self) -> ReadSource<'_> {
        match &self.mode {
            Mode::Write(side) => ReadSource::Live(side, self.watermark()),
            Mode::Read(side) => ReadSource::View(side.view()),
        }
    }

    /// Whether nothing has come or gone since.
    pub(crate) fn is_unchanged_since(&self, read_source: &ReadSource<'_>) -> bool {
        match (read_source, self.read_source()) {
            (ReadSource::View(before), ReadSource::View(now)) => Arc::ptr_eq(before, &now),
            (ReadSource::Live(_, before), ReadSource::Live(_, now)) => *before == now,
            (ReadSource::View(_), ReadSource::Live(..))
            | (ReadSource::Live(..), ReadSource::View(_)) => false,
        }
    }

    /// A reader in another process may find that a file has been collected under it, that a rollback has cut it, or that it
    /// is another table's of the same name: then it looks again, and the answer is that the key is gone, or an older value. What is neither is read once more at most.
    pub(crate) fn retry_if_removed<T>(
        &self,
        read: impl Fn() -> Result<T, FailedRead>,
    ) -> Result<T> {
        let mut left = MAX_CATCH_UPS;
        loop {
            let failed = match read() {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let Mode::Read(side) = &self.mode else { return Err(failed.error) };
            let may_be_gone = matches!(
                failed.error.kind(),
                ErrorKind::Missing | ErrorKind::Corrupt | ErrorKind::Foreign
            );
            if !may_be_gone || left == 0 {
                return Err(failed.error);
            }
            left = if side.catch_up(self, &failed.segment)? { left - 1 } else { 0 };
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use lithdb_env::sync::Mutex;
    use lithdb_env::{OpenMode, Result};
    use lithdb_keymap::{Candidates, KeyHash, Keymap};
    use lithdb_segment::{HandleCache, Position, ReadMode, SegmentId, TableName};
    use lithdb_sim::{SimClock, SimFs, sim_env};

    use crate::event::EventListener;
    use crate::read::check_keymap::verify_keymap;
    use crate::read::view::View;
    use crate::table::{Mode, TableSetup};
    use crate::{OpenForWriting, Table, TableOptions};

    pub(crate) type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

    /// A keymap after whose next answer something else happens before it is looked at, or before it is filled.
    pub(crate) struct Answered {
        keymap: Arc<dyn Keymap>,
        meanwhile: Meanwhile,
        before_filling: Meanwhile,
    }

    impl Answered {
        /// Becomes the keymap of a table that nobody else has.
        pub(crate) fn of(table: Table) -> (Table, Meanwhile, Meanwhile) {
            let (meanwhile, before_filling) = (Meanwhile::default(), Meanwhile::default());
            let answered = |keymap: &Arc<dyn Keymap>| -> Arc<dyn Keymap> {
                Arc::new(Self {
                    keymap: Arc::clone(keymap),
                    meanwhile: Arc::clone(&meanwhile),
                    before_filling: Arc::clone(&before_filling),
                })
            };
            let mut inner = Arc::into_inner(table.inner).unwrap();
            match &mut inner.mode {
                Mode::Write(side) => side.keymap = answered(&side.keymap),
                Mode::Read(side) => {
                    side.publish(|view| View { keymap: answered(&view.keymap), ..view.clone() });
                }
            }
            let table = Table { inner: Arc::new(inner) };
            (table, meanwhile, before_filling)
        }
    }

    /// Does it, once.
    fn happens(something: &Meanwhile) {
        let something = something.lock().take();
        if let Some(something) = something {
            something();
        }
    }

    impl std::fmt::Debug for Answered {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Answered")
        }
    }

    impl Keymap for Answered {
        fn insert(
            &self,
            hash: KeyHash,
            at: Position,
            same_key: &mut dyn FnMut(Position) -> Result<bool>,
        ) -> Result<()> {
            happens(&self.before_filling);
            self.keymap.insert(hash, at, same_key)
        }
        fn insert_batch(
            &self,
            items: &[(KeyHash, Position)],
            same_key: &mut dyn FnMut(Position, Position) -> Result<bool>,
        ) -> Result<()> {
            happens(&self.before_filling);
            self.keymap.insert_batch(items, same_key)
        }
        fn candidates(&self, hash: KeyHash, out: &mut Candidates) {
            self.keymap.candidates(hash, out);
            happens(&self.meanwhile);
        }
        fn raise_watermark(&self, lowest: SegmentId) {
            self.keymap.raise_watermark(lowest);
        }
        fn entries(&self) -> usize {
            self.keymap.entries()
        }
        fn memory_bytes(&self) -> usize {
            self.keymap.memory_bytes()
        }
        fn reserve(&self, additional_keys: usize) {
            self.keymap.reserve(additional_keys);
        }
    }

    /// A table with `key` in a segment that has expired, how it was set up, and what puts the key again and collects that
    /// segment.
    fn before_the_collection() -> (Table, TableSetup, Meanwhile, Box<dyn FnOnce() + Send>) {
        let (fs, clock) = (SimFs::new(), SimClock::new(1));
        fs.make_dirs("/r");
        let setup = TableSetup {
            name: TableName::new("t").unwrap(),
            env: sim_env(&fs, &clock),
            dirs: vec![PathBuf::from("/r/t")],
            read_mode: ReadMode::Map,
            handles: Arc::new(HandleCache::new(8)),
            listener: EventListener::default(),
            filter: None,
            clock_jump_limit: Duration::from_secs(86_400),
            clock_jump_hold: Duration::ZERO,
        };
        Table::create(&setup).unwrap();
        let options = TableOptions::new().ttl(Duration::from_secs(1));
        let how = OpenForWriting { coalesce: Duration::ZERO };
        let table = Table::open(&setup, &options, how).unwrap();
        let (table, meanwhile, _) = Answered::of(table);
        table.put(b"key", b"older").unwrap();
        table.seal().unwrap();
        clock.advance(Duration::from_secs(2));
        let other = table.clone();
        let put_and_collect = move || {
            other.put(b"key", b"newer").unwrap();
            other.flush().unwrap();
            assert_eq!(other.run_gc().unwrap().segments, 1);
        };
        (table, setup, meanwhile, Box::new(put_and_collect))
    }

    #[test]
    fn overwritten_key_is_never_absent_during_collection() {
        let (table, _, meanwhile, put_and_collect) = before_the_collection();
        *meanwhile.lock() = Some(put_and_collect);
        assert_eq!(table.get(b"key").unwrap().unwrap(), b"newer");
        assert!(meanwhile.lock().is_none());
        // Collected and not put again, it is absent.
        let (table, _, meanwhile, _) = before_the_collection();
        let other = table.clone();
        *meanwhile.lock() = Some(Box::new(move || assert_eq!(other.run_gc().unwrap().segments, 1)));
        assert!(table.get(b"key").unwrap().is_none());
    }

    #[test]
    fn overwritten_key_is_never_absent_during_refresh() {
        let (_writer, setup, _, put_and_collect) = before_the_collection();
        let reader = Table::open_read_only(&setup, &TableOptions::new()).unwrap();
        let (reader, _, before_filling) = Answered::of(reader);
        assert_eq!(reader.get(b"key").unwrap().unwrap(), b"older");
        put_and_collect();
        // The new view is known, and its keys are not: another thread asks.
        let (other, answer) = (reader.clone(), Arc::new(Mutex::new(None)));
        let told = Arc::clone(&answer);
        // A panic here would be one failed look of several: what was told is looked at afterwards.
        let ask = move || *told.lock() = Some(other.get(b"key"));
        *before_filling.lock() = Some(Box::new(ask));
        reader.refresh().unwrap();
        let answer = answer.lock().take().unwrap();
        assert_eq!(answer.unwrap().unwrap(), b"older");
        assert_eq!(reader.get(b"key").unwrap().unwrap(), b"newer");
        assert_eq!(reader.stats().segments, 1);
    }

    #[test]
    fn a_view_that_lacks_the_newer_value_shows_the_older_one() {
        let (writer, setup, _, _) = before_the_collection();
        writer.put(b"other", b"").unwrap();
        let behind = writer.stats().log_end;
        writer.put(b"key", b"newer").unwrap();
        writer.flush().unwrap();
        let reader = Table::open_read_only(&setup, &TableOptions::new()).unwrap();
        assert_eq!(reader.get(b"key").unwrap().unwrap(), b"newer");
        // The newer value is gone, as if it had been rolled back.
        let path = setup.dirs[0].join(format!("segments/{}.keys", behind.segment));
        let file = setup.env.fs.open(&path, OpenMode::ReadWrite).unwrap();
        file.set_len(behind.offset.into()).unwrap();
        reader.refresh().unwrap();
        assert_eq!(reader.get(b"key").unwrap().unwrap(), b"older");
        assert_eq!(reader.newest_key().unwrap().unwrap(), b"other");
    }

    #[test]
    fn keymap_missing_log_entries_is_reported_with_positions() {
        let (table, ..) = before_the_collection();
        let at = table.put(b"other", b"value").unwrap();
        assert!(verify_keymap(&table, &mut |_| {}).unwrap().is_sound());
        // The keymap alone: the table still has these segments.
        table.inner.read_source().keymap().raise_watermark(at.segment.next().unwrap());
        let report = verify_keymap(&table, &mut |_| {}).unwrap();
        assert_eq!((report.records, report.keys, report.wrong), (2, 0, 2));
        assert!(!report.is_sound());
        let says = report.to_string();
        assert!(says.contains(&format!("\"other\" at {at}: the keymap names nothing")), "{says}");
    }
}
