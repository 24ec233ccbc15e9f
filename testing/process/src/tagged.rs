//! Values that identify their writer: a reader that knows nothing of kills and rollbacks can still
//! check that the bytes are ones that some incarnation put.

use lithdb::{Result, SecondaryKey, Table};

use crate::Rng;

/// The primary key of number `seq`.
pub fn tagged_key(seq: u64) -> Vec<u8> {
    format!("n{seq:08}").into_bytes()
}

/// The number of a key, primary or not.
pub fn tagged_seq(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.get(1..)?).ok()?.parse().ok()
}

/// The value that incarnation `incarnation` of the writer puts at `seq`.
pub fn tagged_value(incarnation: u64, seq: u64) -> Vec<u8> {
    let mut rng = Rng::of(&[incarnation, seq]);
    let filler = match rng.below(12) {
        0..6 => rng.below(200),
        6..11 => 600 + rng.below(3000),
        _ => 70 << 10,
    };
    let mut value = [incarnation.to_le_bytes(), seq.to_le_bytes()].concat();
    value.extend(rng.bytes(filler as usize));
    value
}

/// Puts it; every fourth with an alias.
///
/// # Errors
/// Those of the table.
pub fn put_tagged(table: &Table, incarnation: u64, seq: u64) -> Result<()> {
    let value = tagged_value(incarnation, seq);
    let alias = format!("w{seq:08}").into_bytes();
    let aliases = [SecondaryKey::range(&alias, 0..value.len())];
    table.put_with(tagged_key(seq), &value, if seq.is_multiple_of(4) { &aliases } else { &[] })?;
    Ok(())
}

/// The incarnation that wrote these bytes at this key; `None` if none did.
pub fn writer_of(key: &[u8], value: &[u8]) -> Option<u64> {
    let number = |n: usize| Some(u64::from_le_bytes(value.get(n..n + 8)?.try_into().ok()?));
    let (incarnation, seq) = (number(0)?, number(8)?);
    (tagged_seq(key) == Some(seq) && value == tagged_value(incarnation, seq)).then_some(incarnation)
}

/// A summary of a table in one line: the number of records, the first and last key, and a checksum
/// of keys and incarnations in order.
///
/// # Errors
/// Those of the table, or a description of a wrong record.
pub fn summarize_view(table: &Table) -> Result<String, String> {
    let (mut count, mut sum, mut first, mut last) = (0_u64, 0_u64, None, None);
    for entry in table.iter().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let value = entry.value().map_err(|e| e.to_string())?;
        let key = String::from_utf8_lossy(entry.key()).into_owned();
        let incarnation =
            writer_of(entry.key(), &value).ok_or_else(|| format!("wrong bytes at {key}"))?;
        let got = table.get(entry.key()).map_err(|e| e.to_string())?;
        if got.is_none_or(|got| *got != *value) {
            return Err(format!("get of {key} differs from the iterator's value"));
        }
        sum = Rng::of(&[sum, incarnation, tagged_seq(entry.key()).unwrap_or_default()]).next_u64();
        count += 1;
        first.get_or_insert_with(|| key.clone());
        last = Some(key);
    }
    Ok(format!("{count} {first:?} {last:?} {sum:016x}"))
}
