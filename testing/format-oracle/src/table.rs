//! Reads all files of a table and checks them against each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::checksum::crc32c;
use crate::envelope_files::{Metadata, State, metadata, state};
use crate::key_file::{Header, KeyFile, Record, key_file, value_header};

/// A key record and the value it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedRecord {
    pub segment: u32,
    pub offset: u32,
    pub key: Vec<u8>,
    pub primary: bool,
    pub value: Vec<u8>,
}

/// What is recorded about the end of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seal {
    Metadata(Box<Metadata>),
    Mutable,
}

/// A segment of the chain.
#[derive(Debug)]
pub struct Segment {
    pub keys: KeyFile,
    pub seal: Seal,
    /// The lengths of its value files.
    pub value_ends: Vec<u64>,
    /// The number of key records and of marks.
    pub counted: u64,
    pub marks: u64,
}

/// The contents of a table.
#[derive(Debug)]
pub struct Table {
    pub state: State,
    /// From oldest to newest.
    pub segments: Vec<Segment>,
    /// All key records, in position order.
    pub records: Vec<DecodedRecord>,
}

impl Table {
    /// The newest record of every key.
    pub fn newest(&self) -> BTreeMap<&[u8], &DecodedRecord> {
        self.records.iter().map(|found| (&found.key[..], found)).collect()
    }
}

/// The file names in a table's directory on one root, and the contents of the files.
type Root = BTreeMap<String, Vec<u8>>;

/// Reads a table in the state that a read-write open or a flush leaves: every file belongs to it,
/// and nothing was never acknowledged. Panics if a file deviates from the document or two files
/// disagree.
pub fn table(roots: &[Root]) -> Table {
    let (state, both) = state(&roots[0]["table.state"]);
    assert!(both, "the slots differ");
    assert!(!state.being_dropped);
    let mut files = Files { roots, read: BTreeSet::from([(0, "table.state".to_owned())]) };
    let (mut segments, mut records) = (Vec::<Segment>::new(), Vec::new());
    if !state.empty {
        let mut id = state.watermark;
        loop {
            let (segment, found) = files.segment(&state, id, segments.last());
            records.extend(found);
            if let Some(before) = segments.last() {
                before.check_recorded_end_of(&segment);
            }
            let next = match &segment.seal {
                Seal::Metadata(metadata) => Some(metadata.successor),
                Seal::Mutable => None,
            };
            segments.push(segment);
            let Some(next) = next else { break };
            assert!(next > id, "segment {id} is followed by {next}");
            id = next;
        }
    }
    files.assert_no_other_files();
    if let Some(durable) = &state.recorded_end
        && let Some(named) = segments.iter().find(|s| s.keys.header.segment == durable.segment)
    {
        assert!(
            u64::from(durable.key_end) <= named.end(),
            "the recorded end is past the end of the file"
        );
        assert_eq!(durable.value_ends.len(), named.value_ends.len());
        let mut ends = durable.value_ends.iter().zip(&named.value_ends);
        assert!(ends.all(|(recorded, end)| recorded <= end), "{durable:?}, {:?}", named.value_ends);
    }
    if state.closed_cleanly {
        files.check_closed_end(&state);
    }
    Table { state, segments, records }
}

impl Segment {
    /// The length of its key file.
    fn end(&self) -> u64 {
        self.keys.end as u64
    }

    /// Checks the next segment against the end that this one's metadata records.
    fn check_recorded_end_of(&self, next: &Self) {
        let Seal::Metadata(metadata) = &self.seal else { panic!("not sealed") };
        for (kind, bytes) in &metadata.extras {
            assert_eq!((*kind, bytes.len()), (2, 12 + 8 * next.value_ends.len()));
            let (end, value_ends) = bytes[8..].split_at(4);
            let end = u32::from_le_bytes(end.try_into().unwrap());
            assert!(
                u64::from(end) <= next.end(),
                "the metadata records a larger end of the next segment"
            );
            for (recorded, end) in value_ends.chunks(8).zip(&next.value_ends) {
                assert!(u64::from_le_bytes(recorded.try_into().unwrap()) <= *end);
            }
        }
    }

    /// Checks the next segment's chain record against this segment.
    fn check_chain_of_next(&self, header: &Header, first: Option<&Record>) {
        let own = &self.keys.header;
        assert_eq!((header.predecessor, header.table), (own.segment, own.table));
        let Some(Record::Chain { predecessor, end, records, running, value_ends }) = first else {
            panic!("segment {} begins with {first:?}", header.segment)
        };
        assert_eq!(*predecessor, own.segment);
        let Seal::Metadata(metadata) = &self.seal else { panic!("not sealed") };
        if metadata.revision == 0 {
            assert_eq!((u64::from(*end), *records), (self.end(), self.counted), "the chain");
            assert_eq!((*running, value_ends), (self.keys.running, &self.value_ends), "the chain");
        }
    }
}

/// The files of a table, and which of them have been read.
struct Files<'a> {
    roots: &'a [Root],
    read: BTreeSet<(usize, String)>,
}

impl<'a> Files<'a> {
    /// The file of that name, which must be on exactly one root.
    fn get(&mut self, name: &str) -> Option<&'a [u8]> {
        let on = |root: &'a Root| root.get(name);
        let mut found = self.roots.iter().enumerate().filter_map(|(n, root)| Some((n, on(root)?)));
        let (root, bytes) = found.next()?;
        assert!(found.next().is_none(), "{name} is on two roots");
        assert!(root == 0 || name.ends_with(".values"), "{name} is on root {root}");
        self.read.insert((root, name.to_owned()));
        Some(bytes)
    }

    /// Checks a table that was closed: no file extends past the recorded end.
    fn check_closed_end(&self, state: &State) {
        let durable = state.recorded_end.as_ref();
        for (name, bytes) in self.roots.iter().flatten() {
            let Some(name) = name.strip_prefix("segments/") else { continue };
            let (name, extension) = name.split_once('.').unwrap();
            let (id, shard) = name.split_once('-').unwrap_or((name, "0"));
            let (id, shard): (u32, usize) = (id.parse().unwrap(), shard.parse().unwrap());
            let Some(durable) = durable.filter(|durable| id <= durable.segment) else {
                panic!("{name}.{extension} is newer than the state");
            };
            match extension {
                _ if id < durable.segment => {}
                "keys" => assert_eq!(bytes.len() as u64, u64::from(durable.key_end), "{name}"),
                "values" => assert_eq!(bytes.len() as u64, durable.value_ends[shard], "{name}"),
                _ => panic!("{name}.{extension}: the segment of the recorded end is sealed"),
            }
        }
    }

    fn assert_no_other_files(&self) {
        for (n, root) in self.roots.iter().enumerate() {
            for name in root.keys() {
                assert!(
                    self.read.contains(&(n, name.clone())),
                    "unexpected file {name} on root {n}"
                );
            }
        }
    }

    fn segment(
        &mut self,
        state: &State,
        id: u32,
        before: Option<&Segment>,
    ) -> (Segment, Vec<DecodedRecord>) {
        let name = |extension: &str| format!("segments/{id}.{extension}");
        let bytes =
            self.get(&name("keys")).unwrap_or_else(|| panic!("no key file of segment {id}"));
        let metadata = self.get(&name("metadata")).map(metadata);
        // A sealed key file may be longer than its segment: bytes that somebody has hard-linked
        // are not truncated.
        let end = metadata.as_ref().map_or(bytes.len(), |metadata| metadata.key_end as usize);
        let bytes = &bytes[..end];
        let keys = key_file(bytes);
        let header = keys.header.clone();
        assert_eq!((header.table, header.segment), (state.table, id));
        assert!((1..=256).contains(&header.shards));
        assert!(header.predecessor < id);
        match before {
            Some(before) => {
                before.check_chain_of_next(&header, keys.records.first().map(|(_, r)| r))
            }
            None => assert_eq!(id, state.watermark),
        }
        let values: Vec<&[u8]> = (0..header.shards)
            .map(|shard| {
                let name = format!("segments/{id}-{shard}.values");
                let bytes = self.get(&name).unwrap_or_else(|| panic!("no {name}"));
                let expected = Header { predecessor: 0, shards: shard, ..header.clone() };
                assert_eq!(value_header(bytes), expected, "{name}");
                bytes
            })
            .collect();
        let mut reading = KeyFileReader::new(&keys, bytes, values);
        for (n, (at, record)) in keys.records.iter().enumerate() {
            reading.take(n, *at, record);
        }
        let mut epochs = Vec::new();
        assert!(reading.is_between_batches(), "an incomplete batch at {end}");
        for (at, record) in &keys.records {
            if let Record::Epoch { epoch, .. } = record {
                epochs.push((*at as u32, *epoch));
            }
        }
        let KeyFileReader { found, ends: value_ends, counted, primaries, marks, .. } = reading;
        if let Some(metadata) = &metadata {
            assert_eq!((metadata.table, metadata.segment), (header.table, id));
            assert_eq!((metadata.predecessor, metadata.salt), (header.predecessor, header.salt));
            assert_eq!((metadata.created, metadata.codec), (header.created, 0));
            assert_eq!((metadata.records, metadata.primaries), (counted, primaries));
            assert_eq!((metadata.running, &metadata.value_ends), (keys.running, &value_ends));
            assert_eq!(metadata.epochs, epochs);
            let digest = xxhash_rust::xxh3::xxh3_128(bytes).to_le_bytes();
            assert!(
                metadata.digest.is_none_or(|stored| stored == digest),
                "digest of segment {id}"
            );
        }
        let seal = metadata.map_or(Seal::Mutable, |metadata| Seal::Metadata(Box::new(metadata)));
        (Segment { keys, seal, value_ends, counted, marks }, found)
    }
}

/// State of reading a key file record by record.
struct KeyFileReader<'a> {
    header: Header,
    bytes: &'a [u8],
    values: Vec<&'a [u8]>,
    found: Vec<DecodedRecord>,
    /// The furthest value ends so far.
    ends: Vec<u64>,
    counted: u64,
    primaries: u64,
    marks: u64,
    /// After each record: its end offset, and the number of key records and the furthest value
    /// ends so far.
    history: BTreeMap<u32, (u64, Vec<u64>)>,
    /// The value of the current group: shard, start, end.
    group: Option<(u16, u64, u64)>,
    in_batch: bool,
    next: Vec<usize>,
}

impl<'a> KeyFileReader<'a> {
    fn new(keys: &KeyFile, bytes: &'a [u8], values: Vec<&'a [u8]>) -> Self {
        let begins = keys.records.iter().skip(1).map(|(at, _)| *at);
        let ends = vec![64; values.len()];
        Self {
            header: keys.header.clone(),
            bytes,
            values,
            found: Vec::new(),
            history: BTreeMap::from([(64, (0, ends.clone()))]),
            ends,
            counted: 0,
            primaries: 0,
            marks: 0,
            group: None,
            in_batch: false,
            next: begins.chain([keys.end]).collect(),
        }
    }

    fn is_between_batches(&self) -> bool {
        !self.in_batch && self.group.is_none()
    }

    fn take(&mut self, n: usize, at: usize, record: &Record) {
        let is_key = matches!(record, Record::Key { .. });
        assert!(is_key || self.is_between_batches(), "{record:?} inside a batch");
        match record {
            Record::Key { flags, key, shard, offset, len, checksum } => {
                let value = self.value(*flags, *shard, *offset, *len);
                assert_eq!(crc32c(0, value), *checksum, "checksum of the value at {offset}");
                let (value, primary) = (value.to_vec(), flags & 1 == 1);
                let (segment, offset) = (self.header.segment, at as u32);
                self.found.push(DecodedRecord {
                    segment,
                    offset,
                    key: key.clone(),
                    primary,
                    value,
                });
                self.counted += 1;
                self.primaries += u64::from(primary);
                self.in_batch = flags & 4 == 0;
                if flags & 2 == 2 {
                    self.group = None;
                } else {
                    assert!(self.in_batch, "a batch ends inside a group");
                }
            }
            Record::Chain { .. } => {
                assert!(at == 64 && self.header.predecessor != 0, "a chain record at {at}");
            }
            Record::Mark { through, records, value_ends, .. } => {
                let marked = self.history.get(through);
                assert_eq!(marked, Some(&(*records, value_ends.clone())), "the mark at {at}");
                self.marks += 1;
            }
            Record::Epoch { .. } | Record::Padding => {}
        }
        if at == 64 && self.header.predecessor != 0 {
            assert!(
                matches!(record, Record::Chain { .. }),
                "expected the chain record, found {record:?}"
            );
        }
        self.history.insert(self.next[n] as u32, (self.counted, self.ends.clone()));
    }

    /// The bytes that a key record names; those of a secondary record lie within its primary's.
    fn value(&mut self, flags: u8, shard: u16, offset: u64, len: u32) -> &'a [u8] {
        let end = offset + u64::from(len);
        if flags & 1 == 1 {
            assert!(self.group.is_none(), "a primary record inside a group");
            self.group = Some((shard, offset, end));
        } else {
            let (of, from, to) =
                self.group.unwrap_or_else(|| panic!("a secondary record without a primary"));
            assert!(shard == of && from <= offset && end <= to, "outside the group's value");
        }
        if shard == 65_535 {
            return &self.bytes[offset as usize..end as usize];
        }
        let shard = usize::from(shard);
        assert!(offset >= 64, "a value inside the header");
        self.ends[shard] = self.ends[shard].max(end);
        &self.values[shard][offset as usize..end as usize]
    }
}
