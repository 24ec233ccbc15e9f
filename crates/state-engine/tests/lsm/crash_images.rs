//! Crashes: the system calls of a process are replayed on a simulated disk, which loses what was
//! not synced in every way that POSIX allows; each image is written to a directory and opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{File, FileKind, Fs, OpenMode as FileMode, read_file, write_all_at};
use lithdb_process_tests::{can_trace, sample_of, scratch};
use lithdb_sim::{CrashImage, Effort, SimFs, Tally};
use lithdb_state_engine::{Engines, OpenMode};

use crate::child::{self, COPIES, VERSIONS};
use crate::rows::{self, engines, read_dir, rows_at, version_of};
use crate::strace::{self, Call};

const CALLS: &str = "trace=openat,close,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,\
                     fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,\
                     unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,mmap";

/// What a call did to the files, or what the process reported.
#[derive(Debug, Clone)]
enum Event {
    Mark(String),
    Open { fd: i64, path: PathBuf, is_new: bool, is_truncated: bool },
    Close(i64),
    Write { fd: i64, at: Option<u64>, bytes: Vec<u8> },
    Sync { fd: i64, path: PathBuf },
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf, bool),
    MakeDir(PathBuf),
}

/// The event of a call that succeeded, with paths below `dir` made absolute from there.
fn event(call: &Call, dir: &Path) -> Option<Event> {
    let name = call.name.as_str();
    if name == "write" && call.file()?.0 == 1 {
        let text = String::from_utf8(call.strings().concat()).unwrap();
        return Some(Event::Mark(text.trim().strip_prefix("MARK ")?.to_owned()));
    }
    if name == "close" {
        return Some(Event::Close(call.file()?.0));
    }
    if !call.is_below(dir) || !call.succeeded() {
        return None;
    }
    let inside = |path: PathBuf| Path::new("/").join(path.strip_prefix(dir).unwrap());
    let path = |nth: usize| inside(call.paths().swap_remove(nth));
    let fd = || call.file().unwrap().0;
    let bytes = || {
        let mut bytes = call.strings().concat();
        bytes.truncate(call.returned() as usize);
        bytes
    };
    Some(match name {
        "openat" => Event::Open {
            fd: call.opened().unwrap(),
            path: path(0),
            is_new: call.has_flag("O_CREAT"),
            is_truncated: call.has_flag("O_TRUNC"),
        },
        "write" => Event::Write { fd: fd(), at: None, bytes: bytes() },
        "pwrite64" => Event::Write { fd: fd(), at: call.last_number(), bytes: bytes() },
        "fsync" | "fdatasync" => Event::Sync { fd: fd(), path: inside(call.file().unwrap().1) },
        "rename" | "renameat" | "renameat2" => Event::Rename(path(0), path(1)),
        "link" | "linkat" => Event::Link(path(0), path(1)),
        "unlink" | "unlinkat" => Event::Remove(path(0), call.has_flag("AT_REMOVEDIR")),
        "rmdir" => Event::Remove(path(0), true),
        "mkdir" | "mkdirat" => Event::MakeDir(path(0)),
        // Positions are followed from the writes; nothing seeks anywhere but to where it is.
        "lseek" => return None,
        other => panic!("not in the model: {other}: {call:?}"),
    })
}

/// The simulated disk after some events.
#[derive(Default)]
struct Replay {
    fs: SimFs,
    /// The open files: handle and position.
    open: BTreeMap<i64, (Arc<dyn File>, u64)>,
}

impl Replay {
    fn apply(&mut self, event: &Event) {
        let fs = &self.fs;
        match event {
            Event::Mark(_) => {}
            Event::Open { fd, path, is_new, is_truncated } => {
                let is_file = |kind| kind == FileKind::File;
                let exists = fs.metadata(path).is_ok_and(|found| is_file(found.kind));
                let file = match (exists, is_new) {
                    (true, _) => fs.open(path, FileMode::ReadWrite).unwrap(),
                    (false, true) => fs.create_new(path).unwrap(),
                    // A directory.
                    (false, false) => return,
                };
                if *is_truncated {
                    file.set_len(0).unwrap();
                }
                self.open.insert(*fd, (file, 0));
            }
            Event::Close(fd) => drop(self.open.remove(fd)),
            Event::Write { fd, at, bytes } => {
                let (file, position) = self.open.get_mut(fd).unwrap();
                write_all_at(&**file, bytes, at.unwrap_or(*position)).unwrap();
                if at.is_none() {
                    *position += bytes.len() as u64;
                }
            }
            Event::Sync { fd, path } => match self.open.get(fd) {
                Some((file, _)) => file.sync_all().unwrap(),
                None => fs.sync_dir(path).unwrap(),
            },
            Event::Rename(from, to) => fs.rename(from, to).unwrap(),
            Event::Link(from, to) => fs.hard_link(from, to).unwrap(),
            Event::Remove(path, true) => fs.remove_dir(path).unwrap(),
            Event::Remove(path, false) => fs.remove_file(path).unwrap(),
            Event::MakeDir(path) => fs.create_dir(path).unwrap(),
        }
    }
}

/// Writes what a simulated disk holds to a real directory.
fn write_out(fs: &SimFs, from: &Path, to: &Path) {
    for entry in fs.list(from).unwrap() {
        let (from, to) = (from.join(&entry.name), to.join(&entry.name));
        if entry.kind == FileKind::Dir {
            std::fs::create_dir(&to).unwrap();
            write_out(fs, &from, &to);
        } else {
            std::fs::write(&to, read_file(fs, &from, u64::MAX).unwrap()).unwrap();
        }
    }
}

/// What the process had been told before a point of the trace.
#[derive(Debug, Default, Clone)]
struct Told {
    is_created: bool,
    flushed: u64,
    copies: Vec<u64>,
    clones: Vec<u64>,
}

impl Told {
    fn hear(&mut self, event: &Event) {
        let Event::Mark(mark) = event else { return };
        let number = |text: &str| text.parse().unwrap();
        if mark == "ok create" {
            self.is_created = true;
        } else if let Some(version) = mark.strip_prefix("ok flush ") {
            self.flushed = number(version);
        } else if let Some(version) = mark.strip_prefix("ok publish clone ") {
            self.clones.push(number(version));
        } else if let Some(version) = mark.strip_prefix("ok publish ") {
            self.copies.push(number(version));
        }
    }
}

/// Opens everything that an image holds; returns what is wrong with it.
fn check(dir: &Path, told: &Told) -> Result<(), String> {
    let engine = dir.join("engine");
    match read_dir(&engine, OpenMode::Write) {
        Ok(found) => {
            let version = version_of(&found);
            require(version >= told.flushed, || format!("at {version}"))?;
            require_version(&found, version)?;
            continue_from(&engine, version)?;
        }
        Err(error) => require(!told.is_created, || error.to_string())?,
    }
    for version in COPIES {
        let copy = dir.join(child::copy_name(version));
        require(copy.exists() || !told.copies.contains(&version), || format!("no {copy:?}"))?;
        if copy.exists() {
            let before = rows::tree(&copy);
            let found = read_dir(&copy, OpenMode::ReadInPlace);
            require_version(&found.map_err(|error| error.to_string())?, version)?;
            require(rows::tree(&copy) == before, || "opening in place wrote".to_owned())?;
        }
        let clone = dir.join(child::clone_name(version));
        require(clone.exists() || !told.clones.contains(&version), || format!("no {clone:?}"))?;
        if clone.exists() {
            let found = read_dir(&clone, OpenMode::Write);
            require_version(&found.map_err(|error| error.to_string())?, version)?;
        }
    }
    Ok(())
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn require_version(found: &rows::Map, version: u64) -> Result<(), String> {
    require(*found == rows_at(version), || format!("not exactly version {version}"))
}

/// What was left behind hinders nothing: two more versions and a compaction, then reopening.
fn continue_from(dir: &Path, version: u64) -> Result<(), String> {
    let engine = engines().open(dir, OpenMode::Write).unwrap();
    for version in version + 1..=version + 2 {
        rows::apply(&engine, version).unwrap();
        let sealed = engine.seal(&[(rows::META, &rows::meta_of(version))]).unwrap();
        engine.flush(&sealed).unwrap();
        engine.compact_once().unwrap();
    }
    drop(engine);
    require_version(&read_dir(dir, OpenMode::Write).unwrap(), version + 2)
}

/// What the process did, in order.
fn trace() -> Vec<Event> {
    let dir = scratch();
    let root = dir.path().canonicalize().unwrap();
    let run = strace::run(&root, &["-e".to_owned(), CALLS.to_owned()]);
    assert_eq!(run.marks().last().unwrap(), "end true", "{}", run.stdout());
    let begin = run
        .calls
        .iter()
        .position(|call| matches!(event(call, &root), Some(Event::Mark(mark)) if mark == "begin"));
    run.calls[begin.unwrap()..].iter().filter_map(|call| event(call, &root)).collect()
}

/// Replays events and checks one image after them.
fn check_image(events: &[Event], told: &Told, image: &CrashImage) -> Result<(), String> {
    let mut replay = Replay::default();
    events.iter().for_each(|event| replay.apply(event));
    let to = scratch();
    write_out(&replay.fs.crash_with(image), Path::new("/"), to.path());
    check(to.path(), told)
}

#[test]
fn every_crash_image_is_one_sealed_version_and_never_an_older_one() {
    if !can_trace("every_crash_image_is_one_sealed_version_and_never_an_older_one") {
        return;
    }
    let events = trace();
    let is_change = |at: &usize| !matches!(events[*at], Event::Mark(_) | Event::Close(_));
    let changes: Vec<usize> = (0..events.len()).filter(is_change).collect();
    assert!(changes.len() > 300, "only {} changes", changes.len());

    let effort = Effort::from_env();
    let mut tally = Tally::new("crash images of the production engine");
    let seed = effort.seed("crash images");
    let mut images = vec![
        CrashImage::Nothing,
        CrashImage::Everything,
        CrashImage::LengthWithoutData,
        CrashImage::LengthWithOldBlocks,
    ];
    images.extend((0..effort.times(2)).map(|n| CrashImage::Seeded(seed.wrapping_add(n))));
    for nth in sample_of(changes.len() as u64, 100, effort.is_deep(), seed) {
        let events = &events[..=changes[nth as usize - 1]];
        let mut told = Told::default();
        events.iter().for_each(|event| told.hear(event));
        tally.add("crash points", 1);
        for image in &images {
            if let Err(wrong) = check_image(events, &told, image) {
                panic!("after {nth} changes, {image:?}: {wrong}; told: {told:?}");
            }
            tally.add("images", 1);
        }
    }
    assert!(tally.get("images") >= 300);
}

/// The images are worth something: a sync that is left out shows.
#[test]
fn crash_images_without_a_sync_are_found_wrong() {
    if !can_trace("crash_images_without_a_sync_are_found_wrong") {
        return;
    }
    let events = trace();
    let mut told = Told::default();
    events.iter().for_each(|event| told.hear(event));
    assert_eq!(told.flushed, VERSIONS);
    let lost = CrashImage::Nothing;
    check_image(&events, &told, &lost).unwrap();
    for suffix in ["/engine/tables", "/engine", "/", "/copy-4.new/tables", "/clone-9.new"] {
        let is_kept = |event: &&Event| !matches!(event, Event::Sync { path, .. } if path == Path::new(suffix));
        let kept: Vec<Event> = events.iter().filter(is_kept).cloned().collect();
        assert!(kept.len() < events.len(), "{suffix} was synced");
        assert!(check_image(&kept, &told, &lost).is_err(), "without the syncs of {suffix}");
    }
    let is_file = |path: &Path| {
        let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
        path.parent() == Some(Path::new("/engine/tables")) || name.starts_with('v')
    };
    let is_kept = |event: &&Event| !matches!(event, Event::Sync { path, .. } if is_file(path));
    let kept: Vec<Event> = events.iter().filter(is_kept).cloned().collect();
    assert!(check_image(&kept, &told, &lost).is_err(), "without the syncs of files");
}
