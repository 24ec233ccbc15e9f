//! Finds which segments belong to a table, damaged or not, and what else is in its directories.
//!
//! Opening walks the chain and stops at the first error. `ChainLinks` follows every link, in both
//! directions, so that the neighbours of a missing segment identify it. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, FileKind, Fs, Result, leftover_of};
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, SegmentId};

use crate::finding::Finding;
use crate::segment_headers::SegmentHeaders;
use crate::state_slots::{self, StateSlots};
use lithdb_env::exists_as;
use lithdb_segment::quarantine::is_quarantine_dir;
use lithdb_table::TableSetup;
use lithdb_table::open::inventory::Inventory;
use lithdb_table::state::TableState;

const FOREIGN_FILE: &str = "not a LithDB file; ignored";

/// Everything known about a table before its records are read.
#[derive(Debug)]
pub(crate) struct ChainLinks {
    /// The state of the table, or a rebuilt one.
    pub(crate) table_state: TableState,
    pub(crate) slots: StateSlots,
    /// The segments of the table, oldest first, including missing ones.
    pub(crate) members: Vec<SegmentHeaders>,
    /// Segments that are not part of the table: nothing in them was ever acknowledged.
    pub(crate) orphans: Vec<Orphan>,
    /// Missing directories of the table, each after its parent.
    pub(crate) absent_dirs: Vec<PathBuf>,
    /// The highest id of any file.
    pub(crate) highest: SegmentId,
    /// Findings about the state, orphans and foreign files.
    pub(crate) findings: Vec<Finding>,
}

/// The files of a segment that is not on the chain.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) found: SegmentHeaders,
    /// Opening refuses the table because of them.
    pub(crate) is_refused: bool,
}

impl Orphan {
    fn finding(&self) -> Option<Finding> {
        let path = self.found.files.finished().next()?;
        let finding = if self.is_refused {
            let what = "no segment names this one, and its id may still be assigned";
            Finding::damage(path, what)
        } else {
            let what =
                "nothing in this segment was acknowledged; opening after a crash discards it";
            Finding::note(path, what)
        };
        Some(finding.of(self.found.id))
    }
}

impl ChainLinks {
    /// Loads the links of the table; `Missing` if it does not exist or is being dropped.
    pub(crate) fn load(setup: &TableSetup) -> Result<Self> {
        let fs = &*setup.env.fs;
        let path = setup.state_path();
        let (mut state, mut slots) = state_slots::load(fs, &path)?;
        let absent_dirs = absent_dirs(setup)?;
        let mut dirs = setup.segment_dirs();
        dirs.retain(|dir| !absent_dirs.contains(dir));
        let inventory = Inventory::list(fs, &dirs)?;
        let foreign = |state: &TableState| state_slots::is_foreign(fs, &path, state, &inventory);
        if let Some(error) = state.as_ref().map_or(Ok(None), foreign)? {
            (state, slots) = (None, StateSlots::Lost(error));
        }
        if state.as_ref().is_some_and(|state| state.dropping) {
            return Err(Error::new(ErrorKind::Missing, "it is being dropped"));
        }
        let watermark = state.as_ref().map_or(SegmentId::FIRST, |state| state.watermark);
        let mut notes = Vec::new();
        let mut found = BTreeMap::new();
        for (id, files) in &inventory.segments {
            let mut note = |path: &PathBuf, what| notes.push(Finding::note(path, what).of(*id));
            for path in &files.leftovers {
                note(path, "unfinished replacement; the next open removes it");
            }
            if *id < watermark {
                for path in files.finished() {
                    note(path, "below the watermark: expired; the next open removes it");
                }
                continue;
            }
            let segment = SegmentHeaders::read(fs, *id, files)?;
            if !segment.is_absent() {
                found.insert(*id, segment);
            }
        }
        notes.extend(inventory.foreign.iter().map(|path| Finding::note(path, FOREIGN_FILE)));
        if let StateSlots::Lost(error) = &slots
            && error.kind() == ErrorKind::Missing
            && found.is_empty()
        {
            return Err(error.clone());
        }
        let mut old = None;
        let stale = |state: &TableState| state_slots::is_stale(fs, &path, state, &found);
        if let Some(error) = state.as_ref().map_or(Ok(None), stale)? {
            // A writer may have put the first value meanwhile: it updates the state before it
            // acknowledges anything.
            if state_slots::load(fs, &path)?.0 != state {
                return Self::load(setup);
            }
            (old, slots) = (state.take(), StateSlots::Lost(error));
        }
        let table_state = state.unwrap_or_else(|| state_slots::rebuilt(&found, old.as_ref()));
        for segment in found.values_mut() {
            segment.check_identity(table_state.table_id);
        }
        // Without files the highest id is `NONE`, which is below every id.
        let highest = inventory.segments.keys().next_back().copied().unwrap_or_default();
        // With the state and a directory lost, any remaining segment may have been acknowledged.
        let keeps_all = matches!(slots, StateSlots::Lost(_)) && !absent_dirs.is_empty();
        let (members, orphans) = split_orphans(&table_state, found, keeps_all)?;
        let mut findings = match &slots {
            StateSlots::BothValid => Vec::new(),
            StateSlots::OneValid(why) => {
                let what = format!("{why}; harmless, the next open rewrites it");
                vec![Finding::note(&path, what)]
            }
            StateSlots::WrongLength(error) | StateSlots::Lost(error) => {
                vec![Finding::from_error(&path, error)]
            }
        };
        for dir in &absent_dirs {
            findings.push(Finding::damage(dir, "this directory is missing, with everything in it"));
        }
        findings.extend(orphans.iter().filter_map(Orphan::finding));
        findings.append(&mut notes);
        for (root, dir) in setup.dirs.iter().enumerate().filter(|(_, d)| !absent_dirs.contains(d)) {
            check_table_dir(fs, root, dir, &mut findings)?;
        }
        Ok(Self { table_state, slots, members, orphans, absent_dirs, highest, findings })
    }

    /// How many bytes there are to read, for the progress only: a file that cannot be inspected
    /// counts as 0.
    pub(crate) fn bytes(&self, setup: &TableSetup) -> u64 {
        let files = self.members.iter().flat_map(|found| found.files.all());
        let len = |path: &PathBuf| setup.env.fs.metadata(path).map_or(0, |found| found.len_bytes);
        files.map(len).sum()
    }
}

/// The missing directories of the table.
fn absent_dirs(setup: &TableSetup) -> Result<Vec<PathBuf>> {
    let mut absent = Vec::new();
    for dir in setup.dirs.iter().flat_map(|dir| [dir.clone(), dir.join(SEGMENTS_DIR)]) {
        if !exists_as(&*setup.env.fs, &dir, FileKind::Dir)? {
            absent.push(dir);
        }
    }
    Ok(absent)
}

/// Reports what is in a table's directory besides its segments.
fn check_table_dir(
    fs: &dyn Fs,
    root: usize,
    dir: &Path,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for entry in fs.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.name.as_str();
        let is_dir = entry.kind == FileKind::Dir;
        let what = if is_dir && is_quarantine_dir(name) {
            "damaged files quarantined by a repair; remove them when no longer needed"
        } else if root == 0 && leftover_of(name) == Some(STATE_FILE) {
            "unfinished replacement; the next one removes it"
        } else if !is_ours(name, root, is_dir) {
            FOREIGN_FILE
        } else {
            continue;
        };
        findings.push(Finding::note(&dir.join(name), what));
    }
    Ok(())
}

fn is_ours(name: &str, root: usize, is_dir: bool) -> bool {
    match name {
        SEGMENTS_DIR | "keymap" => is_dir,
        STATE_FILE => root == 0 && !is_dir,
        _ => false,
    }
}

/// Splits the segments into those that belong to the table and orphans.
fn split_orphans(
    table_state: &TableState,
    mut found: BTreeMap<SegmentId, SegmentHeaders>,
    keeps_all: bool,
) -> Result<(Vec<SegmentHeaders>, Vec<Orphan>)> {
    let mut ids =
        if table_state.empty { BTreeSet::new() } else { member_ids(table_state, &found)? };
    if keeps_all {
        ids.extend(found.keys());
    }
    let is_sealed = |id: &&SegmentId| found.get(id).is_some_and(|found| found.metadata.is_some());
    // `NONE` if no segment is sealed: then none is older than it.
    let newest_sealed = ids.iter().rev().find(is_sealed).copied().unwrap_or_default();
    let members = ids
        .iter()
        .map(|id| found.remove(id).unwrap_or_else(|| SegmentHeaders::absent(*id)))
        .collect();
    let orphans = found.into_values().map(|found| {
        let is_refused =
            !table_state.empty && found.id < newest_sealed && found.id >= table_state.next_id_floor;
        Orphan { found, is_refused }
    });
    Ok((members, orphans.collect()))
}

fn member_ids(
    table_state: &TableState,
    found: &BTreeMap<SegmentId, SegmentHeaders>,
) -> Result<BTreeSet<SegmentId>> {
    // All sealed segments, those that the state names, and those that these link to.
    let sealed = found.values().filter(|found| found.metadata.is_some()).map(|found| found.id);
    let unsealed = table_state.recorded_end.as_ref().map(|end| end.segment);
    let mut members: BTreeSet<_> = sealed.chain([table_state.watermark]).chain(unsealed).collect();
    members.retain(|id| *id >= table_state.watermark);
    add_linked(table_state, found, &mut members);
    // A segment above the newest may hold acknowledged data, if the metadata of its predecessor is
    // lost.
    loop {
        // `NONE` if there are no members: every segment is above it.
        let newest = members.last().copied().unwrap_or_default();
        let has_lost_seal =
            found.get(&newest).is_some_and(|found| found.metadata_error().is_some());
        let mut next = None;
        for (id, found) in found.range((Bound::Excluded(newest), Bound::Unbounded)) {
            let is_successor = has_lost_seal && found.predecessor().is_none_or(|id| id == newest);
            if is_successor || found.has_mark()? {
                next = Some(*id);
                break;
            }
        }
        let Some(next) = next else { return Ok(members) };
        members.insert(next);
        add_linked(table_state, found, &mut members);
    }
}

/// Adds every segment that the members link to, directly or indirectly.
fn add_linked(
    table_state: &TableState,
    found: &BTreeMap<SegmentId, SegmentHeaders>,
    members: &mut BTreeSet<SegmentId>,
) {
    let mut work: Vec<_> = members.iter().copied().collect();
    while let Some(id) = work.pop() {
        let Some(found) = found.get(&id) else { continue };
        let links = [found.predecessor(), found.successor()];
        for link in links.into_iter().flatten().filter(|link| *link >= table_state.watermark) {
            if members.insert(link) {
                work.push(link);
            }
        }
    }
}
