//! Key files and the headers of value files.

use crate::checksum::crc32c;
use crate::fields::Fields;

/// The contents of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub table: u64,
    pub segment: u32,
    /// Only in key files.
    pub predecessor: u32,
    pub created: u64,
    pub salt: u64,
    /// The number of value files, or the number of this one.
    pub shards: u16,
}

fn check_header<'a>(bytes: &'a [u8], magic: &[u8]) -> Fields<'a> {
    let stored = Fields::new(&bytes[60..64]).u32();
    assert_eq!(crc32c(0, &bytes[..60]), stored, "header checksum");
    let mut fields = Fields::new(&bytes[..60]);
    assert_eq!(fields.bytes(8), magic);
    assert_eq!((fields.u16(), fields.u16()), (1, 64), "version and length");
    fields.zeros(12);
    fields
}

/// Reads the header of a key file.
pub fn key_header(bytes: &[u8]) -> Header {
    let mut fields = check_header(bytes, b"LITHKEYS");
    let header = Header {
        table: fields.u64(),
        segment: fields.u32(),
        predecessor: fields.u32(),
        created: fields.u64(),
        salt: fields.u64(),
        shards: fields.u16(),
    };
    fields.zeros(2);
    header
}

/// Reads the header of a value file.
pub fn value_header(bytes: &[u8]) -> Header {
    let mut fields = check_header(bytes, b"LITHVALS");
    let (table, segment, shards) = (fields.u64(), fields.u32(), fields.u16());
    fields.zeros(2);
    let (created, salt) = (fields.u64(), fields.u64());
    fields.zeros(4);
    Header { table, segment, predecessor: 0, created, salt, shards }
}

/// A record of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Key { flags: u8, key: Vec<u8>, shard: u16, offset: u64, len: u32, checksum: u32 },
    Epoch { epoch: u64, time: u64 },
    Chain { predecessor: u32, end: u32, records: u64, running: u32, value_ends: Vec<u64> },
    Mark { through: u32, time: u64, records: u64, value_ends: Vec<u64> },
    Padding,
}

/// The contents of a key file.
#[derive(Debug)]
pub struct KeyFile {
    pub header: Header,
    /// Every record and its offset.
    pub records: Vec<(usize, Record)>,
    /// The checksum of the checksums of all records.
    pub running: u32,
    /// Its length.
    pub end: usize,
}

/// Reads every byte of a key file.
pub fn key_file(bytes: &[u8]) -> KeyFile {
    let header = key_header(bytes);
    let mut epoch = header.salt;
    let (mut records, mut running, mut at) = (Vec::new(), 0, 64);
    while at < bytes.len() {
        let Some((covered, len)) = lengths(&bytes[at..]) else { panic!("no record at {at}") };
        let seed_epoch = if matches!(bytes[at + 4], 2..=4) { header.salt } else { epoch };
        let mut seed = header.table.to_le_bytes().to_vec();
        seed.extend(header.segment.to_le_bytes());
        seed.extend((at as u32).to_le_bytes());
        seed.extend(seed_epoch.to_le_bytes());
        assert_eq!(seed.len(), 24);
        let checksum = crc32c(crc32c(0, &seed), &bytes[at + 4..at + covered]);
        assert_eq!(bytes[at..at + 4], checksum.to_le_bytes(), "checksum of the record at {at}");
        running = crc32c(running, &checksum.to_le_bytes());
        let record = record(&bytes[at..at + covered], at);
        if let Record::Epoch { epoch: new, .. } = record {
            epoch = new;
        }
        records.push((at, record));
        at += len;
    }
    KeyFile { header, records, running, end: at }
}

/// The number of bytes that the record's checksum covers, and the record's length; `None` if
/// `bytes` is shorter.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut fields = Fields::new(bytes.get(4..8)?);
    let (kind, flags, n) = (fields.u8(), fields.u8(), usize::from(fields.u16()));
    let covered = match kind {
        1 => 32 + n,
        2 => 24,
        3 => 32 + 8 * n,
        4 => 40 + 8 * n,
        5 => n,
        _ => return None,
    };
    let mut len = covered;
    if kind == 1 && flags & 1 == 1 {
        let mut fields = Fields::new(bytes.get(8..22)?);
        let stored = fields.u32() as usize;
        fields.bytes(8);
        if fields.u16() == 65_535 {
            len += stored;
        }
    }
    (len >= 8 && len <= bytes.len()).then_some((covered, len))
}

/// Decodes a record whose checksum matches.
fn record(bytes: &[u8], at: usize) -> Record {
    let mut fields = Fields::new(bytes);
    let (_, kind, flags, n) = (fields.u32(), fields.u8(), fields.u8(), fields.u16());
    let n = usize::from(n);
    assert!(kind == 1 || flags == 0, "flags on a record that is not a key record");
    let record = match kind {
        1 => {
            assert!(n >= 1, "an empty key");
            assert!(flags < 8, "flags {flags}");
            let (len, raw_len, checksum) = (fields.u32(), fields.u32(), fields.u32());
            assert_eq!(len, raw_len);
            let shard = fields.u16();
            fields.zeros(2);
            let offset = fields.u64();
            if flags & 1 == 1 && shard == 65_535 {
                assert_eq!(offset, (at + 32 + n) as u64, "an inline value follows its key");
            }
            Record::Key { flags, key: fields.bytes(n).to_vec(), shard, offset, len, checksum }
        }
        2 => {
            assert_eq!(n, 0);
            Record::Epoch { epoch: fields.u64(), time: fields.u64() }
        }
        3 => {
            let (predecessor, end, records) = (fields.u32(), fields.u32(), fields.u64());
            let running = fields.u32();
            fields.zeros(4);
            let value_ends = (0..n).map(|_| fields.u64()).collect();
            Record::Chain { predecessor, end, records, running, value_ends }
        }
        4 => {
            assert_eq!(at % 16, 0, "expected a mark at a multiple of 16");
            assert_eq!(fields.bytes(8), b"LITHMARK");
            let through = fields.u32();
            fields.zeros(4);
            let (time, records) = (fields.u64(), fields.u64());
            let value_ends = (0..n).map(|_| fields.u64()).collect();
            Record::Mark { through, time, records, value_ends }
        }
        _ => {
            assert!((8..=23).contains(&n), "padding of {n} bytes");
            fields.zeros(n - 8);
            Record::Padding
        }
    };
    assert!(fields.rest.is_empty());
    record
}
