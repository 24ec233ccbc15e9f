//! Tests of the scanner: verdicts, totals, marks, epochs, malformed sequences, window sizes.

use std::ops::Range;

use lithdb_env::UnixMillis;
use proptest::prelude::*;

use super::*;
use crate::header::Identity;
use crate::ids::SegmentId;
use crate::record::{Encoder, KEY_FIXED_LEN, Kind, MAX_INLINE_LEN, MAX_KEY_LEN, decode};
use crate::seed::Seeds;

const IDENTITY: Identity = Identity { table_id: 77, segment: SegmentId(5), salt: 0x5a17 };
const PREDECESSOR: SegmentId = SegmentId(4);
const START: u64 = HEADER_LEN as u64;

/// A key file under construction, and the expected result of scanning it.
#[derive(Clone)]
struct KeyFile {
    header: KeyHeader,
    bytes: Vec<u8>,
    epoch: u64,
    running: u32,
    now: Totals,
    /// The totals at the end of each batch and of each other record.
    commits: Vec<Totals>,
    /// Every key record: its offset and its key.
    entries: Vec<(u32, Vec<u8>)>,
    /// The range and the durable end of each mark.
    marks: Vec<(Range<usize>, u64)>,
    inline: Vec<Range<usize>>,
}

impl KeyFile {
    fn new() -> Self {
        Self::with_shards(2)
    }

    fn with_shards(shards: u16) -> Self {
        let created = UnixMillis(1);
        let header = KeyHeader { identity: IDENTITY, predecessor: PREDECESSOR, created, shards };
        let value_ends = vec![START; usize::from(shards)];
        let totals = Totals { key_end: START, value_ends, ..Totals::default() };
        Self {
            header,
            bytes: header.encode(),
            epoch: IDENTITY.salt,
            running: 0,
            commits: vec![totals.clone()],
            now: totals,
            entries: Vec::new(),
            marks: Vec::new(),
            inline: Vec::new(),
        }
    }

    fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn encode(&mut self, write: impl FnOnce(&mut Encoder<'_>)) {
        let offset = self.end();
        let mut encoder = Encoder {
            buffer: &mut self.bytes,
            identity: IDENTITY,
            epoch: self.epoch,
            running: self.running,
            offset,
        };
        write(&mut encoder);
        (self.epoch, self.running) = (encoder.epoch, encoder.running);
    }

    fn commit(&mut self) {
        self.now.key_end = self.end();
        self.now.running = self.running;
        self.commits.push(self.now.clone());
    }

    /// Appends a key record unchanged, with its inline value, without committing.
    fn record(&mut self, record: &KeyRecord<'_>, value: &[u8]) {
        self.entries.push((self.end() as u32, record.key.to_vec()));
        self.now.records += 1;
        self.now.primaries += u64::from(record.is_primary());
        let end = record.offset.wrapping_add(u64::from(record.stored_len));
        if let Some(value_end) = self.now.value_ends.get_mut(usize::from(record.shard.0)) {
            *value_end = end.max(*value_end);
        }
        self.encode(|encoder| encoder.key(record));
        if record.has_inline_value() {
            self.inline.push(self.bytes.len()..self.bytes.len() + value.len());
            self.encode(|encoder| encoder.inline(value));
        }
    }

    /// Appends a record of a group; a primary one places the value.
    fn key(&mut self, flags: u8, key: &[u8], shard: ShardId, range: Range<u64>) {
        let len = (range.end - range.start) as u32;
        let record = KeyRecord {
            flags: Flags(flags),
            key,
            shard,
            offset: range.start,
            stored_len: len,
            raw_len: len,
            value_checksum: 0,
            codec: 0,
        };
        self.record(&record, &[]);
    }

    /// Appends a single put with an inline value.
    fn inline(&mut self, key: &[u8], value: &[u8]) {
        let record = KeyRecord {
            flags: Flags(7),
            key,
            shard: ShardId::INLINE,
            offset: self.end() + (KEY_FIXED_LEN + key.len()) as u64,
            stored_len: value.len() as u32,
            raw_len: value.len() as u32,
            value_checksum: crc32c::crc32c(value),
            codec: 0,
        };
        self.record(&record, value);
        self.commit();
    }

    /// Appends a single put of 100 bytes in a value file.
    fn put(&mut self, key: &[u8]) {
        let start = self.now.value_ends[0];
        self.key(7, key, ShardId(0), start..start + 100);
        self.commit();
    }

    /// Appends a batch of two groups with two and three keys.
    fn batch(&mut self, name: &str) {
        let (zero, one) = (self.now.value_ends[0], self.now.value_ends[1]);
        let key = |part: &str| format!("{name} {part}").into_bytes();
        self.key(1, &key("first"), ShardId(0), zero..zero + 50);
        self.key(2, &key("its part"), ShardId(0), zero + 10..zero + 20);
        self.key(1, &key("second"), ShardId(1), one..one + 70);
        self.key(0, &key("its beginning"), ShardId(1), one..one + 5);
        self.key(6, &key("its end"), ShardId(1), one + 70..one + 70);
        self.commit();
    }

    fn epoch(&mut self, epoch: u64) {
        self.encode(|encoder| encoder.epoch(epoch, UnixMillis(2)));
        self.commit();
    }

    fn chain(&mut self, predecessor: SegmentId) {
        self.encode(|encoder| encoder.chain(&Chain { predecessor, ..Chain::default() }));
        self.commit();
    }

    fn mark_of(&self, through: u64) -> Mark {
        let at = self.commits.iter().rfind(|totals| totals.key_end <= through).unwrap();
        Mark {
            through: through as u32,
            time: UnixMillis(3),
            records: at.records,
            value_ends: at.value_ends.clone(),
        }
    }

    /// Appends a mark of the first `through` bytes, after its padding.
    fn mark(&mut self, through: u64) {
        let mark = self.mark_of(through);
        let start = self.bytes.len();
        self.encode(|encoder| encoder.mark(&mark));
        let len = MARK_FIXED_LEN + 8 * mark.value_ends.len();
        let mark_at = self.bytes.len() - len;
        if mark_at > start {
            let mut padded = self.now.clone();
            padded.key_end = mark_at as u64;
            // The running checksum includes the padding's checksum, then the mark's.
            let before = self.commits.last().map_or(0, |totals| totals.running);
            padded.running = crc32c::crc32c_append(before, &self.bytes[start..start + 4]);
            self.commits.push(padded);
        }
        self.marks.push((mark_at..mark_at + len, through));
        self.commit();
    }

    fn flushed(&mut self) {
        self.mark(self.end());
    }

    /// Appends arbitrary bytes with a valid record checksum.
    fn forge(&mut self, kind: Kind, n: u16, body: &[u8]) {
        let start = self.bytes.len();
        let epoch = match kind {
            Kind::Key | Kind::Padding => self.epoch,
            Kind::Epoch | Kind::Chain | Kind::Mark => IDENTITY.salt,
        };
        self.bytes.extend([0, 0, 0, 0, kind as u8, 0]);
        self.bytes.extend(n.to_le_bytes());
        self.bytes.extend(body);
        let seed = Seeds::new(&IDENTITY, epoch).at(start as u32);
        let checksum = crc32c::crc32c_append(seed, &self.bytes[start + 4..]);
        self.bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The totals up to the last commit before `offset`.
    fn committed_before(&self, offset: u64) -> &Totals {
        self.commits.iter().rfind(|totals| totals.key_end <= offset).unwrap()
    }

    fn scan(&self) -> Scan {
        scan(&self.bytes, None)
    }
}

/// The outcome of a scan, without the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Clean,
    Torn(u64),
    Corrupt { at: u64, acknowledged: u64 },
}

struct Scan {
    end: End,
    reason: String,
    totals: Totals,
    entries: Vec<(u32, Vec<u8>)>,
    mark: Option<Mark>,
    epochs: Vec<(u32, u64)>,
}

fn path() -> &'static Path {
    Path::new("/t/5.keys")
}

fn header_of(bytes: &[u8]) -> KeyHeader {
    KeyHeader::decode(path(), bytes).unwrap()
}

fn whole(bytes: &[u8]) -> Source<'static> {
    let bytes = Bytes::copy_from_slice(bytes);
    Box::new(move |offset, len| Ok(slice(&bytes, offset, len)))
}

fn slice(bytes: &Bytes, offset: u64, len: usize) -> Bytes {
    let start = (offset as usize).min(bytes.len());
    bytes.slice(start..(start + len).min(bytes.len()))
}

fn scan(bytes: &[u8], external_end: Option<Mark>) -> Scan {
    scan_from(whole(bytes), bytes, external_end)
}

fn scan_from(source: Source<'_>, bytes: &[u8], external_end: Option<Mark>) -> Scan {
    let end = bytes.len() as u64;
    let mut scanner =
        Scanner::new(source, path(), header_of(bytes), end).with_external_end(external_end);
    let mut entries = Vec::new();
    let verdict = scanner
        .run(|entry| {
            entries.push((entry.offset, entry.record.key.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(scanner.verdict(), Some(&verdict));
    assert!(scanner.next_entry().unwrap().is_none(), "a scan that is over stays over");
    assert_eq!(scanner.require_clean().is_ok(), verdict == Verdict::Clean);
    let (end, reason) = match verdict {
        Verdict::Clean => (End::Clean, String::new()),
        Verdict::Torn { offset, reason } => (End::Torn(offset), reason),
        Verdict::Corrupt { offset, acknowledged, reason } => {
            (End::Corrupt { at: offset, acknowledged }, reason)
        }
    };
    Scan {
        end,
        reason,
        totals: scanner.totals().clone(),
        entries,
        mark: scanner.mark().cloned(),
        epochs: scanner.epochs().to_vec(),
    }
}

/// A small file with one of everything: chain, epoch, marks, inline values, batches.
fn one_of_everything() -> KeyFile {
    let mut file = KeyFile::new();
    file.chain(PREDECESSOR);
    file.inline(b"a", b"in the key file");
    file.batch("b");
    file.flushed();
    file.epoch(0xe90c);
    file.put(b"after the epoch");
    file.inline(b"c", b"");
    file.flushed();
    file.batch("d");
    file
}

#[test]
fn complete_file_is_clean_and_fully_counted() {
    let file = one_of_everything();
    let scan = file.scan();
    assert_eq!(scan.end, End::Clean);
    assert_eq!(scan.entries, file.entries);
    assert_eq!(scan.totals, file.now);
    assert_eq!((scan.totals.records, scan.totals.primaries), (13, 7));
    assert_eq!(scan.totals.value_ends, [64 + 50 + 100 + 50, 64 + 70 + 70]);
    assert_eq!(scan.mark.unwrap().through as u64, file.marks[1].1);
    assert_eq!(scan.epochs.len(), 1);
    assert_eq!(scan.epochs[0].1, 0xe90c);
}

#[test]
fn a_file_without_records_is_clean() {
    let file = KeyFile::new();
    let scan = file.scan();
    assert_eq!((scan.end, scan.totals), (End::Clean, file.commits[0].clone()));
}

#[test]
fn scanner_exposes_header_and_window() {
    let file = one_of_everything();
    let mut scanner = Scanner::new(whole(&file.bytes), path(), file.header, file.end());
    assert_eq!(scanner.verdict(), None);
    let offset = scanner.next_entry().unwrap().unwrap().offset;
    let (window, start) = scanner.window();
    let record = &window[(u64::from(offset) - start) as usize..];
    assert_eq!(&record[KEY_FIXED_LEN..KEY_FIXED_LEN + 1], b"a");
}

#[test]
fn cut_file_is_torn_at_its_last_whole_batch() {
    let file = one_of_everything();
    for len in HEADER_LEN..=file.bytes.len() {
        let expected = file.committed_before(len as u64);
        let scan = scan(&file.bytes[..len], None);
        let end = match expected.key_end == len as u64 {
            true => End::Clean,
            false => End::Torn(expected.key_end),
        };
        assert_eq!(scan.end, end, "cut to {len}");
        assert_eq!(&scan.totals, expected, "cut to {len}");
        let whole = file.entries.iter().take(expected.records as usize);
        assert!(scan.entries.iter().take(expected.records as usize).eq(whole), "cut to {len}");
    }
}

#[test]
fn file_shorter_than_external_end_is_corrupt() {
    let file = one_of_everything();
    let through = file.commits[2].key_end;
    let external_end = file.mark_of(through);
    for len in HEADER_LEN..=file.bytes.len() {
        let committed = file.committed_before(len as u64).key_end;
        let scan = scan(&file.bytes[..len], Some(external_end.clone()));
        let is_clean = committed == len as u64;
        let expected = match committed {
            at if at < through => End::Corrupt { at, acknowledged: through },
            _ if is_clean => End::Clean,
            at => End::Torn(at),
        };
        assert_eq!(scan.end, expected, "cut to {len}");
    }
    // Of the durable ends in the file and from outside, the higher counts.
    let less = Mark { through: 64, ..external_end };
    let mut damaged = file.bytes.clone();
    damaged[70] ^= 1;
    let acknowledged = file.marks[1].1;
    assert_eq!(scan(&damaged, Some(less)).end, End::Corrupt { at: START, acknowledged });
}

#[test]
fn flipped_byte_is_corrupt_below_the_durable_end_else_torn() {
    let file = one_of_everything();
    for at in HEADER_LEN..file.bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut bytes = file.bytes.clone();
            bytes[at] ^= mask;
            let scan = scan(&bytes, None);
            if file.inline.iter().any(|range| range.contains(&at)) {
                // Values have their own checksums; the records are intact.
                assert_eq!((scan.end, scan.totals), (End::Clean, file.now.clone()));
                continue;
            }
            let kept = file.committed_before(at as u64);
            let durable_ends = file.marks.iter().filter(|(range, _)| !range.contains(&at));
            let durable_end = durable_ends.map(|(_, through)| *through).max().unwrap_or_default();
            let expected = match durable_end > kept.key_end {
                true => End::Corrupt { at: kept.key_end, acknowledged: durable_end },
                false => End::Torn(kept.key_end),
            };
            assert_eq!(scan.end, expected, "byte {at}: {}", scan.reason);
            assert_eq!(&scan.totals, kept, "byte {at}");
        }
    }
}

#[test]
fn damage_below_a_mark_is_corrupt_up_to_its_durable_end() {
    let mut file = KeyFile::new();
    file.put(b"one");
    file.put(b"two");
    let through = file.end();
    file.put(b"three");
    file.mark(through);
    let mut bytes = file.bytes.clone();
    bytes[64 + 35 + 10] ^= 1;
    let scan = scan(&bytes, None);
    assert_eq!(scan.end, End::Corrupt { at: 64 + 35, acknowledged: through });
    assert!(scan.reason.contains("record at 99: expected record checksum"), "{}", scan.reason);
}

#[test]
fn mark_that_does_not_cover_the_damage_leaves_it_torn() {
    let mut file = KeyFile::new();
    file.put(b"vouched for");
    let through = file.end();
    file.put(b"not vouched for");
    file.mark(through);
    file.put(b"later");
    let mut bytes = file.bytes.clone();
    bytes[through as usize + 20] ^= 1;
    let found = scan(&bytes, None);
    assert_eq!(found.end, End::Torn(through));
    assert_eq!(found.mark, Some(file.mark_of(through)));
    // One byte earlier the mark would cover it.
    bytes[through as usize - 1] ^= 1;
    assert_eq!(scan(&bytes, None).end, End::Corrupt { at: START, acknowledged: through });
}

#[test]
fn furthest_durable_mark_counts_wherever_it_is() {
    let mut file = KeyFile::new();
    file.put(b"one");
    let one = file.end();
    file.put(b"two");
    let two = file.end();
    file.mark(two);
    file.mark(one);
    file.put(b"three");
    let scan_of = |at: usize| {
        let mut bytes = file.bytes.clone();
        bytes[at] ^= 1;
        scan(&bytes, None).end
    };
    assert_eq!(scan_of(64), End::Corrupt { at: START, acknowledged: two });
    assert_eq!(file.scan().mark.unwrap().through as u64, two);
}

#[test]
fn records_of_an_earlier_epoch_are_invalid() {
    let mut old = KeyFile::new();
    old.put(b"kept");
    let cut = old.bytes.len();
    old.epoch(1);
    old.put(b"lost 1");
    old.put(b"lost 2");
    old.put(b"lost 3");
    assert_eq!(old.scan().end, End::Clean);

    // The next epoch has records of the same lengths at the same offsets.
    let mut new = KeyFile::new();
    new.put(b"kept");
    new.epoch(2);
    new.put(b"new 1!");
    let end = new.bytes.len();
    assert!(cut < end && end < old.bytes.len());
    let mut bytes = new.bytes.clone();
    bytes.extend(&old.bytes[end..]);
    let scan = scan(&bytes, None);
    assert_eq!(scan.end, End::Torn(end as u64));
    assert_eq!(scan.entries, new.entries);
    // With the old epoch they would be valid.
    let old_record = &old.bytes[end..];
    assert!(decode(&IDENTITY, 1, end as u32, old_record).is_ok());
    assert!(decode(&IDENTITY, 2, end as u32, old_record).is_err());
}

#[test]
fn torn_batch_is_dropped_whole() {
    let mut file = KeyFile::new();
    file.put(b"before");
    let before = file.end();
    file.batch("torn");
    let ends: Vec<usize> = file.entries[2..].iter().map(|(at, _)| *at as usize).collect();
    for (n, len) in ends.into_iter().enumerate() {
        let scan = scan(&file.bytes[..len], None);
        assert_eq!(scan.end, End::Torn(before), "{n}");
        assert_eq!(scan.totals, file.commits[1], "{n}");
        assert!(scan.reason.contains("the file ends inside"), "{}", scan.reason);
        // Its records were returned before the tear was found.
        assert_eq!(scan.entries.len(), n + 2);
    }
}

#[test]
fn inconsistent_record_sequence_is_torn_with_the_reason() {
    type Write = fn(&mut KeyFile);
    let cases: Vec<(&str, Write, &str)> = vec![
        (
            "secondary without primary",
            |file| file.key(6, b"s", ShardId(0), 64..65),
            "expected a primary record",
        ),
        (
            "secondary after a whole group",
            |file| {
                file.key(3, b"p", ShardId(0), 64..70);
                file.key(6, b"s", ShardId(0), 64..65);
            },
            "expected a primary record",
        ),
        (
            "primary in an open group",
            |file| {
                file.key(1, b"p", ShardId(0), 64..70);
                file.key(7, b"q", ShardId(0), 70..80);
            },
            "expected the rest of the group",
        ),
        (
            "range that begins before the value",
            |file| {
                file.key(1, b"p", ShardId(0), 164..170);
                file.key(6, b"s", ShardId(0), 163..165);
            },
            "expected a range inside",
        ),
        (
            "range that ends after the value",
            |file| {
                file.key(1, b"p", ShardId(0), 164..170);
                file.key(6, b"s", ShardId(0), 169..171);
            },
            "expected a range inside",
        ),
        (
            "range of another shard",
            |file| {
                file.key(1, b"p", ShardId(0), 164..170);
                file.key(6, b"s", ShardId(1), 164..165);
            },
            "expected a range inside",
        ),
        (
            "range of a value file for an inline value",
            |file| {
                file.inline(b"p", b"");
                let record = KeyRecord {
                    flags: Flags(1),
                    key: b"q",
                    shard: ShardId::INLINE,
                    offset: file.end() + 33,
                    stored_len: 4,
                    raw_len: 4,
                    value_checksum: 0,
                    codec: 0,
                };
                file.record(&record, b"four");
                file.key(6, b"s", ShardId(0), record.offset..record.offset + 4);
            },
            "expected a range inside",
        ),
        (
            "shard that the segment has not",
            |file| file.key(7, b"p", ShardId(2), 64..70),
            "expected a shard that the segment has",
        ),
        (
            "batch that ends within a group",
            |file| file.key(5, b"p", ShardId(0), 64..70),
            "expected the batch to end with a group",
        ),
        (
            "mark in a batch",
            |file| {
                file.key(3, b"p", ShardId(0), 64..70);
                let mark = file.mark_of(START);
                file.encode(|encoder| encoder.mark(&mark));
            },
            "expected the rest of the batch",
        ),
        (
            "epoch in a group",
            |file| {
                file.key(1, b"p", ShardId(0), 64..70);
                file.encode(|encoder| encoder.epoch(1, UnixMillis(1)));
            },
            "expected the rest of the batch",
        ),
        (
            "chain that is not the first record",
            |file| {
                file.encode(|e| e.chain(&Chain { predecessor: PREDECESSOR, ..Chain::default() }))
            },
            "expected the chain record first",
        ),
        (
            "mark of another number of value files",
            |file| {
                let mut mark = file.mark_of(START);
                mark.value_ends.push(64);
                file.encode(|encoder| encoder.mark(&mark));
            },
            "expected an aligned mark that covers only earlier bytes",
        ),
    ];
    for (what, write, says) in cases {
        let mut file = KeyFile::new();
        file.put(b"before");
        write(&mut file);
        let kept = match what {
            // The preceding inline record is a batch of its own.
            "range of a value file for an inline value" => file.commits[2].key_end,
            "mark of another number of value files" => {
                let padding = padding_of(&file, file.commits[1].key_end);
                file.commits[1].key_end + padding
            }
            _ => file.commits[1].key_end,
        };
        let scan = file.scan();
        assert_eq!(scan.end, End::Torn(kept), "{what}: {}", scan.reason);
        assert!(scan.reason.contains(says), "{what}: {}", scan.reason);
    }
}

/// The length of the padding record at `at`.
fn padding_of(file: &KeyFile, at: u64) -> u64 {
    let at = at as usize;
    match file.bytes[at + 4] {
        5 => u64::from(u16::from_le_bytes([file.bytes[at + 6], file.bytes[at + 7]])),
        _ => 0,
    }
}

#[test]
fn overflowing_address_is_torn() {
    let mut file = KeyFile::new();
    let record = KeyRecord {
        flags: Flags(7),
        key: b"k",
        shard: ShardId(0),
        offset: u64::MAX - 1,
        stored_len: 2,
        raw_len: 2,
        value_checksum: 0,
        codec: 0,
    };
    file.record(&record, &[]);
    let scan = file.scan();
    assert_eq!(scan.end, End::Torn(START));
    assert!(scan.reason.contains("expected an offset in range"), "{}", scan.reason);
}

#[test]
fn chain_with_wrong_predecessor_is_refused() {
    let mut file = KeyFile::new();
    file.chain(SegmentId(3));
    file.put(b"k");
    let scan = file.scan();
    assert_eq!(scan.end, End::Torn(START));
    assert!(scan.reason.contains("naming the predecessor"), "{}", scan.reason);
}

#[test]
fn misaligned_or_future_mark_is_refused() {
    let body = |through: u32| {
        let mut body = MARK_MAGIC.to_vec();
        body.extend(through.to_le_bytes());
        body.extend([0; 4 + 8 + 8]);
        body.extend([64_u64.to_le_bytes(), 64_u64.to_le_bytes()].concat());
        body
    };
    let mut off_its_place = KeyFile::new();
    off_its_place.put(b"k");
    let end = off_its_place.end();
    assert_ne!(end % 16, 0);
    off_its_place.forge(Kind::Mark, 2, &body(64));
    let found = off_its_place.scan();
    assert_eq!(found.end, End::Torn(end));
    assert!(found.reason.contains("expected an aligned mark"), "{}", found.reason);

    // A mark whose durable end is past the end of the file: acknowledged bytes are lost.
    let mut to_come = KeyFile::new();
    to_come.forge(Kind::Mark, 2, &body(1000));
    assert_eq!(to_come.scan().end, End::Corrupt { at: START, acknowledged: 1000 });
}

/// A source that returns at most `limit` bytes, but never part of a record, like a write buffer.
fn in_pieces(file: &KeyFile, limit: usize) -> Source<'static> {
    let bytes = Bytes::copy_from_slice(&file.bytes);
    let mut ends: Vec<usize> = file.entries.iter().map(|(at, _)| *at as usize).collect();
    ends.extend(file.commits.iter().map(|totals| totals.key_end as usize));
    ends.sort_unstable();
    ends.dedup();
    let mut pieces = vec![HEADER_LEN];
    for pair in ends.windows(2) {
        if pair[1] - pieces.last().unwrap() > limit && pair[0] != *pieces.last().unwrap() {
            pieces.push(pair[0]);
        }
    }
    pieces.push(bytes.len());
    Box::new(move |offset, len| {
        let offset = offset as usize;
        let piece = pieces[pieces.partition_point(|end| *end <= offset)];
        Ok(bytes.slice(offset..piece.min(offset + len)))
    })
}

/// More than three windows of small and maximum-length records, with marks between.
fn a_long_file() -> KeyFile {
    let mut file = KeyFile::new();
    let (key, value) = (vec![b'k'; MAX_KEY_LEN], vec![b'v'; MAX_INLINE_LEN as usize]);
    for round in 0..8_u32 {
        file.inline(&key, &value);
        for n in 0..600 {
            let key = format!("key {n} of round {round}");
            match n % 3 {
                0 => file.inline(key.as_bytes(), &value[..n % 700]),
                1 => file.batch(&key),
                _ => file.put(key.as_bytes()),
            }
            if n % 97 == 0 {
                file.flushed();
            }
        }
        file.inline(&key, b"");
        file.put(&key);
    }
    file.flushed();
    assert!(file.bytes.len() > 3 << 20, "{} bytes", file.bytes.len());
    file
}

#[test]
fn any_window_size_gives_the_same_entries() {
    let file = a_long_file();
    let bytes = Bytes::copy_from_slice(&file.bytes);
    let at_most = |limit: usize| {
        let bytes = bytes.clone();
        move |offset: u64, len: usize| Ok(slice(&bytes, offset, len.min(limit)))
    };
    let sources: Vec<Source<'_>> = vec![
        Box::new(at_most(usize::MAX)),
        Box::new(at_most(MAX_RECORD_LEN)),
        Box::new(at_most(MAX_RECORD_LEN + 1)),
        in_pieces(&file, 1000),
        in_pieces(&file, 100_000),
    ];
    for (n, source) in sources.into_iter().enumerate() {
        let scan = scan_from(source, &file.bytes, None);
        assert_eq!(scan.end, End::Clean, "source {n}: {}", scan.reason);
        assert_eq!(scan.totals, file.now, "source {n}");
        assert!(scan.entries == file.entries, "source {n}");
        assert_eq!(scan.mark.unwrap().through as u64, file.marks.last().unwrap().1);
    }
}

#[test]
fn mark_far_after_damage_is_found_with_any_window_size() {
    let file = a_long_file();
    let acknowledged = file.marks.last().unwrap().1;
    let mut damaged = file.clone();
    damaged.bytes[70] ^= 1;
    let expected = End::Corrupt { at: START, acknowledged };
    assert_eq!(damaged.scan().end, expected);
    for limit in [1, 100, 1000, 5000] {
        let scan = scan_from(in_pieces(&damaged, limit), &damaged.bytes, None);
        assert_eq!(scan.end, expected, "pieces of {limit}");
    }
}

#[test]
fn mark_across_a_window_edge_is_found() {
    let shards = ShardId::MAX_SHARDS;
    let mark_len = MARK_FIXED_LEN + 8 * usize::from(shards);
    let header = KeyFile::with_shards(shards);
    for back in (0..=mark_len + 16).step_by(16) {
        let mut file = header.clone();
        file.bytes.resize(HEADER_LEN + WINDOW_LEN - back, 0xff);
        let mark =
            Mark { through: 5000, value_ends: vec![64; usize::from(shards)], ..Mark::default() };
        file.encode(|encoder| encoder.mark(&mark));
        let expected = End::Corrupt { at: START, acknowledged: 5000 };
        assert_eq!(file.scan().end, expected, "{back} before the edge");
    }
}

#[test]
fn short_source_is_an_error_not_end_of_file() {
    let file = one_of_everything();
    let source = |_: u64, _: usize| Ok(Bytes::new());
    let mut scanner = Scanner::new(source, path(), file.header, file.end());
    let error = scanner.next_entry().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("/t/5.keys at offset 64"), "{error}");

    let refusing = |_: u64, _: usize| Err(Error::new(ErrorKind::Io, "the device"));
    let mut scanner = Scanner::new(refusing, path(), file.header, file.end());
    assert_eq!(scanner.run(|_| Ok(())).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn callback_error_ends_the_scan() {
    let file = one_of_everything();
    let mut scanner = Scanner::new(whole(&file.bytes), path(), file.header, file.end());
    let mut seen = 0;
    let error = scanner.run(|_| {
        seen += 1;
        if seen == 3 { Err(Error::new(ErrorKind::Closed, "enough")) } else { Ok(()) }
    });
    assert_eq!((seen, error.unwrap_err().kind()), (3, ErrorKind::Closed));
}

#[test]
fn require_clean_names_file_offset_and_reason() {
    let mut file = one_of_everything();
    let last = file.commits[file.commits.len() - 2].key_end;
    let at = file.bytes.len() - 1;
    file.bytes[at] ^= 1;
    let mut scanner = Scanner::new(whole(&file.bytes), path(), file.header, file.end());
    scanner.run(|_| Ok(())).unwrap();
    let error = scanner.require_clean().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    assert!(text.contains(&format!("/t/5.keys at offset {last}")), "{text}");
    assert!(text.contains("expected record checksum"), "{text}");
}

proptest! {
    #[test]
    fn any_bytes_after_the_header_never_panic(tail in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut file = KeyFile::new();
        file.bytes.extend(&tail);
        let scan = file.scan();
        prop_assert_eq!(scan.end, if tail.is_empty() { End::Clean } else { End::Torn(START) });
        prop_assert!(scan.entries.is_empty());
    }

    #[test]
    fn mangled_file_yields_a_prefix_of_what_was_written(
        writes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..60)), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let file = one_of_everything();
        let len = HEADER_LEN + cut.index(file.bytes.len() - HEADER_LEN + 1);
        let mut bytes = file.bytes[..len].to_vec();
        for (at, with) in writes {
            let at = HEADER_LEN + at.index(len - HEADER_LEN + 1);
            let end = len.min(at + with.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
        }
        let scan = scan(&bytes, None);
        prop_assert!(file.commits.contains(&scan.totals));
        let whole = scan.totals.records as usize;
        prop_assert_eq!(&scan.entries[..whole], &file.entries[..whole]);
        match scan.end {
            End::Clean => prop_assert_eq!(scan.totals.key_end, len as u64),
            End::Torn(at) => prop_assert_eq!(at, scan.totals.key_end),
            End::Corrupt { at, acknowledged } => {
                prop_assert_eq!(at, scan.totals.key_end);
                prop_assert!(acknowledged > at && file.marks.iter().any(|m| m.1 == acknowledged));
            }
        }
    }
}

#[test]
fn record_beyond_4_gib_is_not_matched_at_wrapped_offset() {
    const BEYOND: u64 = 1 << 32;
    let header = KeyFile::new().header;
    let counted = Totals { key_end: BEYOND, value_ends: vec![START; 2], ..Totals::default() };
    // Its checksum is valid, because it covers only the lower 32 bits of the offset.
    let mut bytes = Vec::new();
    let (identity, epoch) = (IDENTITY, IDENTITY.salt);
    let mut encoder = Encoder { buffer: &mut bytes, identity, epoch, running: 0, offset: BEYOND };
    encoder.key(&KeyRecord {
        flags: Flags(7),
        key: b"key",
        shard: ShardId(0),
        offset: START,
        stored_len: 1,
        raw_len: 1,
        value_checksum: 0,
        codec: 0,
    });
    let end = BEYOND + bytes.len() as u64;
    let bytes = Bytes::from(bytes);
    let source = |at: u64, len: usize| {
        let from = ((at - BEYOND) as usize).min(bytes.len());
        Ok(bytes.slice(from..bytes.len().min(from + len)))
    };
    let mut scanner =
        Scanner::new(source, Path::new("5.keys"), header, end).resume_after(&counted, &[]);
    let verdict = scanner.run(|entry| panic!("a record at {}", entry.offset)).unwrap();
    assert!(matches!(verdict, Verdict::Torn { offset: BEYOND, .. }), "{verdict:?}");
}
