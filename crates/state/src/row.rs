//! Rows of the engine: physical keys, and values with the version that wrote them.
//!
//! | part | bytes |
//! | --- | --- |
//! | key | name of the store, `/`, key |
//! | value | `modified_at` u64 little-endian, value |
//!
//! A name never contains `/`, so the first one ends it; and a name is never empty, so no row has
//! the key of the [META row](crate::meta). Within a store, rows are in the order of their keys.
//! Stores are in the order of `name/`, which is **not** the order of their names: `a-/` sorts
//! before `a/`, because `-` sorts before `/`.
//!
//! The set hash covers physical keys, and values without `modified_at`.

use bytes::{Buf, Bytes};
use lithdb_env::{Error, ErrorKind, Result, human};

use crate::store_name::{StoreName, problem};

/// The maximum length of a key, in bytes. An engine's key, which begins with the name of the store,
/// has at most 65,535 bytes.
pub(crate) const MAX_KEY_LEN: usize = 65_000;
/// The maximum length of a value, in bytes: 256 MiB. A row is read and written as a whole.
pub(crate) const MAX_VALUE_LEN: usize = 256 << 20;

const _: () = assert!(StoreName::MAX_LEN + 1 + MAX_KEY_LEN <= u16::MAX as usize);

/// Ends the name of the store in a physical key.
const SEPARATOR: u8 = b'/';
/// The length of `modified_at`.
const STAMP_LEN: usize = 8;

/// Checks the lengths of a key of `store` and of its value.
pub(crate) fn check_lengths(store: &StoreName, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    let invalid = |what: &str, max: usize, found: usize, min: usize| {
        let message = format!(
            "store {store}, key {}: expected a {what} of {min} to {max} bytes, found {found}",
            short(key)
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    };
    if key.is_empty() || key.len() > MAX_KEY_LEN {
        return invalid("key", MAX_KEY_LEN, key.len(), 1);
    }
    match value {
        Some(value) if value.len() > MAX_VALUE_LEN => {
            invalid("value", MAX_VALUE_LEN, value.len(), 0)
        }
        _ => Ok(()),
    }
}

/// A key for messages: its first 16 bytes in hexadecimal.
pub(crate) fn short(key: &[u8]) -> String {
    match key.split_at_checked(16) {
        Some((start, rest)) if !rest.is_empty() => {
            format!("{}… ({} bytes)", human::hex(start), key.len())
        }
        _ => human::hex(key),
    }
}

/// The key of a row in the engine.
pub(crate) fn physical_key(store: &StoreName, key: &[u8]) -> Bytes {
    let mut physical = Vec::with_capacity(store.as_str().len() + 1 + key.len());
    physical.extend_from_slice(store.as_str().as_bytes());
    physical.push(SEPARATOR);
    physical.extend_from_slice(key);
    physical.into()
}

/// The name of the store and the key in a physical key.
///
/// # Errors
/// `Corrupt` if it is not the key of a row.
pub(crate) fn split_key(physical: &Bytes) -> Result<(&str, Bytes)> {
    let found = || format!("found {}", short(physical));
    let Some(end) = physical.iter().position(|byte| *byte == SEPARATOR) else {
        return Err(corrupt("expected the key of a row, STORE/KEY", &found()));
    };
    let (name, rest) = physical.split_at(end);
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(corrupt("expected the name of a store", &found()));
    };
    if let Some(problem) = problem(name) {
        return Err(corrupt(&format!("the name of a store, {name:?}"), &problem));
    }
    let (key_len, max_len) = (rest.len() - 1, MAX_KEY_LEN);
    if key_len == 0 || key_len > max_len {
        let expected = format!("store {name}: expected a key of 1 to {max_len} bytes");
        return Err(corrupt(&expected, &format!("found {key_len}")));
    }
    Ok((name, physical.slice(end + 1..)))
}

fn corrupt(expected: &str, found: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a row of the state: {expected}, {found}"))
}

/// The value of a row in the engine.
pub(crate) fn encode_row(modified_at: u64, value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(STAMP_LEN + value.len());
    row.extend_from_slice(&modified_at.to_le_bytes());
    row.extend_from_slice(value);
    row
}

/// `modified_at` and the value of a row, without copying.
///
/// # Errors
/// `Corrupt` if it is too short.
pub(crate) fn split_row(row: &Bytes) -> Result<(u64, Bytes)> {
    if row.len() < STAMP_LEN {
        let found = format!("found {}", row.len());
        return Err(corrupt("expected a value of at least 8 bytes", &found));
    }
    let mut value = row.clone();
    let modified_at = value.get_u64_le();
    Ok((modified_at, value))
}

/// The least key above every key that starts with `prefix`; `None` if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end.into())
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
