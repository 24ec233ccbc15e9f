//! Conformance of the simulation with the operating system: the same random operations on both
//! give the same results, names, lengths, links and bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lithdb_env::{File, FileKind, Fs, LockKind, OpenMode, OsFs};
use lithdb_sim::{Choice, Effort, SeededChoice, SimFs, Tally};

const PATHS: [&str; 9] = ["a", "b", "c", "d", "d/a", "d/b", "e/a", "d/e", "a/x"];
const DIRS: [&str; 4] = [".", "d", "e", "d/e"];

/// One operation, with paths below a base directory and handles by number.
#[derive(Debug, Clone)]
enum Op {
    Create(&'static str),
    Open(&'static str, OpenMode),
    Close(usize),
    Write(usize, Vec<u8>, u64),
    Read(usize, usize, u64),
    SetLen(usize, u64),
    Allocate(usize, u64),
    Sync(usize),
    Links(usize),
    Map(usize),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    RemoveDir(&'static str),
    Link(&'static str, &'static str),
    CreateDir(&'static str),
    SyncDir(&'static str),
    Lock(&'static str),
    Exists(&'static str),
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Open(..) => "open",
            Self::Close(_) => "close",
            Self::Write(..) => "write",
            Self::Read(..) => "read",
            Self::SetLen(..) => "set length",
            Self::Allocate(..) => "allocate",
            Self::Sync(_) => "sync",
            Self::Links(_) => "links",
            Self::Map(_) => "map",
            Self::Rename(..) => "rename",
            Self::Remove(_) => "remove",
            Self::RemoveDir(_) => "remove directory",
            Self::Link(..) => "link",
            Self::CreateDir(_) => "create directory",
            Self::SyncDir(_) => "sync directory",
            Self::Lock(_) => "lock",
            Self::Exists(_) => "exists",
        }
    }
}

/// What must have occurred at least once, besides every operation.
const SITUATIONS: [&str; 24] = [
    "EPERM",
    "ENOENT",
    "EBADF",
    "EEXIST",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENOTEMPTY",
    "no such handle",
    "rename of a file over a file",
    "rename of a file over itself",
    "rename between two names of one file",
    "rename of a file over a directory",
    "rename of a directory over a file",
    "rename of a directory over an empty one",
    "rename of a directory over a full one",
    "rename of a directory into itself",
    "removal of an open file",
    "use of a file without a name",
    "read across the end",
    "read past the end",
    "length increased",
    "length decreased",
    "lock that is held",
];

fn error_name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(1) => "EPERM",
        Some(2) => "ENOENT",
        Some(9) => "EBADF",
        Some(17) => "EEXIST",
        Some(20) => "ENOTDIR",
        Some(21) => "EISDIR",
        Some(22) => "EINVAL",
        Some(39) => "ENOTEMPTY",
        Some(_) => "another error",
        None => "no such handle",
    }
}

fn random_op(random: &mut SeededChoice) -> Op {
    let (one, two) = (PATHS[random.choose(PATHS.len())], PATHS[random.choose(PATHS.len())]);
    let (handle, dir) = (random.choose(4), DIRS[1 + random.choose(DIRS.len() - 1)]);
    let (len, offset) = (random.choose(6_000), random.choose(9_000) as u64);
    match random.choose(40) {
        0..6 => Op::Create(one),
        6..9 => Op::Open(one, OpenMode::ReadWrite),
        9 => Op::Open(one, OpenMode::Read),
        10 => Op::Close(handle),
        11..16 => Op::Write(handle, vec![random.choose(256) as u8; len], offset),
        16..18 => Op::Read(handle, len, offset),
        18..20 => Op::SetLen(handle, offset),
        20 => Op::Allocate(handle, offset),
        // Syncs are slow on a real disk, and their result is always the same.
        21 if random.choose(100) == 0 => Op::Sync(handle),
        21 | 22 => Op::Links(handle),
        23 => Op::Map(handle),
        24..27 => Op::Rename(one, two),
        27 => Op::Rename(dir, DIRS[1 + random.choose(DIRS.len() - 1)]),
        28..31 => Op::Remove(one),
        31 => Op::RemoveDir(dir),
        32..34 => Op::Link(one, two),
        34..37 => Op::CreateDir(dir),
        37 if random.choose(100) == 0 => Op::SyncDir(dir),
        37 => Op::Remove(one),
        38 => Op::Lock(one),
        _ => Op::Exists(one),
    }
}

struct Harness<'a> {
    fs: &'a dyn Fs,
    base: PathBuf,
    handles: Vec<Arc<dyn File>>,
}

impl Harness<'_> {
    fn keep(&mut self, file: Arc<dyn File>) {
        if self.handles.len() == 4 {
            self.handles.remove(0);
        }
        self.handles.push(file);
    }

    /// The result of the operation in a comparable form, with the system's own error number.
    fn run(&mut self, op: &Op) -> Result<String, (io::ErrorKind, &'static str)> {
        self.attempt(op).map_err(|error| (error.kind(), error_name(&error)))
    }

    /// What is special about an operation, determined before it runs.
    fn situation(&self, op: &Op) -> Option<&'static str> {
        #[expect(clippy::disallowed_methods, reason = "the comparison reports failures")]
        let metadata = |path: &str| self.fs.metadata(&self.base.join(path)).ok();
        let len = |n: usize| self.handles.get(n).map(|file| file.len().unwrap());
        match op {
            Op::Write(n, ..) | Op::Read(n, ..) | Op::SetLen(n, _) | Op::Map(n)
                if self.handles.get(*n).is_some_and(|file| file.links().unwrap() == 0) =>
            {
                Some("use of a file without a name")
            }
            Op::Read(n, _, offset) if *offset > len(*n)? => Some("read past the end"),
            Op::Read(n, want, offset) if offset + *want as u64 > len(*n)? => {
                Some("read across the end")
            }
            Op::SetLen(n, to) if *to > len(*n)? => Some("length increased"),
            Op::SetLen(n, to) if *to < len(*n)? => Some("length decreased"),
            Op::Rename(from, to) => {
                let (from_is, to_is) = (metadata(from)?, metadata(to));
                if from_is.kind == FileKind::Dir && to.starts_with(&format!("{from}/")) {
                    return Some("rename of a directory into itself");
                }
                let to_is = to_is?;
                let names = |path: &str| self.fs.list(&self.base.join(path)).unwrap().len();
                match (from_is.kind, to_is.kind) {
                    _ if from == to => Some("rename of a file over itself"),
                    (FileKind::File, FileKind::File) if from_is.identity == to_is.identity => {
                        Some("rename between two names of one file")
                    }
                    (FileKind::File, FileKind::File) => Some("rename of a file over a file"),
                    (FileKind::File, _) => Some("rename of a file over a directory"),
                    (_, FileKind::File) => Some("rename of a directory over a file"),
                    _ if names(to) == 0 => Some("rename of a directory over an empty one"),
                    _ => Some("rename of a directory over a full one"),
                }
            }
            _ => None,
        }
    }

    /// The number of handles of files that have no name.
    fn unlinked_handles(&self) -> usize {
        self.handles.iter().filter(|file| file.links().unwrap() == 0).count()
    }

    fn attempt(&mut self, op: &Op) -> io::Result<String> {
        let fs = self.fs;
        let at = |path: &str| self.base.join(path);
        let handle = |n: usize| self.handles.get(n).cloned().ok_or(io::ErrorKind::InvalidInput);
        let nothing = |()| String::new();
        // Leaves out what differs only for directories (a real file system can open and lock
        // them).
        let is_dir =
            |path: &str| matches!(fs.metadata(&at(path)), Ok(m) if m.kind == FileKind::Dir);
        match op {
            Op::Create(path) => {
                let file = fs.create_new(&at(path))?;
                self.keep(file);
                Ok(String::new())
            }
            Op::Open(path, _) | Op::Lock(path) if is_dir(path) => Ok(String::new()),
            Op::Open(path, mode) => {
                let file = fs.open(&at(path), *mode)?;
                self.keep(file);
                Ok(String::new())
            }
            Op::Close(n) => {
                if *n < self.handles.len() {
                    self.handles.remove(*n);
                }
                Ok(String::new())
            }
            Op::Write(n, data, offset) => Ok(handle(*n)?.write_at(data, *offset)?.to_string()),
            Op::Read(n, len, offset) => {
                let mut buf = vec![0; *len];
                let got = handle(*n)?.read_at(&mut buf, *offset)?;
                Ok(format!("{:?}", &buf[..got]))
            }
            Op::SetLen(n, len) => handle(*n)?.set_len(*len).map(nothing),
            Op::Allocate(n, len) => handle(*n)?.allocate(0, *len).map(nothing),
            Op::Sync(n) => handle(*n)?.sync_data().map(nothing),
            Op::Links(n) => Ok(handle(*n)?.links()?.to_string()),
            Op::Map(n) => {
                let file = handle(*n)?;
                let len = file.len()?;
                Ok(format!("{:?}", file.map(len, Default::default())?.bytes(0, len as usize)))
            }
            Op::Rename(from, to) => fs.rename(&at(from), &at(to)).map(nothing),
            Op::Remove(path) => fs.remove_file(&at(path)).map(nothing),
            Op::RemoveDir(path) => fs.remove_dir(&at(path)).map(nothing),
            Op::Link(from, to) => fs.hard_link(&at(from), &at(to)).map(nothing),
            Op::CreateDir(path) => fs.create_dir(&at(path)).map(nothing),
            Op::SyncDir(path) if !is_dir(path) => Ok(String::new()),
            Op::SyncDir(path) => fs.sync_dir(&at(path)).map(nothing),
            Op::Lock(path) => {
                use LockKind::{Exclusive, Shared};
                let mut answers = Vec::new();
                for (first, second) in [
                    (Exclusive, Shared),
                    (Exclusive, Exclusive),
                    (Shared, Shared),
                    (Shared, Exclusive),
                ] {
                    let one = fs.try_lock(&at(path), first)?;
                    let two = fs.try_lock(&at(path), second)?;
                    answers.push((one.is_some(), two.is_some()));
                }
                Ok(format!("{answers:?}"))
            }
            Op::Exists(path) => lithdb_env::exists(fs, &at(path)).map(|there| there.to_string()),
        }
    }

    /// Everything visible.
    fn snapshot(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for dir in DIRS {
            let dir = self.base.join(dir);
            let Ok(entries) = self.fs.list(&dir) else { continue };
            for entry in entries {
                let path = dir.join(&entry.name);
                seen.push(format!("{:?}", path.strip_prefix(&self.base).unwrap()));
                if entry.kind == FileKind::File {
                    let metadata = self.fs.metadata(&path).unwrap();
                    let bytes = lithdb_env::read_file(self.fs, &path, 1 << 20).unwrap();
                    assert_eq!(bytes.len() as u64, metadata.len_bytes);
                    seen.push(format!("{} links, {}", metadata.links, digest(&bytes)));
                }
            }
        }
        seen.extend(self.handles.iter().map(|file| format!("{:?}", file.len().unwrap())));
        seen
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(1_u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01B3).wrapping_add(u64::from(*byte)));
    format!("{} bytes, {sum:x}", bytes.len())
}

fn same_identities(sim: &Harness<'_>, os: &Harness<'_>) {
    for (n, one) in PATHS.iter().enumerate() {
        for two in &PATHS[..n] {
            let is_one = |harness: &Harness<'_>| {
                #[expect(clippy::disallowed_methods, reason = "the comparison reports failures")]
                let find = |path: &str| harness.fs.metadata(&harness.base.join(path)).ok();
                Some(find(one)?.identity == find(two)?.identity)
            };
            assert_eq!(is_one(sim), is_one(os), "{one} and {two}");
        }
    }
}

#[test]
fn random_operations_match_the_real_os() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("operations against the operating system");
    let mut names = std::collections::BTreeSet::new();
    for round in 0..effort.times(3_000) {
        let seed = effort.seed("against the operating system") ^ round;
        let mut random = SeededChoice::new(seed);
        let sim_fs = SimFs::new();
        sim_fs.make_dirs("/base");
        let tmp = tempfile::tempdir().unwrap();
        let mut sim = Harness { fs: &sim_fs, base: Path::new("/base").into(), handles: vec![] };
        let mut os = Harness { fs: &OsFs, base: tmp.path().into(), handles: vec![] };
        let mut history = Vec::new();
        for _ in 0..40 {
            let op = random_op(&mut random);
            history.push(format!("{op:?}").chars().take(60).collect::<String>());
            let situation = sim.situation(&op);
            let unlinked_handles = sim.unlinked_handles();
            let (of_sim, of_os) = (sim.run(&op), os.run(&op));
            assert!(of_sim == of_os, "seed {seed}: {history:#?}\nsim {of_sim:?}\nos {of_os:?}");
            names.insert(op.name());
            tally.add(op.name(), 1);
            situation.into_iter().for_each(|what| tally.add(what, 1));
            if matches!(op, Op::Remove(_)) && sim.unlinked_handles() > unlinked_handles {
                tally.add("removal of an open file", 1);
            }
            match of_os {
                Ok(answer) if matches!(op, Op::Lock(_)) && answer.contains("false") => {
                    tally.add("lock that is held", 1);
                }
                Ok(_) => {}
                Err((_, name)) => tally.add(name, 1),
            }
            tally.add("operations", 1);
        }
        assert_eq!(sim.snapshot(), os.snapshot(), "seed {seed}: {history:#?}");
        same_identities(&sim, &os);
        tally.add("sequences", 1);
    }
    assert_eq!(names.len(), 18, "an operation was never tried: {names:?}");
    for situation in SITUATIONS {
        assert!(tally.get(situation) > 0, "never: {situation}");
    }
    assert_eq!(tally.get("another error"), 0, "`error_name` lacks an error");
}
