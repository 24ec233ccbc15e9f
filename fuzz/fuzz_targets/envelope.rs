//! Every type stored in an envelope, on arbitrary bytes and on arbitrary payloads with a valid
//! checksum: no panic, no allocation for lengths beyond the input; accepted input re-encodes to
//! the same bytes.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lithdb_segment::Metadata;
use lithdb_segment::envelope::{ENVELOPE_LEN, Magic, decode, decode_file, encode};
use lithdb_table::state::TableState;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn check<T: Serialize + DeserializeOwned>(magic: Magic, payload: &[u8], any: &[u8]) {
    let path = Path::new("any.file");
    let _ = decode::<T>(magic, path, any);
    let mut bytes = magic.0.to_vec();
    bytes.extend_from_slice(&1_u16.to_le_bytes());
    bytes.resize(24, 0);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(payload);
    assert_eq!(bytes.len(), ENVELOPE_LEN + payload.len());
    if let Ok(record) = decode_file::<T>(magic, path, &bytes) {
        assert_eq!(encode(magic, &record).unwrap(), bytes);
    }
}

fuzz_target!(|data: &[u8]| {
    check::<Metadata>(Magic::METADATA, data, data);
    check::<TableState>(Magic::STATE, data, data);
    check::<lithdb_table::truncate::TruncateStep>(Magic::ROLLBACK, data, data);
});
