//! Conformance tests: `docs/FORMAT.md` and the code agree, byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they fail"
)]

#[path = "support/harness.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod harness;

use std::path::Path;

use harness::{NOW, TABLE, append, create, noise, put, sim_context};
use lithdb_env::UnixMillis;
use lithdb_env::human::parsed;
use lithdb_format_oracle::{Record, crc32c, key_file, metadata, value_header};
use lithdb_segment::envelope::{Magic, decode_file, encode};
use lithdb_segment::record::{Chain, Encoder, Flags, KeyRecord, Mark};
use lithdb_segment::{
    Identity, KeyHeader, Metadata, ReadMode, SealJob, SegmentId, ShardId, Stamp, ValueHeader,
};
use lithdb_sim::SimFs;

const DOCUMENT: &str = include_str!("../../../docs/FORMAT.md");

/// A row of a table in the document.
#[derive(Debug)]
struct Row {
    offset: usize,
    size: usize,
    field: &'static str,
}

/// The first table of fields after `anchor`, without the rows of variable offset or size.
fn table(anchor: &str) -> Vec<Row> {
    let (_, behind) = DOCUMENT.split_once(anchor).unwrap_or_else(|| panic!("no {anchor:?}"));
    let (_, rows) = behind.split_once("| offset | size | field |\n").unwrap();
    rows.lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').splitn(3, '|').map(str::trim).collect();
            let (offset, size) = (parsed(cells[0])?, parsed(cells[1])?);
            Some(Row { offset, size, field: cells[2] })
        })
        .collect()
}

/// Checks `bytes` against the table after `anchor`: its rows are exactly these fields, without
/// gaps, and these values are at the documented offsets.
fn assert_matches_document(anchor: &str, bytes: &[u8], fields: &[(&str, &[u8])]) {
    let rows = table(anchor);
    assert_eq!(rows.len(), fields.len(), "{anchor}: {rows:#?}");
    let mut end = rows[0].offset;
    for (row, (name, value)) in rows.iter().zip(fields) {
        assert!(row.field.contains(name), "{anchor}: expected {name:?}, found {row:?}");
        assert_eq!(row.offset, end, "{anchor}: a gap before {row:?}");
        end += row.size;
        assert_eq!(row.size, value.len(), "{anchor}: {row:?}");
        assert_eq!(&bytes[row.offset..end], *value, "{anchor}: {row:?}");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

const IDENTITY: Identity = Identity {
    table_id: 0x1112_1314_1516_1718,
    segment: SegmentId(0x2122_2324),
    salt: 0x5152_5354_5556_5758,
};
const PREDECESSOR: SegmentId = SegmentId(0x3132_3334);
const CREATED: UnixMillis = UnixMillis(0x4142_4344_4546_4748);
const EPOCH: u64 = 0x6162_6364_6566_6768;
const TABLE_ID: &[u8] = &IDENTITY.table_id.to_le_bytes();
const SEGMENT: &[u8] = &IDENTITY.segment.0.to_le_bytes();
const SALT: &[u8] = &IDENTITY.salt.to_le_bytes();
const TIME: &[u8] = &CREATED.0.to_le_bytes();
const NO_FLAGS: &[u8] = &[0; 4];

fn header() -> KeyHeader {
    KeyHeader { identity: IDENTITY, predecessor: PREDECESSOR, created: CREATED, shards: 3 }
}

/// The bytes that `write` appends at `offset` of a file.
fn encoded(offset: u64, epoch: u64, write: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut encoder =
        Encoder { buffer: &mut buffer, identity: IDENTITY, epoch, running: 0, offset };
    write(&mut encoder);
    let (end, running) = (encoder.offset, encoder.running);
    assert_eq!(end, offset + buffer.len() as u64);
    assert_ne!(running, 0);
    buffer
}

fn key_record() -> KeyRecord<'static> {
    KeyRecord {
        flags: Flags::PRIMARY.with(Flags::END_OF_GROUP).with(Flags::END_OF_BATCH),
        key: b"key",
        shard: ShardId::INLINE,
        offset: 64 + 32 + 3,
        stored_len: 5,
        raw_len: 5,
        value_checksum: crc32c(0, b"value"),
        codec: 0,
    }
}

fn chain() -> Chain {
    Chain {
        predecessor: PREDECESSOR,
        key_end: 0x7172_7374,
        records: 0x8182_8384_8586_8788,
        running: 0x9192_9394,
        value_ends: vec![0xa1a2_a3a4_a5a6_a7a8, 64],
    }
}

fn mark() -> Mark {
    Mark {
        through: 105,
        time: CREATED,
        records: 0x8182_8384_8586_8788,
        value_ends: vec![0xa1a2_a3a4_a5a6_a7a8],
    }
}

fn sample_metadata() -> Metadata {
    Metadata {
        table_id: IDENTITY.table_id,
        segment: IDENTITY.segment,
        revision: 1,
        predecessor: PREDECESSOR,
        successor: SegmentId(0x2122_2325),
        created: CREATED,
        sealed_at: Stamp::certain(UnixMillis(CREATED.0 + 9)),
        salt: IDENTITY.salt,
        key_end: 300,
        records: 7,
        primaries: 5,
        running: 0x9192_9394,
        value_ends: vec![64, 1000],
        epochs: vec![(64, EPOCH)],
        codec: 0,
        digest: Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        extras: vec![(0xb1b2, b"extra".to_vec())],
    }
}

/// The checksum of a record at `offset`, from the document's seed table and a bitwise crc32c.
fn record_checksum(record: &[u8], offset: u32, epoch: u64) -> [u8; 4] {
    let mut seed = vec![0xee; 24];
    let values: [&[u8]; 4] = [TABLE_ID, SEGMENT, &offset.to_le_bytes(), &epoch.to_le_bytes()];
    let rows = table("The seed is");
    assert_eq!(rows.len(), values.len());
    for (row, value) in rows.iter().zip(values) {
        seed[row.offset..row.offset + row.size].copy_from_slice(value);
    }
    crc32c(crc32c(0, &seed), &record[4..]).to_le_bytes()
}

#[test]
fn the_bitwise_checksum_is_crc32c() {
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
}

#[test]
fn key_header_matches_the_document() {
    let bytes = header().encode();
    let checksum = crc32c(0, &bytes[..60]).to_le_bytes();
    assert_matches_document(
        "## Key file",
        &bytes,
        &[
            ("magic `LITHKEYS`", b"LITHKEYS"),
            ("format version, 1", &[1, 0]),
            ("header length, 64", &[64, 0]),
            ("compatible feature flags", NO_FLAGS),
            ("read-only-compatible flags", NO_FLAGS),
            ("incompatible flags", NO_FLAGS),
            ("table id", TABLE_ID),
            ("segment id", SEGMENT),
            ("predecessor's segment id", &PREDECESSOR.0.to_le_bytes()),
            ("time of creation", TIME),
            ("salt", SALT),
            ("number of value files", &[3, 0]),
            ("zero", &[0, 0]),
            ("crc32c of bytes 0 to 59", &checksum),
        ],
    );
    let golden = unhex(
        "4c495448 4b455953 01004000 00000000 00000000 00000000 18171615 14131211
         24232221 34333231 48474645 44434241 58575655 54535251 03000000 0aa2575d",
    );
    assert_eq!(bytes.as_slice(), golden);
    assert_eq!(golden[60..], checksum);
    assert_eq!(KeyHeader::decode(Path::new("k"), &golden).unwrap(), header());
}

#[test]
fn value_header_matches_the_document() {
    let header = ValueHeader { identity: IDENTITY, shard: ShardId(2), created: CREATED };
    let bytes = header.encode();
    let checksum = crc32c(0, &bytes[..60]).to_le_bytes();
    assert_matches_document(
        "## Value file",
        &bytes,
        &[
            ("magic `LITHVALS`", b"LITHVALS"),
            ("format version, 1", &[1, 0]),
            ("header length, 64", &[64, 0]),
            ("the three flag words", &[0; 12]),
            ("table id", TABLE_ID),
            ("segment id", SEGMENT),
            ("shard", &[2, 0]),
            ("zero", &[0, 0]),
            ("time of creation", TIME),
            ("salt of the segment's key file", SALT),
            ("zero", &[0; 4]),
            ("crc32c of bytes 0 to 59", &checksum),
        ],
    );
    let golden = unhex(
        "4c495448 56414c53 01004000 00000000 00000000 00000000 18171615 14131211
         24232221 02000000 48474645 44434241 58575655 54535251 00000000 5a6680e8",
    );
    assert_eq!(bytes.as_slice(), golden);
    assert_eq!(golden[60..], checksum);
    assert_eq!(ValueHeader::decode(Path::new("v"), &golden).unwrap(), header);
}

#[test]
fn record_prefix_matches_the_document() {
    let key = encoded(64, EPOCH, |e| e.key(&key_record()));
    let epoch = encoded(64, EPOCH, |e| e.epoch(EPOCH, CREATED));
    let chain = encoded(64, EPOCH, |e| e.chain(&chain()));
    let mark_bytes = encoded(64, EPOCH, |e| e.mark(&mark()));
    let padding = encoded(64 + 7, EPOCH, |e| e.mark(&mark()))[..9].to_vec();
    let salt = IDENTITY.salt;
    // The document: "1 key, 2 epoch, 3 chain, 4 mark, 5 padding"; "1 primary, 2 last of its group,
    // 4 last of its batch".
    for (bytes, kind, flags, n, at, epoch) in [
        (key, 1, 7, 3_u16, 64, EPOCH),
        (epoch, 2, 0, 0, 64, salt),
        (chain, 3, 0, 2, 64, salt),
        (mark_bytes, 4, 0, 1, 64, salt),
        (padding, 5, 0, 9, 71, EPOCH),
    ] {
        let checksum = record_checksum(&bytes, at, epoch);
        assert_matches_document(
            "Each begins with",
            &bytes,
            &[
                ("checksum of the record", &checksum),
                ("kind: 1 key, 2 epoch, 3 chain, 4 mark, 5 padding", &[kind]),
                ("1 primary, 2 last of its group, 4 last of its batch", &[flags]),
                ("`n`", &n.to_le_bytes()),
            ],
        );
    }
}

#[test]
fn key_record_matches_the_document() {
    let bytes = encoded(64, EPOCH, |encoder| {
        encoder.key(&key_record());
        encoder.inline(b"value");
    });
    assert_matches_document(
        "**Key record**",
        &bytes,
        &[
            ("stored length", &[5, 0, 0, 0]),
            ("raw length", &[5, 0, 0, 0]),
            ("crc32c of the stored bytes", &crc32c(0, b"value").to_le_bytes()),
            ("65,535 for inline", &[0xff, 0xff]),
            ("codec, 0 = none", &[0]),
            ("zero", &[0]),
            ("offset of the stored bytes", &99_u64.to_le_bytes()),
        ],
    );
    assert!(DOCUMENT.contains("| 32 | n | key |\n| 32 + n | stored length | the value"));
    assert_eq!(&bytes[32..], b"keyvalue");
    let golden = unhex(
        "8df8f936 01070300 05000000 05000000 6303e0e1 ffff0000 63000000 00000000
         6b657976 616c7565",
    );
    assert_eq!(bytes, golden);
    assert_eq!(golden[..4], record_checksum(&golden[..35], 64, EPOCH));

    let elsewhere = KeyRecord {
        flags: Flags::END_OF_GROUP,
        shard: ShardId(0x00c2),
        offset: 0xd1d2_d3d4_d5d6_d7d8,
        stored_len: 0xe1e2_e3e4,
        raw_len: 0xf1f2_f3f4,
        value_checksum: 0x0102_0304,
        codec: 9,
        ..key_record()
    };
    assert_matches_document(
        "**Key record**",
        &encoded(64, EPOCH, |encoder| encoder.key(&elsewhere)),
        &[
            ("stored length", &0xe1e2_e3e4_u32.to_le_bytes()),
            ("raw length", &0xf1f2_f3f4_u32.to_le_bytes()),
            ("crc32c of the stored bytes", &0x0102_0304_u32.to_le_bytes()),
            ("shard", &[0xc2, 0]),
            ("codec", &[9]),
            ("zero", &[0]),
            ("offset of the stored bytes", &0xd1d2_d3d4_d5d6_d7d8_u64.to_le_bytes()),
        ],
    );
}

#[test]
fn epoch_record_matches_the_document() {
    let bytes = encoded(104, EPOCH + 1, |encoder| encoder.epoch(EPOCH, CREATED));
    assert_matches_document(
        "**Epoch record**",
        &bytes,
        &[("epoch: random", &EPOCH.to_le_bytes()), ("time", TIME)],
    );
    let golden = unhex("5e83ef48 02000000 68676665 64636261 48474645 44434241");
    assert_eq!(bytes, golden);
    assert_eq!(golden[..4], record_checksum(&golden, 104, IDENTITY.salt));
}

#[test]
fn chain_record_matches_the_document() {
    let bytes = encoded(64, EPOCH, |encoder| encoder.chain(&chain()));
    let lengths = [0xa1a2_a3a4_a5a6_a7a8_u64.to_le_bytes(), 64_u64.to_le_bytes()].concat();
    assert_matches_document(
        "**Chain record**",
        &bytes,
        &[
            ("predecessor's segment id", &PREDECESSOR.0.to_le_bytes()),
            ("its end", &0x7172_7374_u32.to_le_bytes()),
            ("its number of key records", &0x8182_8384_8586_8788_u64.to_le_bytes()),
            ("its running checksum", &0x9192_9394_u32.to_le_bytes()),
            ("zero", &[0; 4]),
        ],
    );
    assert!(DOCUMENT.contains("| 32 | 8 n | the lengths of its value files |"));
    assert_eq!(bytes[32..], lengths);
    let golden = unhex(
        "65703a71 03000200 34333231 74737271 88878685 84838281 94939291 00000000
         a8a7a6a5 a4a3a2a1 40000000 00000000",
    );
    assert_eq!(bytes, golden);
    assert_eq!(golden[..4], record_checksum(&golden, 64, IDENTITY.salt));
}

#[test]
fn mark_and_padding_match_the_document() {
    let bytes = encoded(105, EPOCH, |encoder| encoder.mark(&mark()));
    let (padding, mark) = bytes.split_at(23);
    assert_matches_document(
        "**Mark**",
        mark,
        &[
            ("magic `LITHMARK`", b"LITHMARK"),
            ("`through`", &105_u32.to_le_bytes()),
            ("zero", &[0; 4]),
            ("time at which the flush returned", TIME),
            ("number of key records before", &0x8182_8384_8586_8788_u64.to_le_bytes()),
        ],
    );
    assert!(DOCUMENT.contains("| 40 | 8 n | lengths of the value files |"));
    let golden = unhex(
        "0e75f139 05001700 00000000 00000000 00000000 00000051 c513c704 0001004c
         4954484d 41524b69 00000000 00000048 47464544 43424188 87868584 838281a8
         a7a6a5a4 a3a2a1",
    );
    assert_eq!(bytes, golden);
    assert_eq!(padding[..4], record_checksum(padding, 105, EPOCH));
    assert_eq!(mark[..4], record_checksum(mark, 128, IDENTITY.salt));
}

#[test]
fn metadata_envelope_matches_the_document() {
    let bytes = encode(Magic::METADATA, &sample_metadata()).unwrap();
    let payload = &bytes[32..];
    let checksum = crc32c(crc32c(0, &bytes[..28]), payload).to_le_bytes();
    assert_matches_document(
        "## Envelope",
        &bytes,
        &[
            ("`LITHMETA` metadata", b"LITHMETA"),
            ("format version, 1", &[1, 0]),
            ("zero", &[0; 2]),
            ("the three flag words", &[0; 12]),
            ("length of the payload", &(payload.len() as u32).to_le_bytes()),
            ("crc32c over bytes 0 to 27 and the payload", &checksum),
        ],
    );
    let golden = unhex(
        "4c495448 4d455441 01000000 00000000 00000000 00000000 a1000000 9339c28b
         18171615 14131211 24232221 01000000 34333231 25232221 48474645 44434241
         51474645 44434241 58575655 54535251 2c010000 00000000 07000000 00000000
         05000000 00000000 94939291 02000000 00000000 40000000 00000000 e8030000
         00000000 01000000 00000000 40000000 68676665 64636261 00010001 02030405
         06070809 0a0b0c0d 0e0f0100 00000000 0000b2b1 05000000 00000000 65787472
         61",
    );
    assert_eq!(bytes, golden);
    assert_eq!(golden[28..32], checksum);
    let read: Metadata = decode_file(Magic::METADATA, Path::new("m"), &golden).unwrap();
    assert_eq!(read, sample_metadata());
}

/// Writes everything a segment can hold and decodes it with a decoder written from the document
/// alone.
#[test]
fn format_oracle_reads_all_files_of_a_segment() {
    let fs = SimFs::new();
    let context = sim_context(&fs, ReadMode::Map);
    let mut writer =
        create(&context, 8, 2, Some(Chain { predecessor: SegmentId(3), ..chain() })).unwrap();
    let segment = std::sync::Arc::clone(writer.segment());
    let mut placed = append(
        &mut writer,
        &[
            put("inline", "in the key file").alias("part", 3..10).alias("nothing", 15..15),
            put("small", noise(1, 3_000)).alias("its end", 2_990..3_000),
        ],
    )
    .unwrap();
    segment.make_durable(writer.totals()).unwrap();
    writer.set_pending_mark(writer.totals().mark(UnixMillis(77)));
    placed.extend(append(&mut writer, &[put("large", noise(2, 70_000))]).unwrap());
    // Writing continues as after a reopen.
    let totals = writer.totals().clone();
    let mark = totals.mark(UnixMillis(78));
    let mut writer =
        lithdb_segment::SegmentWriter::new(segment, harness::INLINE_MAX, totals, Some(EPOCH));
    writer.set_pending_mark(mark);
    placed.extend(append(&mut writer, &[put("empty", "")]).unwrap());
    let job = SealJob {
        segment: std::sync::Arc::clone(writer.segment()),
        totals: writer.totals().clone(),
        successor: SegmentId(11),
        sealed_at: Stamp::certain(UnixMillis(99)),
        successor_end: None,
    };
    job.run().unwrap();

    let paths = writer.segment().paths();
    let key_bytes = fs.read_raw(&paths.keys);
    let file = key_file(&key_bytes);
    let identity = writer.segment().identity();
    let header = &file.header;
    assert_eq!((header.table, header.segment, header.salt), (TABLE, 8, identity.salt));
    assert_eq!((header.predecessor, header.created, header.shards), (3, NOW.0, 2));

    let kinds: Vec<&str> = file
        .records
        .iter()
        .map(|(_, record)| match record {
            Record::Key { .. } => "key",
            Record::Epoch { .. } => "epoch",
            Record::Chain { .. } => "chain",
            Record::Mark { .. } => "mark",
            Record::Padding => "padding",
        })
        .filter(|kind| *kind != "padding")
        .collect();
    let expected =
        ["chain", "key", "key", "key", "key", "key", "mark", "key", "epoch", "mark", "key"];
    assert_eq!(kinds, expected);

    let chain_read = Record::Chain {
        predecessor: 3,
        end: chain().key_end,
        records: chain().records,
        running: chain().running,
        value_ends: chain().value_ends,
    };
    assert_eq!(file.records[0], (64, chain_read));

    // Flags: groups of 3 and 2 keys in one batch, then single puts.
    let keys: Vec<_> = file
        .records
        .iter()
        .filter_map(|(at, record)| match record {
            Record::Key { flags, key, shard, offset, len, checksum } => {
                let file = match shard {
                    65_535 => key_bytes.clone(),
                    n => fs.read_raw(&paths.values[usize::from(*n)]),
                };
                let value = file[*offset as usize..][..*len as usize].to_vec();
                assert_eq!(crc32c(0, &value), *checksum);
                Some((*at as u32, *flags, key.clone(), value))
            }
            _ => None,
        })
        .collect();
    let flags: Vec<u8> = keys.iter().map(|(_, flags, ..)| *flags).collect();
    assert_eq!(flags, [1, 0, 2, 1, 2 | 4, 1 | 2 | 4, 1 | 2 | 4]);
    let found: Vec<_> = keys.into_iter().map(|(at, _, key, value)| (at, key, value)).collect();
    let put: Vec<_> = placed.into_iter().map(|p| (p.at.offset, p.key, p.value)).collect();
    assert_eq!(found, put);

    for (n, path) in paths.values.iter().enumerate() {
        let header = value_header(&fs.read_raw(path));
        assert_eq!((header.table, header.segment, header.salt), (TABLE, 8, identity.salt));
        assert_eq!((header.shards, header.created), (n as u16, NOW.0));
    }

    let metadata = metadata(&fs.read_raw(&paths.metadata));
    let epochs: Vec<(u32, u64)> = file
        .records
        .iter()
        .filter_map(|(at, record)| match record {
            Record::Epoch { epoch, time } => {
                assert_eq!(*time, NOW.0);
                Some((*at as u32, *epoch))
            }
            _ => None,
        })
        .collect();
    let digest = xxhash_rust::xxh3::xxh3_128(&key_bytes).to_le_bytes();
    let expected = lithdb_format_oracle::Metadata {
        table: TABLE,
        segment: 8,
        revision: 0,
        predecessor: 3,
        successor: 11,
        created: NOW.0,
        sealed_at: 99,
        salt: identity.salt,
        key_end: key_bytes.len() as u64,
        records: 7,
        primaries: 4,
        running: file.running,
        value_ends: vec![64 + 3_000, 64 + 70_000],
        epochs,
        codec: 0,
        digest: Some(digest),
        extras: vec![],
    };
    assert_eq!(expected.epochs.len(), 1);
    assert_eq!(metadata, expected);

    // Marks: what they cover was in the file.
    let marks: Vec<_> = file
        .records
        .iter()
        .filter_map(|(_, record)| match record {
            Record::Mark { through, time, records, value_ends } => {
                Some((*through, *time, *records, value_ends.clone()))
            }
            _ => None,
        })
        .collect();
    let end_of = |n: usize| {
        let (at, record) = &file.records[n];
        let Record::Key { key, shard: 0..=255, .. } = record else { panic!("{record:?}") };
        (at + 32 + key.len()) as u32
    };
    let after_mark =
        file.records.iter().position(|(_, r)| matches!(r, Record::Mark { .. })).unwrap() + 1;
    assert_eq!(
        marks,
        [
            (end_of(5), 77, 5, vec![64 + 3_000, 64]),
            (end_of(after_mark), 78, 6, vec![64 + 3_000, 64 + 70_000]),
        ]
    );
}
