//! Which segments belong to a table, damaged or not, and what else lies in its directories.
//!
//! Opening walks the chain and stops at the first thing that is wrong. `ChainLinks` takes every link there is, from
//! either side, so that a segment that is absent is known by its neighbours.

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

const FOREIGN_FILE: &str = "not a file of LithDB; it is never touched";

/// Everything that is known before records are read.
#[derive(Debug)]
pub(crate) struct ChainLinks {
    /// The state of the table, or what it must have been.
    pub(crate) table_state: TableState,
    pub(crate) slots: StateSlots,
    /// The segments of the table, oldest first, the absent ones, too.
    pub(crate) members: Vec<SegmentHeaders>,
    /// Segments that do not belong to the table: nothing in them was ever acknowledged.
    pub(crate) strays: Vec<Orphan>,
    /// Directories of the table that are gone, each behind the one that it belongs into.
    pub(crate) absent_dirs: Vec<PathBuf>,
    /// The highest id that any file has.
    pub(crate) highest: SegmentId,
    /// What the links alone show: the state, strays, foreign files.
    pub(crate) findings: Vec<Finding>,
}

/// Files off the chain.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) found: SegmentHeaders,
    /// Opening does not know them for what they are.
    pub(crate) is_refused: bool,
}

impl Orphan {
    fn finding(&self) -> Option<Finding> {
        let path = self.found.files.finished().next()?;
        let finding = if self.is_refused {
            let what = "no segment names this one, and its id may still be given away";
            Finding::damage(path, what)
        } else {
            let what =
                "nothing in this segment was acknowledged; an opening after a crash discards it";
            Finding::note(path, what)
        };
        Some(finding.of(self.found.id))
    }
}

impl ChainLinks {
    /// Looks at the table; `Missing` if there is none, or it is being dropped.
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
                note(path, "a replacement that was not finished; the next opening removes it");
            }
            if *id < watermark {
                for path in files.finished() {
                    note(path, "below the watermark: expired; the next opening removes it");
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
            // A writer may have put the first value meanwhile: its state says so before anything is acknowledged.
            if state_slots::load(fs, &path)?.0 != state {
                return Self::load(setup);
            }
            (old, slots) = (state.take(), StateSlots::Lost(error));
        }
        let table_state = state.unwrap_or_else(|| state_slots::rebuilt(&found, old.as_ref()));
        for segment in found.values_mut() {
            segment.check_identity(table_state.table_id);
        }
        let highest = inventory.segments.keys().next_back().copied().unwrap_or_default();
        // Where the state is gone with a directory, nothing that is left is known not to have been acknowledged.
        let keeps_all = matches!(slots, StateSlots::Lost(_)) && !absent_dirs.is_empty();
        let (members, strays) = split_orphans(&table_state, found, keeps_all)?;
        let mut findings = match &slots {
            StateSlots::BothValid => Vec::new(),
            StateSlots::OneValid(why) => {
                let what = format!("{why}; harmless, healed by the next opening");
                vec![Finding::note(&path, what)]
            }
            StateSlots::WrongLength(error) | StateSlots::Lost(error) => {
                vec![Finding::from_error(&path, error)]
            }
        };
        for dir in &absent_dirs {
            findings.push(Finding::damage(dir, "this directory is gone, with everything in it"));
        }
        findings.extend(strays.iter().filter_map(Orphan::finding));
        findings.append(&mut notes);
        for (root, dir) in setup.dirs.iter().enumerate().filter(|(_, d)| !absent_dirs.contains(d)) {
            check_table_dir(fs, root, dir, &mut findings)?;
        }
        Ok(Self { table_state, slots, members, strays, absent_dirs, highest, findings })
    }

    /// How many bytes there are to read, for the progress alone: what cannot be measured counts for nothing.
    pub(crate) fn bytes(&self, setup: &TableSetup) -> u64 {
        let files = self.members.iter().flat_map(|found| found.files.all());
        let len = |path: &PathBuf| setup.env.fs.metadata(path).map_or(0, |found| found.len_bytes);
        files.map(len).sum()
    }
}

/// The directories of the table that are not there.
fn absent_dirs(setup: &TableSetup) -> Result<Vec<PathBuf>> {
    let mut absent = Vec::new();
    for dir in setup.dirs.iter().flat_map(|dir| [dir.clone(), dir.join(SEGMENTS_DIR)]) {
        if !exists_as(&*setup.env.fs, &dir, FileKind::Dir)? {
            absent.push(dir);
        }
    }
    Ok(absent)
}

/// What lies in a table's directory besides its segments.
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
            "damaged files that a repair kept; remove them when nobody needs them"
        } else if root == 0 && leftover_of(name) == Some(STATE_FILE) {
            "a replacement that was not finished; the next one removes it"
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

/// Parts the segments that belong to the table from those that do not.
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
    let newest_sealed = ids.iter().rev().find(is_sealed).copied().unwrap_or_default();
    let members = ids
        .iter()
        .map(|id| found.remove(id).unwrap_or_else(|| SegmentHeaders::absent(*id)))
        .collect();
    let strays = found.into_values().map(|found| {
        let is_refused =
            !table_state.empty && found.id < newest_sealed && found.id >= table_state.next_id_floor;
        Orphan { found, is_refused }
    });
    Ok((members, strays.collect()))
}

fn member_ids(
    table_state: &TableState,
    found: &BTreeMap<SegmentId, SegmentHeaders>,
) -> Result<BTreeSet<SegmentId>> {
    // Whatever was sealed, what the state names, and what these name.
    let sealed = found.values().filter(|found| found.metadata.is_some()).map(|found| found.id);
    let tail = table_state.durable_end.as_ref().map(|tail| tail.segment);
    let mut members: BTreeSet<_> = sealed.chain([table_state.watermark]).chain(tail).collect();
    members.retain(|id| *id >= table_state.watermark);
    add_linked(table_state, found, &mut members);
    // Above the newest there can be one that holds acknowledged data, if the metadata before it is lost.
    loop {
        let newest = members.last().copied().unwrap_or_default();
        let has_lost_seal =
            found.get(&newest).is_some_and(|found| found.metadata_error().is_some());
        let mut next = None;
        for (id, found) in found.range((Bound::Excluded(newest), Bound::Unbounded)) {
            let assert_usable = has_lost_seal && found.predecessor().is_none_or(|id| id == newest);
            if assert_usable || found.has_mark()? {
                next = Some(*id);
                break;
            }
        }
        let Some(next) = next else { return Ok(members) };
        members.insert(next);
        add_linked(table_state, found, &mut members);
    }
}

/// Adds whatever the members' links name.
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
