//! The envelope of whole-file records: magic, version, flags, length, checksum, payload.
//!
//! The only module that knows the payload encoding (bincode 2.0.1, fixed-width little-endian
//! integers). Another encoding would change only this file.

use std::path::Path;

use lithdb_env::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes_le::u32_at;
use crate::header::{FORMAT_VERSION, check_version};

/// The length of the envelope before the payload, in bytes.
pub const ENVELOPE_LEN: usize = 32;
/// The maximum payload, in bytes: a damaged length must not exhaust memory.
pub const MAX_PAYLOAD_LEN: usize = 64 << 20;

const LEN_AT: usize = 24;
const CHECKSUM_AT: usize = 28;

/// The type of record in an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic(pub [u8; 8]);

impl Magic {
    /// The metadata of a sealed segment.
    pub const METADATA: Self = Self(*b"LITHMETA");
    /// The identity of a root directory.
    pub const ROOT: Self = Self(*b"LITHROOT");
    /// A slot of a table's state.
    pub const STATE: Self = Self(*b"LITHSTAT");
    /// The intent of a rollback.
    pub const ROLLBACK: Self = Self(*b"LITHROLL");
}

fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::Limit<MAX_PAYLOAD_LEN>,
> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_PAYLOAD_LEN>()
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), payload)
}

/// Encodes `record` in an envelope. Fails if it exceeds [`MAX_PAYLOAD_LEN`].
pub fn encode<T: Serialize>(magic: Magic, record: &T) -> Result<Vec<u8>> {
    let payload = bincode::serde::encode_to_vec(record, config()).map_err(|e| {
        Error::with_source(ErrorKind::InvalidArgument, format!("encode a record: {e}"), e)
    })?;
    if payload.len() > MAX_PAYLOAD_LEN {
        let message =
            format!("a record of {} bytes; the limit is {MAX_PAYLOAD_LEN} bytes", payload.len());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let mut bytes = Vec::with_capacity(ENVELOPE_LEN + payload.len());
    bytes.extend_from_slice(&magic.0);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 14]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let checksum = checksum(&bytes, &payload);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// Decodes the envelope at the start of `bytes`; returns the record and the envelope's length.
/// `path` is used only in errors. `Corrupt` for a bad magic, length or checksum; `Unsupported` for
/// another version.
pub fn decode<T: DeserializeOwned>(magic: Magic, path: &Path, bytes: &[u8]) -> Result<(T, usize)> {
    let name = String::from_utf8_lossy(&magic.0).into_owned();
    let Some((head, rest)) = bytes.split_at_checked(ENVELOPE_LEN) else {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, 0, "an envelope of 32 bytes", &found));
    };
    if !head.starts_with(&magic.0) {
        return Err(Error::corrupt(path, 0, &format!("magic {name}"), "bad magic"));
    }
    let (Some(len), Some(found)) = (u32_at(head, LEN_AT), u32_at(head, CHECKSUM_AT)) else {
        unreachable!("an envelope has both fields")
    };
    let len = len as usize;
    let Some(payload) = rest.get(..len).filter(|_| len <= MAX_PAYLOAD_LEN) else {
        let expected = format!("a payload of {len} bytes");
        let found = format!("{} bytes", rest.len());
        return Err(Error::corrupt(path, LEN_AT as u64, &expected, &found));
    };
    let (covered, _) = head.split_at(CHECKSUM_AT);
    let expected = checksum(covered, payload);
    if expected != found {
        let expected = format!("checksum {expected:08x}");
        return Err(Error::corrupt(path, CHECKSUM_AT as u64, &expected, &format!("{found:08x}")));
    }
    check_version(path, head)?;
    let (record, used) = bincode::serde::decode_from_slice(payload, config()).map_err(|e| {
        Error::at(ErrorKind::Corrupt, path, format_args!("expected a {name} payload: {e}"))
    })?;
    if used != len {
        let expected = format!("a payload of {used} bytes");
        return Err(Error::corrupt(path, LEN_AT as u64, &expected, &format!("{len} bytes")));
    }
    Ok((record, ENVELOPE_LEN + len))
}

/// Decodes an envelope that is a whole file. `Corrupt` also for bytes after the payload.
pub fn decode_file<T: DeserializeOwned>(magic: Magic, path: &Path, bytes: &[u8]) -> Result<T> {
    let (record, used) = decode(magic, path, bytes)?;
    if used != bytes.len() {
        let found = format!("{} bytes", bytes.len());
        return Err(Error::corrupt(path, used as u64, "the end of the file", &found));
    }
    Ok(record)
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
