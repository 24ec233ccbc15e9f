//! Which syncs happen, and when, as the operating system sees them: a process runs under `strace`,
//! in one thread as far as the state store is concerned, and marks its progress; the test replays
//! its calls against a model of what a loss of power could lose.
//!
//! The model: a write or a change of length makes a file dirty until a sync of that file has
//! returned; creating, linking or renaming makes a name dirty until a sync of its directory has
//! returned. Truncating a file to its present length frees reserved space and changes nothing. Lock
//! files do not count: nobody reads them after a loss of power. Neither do removals and what is in
//! the trash: what comes back is removed again.
//!
//! Needs `strace` and permission to trace; otherwise the test reports that it is skipped, or fails
//! if `LITHDB_REQUIRE_STRACE` is 1.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lithdb_process_tests::can_trace;

use crate::child::{self, Mode};
use crate::trace::{Call, Event, trace};

/// What a loss of power could lose, and what was promised about it.
struct Disk<'a> {
    /// The directory of the store.
    dir: &'a Path,
    /// Files with bytes or lengths that are not durable.
    files: BTreeSet<PathBuf>,
    /// Names that are not durable.
    names: BTreeSet<PathBuf>,
    /// The lengths of files that were created in the trace.
    lengths: BTreeMap<PathBuf, u64>,
    /// After renames of the state store itself: directories that are to be synced before the
    /// thread changes anything else.
    due: Vec<(u64, PathBuf)>,
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}

/// Whether it is in a directory that is being made: nothing depends on it yet.
fn is_new(path: &Path) -> bool {
    path.parent().unwrap().iter().any(|part| part.to_string_lossy().ends_with(".new"))
}

impl<'a> Disk<'a> {
    fn new(dir: &'a Path) -> Self {
        let (files, names, lengths, due) = Default::default();
        Self { dir, files, names, lengths, due }
    }

    fn is_below(&self, path: &Path, name: &str) -> bool {
        path.starts_with(self.dir.join(name))
    }

    /// Whether LithDB or the engine is responsible: they rename files of their own, whose names are
    /// to be durable at the next mark, or when a directory above is renamed.
    fn is_of_others(&self, path: &Path) -> bool {
        let below = path.strip_prefix(self.dir).unwrap();
        let is_of_engine = |part: &Path| part.to_string_lossy().starts_with("engine");
        below.starts_with("wal") || below.iter().any(|part| is_of_engine(Path::new(part)))
    }

    fn dirty(&self, is_relevant: impl Fn(&Path) -> bool) -> Result<(), String> {
        let all = self.files.iter().map(|path| ("the bytes of", path));
        let mut all = all.chain(self.names.iter().map(|path| ("the name", path)));
        match all.find(|(_, path)| is_relevant(path)) {
            Some((what, path)) => Err(format!("{what} {} can be lost", path.display())),
            None => Ok(()),
        }
    }

    /// Applies an event; refuses one that comes before what it depends on is durable.
    fn apply(&mut self, event: &Event) -> Result<(), String> {
        let Event { thread, call } = event;
        if let Call::Sync(path) = call {
            self.files.remove(path);
            self.names.retain(|name| name.parent() != Some(path));
            self.due.retain(|(_, dir)| dir != path);
            return Ok(());
        }
        // The log's oldest versions go because of renames that are durable, whoever removes them.
        let is_collection = matches!(call, Call::Remove(path) if self.is_below(path, "wal"));
        if let Some((_, dir)) = self.due.iter().find(|(by, _)| by == thread || is_collection) {
            return Err(format!("{} was to be synced after a rename", dir.display()));
        }
        match call {
            Call::Mark(_) => self.dirty(|path| !self.is_below(path, "trash"))?,
            Call::Create(path) | Call::MakeDir(path) => {
                self.names.insert(path.clone());
                self.lengths.insert(path.clone(), 0);
            }
            Call::Write(path, end) => {
                match (self.lengths.get_mut(path), end) {
                    (Some(length), Some(end)) => *length = (*length).max(*end),
                    // Nothing is known of the length any more.
                    _ => drop(self.lengths.remove(path)),
                }
                self.files.insert(path.clone());
            }
            Call::Truncate(path, len) => {
                if self.lengths.insert(path.clone(), *len) != Some(*len) {
                    self.files.insert(path.clone());
                }
            }
            Call::Link(from, to) => {
                if self.files.contains(from) {
                    self.files.insert(to.clone());
                }
                self.names.insert(to.clone());
            }
            Call::Rename(from, to) => self.rename(*thread, from, to)?,
            Call::Remove(path) => {
                self.files.remove(path);
                self.names.remove(path);
            }
            Call::Sync(_) => {}
        }
        self.files.retain(|path| !is_lock(path));
        self.names.retain(|path| !is_lock(path));
        Ok(())
    }

    fn rename(&mut self, thread: u64, from: &Path, to: &Path) -> Result<(), String> {
        let is_relevant = |path: &Path| {
            // What gets a name by the rename, and the directories on the way to that name.
            let is_moved = path.starts_with(from) && !self.is_below(to, "trash");
            let is_above = path != to && to.starts_with(path) && !is_new(to);
            let is_name_of_moved = path == from && !self.files.contains(path);
            // A store that is ready has its log.
            let is_log = to.ends_with("state.id") && self.is_below(path, "wal");
            (is_moved && !is_name_of_moved) || is_above || is_log
        };
        self.dirty(is_relevant)?;
        self.files.retain(|path| !path.starts_with(from));
        self.names.retain(|path| !path.starts_with(from));
        self.names.insert(to.to_owned());
        if !self.is_of_others(to) {
            let parents = [from, to].map(|path| path.parent().unwrap().to_owned());
            self.due.extend(parents.map(|dir| (thread, dir)));
        }
        Ok(())
    }
}

/// The first event that comes too early, and why.
fn check<'a>(dir: &Path, events: impl IntoIterator<Item = &'a Event>) -> Result<(), String> {
    let mut disk = Disk::new(dir);
    for event in events {
        disk.apply(event).map_err(|why| format!("{:?}: {why}", event.call))?;
    }
    Ok(())
}

/// The renames of the state store itself, without random parts of names.
fn renames(disk: &Disk<'_>, events: &[Event]) -> Vec<(usize, String)> {
    let short = |path: &Path| {
        let path = path.strip_prefix(disk.dir).unwrap().display().to_string();
        let path = path.replace("00000000000000000", "");
        let parts = path.split('/').map(|part| match part.split_once('-') {
            Some((begin, _)) => format!("{begin}-…"),
            None => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join("/")
    };
    let renames = events.iter().enumerate().filter_map(|(n, event)| match &event.call {
        Call::Rename(from, to) if !disk.is_of_others(to) => {
            Some((n, format!("{} to {}", short(from), short(to))))
        }
        _ => None,
    });
    renames.collect()
}

/// The renames that the child is known to cause: the test is about those.
const RENAMES: [&str; 12] = [
    "state.id.new to state.id",
    "working.new/BASE.new to working.new/BASE",
    "working.new to working",
    "snapshots/002.new/SNAPSHOT.new to snapshots/002.new/SNAPSHOT",
    "snapshots/002.new to snapshots/002",
    "snapshots/006.new to snapshots/006",
    "CURRENT.new to CURRENT",
    "snapshots/002 to trash/snapshot-…",
    "working to trash/working-…",
    "snapshots/006 to abandoned/006-…",
    "snapshots/007 to abandoned/007-…",
    "abandoned/006-… to trash/abandoned-…",
];

/// sei-chain #3953: a marker that was written, and neither synced nor its name.
#[test]
fn every_marker_is_synced_with_its_name() {
    if !can_trace("every_marker_is_synced_with_its_name") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let above = dir.path().canonicalize().unwrap();
    let dir = above.join("state");
    let events = trace(&child::command(Mode::Traced, &dir, 1), &above);
    check(&dir, &events).unwrap_or_else(|e| panic!("{e}"));

    let renames = renames(&Disk::new(&dir), &events);
    for expected in RENAMES {
        let is_there = renames.iter().any(|(_, found)| found == expected);
        assert!(is_there, "no {expected} in {renames:#?}");
    }
    let segments = dir.join("wal/wal/segments");
    let is_collected = |event: &Event| match &event.call {
        Call::Remove(path) => path.starts_with(&segments),
        _ => false,
    };
    assert!(events.iter().any(is_collected), "the log was not collected");
    // Control: none of the syncs around a rename can be left out.
    for (at, name) in &renames {
        let Call::Rename(from, to) = &events[*at].call else { unreachable!() };
        let next = events[at + 1..].iter().position(|event| !matches!(event.call, Call::Sync(_)));
        let after = *at..at + 1 + next.unwrap();
        for synced in [from, to].map(|path| path.parent().unwrap()) {
            let without = events.iter().enumerate().filter(|(n, event)| {
                !after.contains(n) || !matches!(&event.call, Call::Sync(dir) if dir == synced)
            });
            let checked = check(&dir, without.map(|(_, event)| event));
            assert!(checked.is_err(), "{name}: {} needs no sync", synced.display());
        }
        let is_file = events[..*at].iter().any(|event| event.call == Call::Create(from.clone()));
        if is_file {
            let without = events.iter().enumerate().filter(|(n, event)| {
                n > at || !matches!(&event.call, Call::Sync(file) if file == from)
            });
            let checked = check(&dir, without.map(|(_, event)| event));
            assert!(checked.is_err(), "{name}: the file needs no sync");
        }
    }
}
