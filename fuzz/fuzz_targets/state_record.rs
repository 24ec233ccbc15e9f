//! The decoders of the state store's log records and of its META row, on arbitrary bytes and on a
//! valid record with arbitrary bytes in it: no panic, no allocation for lengths beyond the input;
//! an accepted record re-encodes to the same bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lithdb_state::{reencode_meta, reencode_record};

const VERSION: u64 = 9;
/// The offset of the version in a record.
const VERSION_AT: usize = 24;

fn check(version_key: &[u8], value: Vec<u8>) {
    let value = Bytes::from(value);
    if let Ok(again) = reencode_record(version_key, &value) {
        assert_eq!(again, value);
    }
}

/// A commit that changes two stores, written here as the format says, and the offsets of its
/// fields, without those of the set hashes: these may be any bytes.
fn sound_commit() -> (Vec<u8>, Vec<usize>) {
    let mut record = b"LSWR\x01\x02\0\0".to_vec();
    record.extend([7; 16]);
    record.extend(VERSION.to_le_bytes());
    record.extend([1; 32]);
    record.extend([2; 32]);
    record.extend(3_u64.to_le_bytes());
    record.extend(2_u16.to_le_bytes());
    let mut vectors = Vec::new();
    for name in [&b"bank"[..], b"evm"] {
        record.push(name.len() as u8);
        record.extend(name);
        vectors.push(record.len()..record.len() + 2048);
        record.extend([5; 2048]);
        record.extend(1_i64.to_le_bytes());
        record.extend((-6_i64).to_le_bytes());
        record.extend(3_u32.to_le_bytes());
        record.extend(b"\x01\x03\0key\x05\0\0\0value\x02\x04\0key2\x01\x01\0z\0\0\0\0");
    }
    let is_field = |at: &usize| !vectors.iter().any(|vector| vector.contains(at));
    let fields = (0..record.len()).filter(is_field).collect();
    (record, fields)
}

fuzz_target!(|data: &[u8]| {
    let own_version: Option<&[u8; 8]> = data.get(VERSION_AT..).and_then(<[u8]>::first_chunk);
    let version = own_version.map_or(VERSION, |bytes| u64::from_le_bytes(*bytes));
    check(&version.to_be_bytes(), data.to_vec());
    let value = Bytes::copy_from_slice(data);
    if let Ok(again) = reencode_meta(&value) {
        assert_eq!(again, value);
    }
    let [at, cut, rest @ ..] = data else { return };
    let (mut record, fields) = sound_commit();
    let at = fields[usize::from(*at) % fields.len()];
    // The end may be cut off, or pushed out.
    let len = record.len() - usize::from(*cut % 40);
    record.truncate(len.max(at));
    let end = record.len();
    match cut / 40 {
        0 => record.extend_from_slice(rest),
        _ => drop(record.splice(at..(at + rest.len()).min(end), rest.iter().copied())),
    }
    check(&VERSION.to_be_bytes(), record);
});
