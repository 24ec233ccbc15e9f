//! A reader of key files, value headers and metadata written from `docs/FORMAT.md` alone. It shares no code with
//! the crate: what both agree on is what the document says. It is strict: every byte that must be
//! zero is looked at.

/// crc32c, bit by bit, going on from `crc` (0 to begin).
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

/// Takes little-endian fields one after the other.
pub(crate) struct Fields<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn int(&mut self, len: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(self.bytes(len));
        u64::from_le_bytes(wide)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.int(1) as u8
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.int(2) as u16
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.int(4) as u32
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.int(8)
    }

    pub(crate) fn zeros(&mut self, len: usize) {
        assert!(self.bytes(len).iter().all(|byte| *byte == 0), "expected zeros");
    }

    /// A list in a payload: its length as u64, then its elements.
    pub(crate) fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let len = self.u64();
        (0..len).map(|_| element(self)).collect()
    }
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) table: u64,
    pub(crate) segment: u32,
    /// Of a key file.
    pub(crate) predecessor: u32,
    pub(crate) created: u64,
    pub(crate) salt: u64,
    /// Number of value files, or the number of this one.
    pub(crate) shards: u16,
}

fn begin_header<'a>(bytes: &'a [u8], magic: &[u8]) -> Fields<'a> {
    let stored = Fields::new(&bytes[60..64]).u32();
    assert_eq!(crc32c(0, &bytes[..60]), stored, "header checksum");
    let mut fields = Fields::new(&bytes[..60]);
    assert_eq!(fields.bytes(8), magic);
    assert_eq!((fields.u16(), fields.u16()), (1, 64), "version and length");
    fields.zeros(12);
    fields
}

/// Reads the header of a key file.
pub(crate) fn key_header(bytes: &[u8]) -> Header {
    let mut fields = begin_header(bytes, b"LITHKEYS");
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
pub(crate) fn value_header(bytes: &[u8]) -> Header {
    let mut fields = begin_header(bytes, b"LITHVALS");
    let (table, segment, shards) = (fields.u64(), fields.u32(), fields.u16());
    fields.zeros(2);
    let (created, salt) = (fields.u64(), fields.u64());
    fields.zeros(4);
    Header { table, segment, predecessor: 0, created, salt, shards }
}

/// A record of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Key { flags: u8, key: Vec<u8>, shard: u16, offset: u64, len: u32, checksum: u32 },
    Epoch { epoch: u64, time: u64 },
    Chain { predecessor: u32, end: u32, records: u64, running: u32, value_ends: Vec<u64> },
    Mark { through: u32, time: u64, records: u64, value_ends: Vec<u64> },
    Padding,
}

/// All of a key file.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) header: Header,
    /// Every record and its offset.
    pub(crate) records: Vec<(usize, Record)>,
    /// The checksum over the checksums of all records.
    pub(crate) running: u32,
}

/// Reads a key file that must be whole.
pub(crate) fn key_file(bytes: &[u8]) -> KeyFile {
    let header = key_header(bytes);
    let mut epoch = header.salt;
    let (mut records, mut running, mut at) = (Vec::new(), 0, 64);
    while at < bytes.len() {
        let seed_epoch = if matches!(bytes[at + 4], 2..=4) { header.salt } else { epoch };
        let (record, covered, len) = record(&bytes[at..], at);
        let mut seed = header.table.to_le_bytes().to_vec();
        seed.extend(header.segment.to_le_bytes());
        seed.extend((at as u32).to_le_bytes());
        seed.extend(seed_epoch.to_le_bytes());
        assert_eq!(seed.len(), 24);
        let checksum = crc32c(crc32c(0, &seed), &bytes[at + 4..at + covered]);
        assert_eq!(bytes[at..at + 4], checksum.to_le_bytes(), "checksum of the record at {at}");
        running = crc32c(running, &checksum.to_le_bytes());
        if let Record::Epoch { epoch: new, .. } = record {
            epoch = new;
        }
        records.push((at, record));
        at += len;
    }
    KeyFile { header, records, running }
}

/// A record, how many of its bytes the checksum covers, and its length.
fn record(bytes: &[u8], at: usize) -> (Record, usize, usize) {
    let mut fields = Fields::new(bytes);
    let (_, kind, flags, n) = (fields.u32(), fields.u8(), fields.u8(), fields.u16());
    let n = usize::from(n);
    assert!(kind == 1 || flags == 0, "flags of another kind than key");
    match kind {
        1 => {
            assert!(n >= 1, "an empty key");
            let (len, raw_len, checksum) = (fields.u32(), fields.u32(), fields.u32());
            assert_eq!(len, raw_len);
            let shard = fields.u16();
            fields.zeros(2);
            let offset = fields.u64();
            let key = fields.bytes(n).to_vec();
            let carries = flags & 1 == 1 && shard == 65_535;
            if carries {
                assert_eq!(offset, (at + 32 + n) as u64, "an inline value stands behind its key");
            }
            let whole = 32 + n + if carries { len as usize } else { 0 };
            (Record::Key { flags, key, shard, offset, len, checksum }, 32 + n, whole)
        }
        2 => {
            assert_eq!(n, 0);
            (Record::Epoch { epoch: fields.u64(), time: fields.u64() }, 24, 24)
        }
        3 => {
            let (predecessor, end, records) = (fields.u32(), fields.u32(), fields.u64());
            let running = fields.u32();
            fields.zeros(4);
            let value_ends = (0..n).map(|_| fields.u64()).collect();
            let chain = Record::Chain { predecessor, end, records, running, value_ends };
            (chain, 32 + 8 * n, 32 + 8 * n)
        }
        4 => {
            assert_eq!(at % 16, 0, "a mark stands at a multiple of 16");
            assert_eq!(fields.bytes(8), b"LITHMARK");
            let through = fields.u32();
            fields.zeros(4);
            let (time, records) = (fields.u64(), fields.u64());
            let value_ends = (0..n).map(|_| fields.u64()).collect();
            (Record::Mark { through, time, records, value_ends }, 40 + 8 * n, 40 + 8 * n)
        }
        5 => {
            assert!((8..=23).contains(&n), "padding of {n} bytes");
            fields.zeros(n - 8);
            (Record::Padding, n, n)
        }
        other => panic!("kind {other} at {at}"),
    }
}

/// What a metadata file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) table: u64,
    pub(crate) segment: u32,
    pub(crate) revision: u32,
    pub(crate) predecessor: u32,
    pub(crate) successor: u32,
    pub(crate) created: u64,
    pub(crate) last_write: u64,
    pub(crate) salt: u64,
    pub(crate) key_end: u64,
    pub(crate) records: u64,
    pub(crate) primaries: u64,
    pub(crate) running: u32,
    pub(crate) value_ends: Vec<u64>,
    pub(crate) epochs: Vec<(u32, u64)>,
    pub(crate) codec: u8,
    pub(crate) digest: Option<[u8; 16]>,
    pub(crate) extras: Vec<(u16, Vec<u8>)>,
}

/// Reads a metadata file.
pub(crate) fn metadata(bytes: &[u8]) -> Metadata {
    let mut fields = Fields::new(bytes);
    assert_eq!(fields.bytes(8), b"LITHMETA");
    assert_eq!(fields.u16(), 1, "version");
    fields.zeros(2 + 12);
    let (len, checksum) = (fields.u32(), fields.u32());
    assert_eq!(fields.rest.len(), len as usize, "the file ends with its payload");
    assert_eq!(crc32c(crc32c(0, &bytes[..28]), fields.rest), checksum);
    let metadata = Metadata {
        table: fields.u64(),
        segment: fields.u32(),
        revision: fields.u32(),
        predecessor: fields.u32(),
        successor: fields.u32(),
        created: fields.u64(),
        last_write: fields.u64(),
        salt: fields.u64(),
        key_end: fields.u64(),
        records: fields.u64(),
        primaries: fields.u64(),
        running: fields.u32(),
        value_ends: fields.list(Fields::u64),
        epochs: fields.list(|fields| (fields.u32(), fields.u64())),
        codec: fields.u8(),
        digest: match fields.u8() {
            0 => None,
            1 => Some(fields.bytes(16).try_into().unwrap()),
            other => panic!("an option of {other}"),
        },
        extras: fields.list(|fields| (fields.u16(), fields.list(Fields::u8))),
    };
    assert!(fields.rest.is_empty());
    metadata
}
