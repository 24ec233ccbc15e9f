//! Which syncs happen, and when, as the operating system sees them: a process runs under `strace`
//! and marks its progress on standard output; the test replays the trace against a model of what a
//! loss of power could lose.
//!
//! The model: a write or a change of length makes a file dirty until a sync of that file has
//! returned; creating, renaming or removing a name makes its directory dirty until a sync of the
//! directory has returned. When `flush` returns, nothing is dirty. Lock files do not count: nobody
//! reads them after a loss of power. Truncating a file to its present length frees reserved space
//! and changes nothing.
//!
//! Needs `strace` and permission to trace; otherwise the test reports that it is skipped, or fails
//! if `LITHDB_REQUIRE_STRACE` is 1.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lithdb_process_tests::can_trace;

const CALLS: &str = "trace=openat,fsync,fdatasync,pwrite64,pwritev,pwritev2,write,ftruncate,rename,\
                     renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,close";

/// A call that has returned, in the order of the returns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Mark(String),
    Create(PathBuf),
    MakeDir(PathBuf),
    /// File, offset, length.
    Write(PathBuf, u64, u64),
    /// File, length.
    Truncate(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Runs `crashy` with `command` on two roots in `dir` and returns its system calls.
fn trace(dir: &Path, command: &str) -> Vec<Event> {
    let log = dir.join(format!("{command}.strace"));
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "64", "-e", CALLS, "-e", "signal=none", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_crashy"))
        .arg(command)
        .args([dir.join("db/r0"), dir.join("db/r1")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stdout.contains("MARK end") || stdout.contains("MARK closed"), "{stdout}\n{stderr}");
    parse(&std::fs::read_to_string(&log).unwrap(), dir)
}

/// The events below `dir`.
fn parse(log: &str, dir: &Path) -> Vec<Event> {
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    let mut events = Vec::new();
    for line in log.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(head) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, head.trim_end().to_owned());
            continue;
        }
        let whole = match call.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>")) {
            Some((_, rest)) => begun.remove(pid).unwrap_or_default() + rest,
            None => call.to_owned(),
        };
        let Some(event) = event(&whole) else { continue };
        let is_ours = |path: &PathBuf| path.starts_with(dir);
        let counts = match &event {
            Event::Mark(_) => true,
            Event::Create(path)
            | Event::MakeDir(path)
            | Event::Write(path, ..)
            | Event::Truncate(path, _)
            | Event::Sync(path)
            | Event::Remove(path) => is_ours(path),
            Event::Rename(from, to) => is_ours(from) || is_ours(to),
        };
        if counts {
            events.push(event);
        }
    }
    assert!(events.len() > 20, "an empty trace:\n{log}");
    events
}

/// Parses one finished call that succeeded.
fn event(call: &str) -> Option<Event> {
    let (name, rest) = call.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    // The path in <…> after a descriptor, and the paths in quotes.
    let of_fd = || Some(PathBuf::from(args.split_once('<')?.1.split_once('>')?.0));
    let quoted: Vec<PathBuf> = args.split('"').skip(1).step_by(2).map(PathBuf::from).collect();
    let last_number = || args.rsplit(", ").next()?.parse().ok();
    match name {
        "write" => {
            let (_, text) = args.split_once("\"MARK ")?;
            Some(Event::Mark(text.split_once("\\n")?.0.to_owned()))
        }
        "openat" if args.contains("O_CREAT") => Some(Event::Create(quoted.first()?.clone())),
        "mkdir" | "mkdirat" => Some(Event::MakeDir(quoted.first()?.clone())),
        "pwrite64" => Some(Event::Write(of_fd()?, last_number()?, result.trim().parse().ok()?)),
        "pwritev" | "pwritev2" | "link" | "linkat" => panic!("not in the model: {call}"),
        "ftruncate" => Some(Event::Truncate(of_fd()?, last_number()?)),
        "fsync" | "fdatasync" => Some(Event::Sync(of_fd()?)),
        "rename" | "renameat" | "renameat2" => {
            Some(Event::Rename(quoted.first()?.clone(), quoted.get(1)?.clone()))
        }
        "unlink" | "unlinkat" | "rmdir" => Some(Event::Remove(quoted.first()?.clone())),
        _ => None,
    }
}

/// What a loss of power could lose.
#[derive(Default, Clone)]
struct Dirty {
    /// Files with bytes or lengths that are not durable.
    files: BTreeSet<PathBuf>,
    /// Names that are not durable.
    names: BTreeSet<PathBuf>,
    /// The lengths of files that were created in the trace.
    lengths: BTreeMap<PathBuf, u64>,
}

impl Dirty {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Mark(_) => {}
            Event::Create(path) | Event::MakeDir(path) => {
                self.names.insert(path.clone());
                self.lengths.insert(path.clone(), 0);
            }
            Event::Write(path, offset, len) => {
                if let Some(length) = self.lengths.get_mut(path) {
                    *length = (*length).max(offset + len);
                }
                self.files.insert(path.clone());
            }
            Event::Truncate(path, len) => {
                if self.lengths.insert(path.clone(), *len) != Some(*len) {
                    self.files.insert(path.clone());
                }
            }
            Event::Sync(path) => {
                self.files.remove(path);
                self.names.retain(|name| name.parent() != Some(path));
            }
            Event::Rename(from, to) => {
                if self.files.remove(from) {
                    self.files.insert(to.clone());
                }
                self.names.extend([from.clone(), to.clone()]);
            }
            Event::Remove(path) => {
                self.files.remove(path);
                self.names.insert(path.clone());
            }
        }
        let is_lock = |path: &PathBuf| path.extension().is_some_and(|e| e == "lock");
        self.files.retain(|path| !is_lock(path));
        self.names.retain(|path| !is_lock(path));
    }

    fn is_clean(&self) -> bool {
        self.files.is_empty() && self.names.is_empty()
    }

    /// What is dirty after `events`, starting from a clean state.
    fn after(events: &[Event]) -> Self {
        let mut dirty = Self::default();
        events.iter().for_each(|event| dirty.apply(event));
        dirty
    }
}

impl std::fmt::Debug for Dirty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not durable: bytes of {:#?}, names {:#?}", self.files, self.names)
    }
}

/// The index of a mark of the process.
fn at(events: &[Event], mark: &str) -> usize {
    let is_it = |event: &Event| matches!(event, Event::Mark(text) if text == mark);
    events.iter().position(is_it).unwrap_or_else(|| panic!("no mark {mark:?} in {events:#?}"))
}

fn between<'a>(events: &'a [Event], from: &str, to: &str) -> &'a [Event] {
    &events[at(events, from)..at(events, to)]
}

fn position(events: &[Event], event: &Event) -> usize {
    events.iter().position(|e| e == event).unwrap_or_else(|| panic!("no {event:?} in {events:#?}"))
}

/// Asserts that nothing was written or synced.
fn assert_idle(events: &[Event]) {
    let idle = events.iter().all(|event| matches!(event, Event::Mark(_)));
    assert!(idle, "expected nothing, found {events:#?}");
}

#[test]
fn durable_put_syncs_files_and_directories_on_both_roots() {
    if !can_trace("durable_put_syncs_files_and_directories_on_both_roots") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let events = trace(&dir, "durable");
    let [r0, r1] = ["r0", "r1"].map(|root| dir.join("db").join(root));

    // Nothing that a flush or a close acknowledges can be lost: bytes, lengths, names, on both
    // roots.
    for mark in ["first flushed", "rolled flushed", "second-table flushed", "closed"] {
        let dirty = Dirty::after(&events[..at(&events, mark)]);
        assert!(dirty.is_clean(), "at {mark:?}: {dirty:?}");
    }
    // Control: before the flush there was something to lose.
    assert!(events.contains(&Event::MakeDir(dir.join("db"))), "{events:#?}");
    let flush = between(&events, "first flush", "first flushed");
    let segments = "blocks/segments";
    for file in [
        r0.join(segments).join("1.keys"),
        r0.join(segments).join("1-1.values"),
        r1.join(segments).join("1-0.values"),
    ] {
        let written = flush.iter().any(|e| matches!(e, Event::Write(path, ..) if *path == file));
        assert!(written, "{} is written by the flush", file.display());
        let sync = position(flush, &Event::Sync(file.clone()));
        let is_its_write = |e: &Event| matches!(e, Event::Write(path, ..) if *path == file);
        let last_write = flush.iter().rposition(is_its_write).unwrap();
        assert!(last_write < sync, "{} is synced after it was written", file.display());
    }
    // Every new directory entry, from the parent of the roots downwards, is durable before the
    // flush returned.
    let until = &events[..at(&events, "first flushed")];
    for dir in [
        dir.clone(),
        dir.join("db"),
        r0.clone(),
        r1.clone(),
        r0.join("blocks"),
        r1.join("blocks"),
        r0.join(segments),
        r1.join(segments),
    ] {
        position(until, &Event::Sync(dir));
    }
    // A flush with nothing new does nothing.
    assert_idle(between(&events, "idle flush", "idle flushed"));
    assert_idle(between(&events, "idle-again flush", "idle-again flushed"));
}

#[test]
fn rollover_is_durable_before_next_segment_acknowledges() {
    if !can_trace("rollover_is_durable_before_next_segment_acknowledges") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let events = trace(&dir, "durable");
    let [s0, s1] = ["r0", "r1"].map(|root| dir.join("db").join(root).join("blocks/segments"));
    let (old_metadata, leftover) = (s0.join("1.metadata"), s0.join("1.metadata.new"));

    let renamed = position(&events, &Event::Rename(leftover.clone(), old_metadata.clone()));
    let flushed = at(&events, "rolled flushed");
    assert!(at(&events, "idle flushed") < renamed && renamed < flushed);
    // Before the rename of the seal: all of segment 1 is durable, and the names of segment 2 on
    // both roots.
    let dirty = Dirty::after(&events[..renamed]);
    let is_of = |path: &PathBuf, id: &str| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&format!("{id}.")) || name.starts_with(&format!("{id}-"))
    };
    assert!(!dirty.files.iter().any(|path| is_of(path, "1")), "{dirty:?}");
    assert!(!dirty.names.iter().any(|path| is_of(path, "2")), "{dirty:?}");
    let before = &events[at(&events, "idle flushed")..renamed];
    for path in [
        s0.join("1.keys"),
        s0.join("1-1.values"),
        s1.join("1-0.values"),
        s0.join("2.keys"),
        s0.join("2-0.values"),
        s1.join("2-1.values"),
        s0.clone(),
        s1.clone(),
        leftover,
    ] {
        let sync = position(before, &Event::Sync(path.clone()));
        let created = before.iter().position(|e| *e == Event::Create(path.clone()));
        assert!(created.is_none_or(|created| created < sync), "{}", path.display());
    }
    // The name of the seal is durable before anything in segment 2 is acknowledged.
    position(&events[renamed..flushed], &Event::Sync(s0));
}

#[test]
fn recovered_data_is_copied_and_synced_before_serving() {
    if !can_trace("recovered_data_is_copied_and_synced_before_serving") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let [r0, r1] = ["r0", "r1"].map(|root| dir.join("db").join(root));
    let killed = Command::new(env!("CARGO_BIN_EXE_crashy"))
        .arg("leave-torn-end")
        .args([&r0, &r1])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9));
    let keys = r0.join("blocks/segments/1.keys");
    let left = std::fs::metadata(&keys).unwrap().len();
    assert!(left > 1 << 20, "only {left} bytes of keys were left behind");

    let events = trace(&dir, "recover");
    let opening = between(&events, "open", "opened");
    // Recovery does not trust the page cache: it copies what follows the only mark to the files of
    // a new segment.
    let old =
        [&keys, &r0.join("blocks/segments/1-1.values"), &r1.join("blocks/segments/1-0.values")];
    for path in old {
        let is_written = opening.iter().any(|e| matches!(e, Event::Write(at, ..) if at == path));
        assert!(!is_written, "{} is written to", path.display());
    }
    let keys = r0.join("blocks/segments/2.keys");
    let mut written: Vec<(u64, u64)> = opening
        .iter()
        .filter_map(|event| match event {
            Event::Write(path, offset, len) if *path == keys => Some((*offset, *len)),
            _ => None,
        })
        .collect();
    written.sort_unstable();
    let copied: u64 = written.iter().map(|(_, len)| len).sum();
    assert!(copied > 1 << 20, "{written:?}");
    for pair in written.windows(2) {
        assert_eq!(pair[0].0 + pair[0].1, pair[1].0, "without gaps: {written:?}");
    }
    // The values are copied, too, on both roots. Everything is synced after it was written, before
    // the old segment ends.
    let sealed = opening.iter().position(
        |event| matches!(event, Event::Rename(_, to) if to.ends_with("blocks/segments/1.metadata")),
    );
    let (copying, _) = opening.split_at(sealed.unwrap());
    for path in
        [keys.clone(), r0.join("blocks/segments/2-0.values"), r1.join("blocks/segments/2-1.values")]
    {
        let written =
            copying.iter().rposition(|e| matches!(e, Event::Write(at, ..) if *at == path));
        let synced = copying.iter().rposition(|e| *e == Event::Sync(path.clone()));
        assert!(written.unwrap() < synced.unwrap(), "{}", path.display());
    }
    // Freeing reserved space changes no byte and no length.
    let mut before = events[..at(&events, "opened")].to_vec();
    before.retain(|event| !matches!(event, Event::Truncate(path, _) if old.contains(&path)));
    let dirty = Dirty::after(&before);
    assert!(dirty.is_clean(), "{dirty:?}");
    // Names, too, may have been only in memory.
    for path in [
        r0.clone(),
        r1.clone(),
        r0.join("blocks"),
        r1.join("blocks"),
        r0.join("blocks/segments"),
        r1.join("blocks/segments"),
    ] {
        position(opening, &Event::Sync(path));
    }
    // The current state: both slots are written again, each synced on its own; likewise before a
    // segment id is assigned, and when the state records the end of the copy.
    let state = r0.join("blocks/table.state");
    let on_state: Vec<&Event> = opening
        .iter()
        .filter(|e| matches!(e, Event::Write(path, ..) | Event::Sync(path) if *path == state))
        .collect();
    let is_write = |e: &Event| matches!(e, Event::Write(..));
    let shape: Vec<bool> = on_state.iter().map(|e| is_write(e)).collect();
    assert_eq!(shape, [true, false, true, false].repeat(3), "{on_state:#?}");

    assert_idle(between(&events, "nothing flush", "nothing flushed"));
    let mut before = events[..at(&events, "after flushed")].to_vec();
    before.retain(|event| !matches!(event, Event::Truncate(path, _) if old.contains(&path)));
    let dirty = Dirty::after(&before);
    assert!(dirty.is_clean(), "{dirty:?}");
    let after = between(&events, "after flush", "after flushed");
    position(after, &Event::Sync(keys));
}
