//! get: from a key through the keymap and the key file to the value.

use std::sync::Arc;

use lithdb_env::Result;
use lithdb_segment::Value;

use crate::read::source::{FailedRead, Found};
use crate::table::Table;

impl Table {
    /// The newest value of `key`, verified as the options say.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let shared = self.enter()?;
        shared.check_lookup_key(key)?;
        shared.counters.gets.increment(1);
        self.read(|| {
            let Some(Found { segment, address, .. }) = self.find(key)? else { return Ok(None) };
            let value = segment.read_value(&address);
            value.map(Some).map_err(|error| FailedRead { segment, error })
        })
    }

    /// Passes the value of `key` to `each` in chunks of at most a mebibyte; returns its length.
    /// Reads the value twice: no chunk is passed before the whole value was verified.
    pub fn get_chunked(
        &self,
        key: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<u32>> {
        let shared = self.enter()?;
        shared.check_lookup_key(key)?;
        shared.counters.gets.increment(1);
        let found = self.read(|| {
            let Some(found) = self.find(key)? else { return Ok(None) };
            match found.segment.read_chunked(&found.address, &mut |_| Ok(())) {
                Ok(()) => Ok(Some(found)),
                Err(error) => Err(FailedRead { segment: Arc::clone(&found.segment), error }),
            }
        })?;
        let Some(Found { segment, address, .. }) = found else { return Ok(None) };
        segment.read_chunked(&address, each)?;
        Ok(Some(address.len_bytes))
    }

    /// Whether `key` is present. Reads no value.
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        self.enter()?.check_lookup_key(key)?;
        self.read(|| Ok(self.find(key)?.is_some()))
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
    use crate::table::Role;
    use crate::{OpenForWriting, Table, TableOptions, TableSetup};

    pub(crate) type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

    /// A keymap that runs a hook after its next lookup, or before its next insertion.
    pub(crate) struct Answered {
        keymap: Arc<dyn Keymap>,
        meanwhile: Meanwhile,
        before_filling: Meanwhile,
    }

    impl Answered {
        /// Replaces the keymap of a table that has no other handle.
        pub(crate) fn of(table: Table) -> (Table, Meanwhile, Meanwhile) {
            let (meanwhile, before_filling) = (Meanwhile::default(), Meanwhile::default());
            let answered = |keymap: &Arc<dyn Keymap>| -> Arc<dyn Keymap> {
                Arc::new(Self {
                    keymap: Arc::clone(keymap),
                    meanwhile: Arc::clone(&meanwhile),
                    before_filling: Arc::clone(&before_filling),
                })
            };
            let role = match table.role {
                Role::Writer(writer) => {
                    let mut writer = Arc::into_inner(writer).unwrap();
                    writer.live.keymap = answered(&writer.live.keymap);
                    Role::Writer(Arc::new(writer))
                }
                Role::Reader(reader) => {
                    reader.publish(|view| View { keymap: answered(&view.keymap), ..view.clone() });
                    Role::Reader(reader)
                }
            };
            (Table::new(role), meanwhile, before_filling)
        }
    }

    /// Runs the hook, once.
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
            // A refresh first retries the keys that an earlier one left: none of them fills
            // nothing.
            if !items.is_empty() {
                happens(&self.before_filling);
            }
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

    /// A table with `key` in an expired segment, its setup, and a function that puts the key again
    /// and collects that segment.
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
        // Collected and not put again, the key is absent.
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
        // The new view is published and its keys are not: another thread looks the key up.
        let (other, answer) = (reader.clone(), Arc::new(Mutex::new(None)));
        let told = Arc::clone(&answer);
        // A panic here would count as one failed attempt of several: the result is checked
        // afterwards.
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
        // The newer value disappears, as in a rollback.
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
        table.read_source().keymap().raise_watermark(at.segment.next().unwrap());
        let report = verify_keymap(&table, &mut |_| {}).unwrap();
        assert_eq!((report.records, report.keys, report.wrong), (2, 0, 2));
        assert!(!report.is_sound());
        let says = report.to_string();
        assert!(says.contains(&format!("\"other\" at {at}: the keymap names nothing")), "{says}");
    }
}
