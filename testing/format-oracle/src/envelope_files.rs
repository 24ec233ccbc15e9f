//! Files that are written whole: an envelope around a payload.

use crate::checksum::crc32c;
use crate::fields::Fields;

/// The payload of the envelope at the start of `bytes`, and the bytes after it.
fn envelope<'a>(magic: &[u8], bytes: &'a [u8]) -> Option<(Fields<'a>, &'a [u8])> {
    let mut fields = Fields::new(bytes.get(..32)?);
    let named = fields.bytes(8);
    let version = fields.u16();
    let unused = fields.bytes(2 + 12);
    let (len, checksum) = (fields.u32() as usize, fields.u32());
    let (payload, after) = bytes[32..].split_at_checked(len)?;
    if crc32c(crc32c(0, &bytes[..28]), payload) != checksum {
        return None;
    }
    assert_eq!(named, magic);
    assert_eq!(version, 1, "version");
    assert!(unused.iter().all(|byte| *byte == 0), "unknown flags");
    Some((Fields::new(payload), after))
}

/// The contents of a metadata file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub table: u64,
    pub segment: u32,
    pub revision: u32,
    pub predecessor: u32,
    pub successor: u32,
    pub created: u64,
    pub sealed_at: u64,
    pub salt: u64,
    pub key_end: u64,
    pub records: u64,
    pub primaries: u64,
    pub running: u32,
    pub value_ends: Vec<u64>,
    pub epochs: Vec<(u32, u64)>,
    pub codec: u8,
    pub digest: Option<[u8; 16]>,
    pub extras: Vec<(u16, Vec<u8>)>,
}

/// Reads a metadata file.
pub fn metadata(bytes: &[u8]) -> Metadata {
    let Some((mut fields, after)) = envelope(b"LITHMETA", bytes) else {
        panic!("invalid envelope")
    };
    assert!(after.is_empty(), "bytes after the payload");
    let metadata = Metadata {
        table: fields.u64(),
        segment: fields.u32(),
        revision: fields.u32(),
        predecessor: fields.u32(),
        successor: fields.u32(),
        created: fields.u64(),
        sealed_at: fields.u64(),
        salt: fields.u64(),
        key_end: fields.u64(),
        records: fields.u64(),
        primaries: fields.u64(),
        running: fields.u32(),
        value_ends: fields.list(Fields::u64),
        epochs: fields.list(|fields| (fields.u32(), fields.u64())),
        codec: fields.u8(),
        digest: fields.option(|fields| fields.bytes(16).try_into().unwrap()),
        extras: fields.list(|fields| (fields.u16(), fields.list(Fields::u8))),
    };
    assert!(fields.rest.is_empty(), "bytes after the last field");
    metadata
}

/// The contents of `table.state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub generation: u64,
    pub table: u64,
    pub hash_seed: u64,
    pub created: u64,
    pub watermark: u32,
    pub next_id_floor: u32,
    pub empty: bool,
    pub being_dropped: bool,
    pub ttl: Option<u64>,
    pub has_filter: bool,
    pub latest_time: u64,
    pub highest_id: u32,
    pub clock_offset: u64,
    pub jumped_while_open: bool,
    pub seal_time_overrides: Vec<(u32, u32, u64)>,
    pub recorded_end: Option<RecordedEnd>,
    pub closed_cleanly: bool,
}

/// What must at least exist of the mutable segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEnd {
    pub segment: u32,
    pub key_end: u32,
    pub value_ends: Vec<u64>,
}

/// Reads `table.state`: the current state, and whether both slots hold it.
pub fn state(bytes: &[u8]) -> (State, bool) {
    assert_eq!(bytes.len(), 8192, "two slots");
    let slots = [slot(&bytes[..4096]), slot(&bytes[4096..])];
    let both = slots[0] == slots[1];
    let current = slots.into_iter().flatten().max_by_key(|state| state.generation);
    (current.unwrap_or_else(|| panic!("no valid slot")), both)
}

fn slot(bytes: &[u8]) -> Option<State> {
    let (mut fields, after) = envelope(b"LITHSTAT", bytes)?;
    assert!(after.iter().all(|byte| *byte == 0), "expected a slot padded with zeros");
    let state = State {
        generation: fields.u64(),
        table: fields.u64(),
        hash_seed: fields.u64(),
        created: fields.u64(),
        watermark: fields.u32(),
        next_id_floor: fields.u32(),
        empty: fields.bool(),
        being_dropped: fields.bool(),
        ttl: fields.option(Fields::u64),
        has_filter: fields.bool(),
        latest_time: fields.u64(),
        highest_id: fields.u32(),
        clock_offset: fields.u64(),
        jumped_while_open: fields.bool(),
        seal_time_overrides: fields.list(|fields| (fields.u32(), fields.u32(), fields.u64())),
        recorded_end: fields.option(|fields| RecordedEnd {
            segment: fields.u32(),
            key_end: fields.u32(),
            value_ends: fields.list(Fields::u64),
        }),
        closed_cleanly: fields.bool(),
    };
    assert!(fields.rest.is_empty(), "bytes after the last field");
    Some(state)
}
