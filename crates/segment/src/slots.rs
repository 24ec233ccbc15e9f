//! A record in two slots of one file, written in place, one slot after the other.
//!
//! No write needs disk space, none can destroy the current record, and a write that has returned
//! is in both slots, so no single damaged slot brings back an older record. A file with more than
//! one hard link is replaced instead of written in place.

use std::fmt::Debug;
use std::path::Path;

use crate::check_writable;
use crate::envelope::{self, Magic};
use lithdb_env::{Error, ErrorKind, Fs, OpenMode, Result, replace_file, write_all_at};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Number of slots in a file.
pub const SLOTS: usize = 2;
/// The length of a slot is a multiple of this.
pub const SLOT_UNIT: usize = 4096;

/// A record that is stored in slots.
pub trait Slotted: Serialize + DeserializeOwned + Clone + Debug {
    /// The magic at the start of each slot.
    const MAGIC: Magic;

    /// Increases with every write of different content; the valid slot with the higher generation
    /// is current.
    fn generation(&self) -> u64;
}

/// The current record as read.
#[derive(Debug, Clone)]
pub struct CurrentSlot<T> {
    /// The record.
    pub record: T,
    /// The slot that holds it.
    pub slot: usize,
    /// Whether its feature flags permit writing.
    pub writable: Result<()>,
}

/// The current record among the slots of length `slot_len` in `bytes`. `Corrupt` if no slot is
/// valid; `Unsupported` for another version.
pub fn current_slot<T: Slotted>(
    path: &Path,
    bytes: &[u8],
    slot_len: usize,
) -> Result<CurrentSlot<T>> {
    let mut best: Option<CurrentSlot<T>> = None;
    let mut problem = None;
    for (slot, bytes) in bytes.chunks(slot_len).take(SLOTS).enumerate() {
        match envelope::decode::<T>(T::MAGIC, path, bytes) {
            Ok((record, used)) if bytes.iter().skip(used).all(|byte| *byte == 0) => {
                if best.as_ref().is_none_or(|b| b.record.generation() < record.generation()) {
                    let writable = check_writable(path, bytes);
                    best = Some(CurrentSlot { record, slot, writable });
                }
            }
            Ok((_, used)) => {
                let at = (slot * slot_len + used) as u64;
                let error = Error::corrupt(path, at, "zeros after the record", "other bytes");
                problem = more_significant_error(problem, error);
            }
            Err(error) => problem = more_significant_error(problem, error),
        }
    }
    // A slot of another version is not a torn slot.
    if let Some(error) = problem.take_if(|e| e.kind() == ErrorKind::Unsupported || best.is_none()) {
        return Err(error);
    }
    best.ok_or_else(|| Error::corrupt(path, 0, "a valid slot", "none"))
}

/// Another version outweighs damage, in whichever slot it is: a damaged file may be rebuilt, one
/// of another version never.
fn more_significant_error(problem: Option<Error>, error: Error) -> Option<Error> {
    problem.filter(|problem| problem.kind() == ErrorKind::Unsupported).or(Some(error))
}

/// The bytes of one slot, of the shortest length that holds the record.
pub fn slot_of<T: Slotted>(record: &T) -> Result<Vec<u8>> {
    let mut slot = envelope::encode(T::MAGIC, record)?;
    slot.resize(slot.len().next_multiple_of(SLOT_UNIT), 0);
    Ok(slot)
}

/// Creates or replaces the file, atomically and durably.
pub fn create<T: Slotted>(fs: &dyn Fs, path: &Path, record: &T) -> Result<()> {
    replace_file(fs, path, &slot_of(record)?.repeat(SLOTS))
}

/// Writes `record` to both slots, `first` and then the other one, syncing each.
pub fn write_both<T: Slotted>(fs: &dyn Fs, path: &Path, record: &T, first: usize) -> Result<()> {
    write(fs, path, record, &[(first, record), (other(first), record)])
}

/// Writes `record` to a file whose slot `current_slot` was read as `before`. That slot may be in
/// the page cache only, so it is made durable first: there is a valid slot at every moment.
pub fn write_after<T: Slotted>(
    fs: &dyn Fs,
    path: &Path,
    before: &T,
    record: &T,
    current_slot: usize,
) -> Result<()> {
    write(
        fs,
        path,
        record,
        &[(current_slot, before), (other(current_slot), record), (current_slot, record)],
    )
}

fn other(slot: usize) -> usize {
    1 - slot.min(1)
}

/// Performs `writes`, syncing each. If the file has another name, that may be a user's copy: a
/// new file with `record` replaces it in the directory.
fn write<T: Slotted>(fs: &dyn Fs, path: &Path, record: &T, writes: &[(usize, &T)]) -> Result<()> {
    let file = fs.open(path, OpenMode::ReadWrite).map_err(|e| Error::io("open", path, e))?;
    if file.links().map_err(|e| Error::io("stat", path, e))? > 1 {
        return create(fs, path, record).map_err(|e| {
            e.context(
                "the file has another hard link, so it is replaced instead of written in place",
            )
        });
    }
    for (slot, record) in writes {
        let bytes = slot_of(*record)?;
        write_all_at(&*file, &bytes, (slot * bytes.len()) as u64)
            .map_err(|e| Error::failed_write("write", path, e))?;
        file.sync_data().map_err(|e| Error::failed_write("sync", path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Serialize, serde::Deserialize)]
    struct Counter {
        generation: u64,
    }

    impl Slotted for Counter {
        const MAGIC: Magic = Magic::STATE;

        fn generation(&self) -> u64 {
            self.generation
        }
    }

    #[test]
    fn slot_of_another_version_outweighs_a_damaged_one() {
        let slot = slot_of(&Counter { generation: 7 }).unwrap();
        let mut newer = slot.clone();
        newer[8] += 1; // the version
        let covered = crc32c::crc32c(&newer[..28]);
        let checksum = crc32c::crc32c_append(covered, &newer[envelope::ENVELOPE_LEN..][..8]);
        newer[28..32].copy_from_slice(&checksum.to_le_bytes());
        let kind_of = |first: &[u8], second: &[u8]| {
            let found =
                current_slot::<Counter>(Path::new("f"), &[first, second].concat(), slot.len());
            found.map(|found| found.record.generation).map_err(|error| error.kind())
        };
        let zeros = vec![0; slot.len()];
        assert_eq!(kind_of(&slot, &zeros), Ok(7));
        assert_eq!(kind_of(&zeros, &zeros), Err(ErrorKind::Corrupt));
        for damaged in [&zeros, &slot] {
            assert_eq!(kind_of(&newer, damaged), Err(ErrorKind::Unsupported));
            assert_eq!(kind_of(damaged, &newer), Err(ErrorKind::Unsupported));
        }
    }
}
