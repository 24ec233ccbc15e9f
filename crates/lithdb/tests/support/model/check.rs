//! Invariants that hold after every open of a database.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lithdb::{Components, Db, Table};
use lithdb_env::human::parsed;
use lithdb_format_oracle::{self as format_oracle, crc32c, key_file, key_header, metadata};
use lithdb_rollback::INTENT_FILE;
use lithdb_sim::{SimFs, sim_env};

use super::expect::{Expected, Found, Record, name};
use super::op::TABLES;
use super::run::{NAMES, Run, another_clock, count, options};

/// A file of a segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    pub segment: u32,
    pub extension: String,
    pub shard: Option<u16>,
    pub path: PathBuf,
}

/// The files in the `segments` directories of a table, by segment; a name of another kind is an
/// error.
pub fn segment_files(disk: &SimFs, table: &str) -> Vec<SegmentFile> {
    let mut files = Vec::new();
    for path in disk.file_paths() {
        let parts: Vec<String> = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        if parts.len() != 5 || parts[2] != table || parts[3] != "segments" {
            continue;
        }
        let (stem, extension) = parts[4].split_once('.').unwrap();
        let (segment, shard) = match stem.split_once('-') {
            Some((segment, shard)) => (segment, Some(shard.parse().unwrap())),
            None => (stem, None),
        };
        let (segment, extension) = (segment.parse().unwrap(), extension.to_owned());
        files.push(SegmentFile { segment, extension, shard, path });
    }
    files.sort();
    files
}

/// A hard link to a file of a segment.
#[derive(Debug, Clone)]
pub struct Link {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Bytes past this length have no meaning, according to the segment's metadata.
    end: usize,
    power_losses: u64,
}

impl Link {
    /// To `file`, which never changes any more.
    pub fn of(disk: &SimFs, file: &Path, path: PathBuf, power_losses: u64) -> Self {
        let bytes = disk.read_raw(file);
        let end = end_of_sealed(&image(disk), file).unwrap_or(bytes.len());
        Self { path, bytes, end, power_losses }
    }

    /// The bytes are unchanged. But a truncation past the metadata's end just before the link is
    /// not synced: a power loss undoes it.
    fn check(&self, disk: &SimFs, power_losses: u64, context: &str) {
        let (now, path) = (disk.read_raw(&self.path), self.path.display());
        let is_same = if power_losses == self.power_losses {
            now == self.bytes
        } else {
            now.starts_with(&self.bytes[..self.end])
        };
        assert!(is_same, "{context}: {path} has changed");
    }
}

/// The identity of each segment whenever it was observed: its salt, and the key file's bytes for
/// each revision.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    salts: BTreeMap<(u64, u32), u64>,
    /// Salts of files that may have been only in the page cache: if a power loss takes them, they
    /// no longer count as used.
    cached: BTreeMap<(u64, u32), u64>,
    /// The number of power losses before the observation.
    power_losses: u64,
    contents: BTreeMap<(u64, u32, u32), Vec<u8>>,
}

impl Identities {
    /// Remembers the ids in use, including those of segments that the next open is going to
    /// discard.
    pub fn note_salts(&mut self, disk: &SimFs, power_losses: u64, context: &str) {
        // What exists after a power loss is on the disk.
        let is_durable = self.power_losses != power_losses;
        if is_durable {
            self.cached.clear();
            self.power_losses = power_losses;
        }
        for file in NAMES.iter().flat_map(|table| segment_files(disk, table)) {
            let bytes = disk.read_raw(&file.path);
            // Where nothing has been written, there may be old blocks of a file of another kind.
            if file.extension != "keys" || bytes.len() < 64 || !bytes.starts_with(b"LITHKEYS") {
                continue;
            }
            let (head, checksum) = bytes[..64].split_at(60);
            if crc32c(0, head).to_le_bytes() != *checksum {
                continue;
            }
            self.note_salt(&bytes, is_durable, context);
        }
    }

    fn note_salt(&mut self, key_file: &[u8], is_durable: bool, context: &str) {
        let header = key_header(key_file);
        let id = (header.table, header.segment);
        let before = self.salts.get(&id).or(self.cached.get(&id)).copied();
        let before = before.unwrap_or(header.salt);
        assert_eq!(before, header.salt, "{context}: segment {id:?} was used twice");
        let known = if is_durable { &mut self.salts } else { &mut self.cached };
        known.insert(id, header.salt);
    }

    /// The database is open: what the opening has discarded is discarded for good.
    fn note(&mut self, disk: &SimFs, context: &str) {
        self.salts.append(&mut self.cached);
        for file in NAMES.iter().flat_map(|table| segment_files(disk, table)) {
            let bytes = disk.read_raw(&file.path);
            if file.extension == "keys" {
                self.note_salt(&bytes, true, context);
            } else if file.extension == "metadata" {
                let found = metadata(&bytes);
                let mut keys = disk.read_raw(file.path.with_extension("keys"));
                keys.truncate(found.key_end as usize);
                let id = (found.table, found.segment, found.revision);
                let before = self.contents.entry(id).or_insert_with(|| keys.clone());
                assert!(*before == keys, "{context}: revision {id:?} has two contents");
            }
        }
    }
}

/// Checks everything that must hold of a database that was just opened and whose tables contain
/// `found`.
pub fn check_invariants(run: &mut Run, found: &[Option<Found>; TABLES]) {
    let context = run.context.clone();
    let Some(process) = &run.process else { return };
    for (n, (table, found)) in process.tables.iter().zip(found).enumerate() {
        let context = format!("{context}: table {}", NAMES[n]);
        let expected = &mut run.expected[n];
        let (Some(table), Some(found)) = (table, found) else { continue };
        check_values(table, expected, 0..expected.batches.len(), &context);
        let keymap = table.verify_keymap(&mut |_| {}).unwrap();
        assert!(keymap.is_sound(), "{context}: {keymap}");
        let stats = table.stats();
        expected.reset_mutable_segment(stats.log_end.segment.0);
        assert_eq!(stats.keys, found.records.len() as u64, "{context}: counted keys");
        assert!(stats.keymap_entries <= found.records.len(), "{context}: dead keys in the keymap");
        let ttl = stats.ttl.map(|ttl| ttl.as_millis() as u64);
        assert!(expected.ttls.contains(&ttl), "{context}: {ttl:?}, not {:?}", expected.ttls);
        expected.ttls = vec![ttl];
        read_with_oracle(&run.disk, NAMES[n], found, &context);
    }
    files(run, &context);
    run.identities.note(&run.disk, &context);
    run.links.iter().for_each(|link| link.check(&run.disk, run.power_losses, &context));
    check_reopen_is_idempotent(run, &context);
}

/// Every key that was ever put has its expected value, or is absent as expected.
pub fn check_values(table: &Table, expected: &Expected, range: Range<usize>, context: &str) {
    for (key, value) in expected.expected_values(range) {
        get(table, key, value, context);
    }
    assert_eq!(table.get(b"never put").unwrap(), None, "{context}");
}

pub fn get(table: &Table, key: &[u8], value: Option<&[u8]>, context: &str) {
    let got = table.get(key).unwrap_or_else(|e| panic!("{context}: get of {}: {e}", name(key)));
    let len = |bytes: Option<&[u8]>| bytes.map(<[u8]>::len);
    assert!(
        got.as_deref() == value,
        "{context}: get of {}: expected {:?} bytes, found {:?}, or other ones",
        name(key),
        len(value),
        len(got.as_deref())
    );
    assert_eq!(table.contains(key).unwrap(), value.is_some(), "{context}: {}", name(key));
}

/// Iterates over a table from both ends, as the bits of `turns` say.
pub fn walk(table: &Table, records: &[&Record], from: Option<usize>, turns: u64, context: &str) {
    let mut rest = records;
    let mut iter = match from {
        None => table.iter().unwrap(),
        Some(back) => {
            let Some(at) = records.len().checked_sub(1 + back) else {
                assert!(table.iter_from(b"never put").unwrap().is_none(), "{context}");
                return;
            };
            // It starts with the newest record of the key.
            let key = &records[at].key;
            let at = records.iter().rposition(|record| record.key == *key).unwrap_or(at);
            rest = &records[at..];
            table.iter_from(key).unwrap().unwrap()
        }
    };
    for turn in 0.. {
        let (entry, expected) = if turns.rotate_right(turn % 64) & 1 == 0 {
            (iter.next(), rest.split_first())
        } else {
            (iter.next_back(), rest.split_last())
        };
        let Some((expected, left)) = expected else {
            assert!(entry.is_none(), "{context}: more than should be there");
            return;
        };
        let entry = entry.unwrap_or_else(|| panic!("{context}: ends too early")).unwrap();
        let value = entry.value().unwrap().to_vec();
        let record = Record { key: entry.key().to_vec(), is_primary: entry.is_primary(), value };
        assert!(record == **expected, "{context}: not {}", name(&expected.key));
        rest = left;
    }
}

/// The format oracle reads from the files what iteration returned.
fn read_with_oracle(disk: &SimFs, table: &str, found: &Found, context: &str) {
    let files = segment_files(disk, table);
    let of = |segment: u32, extension: &str, shard: Option<u16>| {
        let mut files = files.iter();
        files.find(|f| f.segment == segment && f.extension == extension && f.shard == shard)
    };
    let mut records = Vec::new();
    for keys in files.iter().filter(|file| file.extension == "keys") {
        let mut bytes = disk.read_raw(&keys.path);
        if let Some(sealed) = of(keys.segment, "metadata", None) {
            let sealed = metadata(&disk.read_raw(&sealed.path));
            bytes.truncate(sealed.key_end as usize);
        }
        let mut values = BTreeMap::new();
        for (at, record) in key_file(&bytes).records {
            let format_oracle::Record::Key { flags, key, shard, offset, len, checksum } = record
            else {
                continue;
            };
            let file = if shard == u16::MAX {
                &bytes
            } else {
                let file = of(keys.segment, "values", Some(shard));
                let file = file.unwrap_or_else(|| panic!("{context}: no shard {shard}"));
                values.entry(shard).or_insert_with(|| disk.read_raw(&file.path))
            };
            let value = &file[offset as usize..offset as usize + len as usize];
            let value = value.to_vec();
            assert_eq!(crc32c(0, &value), checksum, "{context}: {}", name(&key));
            let at = lithdb::Position::new(lithdb::SegmentId(keys.segment), at as u32);
            records.push((at, Record { key, is_primary: flags & 1 == 1, value }));
        }
    }
    assert!(records == found.records, "{context}: the files say something else");
}

/// No file that does not belong to the database, and none of a missing table.
fn files(run: &Run, context: &str) {
    for path in run.disk.file_paths() {
        let parts: Vec<String> = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        if parts[1] == "snapshot" {
            continue;
        }
        let path = path.display();
        assert!(!parts.iter().any(|p| p.ends_with(".new")), "{context}: {path} is an orphan");
        let is_known = match &parts[2..] {
            [file] => {
                assert_ne!(*file, INTENT_FILE, "{context}: was left behind");
                ["lith.lock", "root.id"].contains(&&**file)
            }
            [table, ..] => {
                let n = NAMES.iter().position(|name| name == table);
                n.is_some_and(|n| run.expected[n].exists)
            }
            [] => false,
        };
        assert!(is_known, "{context}: {path} is unknown");
    }
    for (n, table) in NAMES.iter().enumerate() {
        let Some(open) = run.process.as_ref().and_then(|process| process.tables[n].as_ref()) else {
            continue;
        };
        let watermark = open.stats().watermark.0;
        for file in segment_files(&run.disk, table) {
            let is_live = file.segment >= watermark;
            assert!(is_live, "{context}: {} was collected and exists", file.path.display());
        }
    }
}

type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(disk: &SimFs) -> Image {
    let is_lock = |path: &PathBuf| path.extension().is_some_and(|e| e == "lock");
    let paths = disk.file_paths().into_iter().filter(|path| !is_lock(path));
    paths.map(|path| (path.clone(), disk.read_raw(&path))).collect()
}

/// In a copy: opening and closing again, twice, changes nothing.
fn check_reopen_is_idempotent(run: &Run, context: &str) {
    let (disk, clock) = (run.disk.fork(), another_clock(run.now()));
    let mut before = image(&disk);
    for _ in 0..2 {
        let components = Components {
            env: Some(sim_env(&disk, &clock)),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(run.options(), components).unwrap();
        for (n, expected) in run.expected.iter().enumerate() {
            if expected.exists {
                let table = db.table(NAMES[n], options(n)).unwrap();
                let found = Found::read(&table, context);
                let found = found.records.into_iter().map(|(_, record)| record);
                assert!(found.eq(expected.records().cloned()), "{context}: opened again");
            }
        }
        db.close().unwrap();
        drop(db);
        assert_eq!(disk.open_handles(), 0, "{context}: files are held after closing");
        let after = image(&disk);
        for (path, bytes) in &before {
            let now = after.get(path);
            let now = now.unwrap_or_else(|| panic!("{context}: {} is missing", path.display()));
            assert_unchanged(path, bytes, now, context);
        }
        assert_eq!(before.len(), after.len(), "{context}: new files");
        before = after;
    }
    count("closed and opened again");
}

/// A key file may have a new epoch and mark; the state and the root ids are written at every open.
/// No file ever gets shorter.
fn assert_unchanged(path: &Path, before: &[u8], after: &[u8], context: &str) {
    let shown = path.display();
    if path.extension().is_some_and(|e| e == "keys") {
        assert!(after.starts_with(before), "{context}: {shown} has changed");
        if after.len() > before.len() {
            let behind = key_file(after).records.into_iter().filter(|(at, _)| *at >= before.len());
            let keys = behind.filter(|(_, r)| matches!(r, format_oracle::Record::Key { .. }));
            assert_eq!(keys.count(), 0, "{context}: {shown} has more keys");
        }
    } else if !path.ends_with("table.state") && !path.ends_with("root.id") {
        assert!(after == before, "{context}: {shown} has changed");
    }
}

/// The length that its segment's metadata records for a file.
fn end_of_sealed(files: &Image, path: &Path) -> Option<usize> {
    if path.extension()? == "metadata" {
        return None;
    }
    let stem = path.file_stem()?.to_str()?;
    let (segment, shard) = match stem.split_once('-') {
        Some((segment, shard)) => (segment, Some(parsed::<usize>(shard)?)),
        None => (stem, None),
    };
    let table = path.iter().nth(2)?;
    let path = Path::new("/r0").join(table).join("segments").join(format!("{segment}.metadata"));
    let metadata = metadata(files.get(&path)?);
    let end = shard.map_or(metadata.key_end, |shard| metadata.value_ends[shard]);
    Some(end as usize)
}
