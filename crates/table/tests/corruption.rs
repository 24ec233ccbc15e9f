//! Damage to the files of a cleanly closed table: every bit-flipped byte, every length, every
//! missing, duplicated or exchanged file. Reads return the right bytes or an error; nothing turns
//! into `None`.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![expect(clippy::let_underscore_must_use, reason = "of damage an answer or an error may come")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lithdb_env::{ErrorKind, Fs, Result, UnixMillis};
use lithdb_segment::envelope::{Magic, decode, encode};
use lithdb_segment::record::{Encoder, Flags, KeyRecord, Mark};
use lithdb_segment::{HEADER_LEN, KeyHeader, Metadata, SegmentId, ShardId, Stamp};
use lithdb_sim::{Effort, SimClock, SimFs, Tally};
use lithdb_table::open::chain::{Access, OpenPlan};
use lithdb_table::state::{TableState, read_state};
use lithdb_table::{Batch, OpenForWriting, SecondaryKey, Table, TableOptions};
use support::closed_table::{ClosedTable, assert_reported_as_damage, check_reads, clock, files};
use support::script::value_of;
use support::{DAY, Harness, small};

fn options() -> TableOptions {
    small().segment_keys(3).shards(2).ttl(DAY / 2).segment_age(DAY)
}

/// Several sealed segments on two roots, values inline and in files, aliases, a batch, a watermark
/// above 1, and a mutable segment that was flushed several times and opened twice.
fn closed() -> ClosedTable {
    let harness = Harness::new(2);
    let mut table = harness.create_and_open(&options());
    let mut records = Vec::new();
    let mut gone = Vec::new();
    for n in 0..6_usize {
        let (key, value) = (format!("old-{n}").into_bytes(), value_of(n, 8 + 10 * n));
        table.put(&key, &value).unwrap();
        gone.push(key);
    }
    table.seal().unwrap();
    harness.clock.advance(DAY);
    assert!(table.run_gc().unwrap().segments >= 2);
    for n in 10..22_usize {
        let (key, value) = (format!("key-{n}").into_bytes(), value_of(n, (n * 13) % 50));
        let alias = format!("alias-{n}").into_bytes();
        let part = value.len() / 4..value.len() / 2;
        table.put_with(&key, &value, &[SecondaryKey::range(&alias, part.clone())]).unwrap();
        records.push((key, value.clone()));
        records.push((alias, value[part].to_vec()));
        if n % 4 == 0 {
            table.flush().unwrap();
        }
        if n == 20 {
            let mut batch = Batch::new();
            batch.put(b"batch-1", value_of(1, 30));
            batch.put(b"batch-2", value_of(2, 5));
            table.put_batch(&batch).unwrap();
            records.push((b"batch-1".to_vec(), value_of(1, 30)));
            records.push((b"batch-2".to_vec(), value_of(2, 5)));
            table.close().unwrap();
            table = harness.open(&options().segment_keys(100)).unwrap();
        }
    }
    for n in 30..33_usize {
        let (key, value) = (format!("key-{n}").into_bytes(), value_of(n, n));
        table.put(&key, &value).unwrap();
        table.flush().unwrap();
        records.push((key, value));
    }
    let stats = table.stats();
    assert!(stats.watermark > SegmentId(1) && stats.segments >= 4, "{stats:?}");
    table.close().unwrap();
    ClosedTable { fs: harness.fs.fork(), records, gone }
}

/// Opens the table for writing and reads everything.
fn open_and_read(fs: &SimFs, closed: &ClosedTable, context: &str) -> Result<bool> {
    let harness = Harness::on(fs.clone(), clock(), 2);
    match harness.open(&options()) {
        Ok(table) => Ok(check_reads(&table, closed, context)),
        Err(error) => {
            assert_reported_as_damage(&error, context);
            Err(error)
        }
    }
}

#[test]
fn undamaged_table_reads_correctly() {
    let closed = closed();
    assert!(open_and_read(&closed.fs.fork(), &closed, "undamaged").unwrap());
    let harness = Harness::on(closed.fs.fork(), clock(), 2);
    let reader = Table::open_read_only(&harness.setup, &options()).unwrap();
    assert!(check_reads(&reader, &closed, "undamaged, reader"));
    assert_eq!(harness.fs.ops(), 0, "a reader writes nothing");
}

#[test]
fn every_flipped_byte_is_an_error_or_harmless() {
    let closed = closed();
    let mut tally = Tally::new("damage to a table: flipped bytes");
    // One bit of each byte, another one with every seed; in a deep run all of them.
    let (effort, first) = (Effort::from_env(), Effort::from_env().seed("flips") as usize);
    let bits = effort.times(1).min(8) as usize;
    for (path, bytes) in files(&closed.fs) {
        // Only one of the two slots of the state is needed, and no header of a file without
        // values.
        let is_needed = !path.ends_with("table.state") && !is_empty_value_file(&path, &bytes);
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..bits).map(move |bit| (at, bit))) {
            let bit = (first.wrapping_add(at + bit) % 8) as u8;
            let fs = closed.fs.fork();
            fs.flip_bit(&path, at as u64, bit);
            let context = format!("{} flipped at {at}, bit {bit}", path.display());
            let is_right = matches!(open_and_read(&fs, &closed, &context), Ok(true));
            assert!(!is_right || !is_needed, "{context}: not noticed");
            tally.add("byte flips", 1);
        }
    }
    assert!(tally.get("byte flips") > 3000, "{tally:?}");
}

fn is_empty_value_file(path: &Path, bytes: &[u8]) -> bool {
    path.extension().is_some_and(|e| e == "values") && bytes.len() == HEADER_LEN
}

#[test]
fn a_flipped_byte_is_an_error_or_harmless_for_a_reader() {
    let closed = closed();
    let mut tally = Tally::new("damage to a table: flipped bytes before a reader");
    let effort = Effort::from_env();
    for (path, bytes) in files(&closed.fs) {
        let looks = effort.times(5) as usize;
        for at in (5..bytes.len()).step_by(1 + bytes.len() / looks) {
            tally.add("byte flips", 1);
            let harness = Harness::on(closed.fs.fork(), clock(), 2);
            harness.fs.flip_bit(&path, at as u64, (at % 8) as u8);
            let context = format!("{} flipped at {at}, reader", path.display());
            match Table::open_read_only(&harness.setup, &options()) {
                Ok(table) => drop(check_reads(&table, &closed, &context)),
                Err(error) => assert_reported_as_damage(&error, &context),
            }
            assert_eq!(harness.fs.ops(), 0, "{context}");
        }
    }
}

#[test]
fn a_file_cut_at_any_length_is_an_error_or_harmless() {
    let closed = closed();
    let mut tally = Tally::new("damage to a table: cut files");
    for (path, bytes) in files(&closed.fs) {
        for len in 0..bytes.len() {
            let fs = closed.fs.fork();
            fs.truncate_raw(&path, len as u64);
            tally.add("lengths", 1);
            let context = format!("{} cut to {len}", path.display());
            let found = open_and_read(&fs, &closed, &context);
            let name = path.extension().unwrap_or_default();
            if name != "values" {
                assert!(found.is_err(), "{context}: not noticed");
            } else if bytes.len() > HEADER_LEN {
                assert!(!matches!(found, Ok(true)), "{context}: not noticed");
            }
        }
    }
}

#[test]
fn bytes_behind_the_end_of_a_file_are_an_error_or_harmless() {
    let closed = closed();
    let mut refused = 0;
    for (path, bytes) in files(&closed.fs) {
        let copy_of_itself = bytes.clone();
        for more in [vec![0; 1], vec![0; 5000], vec![0xdb; 700], copy_of_itself] {
            let fs = closed.fs.fork();
            let mut longer = bytes.clone();
            longer.extend(&more);
            fs.write_raw(&path, longer);
            let context = format!("{} with {} more bytes", path.display(), more.len());
            let found = open_and_read(&fs, &closed, &context);
            if path.extension().is_some_and(|e| e == "keys" || e == "values") {
                match found {
                    Ok(is_right) => assert!(is_right, "{context}"),
                    // It is unknown whether values without records were acknowledged.
                    Err(error) => {
                        assert!(error.to_string().contains("the last close"), "{context}: {error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    // Metadata records where sealed files end, and records name their values.
    assert_eq!(refused, 2 * 4, "the value files of the last segment");
}

#[test]
fn an_absent_file_is_an_error_that_names_it() {
    let closed = closed();
    for (path, _) in files(&closed.fs) {
        let fs = closed.fs.fork();
        fs.remove_raw(&path);
        let context = format!("{} removed", path.display());
        let before = fs.file_paths();
        let error = open_and_read(&fs, &closed, &context).expect_err(&context);
        let says = error.to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(says.contains(name), "{context}: {says}");
        assert_eq!(fs.file_paths(), before, "{context}: opening destroyed something");
    }
}

#[test]
fn swapped_files_are_an_error_or_harmless() {
    let closed = closed();
    // Files of another table of the same shape.
    let other = {
        let harness = Harness::on(SimFs::new(), SimClock::new(99), 2);
        (0..2).for_each(|n| harness.fs.make_dirs(format!("/r{n}")));
        let table = harness.create_and_open(&options());
        for n in 0..20_usize {
            table.put(format!("key-{n}").as_bytes(), &value_of(n, 40)).unwrap();
        }
        table.close().unwrap();
        harness.fs
    };
    let all = files(&closed.fs);
    for (path, bytes) in &all {
        for (from, others) in all.iter().cloned().chain(other.file_paths().into_iter().map(|p| {
            let bytes = other.read_raw(&p);
            (p, bytes)
        })) {
            if others == *bytes || path.extension() != from.extension() {
                continue;
            }
            let fs = closed.fs.fork();
            fs.write_raw(path, others.clone());
            let context = format!("{} has the bytes of {}", path.display(), from.display());
            let _ = open_and_read(&fs, &closed, &context);
            // Two files exchanged.
            if all.iter().any(|(p, _)| *p == from) {
                fs.write_raw(path, others);
                fs.write_raw(&from, bytes.clone());
                let _ = open_and_read(&fs, &closed, &format!("{context} and the other way round"));
            }
        }
    }
}

#[test]
fn file_on_another_root_is_found_and_on_two_is_refused() {
    let closed = closed();
    for (path, bytes) in files(&closed.fs) {
        if path.ends_with("table.state") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let root = if path.starts_with("/r0") { "/r1" } else { "/r0" };
        let twin = PathBuf::from(format!("{root}/t/segments/{name}"));
        let fs = closed.fs.fork();
        fs.write_raw(&twin, bytes.clone());
        let error = open_and_read(&fs, &closed, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        let says = error.to_string();
        assert!(says.contains(path.to_str().unwrap()), "{says}");
        assert!(says.contains(twin.to_str().unwrap()), "{says}");
        // Moved there, everything is right.
        fs.remove_raw(&path);
        assert!(open_and_read(&fs, &closed, name).unwrap(), "{name} moved");
    }
}

#[test]
fn foreign_files_are_not_touched_and_leftovers_are_removed() {
    let closed = closed();
    let fs = closed.fs.fork();
    let foreign = [
        "/r0/t/segments/notes.txt",
        "/r0/t/segments/007.keys",
        "/r0/t/segments/3.keys.bak",
        "/r1/t/segments/3-0.values.new",
        "/r1/t/segments/300-256.values",
        "/r0/t/other",
        "/r1/t/table.state.old",
    ];
    for path in foreign {
        fs.write_raw(path, b"mine".to_vec());
    }
    let below = "/r0/t/segments/1.keys";
    let leftovers =
        ["/r0/t/segments/5.metadata.new", "/r1/t/segments/9.metadata.new", "/r0/t/table.state.new"];
    for path in leftovers.into_iter().chain([below]) {
        fs.write_raw(path, b"half".to_vec());
    }
    let dirs: Vec<_> = (0..2).map(|n| PathBuf::from(format!("/r{n}/t/segments"))).collect();
    let state = read_state(&fs, Path::new("/r0/t/table.state")).unwrap().state;
    let harness = Harness::on(fs.clone(), clock(), 2);
    let plan = OpenPlan::make(&harness.setup.env, &dirs, &state, Access::Write).unwrap();
    assert_eq!(plan.foreign.len(), 5, "{:?}", plan.foreign);
    assert!(open_and_read(&fs, &closed, "with foreign files").unwrap());
    for path in foreign {
        assert_eq!(fs.read_raw(path), b"mine", "{path}");
    }
    let left = fs.file_paths();
    for path in leftovers.into_iter().chain([below]) {
        assert!(!left.contains(&PathBuf::from(path)), "{path} is still there");
    }
}

#[test]
fn a_symbolic_link_is_refused_by_readers_and_writers() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let env = lithdb_env::Env::os(2).unwrap();
    let fs = std::sync::Arc::clone(&env.fs);
    let mut setup = support::setup(env, 1);
    setup.dirs = vec![dir.path().join("t")];
    Table::create(&setup).unwrap();
    let how = OpenForWriting { coalesce: Duration::ZERO };
    let table = Table::open(&setup, &small(), how).unwrap();
    for n in 0..9_usize {
        table.put(format!("key-{n}").as_bytes(), &value_of(n, 40)).unwrap();
    }
    table.close().unwrap();
    let segments = dir.path().join("t/segments");
    for name in ["1.keys", "1-0.values", "3.keys"] {
        let (path, target) = (segments.join(name), elsewhere.path().join(name));
        fs.rename(&path, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let written = Table::open(&setup, &small(), how).map(drop);
        for refused in [written, Table::open_read_only(&setup, &small()).map(drop)] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        fs.rename(&target, &path).unwrap();
    }
    Table::open(&setup, &small(), how).unwrap();
    // A table whose directory or state is a link is refused by every call.
    for path in
        [dir.path().join("t"), dir.path().join("t/segments"), dir.path().join("t/table.state")]
    {
        let target = elsewhere.path().join("moved");
        fs.rename(&path, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let error = lithdb_table::presence(&*fs, &setup.dirs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
        fs.remove_file(&path).unwrap();
        fs.rename(&target, &path).unwrap();
    }
}

/// Two copies of the same files that were written independently: same ids, same lengths, other
/// bytes.
fn two_histories(options: &TableOptions) -> [Harness; 2] {
    let harness = Harness::new(1);
    let table = harness.create_and_open(options);
    table.put(b"common", &value_of(1, 30)).unwrap();
    table.close().unwrap();
    [b'a', b'b'].map(|name| {
        let harness = Harness::on(harness.fs.fork(), SimClock::new(name.into()), 1);
        let table = harness.open(options).unwrap();
        for n in 0..7_u8 {
            table.put(&[name, n], &value_of((name + n).into(), 30)).unwrap();
        }
        table.close().unwrap();
        harness
    })
}

#[test]
fn segments_of_diverged_copies_are_refused() {
    let options = small().segment_keys(3);
    let histories = two_histories(&options);
    for id in 1..=2 {
        let mixed = Harness::on(histories[0].fs.fork(), clock(), 1);
        for path in mixed.fs.file_paths() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(&format!("{id}.")) || name.starts_with(&format!("{id}-")) {
                mixed.fs.write_raw(&path, histories[1].fs.read_raw(&path));
            }
        }
        let error = mixed.open(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let next = format!("{}.keys", if id == 1 { 2 } else { id });
        assert!(error.to_string().contains(&next), "{error}");
    }
}

#[test]
fn valid_key_file_of_a_diverged_copy_is_refused() {
    let options = small().segment_keys(3);
    let [a, b] = two_histories(&options);
    // It begins alike, ends at the same offset, and every record in it is valid.
    let path = Path::new("/r0/t/segments/1.keys");
    let (keys, sealed) = (b.fs.read_raw(path), a.fs.read_raw(path));
    assert!(keys != sealed && keys.len() == sealed.len() && keys[..64] == sealed[..64]);
    a.fs.write_raw(path, keys);
    let error = a.open(&options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("1.keys"), "{error}");
}

/// Peak resident memory of this process, in KiB.
fn peak_memory() -> u64 {
    let status = lithdb_env::OsFs.open(Path::new("/proc/self/status"), lithdb_env::OpenMode::Read);
    let mut buf = vec![0; 8192];
    let got = lithdb_env::read_up_to_at(&*status.unwrap(), &mut buf, 0).unwrap();
    let text = String::from_utf8_lossy(&buf[..got]).into_owned();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn crafted_lengths_with_valid_checksum_take_no_memory() {
    let closed = closed();
    let before = peak_memory();
    let attempt = |fs: &SimFs, context: &str| {
        let harness = Harness::on(fs.clone(), clock(), 2);
        // Right, an error, or (for forged records) absent: but no panic and no large allocation.
        if let Ok(table) = harness.open(&options()) {
            let _ = table.iter().unwrap().take(1000).count();
            for (key, _) in &closed.records {
                let _ = table.get(key);
            }
            let _ = table.put(b"more", b"x").and_then(|_| table.flush());
        }
        let harness = Harness::on(fs.clone(), clock(), 2);
        let _ = harness.open(&options());
        let grown = peak_memory().saturating_sub(before) >> 10;
        assert!(grown < 200, "{context}: {grown} MiB");
    };
    // Metadata.
    type Change = fn(&mut Metadata);
    let changes: [(&str, Change); 13] = [
        ("records of a revision", |m| (m.revision, m.records) = (1, u64::MAX)),
        ("key_end of a revision", |m| (m.revision, m.key_end) = (1, u64::MAX)),
        ("both of a revision", |m| (m.revision, m.records, m.key_end) = (1, 1 << 40, 1 << 50)),
        ("key_end u32", |m| m.key_end = u64::from(u32::MAX)),
        ("key_end u64", |m| m.key_end = u64::MAX),
        ("records", |m| m.records = u64::MAX),
        ("records u32", |m| m.records = u64::from(u32::MAX)),
        ("primaries", |m| m.primaries = u64::MAX),
        ("value_ends", |m| m.value_ends = vec![u64::MAX; 2]),
        ("many values", |m| m.value_ends = vec![64; 70_000]),
        ("epochs", |m| m.epochs = vec![(u32::MAX, 1); 100_000]),
        ("times", |m| m.sealed_at = Stamp::uncertain(UnixMillis(u64::MAX))),
        ("ids", |m| (m.segment, m.successor) = (SegmentId(u32::MAX), SegmentId(u32::MAX))),
    ];
    for (path, bytes) in files(&closed.fs) {
        if path.extension().is_none_or(|e| e != "metadata") {
            continue;
        }
        for (what, change) in changes {
            let (mut metadata, _) = decode::<Metadata>(Magic::METADATA, &path, &bytes).unwrap();
            change(&mut metadata);
            let fs = closed.fs.fork();
            fs.write_raw(&path, encode(Magic::METADATA, &metadata).unwrap());
            attempt(&fs, what);
        }
        // A list whose length exceeds the payload.
        for at in 32..bytes.len() - 8 {
            let mut forged = bytes.clone();
            forged[at..at + 4].copy_from_slice(&[0xff; 4]);
            let sum = crc32c::crc32c_append(crc32c::crc32c(&forged[..28]), &forged[32..]);
            forged[28..32].copy_from_slice(&sum.to_le_bytes());
            let fs = closed.fs.fork();
            fs.write_raw(&path, forged);
            attempt(&fs, &format!("{} at {at}", path.display()));
        }
    }
    // The state.
    let path = Path::new("/r0/t/table.state");
    let bytes = closed.fs.read_raw(path);
    let (state, used) = decode::<TableState>(Magic::STATE, path, &bytes).unwrap();
    for at in 32..used - 8 {
        let mut slot = bytes[..4096].to_vec();
        slot[at..at + 4].copy_from_slice(&[0xff; 4]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&slot[..28]), &slot[32..used]);
        slot[28..32].copy_from_slice(&sum.to_le_bytes());
        let fs = closed.fs.fork();
        fs.write_raw(path, slot.repeat(2));
        attempt(&fs, &format!("state at {at}"));
    }
    // A record past the end of the mutable segment.
    let id = state.recorded_end.as_ref().unwrap().segment;
    let path = PathBuf::from(format!("/r0/t/segments/{id}.keys"));
    let bytes = closed.fs.read_raw(&path);
    let header = KeyHeader::decode(&path, &bytes[..HEADER_LEN]).unwrap();
    let epoch = newest_epoch(&bytes, &header);
    for (shard, offset, len) in [
        (ShardId(0), 64, u32::MAX),
        (ShardId(1), u64::MAX - 5, u32::MAX),
        (ShardId(1), u64::from(u32::MAX), 7),
        (ShardId(300), 64, 1),
        (ShardId::INLINE, bytes.len() as u64 + 35, u32::MAX),
        (ShardId::INLINE, bytes.len() as u64 + 35, 60_000),
        (ShardId::INLINE, u64::MAX - 1, u32::MAX),
    ] {
        for has_mark in [false, true] {
            let mut forged = bytes.clone();
            let mut encoder = Encoder {
                offset: forged.len() as u64,
                buffer: &mut forged,
                identity: header.identity,
                epoch,
                running: 0,
            };
            encoder.key(&KeyRecord {
                flags: Flags::PRIMARY.with(Flags::END_OF_GROUP).with(Flags::END_OF_BATCH),
                key: b"lie",
                shard,
                offset,
                stored_len: len,
                raw_len: len,
                value_checksum: 1,
                codec: 0,
            });
            if has_mark {
                let value_ends = vec![u64::MAX; header.shards.into()];
                encoder.mark(&Mark {
                    through: u32::MAX,
                    records: u64::MAX,
                    value_ends,
                    ..Mark::default()
                });
            }
            let fs = closed.fs.fork();
            fs.write_raw(&path, forged);
            attempt(&fs, &format!("record at {shard}:{offset}, {len} bytes, mark {has_mark}"));
        }
    }
}

/// The epoch at the end of a key file.
fn newest_epoch(bytes: &[u8], header: &KeyHeader) -> u64 {
    let owned = bytes::Bytes::copy_from_slice(bytes);
    let source = move |offset: u64, len: usize| {
        let from = (offset as usize).min(owned.len());
        Ok(owned.slice(from..(from + len).min(owned.len())))
    };
    let end = bytes.len() as u64;
    let mut scanner = lithdb_segment::scan::Scanner::new(source, Path::new("x"), *header, end);
    scanner.run(|_| Ok(())).unwrap();
    scanner.require_clean().unwrap();
    scanner.epochs().last().map_or(header.identity.salt, |(_, epoch)| *epoch)
}

#[test]
fn stale_or_foreign_state_removes_nothing() {
    let harness = Harness::new(1);
    harness.create().unwrap();
    let state = "/r0/t/table.state";
    let as_created = harness.fs.read_raw(state);
    let other = Harness::on(SimFs::new(), SimClock::new(99), 1);
    other.fs.make_dirs("/r0");
    let emptied = other.create_and_open(&small());
    for n in 0..20 {
        emptied.put(&[n], &[n; 40]).unwrap();
    }
    emptied.close().unwrap();
    let of_another = other.fs.read_raw(state);
    let table = harness.open(&small()).unwrap();
    for n in 0..3_u8 {
        table.put(&[n], &[n; 40]).unwrap();
    }
    table.close().unwrap();
    drop(table);
    for (bytes, kind) in [(as_created, ErrorKind::Corrupt), (of_another, ErrorKind::Foreign)] {
        let fs = harness.fs.fork();
        fs.write_raw(state, bytes);
        let before: Vec<_> =
            fs.file_paths().iter().map(|path| (path.clone(), fs.read_raw(path))).collect();
        let harness = harness.after_crash(fs.clone());
        let error = harness.open(&small()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("1.keys"), "{error}");
        for (path, bytes) in before.iter().filter(|(path, _)| !path.ends_with("table.state")) {
            assert_eq!(fs.read_raw(path), *bytes, "{path:?}");
        }
    }
}
