//! Reads `table.state`, valid or not, detects foreign and stale states, and rebuilds a lost one
//! from the segments. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lithdb_env::{Error, ErrorKind, FileKind, Fs, Result};
use lithdb_segment::envelope::{self, Magic};
use lithdb_segment::{SegmentId, Stamp};

use crate::segment_headers::SegmentHeaders;
use lithdb_env::exists_as;
use lithdb_segment::slots::{self, SLOTS};
use lithdb_segment::window::Window;
use lithdb_table::open::chain::stale_file_error;
use lithdb_table::open::inventory::Inventory;
use lithdb_table::state::{SLOT_LEN, TableState};

const FILE_LEN: u64 = (SLOTS * SLOT_LEN) as u64;

/// The condition of the state file.
#[derive(Debug, Clone)]
pub(crate) enum StateSlots {
    /// Both slots are valid and equal.
    BothValid,
    /// One slot is valid; the other must be written again.
    OneValid(String),
    /// A slot is valid, but the file has the wrong length, and opening refuses it.
    WrongLength(Error),
    /// No slot is valid, there is no file, or it is another table's or a stale copy.
    Lost(Error),
}

/// Reads the state.
pub(crate) fn load(fs: &dyn Fs, path: &Path) -> Result<(Option<TableState>, StateSlots)> {
    // Refuses a symbolic link or a directory.
    exists_as(fs, path, FileKind::File)?;
    let read = || -> Result<_> {
        let mut window = Window::open(fs, path)?;
        let bytes = window.get(0, FILE_LEN as usize)?.to_vec();
        let current_slot = slots::current_slot::<TableState>(path, &bytes, SLOT_LEN)?;
        Ok((current_slot.record, bytes, window.len_bytes()))
    };
    let (state, bytes, len) = match read() {
        Ok(read) => read,
        Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => {
            return Ok((None, StateSlots::Lost(error)));
        }
        Err(error) => return Err(error),
    };
    if len != FILE_LEN {
        let expected = format!("{FILE_LEN} bytes");
        let error = Error::corrupt(path, len.min(FILE_LEN), &expected, &format!("{len} bytes"));
        return Ok((Some(state), StateSlots::WrongLength(error)));
    }
    Ok((Some(state), compare(path, &bytes)))
}

fn compare(path: &Path, bytes: &[u8]) -> StateSlots {
    let mut generations = Vec::new();
    for (n, slot) in bytes.chunks(SLOT_LEN).enumerate() {
        let why = match envelope::decode::<TableState>(Magic::STATE, path, slot) {
            Ok((state, used)) if slot.iter().skip(used).all(|byte| *byte == 0) => {
                generations.push(state.generation);
                continue;
            }
            Ok(_) => format!("slot {n} has bytes after its end"),
            Err(error) => format!("slot {n} is invalid: {}", error.message()),
        };
        return StateSlots::OneValid(why);
    }
    match generations.as_slice() {
        [a, b] if a == b => StateSlots::BothValid,
        _ => StateSlots::OneValid("the slots differ: an update was interrupted".to_owned()),
    }
}

/// The error of a state if all readable segments belong to one other table: then the state is the
/// foreign file, and what it says about segments does not count.
pub(crate) fn is_foreign(
    fs: &dyn Fs,
    path: &Path,
    state: &TableState,
    inventory: &Inventory,
) -> Result<Option<Error>> {
    let mut tables = BTreeSet::new();
    for (id, files) in &inventory.segments {
        let found = SegmentHeaders::read(fs, *id, files)?;
        // A header with the state's table id confirms it even if no record follows: the id is
        // random.
        let header = found.header().map(|header| header.identity.table_id);
        tables.extend(found.table_ids());
        if tables.len() > 1 || tables.contains(&state.table_id) || header == Some(state.table_id) {
            return Ok(None);
        }
    }
    let Some(other) = tables.first() else { return Ok(None) };
    let found = state.table_id;
    let message = format_args!(
        "expected the state of table {other:016x}, whose segments are here, found that of table {found:016x}"
    );
    Ok(Some(Error::at(ErrorKind::Foreign, path, message)))
}

/// The error of a state that says the table is empty although data was acknowledged, or that is
/// older than a segment or file: it is a stale copy, and what it says about segments does not
/// count. Opening refuses it, too.
pub(crate) fn is_stale(
    fs: &dyn Fs,
    path: &Path,
    state: &TableState,
    found: &BTreeMap<SegmentId, SegmentHeaders>,
) -> Result<Option<Error>> {
    let is_ours =
        |found: &&SegmentHeaders| found.table_ids().next().is_none_or(|id| id == state.table_id);
    for found in found.values().filter(is_ours) {
        let id = found.id;
        let found = if id > state.highest_id {
            format!("a stale one with highest id {}, and segment {id}", state.highest_id)
        } else if state.empty && found.is_acknowledged()? {
            format!("a stale one of an empty table, and acknowledged data in segment {id}")
        } else {
            continue;
        };
        return Ok(Some(Error::corrupt(path, 0, "the state of a table with segments", &found)));
    }
    let live = found.range(state.watermark..).map(|(id, found)| (*id, &found.files));
    stale_file_error(state, fs, path, live)
}

/// Rebuilds the state of a table from its files; `old` is a stale copy. What only the state
/// records gets its default; the hash seed is chosen when the state is written.
pub(crate) fn rebuilt(
    found: &BTreeMap<SegmentId, SegmentHeaders>,
    old: Option<&TableState>,
) -> TableState {
    let most = |ids: &mut dyn Iterator<Item = u64>| {
        let mut counts = BTreeMap::<u64, usize>::new();
        ids.for_each(|id| *counts.entry(id).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id)
    };
    // Value files come last: they are the most likely to show what their blocks held before.
    let table_id = old
        .map(|old| old.table_id)
        .or_else(|| most(&mut found.values().flat_map(SegmentHeaders::table_ids)))
        .or_else(|| most(&mut found.values().flat_map(|f| f.value_file_table_ids.iter().copied())))
        .unwrap_or_default();
    let headers = || found.values().filter_map(SegmentHeaders::header);
    let created = headers().map(|header| header.created).min().unwrap_or_default();
    let written =
        found.values().filter_map(SegmentHeaders::metadata).map(|metadata| metadata.sealed_at);
    let written = written.filter(|stamp| stamp.is_certain()).map(Stamp::time);
    let mut state = TableState::new(table_id, 0, created);
    let latest = written.chain(headers().map(|header| header.created)).max();
    state.latest_time = latest.unwrap_or_default();
    if let (Some(lowest), Some(highest)) = (found.keys().next(), found.keys().next_back()) {
        state.empty = false;
        state.watermark = *lowest;
        let id_floor = highest.next().unwrap_or(*highest);
        state.next_id_floor = old.map_or(id_floor, |old| id_floor.max(old.next_id_floor));
        state.highest_id = state.next_id_floor;
    }
    state
}
