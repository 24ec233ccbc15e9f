//! `table.state` as it is found, valid or not, and what it must have been.

use std::collections::BTreeMap;
use std::path::Path;

use lithdb_env::{Error, ErrorKind, Fs, Result, UnixMillis, read_file};
use lithdb_segment::SegmentId;
use lithdb_segment::envelope::{self, Magic};

use super::found::Found;
use crate::state::{TableState, read_state};

const SLOT_LEN: usize = 4096;
const FILE_LEN: u64 = 2 * SLOT_LEN as u64;

/// How the state file was found.
#[derive(Debug, Clone)]
pub(super) enum Slots {
    /// Both slots hold, and say the same.
    Sound,
    /// One slot rules; the other one is to be written again.
    OneRules(String),
    /// No slot holds, or there is no file.
    Lost(Error),
}

/// Reads the state.
///
/// # Errors
/// `Unsupported`; a disk that does not read.
pub(super) fn look(fs: &dyn Fs, path: &Path) -> Result<(Option<TableState>, Slots)> {
    let found = match read_state(fs, path) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => {
            return Ok((None, Slots::Lost(error)));
        }
        Err(error) => {
            // A file that is much too long is refused like a read that fails; it is not one.
            let len = fs.metadata(path).map_or(FILE_LEN, |found| found.len_bytes);
            if error.kind() == ErrorKind::Unsupported || len == FILE_LEN {
                return Err(error);
            }
            return Ok((None, Slots::Lost(error)));
        }
    };
    Ok((Some(found.state), slots(fs, path)?))
}

fn slots(fs: &dyn Fs, path: &Path) -> Result<Slots> {
    let bytes = read_file(fs, path, FILE_LEN).map_err(|e| Error::io("read", path, e))?;
    let mut generations = Vec::new();
    for (n, slot) in bytes.chunks(SLOT_LEN).enumerate() {
        let opened = envelope::open::<TableState>(Magic::STATE, path, slot);
        match opened {
            Ok((state, used)) if slot.iter().skip(used).all(|byte| *byte == 0) => {
                generations.push(state.generation);
            }
            Ok(_) => return Ok(Slots::OneRules(format!("slot {n} has bytes behind its end"))),
            Err(error) => {
                return Ok(Slots::OneRules(format!("slot {n} does not hold: {}", error.message())));
            }
        }
    }
    Ok(match generations.as_slice() {
        [a, b] if a == b => Slots::Sound,
        _ => Slots::OneRules("the slots differ: a change was interrupted".to_owned()),
    })
}

/// The state that a table must have had whose files are these. What only the state knows is at its default; the hash
/// seed is chosen when it is written.
pub(super) fn rebuilt(found: &BTreeMap<SegmentId, Found>) -> TableState {
    let mut ids = BTreeMap::<u64, usize>::new();
    for table_id in found.values().flat_map(Found::table_ids) {
        *ids.entry(table_id).or_default() += 1;
    }
    let table_id = ids.iter().max_by_key(|(_, count)| **count).map_or(0, |(id, _)| *id);
    let headers = || found.values().filter_map(Found::header);
    let created = headers().map(|header| header.created).min().unwrap_or_default();
    let written = found.values().filter_map(|found| found.metadata()).map(|m| m.last_write);
    let latest = written.chain(headers().map(|header| header.created)).max().unwrap_or_default();
    let mut state = TableState::new(table_id, 0, created);
    state.latest_time = UnixMillis(latest.0);
    if let (Some(lowest), Some(highest)) = (found.keys().next(), found.keys().next_back()) {
        state.empty = false;
        state.watermark = *lowest;
        state.next_id_floor = highest.next().unwrap_or(*highest);
    }
    state
}
