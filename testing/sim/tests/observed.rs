//! Every fault and every crash outcome really occurs: random histories, observed through the file
//! system's interface, show each of them, and nothing that must not happen.
//!
//! Every write of a history uses its own byte, so that a byte read later identifies its origin.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Clock, File, Fs, LockKind, OpenMode, write_all_at};
use lithdb_sim::{
    BytesChoice, Choice, CrashImage, Effort, Fault, Pages, SeededChoice, SimClock, SimFs, Tally,
};

/// What must be observed at least once.
const OUTCOMES: [&str; 60] = [
    "write lost",
    "write kept",
    "write torn at 512 bytes",
    "write torn at 4 KiB",
    "torn write with its length",
    "torn write with old blocks between",
    "length without data: zeros",
    "length without data: foreign bytes",
    "length without data: old blocks of the same file",
    "length without data: old blocks of another file",
    "length without data: bytes lost in an earlier crash",
    "truncation lost",
    "truncation kept",
    "entry lost",
    "entry kept",
    "entry kept, data lost",
    "directory lost",
    "directory kept",
    "directory removal lost",
    "directory removal kept",
    "rename lost",
    "rename kept",
    "rename over a file lost",
    "rename over a file kept",
    "rename between directories lost",
    "rename between directories kept",
    "link lost",
    "link kept",
    "unlink lost",
    "unlink kept",
    "operations kept out of order",
    "failed sync: pages lost at once",
    "failed sync: a part lost",
    "failed sync: a part durable",
    "failed sync: readable and clean",
    "failed sync: a later sync succeeds",
    "failed sync: evicted later",
    "failed sync: lost in a crash",
    "failed directory sync: a later sync does nothing",
    "stale block",
    "stale block after a crash",
    "stale read",
    "misdirected block: overwritten",
    "misdirected block: left stale",
    "misdirected block: left zeros",
    "EIO of a read",
    "EIO of a write",
    "EIO of a sync",
    "EIO of a directory sync",
    "EIO of a name",
    "ENOSPC planned",
    "ENOSPC of a full disk",
    "short write at the end of a full disk",
    "EMFILE",
    "EINTR of a read",
    "EINTR of a write",
    "short read",
    "short write",
    "clock jumped ahead",
    "clock jumped back",
];

const ZERO: u8 = 0;
const FOREIGN_BYTE: u8 = 0xDB;
const FREED_BYTE: u8 = 200;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// An unsynced write to a file with `len` durable bytes.
struct Unsynced {
    path: String,
    len: usize,
    offset: usize,
    end: usize,
    /// The byte it wrote.
    new: u8,
}

impl Unsynced {
    const BASE: u8 = 10;
    const OWN_OLD: u8 = 20;
    const TAKEN: u8 = 30;
}

struct History<'a> {
    fs: SimFs,
    random: SeededChoice,
    tally: &'a mut Tally,
    writes: Vec<Unsynced>,
    /// Unsynced steps.
    names: Vec<&'static str>,
}

const NAMES: [&str; 9] = [
    "create",
    "create dir",
    "remove dir",
    "rename",
    "rename over",
    "rename across",
    "link",
    "unlink",
    "truncate",
];

impl<'a> History<'a> {
    fn new(seed: u64, tally: &'a mut Tally) -> Self {
        let fs = SimFs::new();
        for dir in ["/d/empty", "/e"] {
            fs.make_dirs(dir);
        }
        for name in ["rename", "over-from", "over-to", "across", "link", "unlink", "truncate"] {
            fs.write_raw(format!("/d/{name}"), vec![name.len() as u8; 600]);
        }
        Self { fs, random: SeededChoice::new(seed), tally, writes: vec![], names: vec![] }
    }

    fn record(&mut self, what: &'static str) {
        assert!(OUTCOMES.contains(&what), "{what} is not in the list");
        self.tally.add(what, 1);
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.choose(bound)
    }

    fn file(&self, path: &str) -> Arc<dyn File> {
        self.fs.open(p(path), OpenMode::ReadWrite).unwrap()
    }

    /// Leaves bytes of another file on the disk that belong to no file any more.
    fn leave_freed_bytes(&mut self) {
        let file = self.fs.create_new(p("/d/scrap")).unwrap();
        write_all_at(&*file, &vec![FREED_BYTE; 5_000 + self.random.choose(9_000)], 0).unwrap();
        file.sync_all().unwrap();
        self.fs.remove_file(p("/d/scrap")).unwrap();
        self.fs.sync_dir(p("/d")).unwrap();
    }

    /// A file with earlier contents, and an unsynced write to it.
    fn write(&mut self, n: usize) {
        let path = format!("/d/w{n}");
        let len = self.below(10_000);
        self.fs.write_raw(&path, vec![Unsynced::BASE; len]);
        if self.below(2) == 0 {
            let file = self.file(&path);
            write_all_at(&*file, &[Unsynced::OWN_OLD; 9_000], len as u64).unwrap();
            file.sync_data().unwrap();
            file.set_len(len as u64).unwrap();
            file.sync_data().unwrap();
        }
        if self.below(4) == 0 {
            let file = self.file(&path);
            write_all_at(&*file, &[Unsynced::TAKEN; 9_000], len as u64).unwrap();
            self.fs = self.fs.crash_with(&CrashImage::Nothing);
        }
        let file = self.file(&path);
        let offset = if self.below(3) == 0 { self.below(len + 1) } else { len };
        let new = 40 + n as u8;
        let data = vec![new; 1 + self.below(14_000)];
        write_all_at(&*file, &data, offset as u64).unwrap();
        self.writes.push(Unsynced { path, len, offset, end: offset + data.len(), new });
    }

    /// One of the operations on names, unsynced.
    fn name(&mut self, what: &'static str) {
        let fs = &self.fs;
        match what {
            "create" => {
                let file = fs.create_new(p("/d/create")).unwrap();
                write_all_at(&*file, &[7; 600], 0).unwrap();
            }
            "create dir" => fs.create_dir(p("/d/sub")).unwrap(),
            "remove dir" => fs.remove_dir(p("/d/empty")).unwrap(),
            "rename" => fs.rename(p("/d/rename"), p("/d/renamed")).unwrap(),
            "rename over" => fs.rename(p("/d/over-from"), p("/d/over-to")).unwrap(),
            "rename across" => fs.rename(p("/d/across"), p("/e/across")).unwrap(),
            "link" => fs.hard_link(p("/d/link"), p("/d/linked")).unwrap(),
            "unlink" => fs.remove_file(p("/d/unlink")).unwrap(),
            _ => self.file("/d/truncate").set_len(100).unwrap(),
        }
        self.names.push(what);
    }

    /// Compares the file system `after` a loss of power with the unsynced operations.
    fn inspect(&mut self, after: &SimFs) {
        for n in 0..self.writes.len() {
            self.inspect_write(n, after);
        }
        let is = |path: &str| after.metadata(p(path)).is_ok();
        let len = |path: &str| after.metadata(p(path)).map_or(0, |m| m.len_bytes as usize);
        let mut fates = Vec::new();
        for what in self.names.clone() {
            let (lost, kept, was_kept) = match what {
                "create" => {
                    if is("/d/create") && len("/d/create") == 0 {
                        self.record("entry kept, data lost");
                    }
                    ("entry lost", "entry kept", is("/d/create"))
                }
                "create dir" => ("directory lost", "directory kept", is("/d/sub")),
                "remove dir" => {
                    ("directory removal lost", "directory removal kept", !is("/d/empty"))
                }
                "rename" => {
                    assert_ne!(is("/d/rename"), is("/d/renamed"));
                    ("rename lost", "rename kept", is("/d/renamed"))
                }
                "rename over" => {
                    let found = after.read_raw("/d/over-to");
                    assert_eq!(found == [9; 600], !is("/d/over-from"));
                    ("rename over a file lost", "rename over a file kept", found == [9; 600])
                }
                "rename across" => {
                    assert_ne!(is("/d/across"), is("/e/across"));
                    let kept = is("/e/across");
                    ("rename between directories lost", "rename between directories kept", kept)
                }
                "link" => {
                    assert!(is("/d/link"));
                    ("link lost", "link kept", is("/d/linked"))
                }
                "unlink" => ("unlink lost", "unlink kept", !is("/d/unlink")),
                _ => {
                    assert!([100, 600].contains(&len("/d/truncate")));
                    ("truncation lost", "truncation kept", len("/d/truncate") == 100)
                }
            };
            self.record(if was_kept { kept } else { lost });
            fates.push(was_kept);
        }
        if fates.windows(2).any(|pair| pair == [false, true]) {
            self.record("operations kept out of order");
        }
    }

    fn inspect_write(&mut self, n: usize, after: &SimFs) {
        let Unsynced { path, len, offset, end, new } = &self.writes[n];
        let (len, offset, end, new) = (*len, *offset, *end, *new);
        let found = after.read_raw(path);
        assert!(found.len() >= len, "{path}: durable bytes were lost");
        assert!(found.len() <= end.max(len), "{path}: longer than it ever was");
        let was_written = |byte: &u8| *byte == FOREIGN_BYTE || *byte <= FREED_BYTE;
        assert!(found.iter().all(was_written), "{path}: a byte that was never written");
        for (at, byte) in found.iter().enumerate() {
            let may_be: &[u8] = match at {
                _ if at < offset => &[Unsynced::BASE],
                _ if at < len && at < end => &[Unsynced::BASE, new],
                _ if at < len => &[Unsynced::BASE],
                // Past the durable length, any byte that was ever on the disk is allowed.
                _ => continue,
            };
            assert!(may_be.contains(byte), "{path} at {at}: {byte}");
        }
        let is_kept = |at: usize| found.get(at) == Some(&new);
        let kept = (offset..end).filter(|at| is_kept(*at)).count();
        let whole_length = end > len && found.len() == end;
        let new_part = &found[len..];
        let is_old = |byte: &u8| [FREED_BYTE, Unsynced::OWN_OLD, Unsynced::TAKEN].contains(byte);
        if kept == end - offset {
            self.record("write kept");
        } else if kept > 0 {
            let edges: Vec<usize> =
                (offset + 1..end).filter(|at| is_kept(*at) != is_kept(at - 1)).collect();
            assert!(edges.iter().all(|at| at % 512 == 0), "{edges:?}");
            let is_4k = edges.iter().all(|at| at % 4096 == 0);
            self.record(if is_4k { "write torn at 4 KiB" } else { "write torn at 512 bytes" });
            if whole_length && !is_kept(end - 1) {
                self.record("torn write with its length");
            }
            if new_part.iter().any(is_old) {
                self.record("torn write with old blocks between");
            }
        } else if found.len() == len {
            self.record("write lost");
        } else {
            assert!(whole_length);
            for (byte, what) in [
                (FOREIGN_BYTE, "length without data: foreign bytes"),
                (FREED_BYTE, "length without data: old blocks of another file"),
                (Unsynced::OWN_OLD, "length without data: old blocks of the same file"),
                (Unsynced::TAKEN, "length without data: bytes lost in an earlier crash"),
            ] {
                if new_part.contains(&byte) {
                    self.record(what);
                }
            }
            if new_part.iter().all(|byte| *byte == ZERO) {
                self.record("length without data: zeros");
            }
        }
    }

    /// Failed syncs of every kind.
    fn failed_syncs(&mut self) {
        let (old, new) = (1, 2);
        self.fs.write_raw("/d/f", vec![old; 1000]);
        let file = self.file("/d/f");
        let at = self.below(900);
        let byte = |fs: &SimFs| fs.read_raw("/d/f")[at];
        file.write_at(&[new], at as u64).unwrap();
        let pages = [Pages::Lost, Pages::PartlyLost, Pages::ReadableAndClean][self.below(3)];
        self.fs.fail_op(1, Fault::FailedSync { pages }, false);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        if pages == Pages::Lost {
            assert_eq!(byte(&self.fs), old);
            return self.record("failed sync: pages lost at once");
        }
        if pages == Pages::PartlyLost {
            let is_new = byte(&self.fs) == new;
            self.fs = self.fs.crash_with(&CrashImage::Nothing);
            assert_eq!(is_new, byte(&self.fs) == new);
            return self.record(
                ["failed sync: a part lost", "failed sync: a part durable"][usize::from(is_new)],
            );
        }
        assert_eq!(byte(&self.fs), new);
        self.record("failed sync: readable and clean");
        file.sync_data().unwrap();
        self.record("failed sync: a later sync succeeds");
        assert_eq!(
            byte(&self.fs.fork().crash_with(&CrashImage::Nothing)),
            new,
            "a fork is durable"
        );
        if self.below(2) == 0 {
            self.fs.evict();
            assert_eq!(byte(&self.fs), old);
            self.record("failed sync: evicted later");
        } else {
            self.fs = self.fs.crash_with(&CrashImage::Everything);
            assert_eq!(byte(&self.fs), old);
            self.record("failed sync: lost in a crash");
        }
    }

    fn failed_directory_sync(&mut self) {
        self.fs.make_dirs("/g");
        self.fs.create_new(p("/g/lie")).unwrap();
        self.fs.fail_op(1, Fault::FailedSync { pages: Pages::ReadableAndClean }, false);
        assert!(self.fs.sync_dir(p("/g")).is_err());
        self.fs.sync_dir(p("/g")).unwrap();
        self.fs = self.fs.crash_with(&CrashImage::Nothing);
        assert!(self.fs.metadata(p("/g/lie")).is_err());
        self.record("failed directory sync: a later sync does nothing");
    }

    /// A device that loses or misplaces acknowledged blocks.
    fn device(&mut self) {
        self.fs.write_raw("/d/a", vec![1; 8192]);
        self.fs.write_raw("/d/b", vec![9; 8192]);
        let file = self.file("/d/a");
        let unit = [512, 4096][self.below(2)];
        let at = self.below(8192 / unit) * unit;
        let block = |fs: &SimFs, path: &str| fs.read_raw(path)[at..at + unit].to_vec();
        if self.below(4) == 0 {
            self.fs.misdirect_block((p("/d/a"), at as u64), (p("/d/b"), at as u64), unit);
            assert_eq!(block(&self.fs, "/d/a"), vec![0; unit]);
            return self.record("misdirected block: left zeros");
        }
        write_all_at(&*file, &vec![2; unit], at as u64).unwrap();
        assert!(self.fs.older_blocks("/d/a", at as u64, unit).is_empty(), "not durable yet");
        file.sync_data().unwrap();
        match self.below(4) {
            0 => {
                self.fs.fail_read(1, Fault::StaleRead);
                let mut read = vec![0; unit];
                lithdb_env::read_exact_at(&*file, &mut read, at as u64).unwrap();
                assert_eq!(read, vec![1; unit]);
                assert_eq!(block(&self.fs, "/d/a"), vec![2; unit], "the disk holds the newer");
                self.record("stale read");
            }
            1 => {
                self.fs.misdirect_block((p("/d/a"), at as u64), (p("/d/b"), at as u64), unit);
                assert_eq!(block(&self.fs, "/d/b"), vec![2; unit]);
                self.record("misdirected block: overwritten");
                assert_eq!(block(&self.fs, "/d/a"), vec![1; unit]);
                self.record("misdirected block: left stale");
            }
            which => {
                let crashed = which == 2;
                if crashed {
                    self.fs = self.fs.crash_with(&CrashImage::Nothing);
                }
                assert!(self.fs.stale_block("/d/a", at as u64, unit));
                assert_eq!(block(&self.fs, "/d/a"), vec![1; unit]);
                self.record(if crashed { "stale block after a crash" } else { "stale block" });
            }
        }
        let others = self.fs.read_raw("/d/b").iter().filter(|byte| **byte != 9).count();
        assert!(others == 0 || others == unit);
    }

    /// Operations that fail or are short.
    fn refused(&mut self) {
        self.fs.write_raw("/d/x", vec![5; 2000]);
        let (fs, file) = (self.fs.clone(), self.file("/d/x"));
        let mut buf = [0; 100];
        let code = |error: io::Error| error.raw_os_error().unwrap();
        let op = |fault| fs.fail_op(1, fault, false);
        let read = |fault| fs.fail_read(1, fault);
        match self.below(15) {
            0 => {
                read(Fault::Eio);
                assert_eq!(code(file.read_at(&mut buf, 0).unwrap_err()), 5);
                self.record("EIO of a read");
            }
            1 => {
                op(Fault::Eio);
                assert_eq!(code(file.write_at(&buf, 0).unwrap_err()), 5);
                self.record("EIO of a write");
            }
            2 => {
                op(Fault::Eio);
                assert_eq!(code(file.sync_all().unwrap_err()), 5);
                self.record("EIO of a sync");
            }
            3 => {
                op(Fault::Eio);
                assert_eq!(code(fs.sync_dir(p("/d")).unwrap_err()), 5);
                self.record("EIO of a directory sync");
            }
            4 => {
                op(Fault::Eio);
                assert_eq!(code(fs.rename(p("/d/x"), p("/d/y")).unwrap_err()), 5);
                assert!(fs.metadata(p("/d/x")).is_ok());
                self.record("EIO of a name");
            }
            5 => {
                op(Fault::NoSpace);
                assert_eq!(code(file.allocate(0, 9000).unwrap_err()), 28);
                self.record("ENOSPC planned");
            }
            6 => {
                let used = (1 << 50) - fs.free_space(p("/")).unwrap();
                fs.set_capacity(Some(used + 4096));
                assert_eq!(file.write_at(&[1; 9000], 0).unwrap(), 8192);
                self.record("short write at the end of a full disk");
                assert_eq!(code(fs.create_dir(p("/full")).unwrap_err()), 28);
                fs.set_capacity(None);
                self.record("ENOSPC of a full disk");
            }
            7..10 => {
                op(Fault::TooManyFiles);
                let made = fs.create_new(p("/d/emfile"));
                assert_eq!(code(made.unwrap_err()), 24);
                op(Fault::TooManyFiles);
                assert_eq!(code(fs.sync_dir(p("/d")).unwrap_err()), 24);
                read(Fault::TooManyFiles);
                assert_eq!(code(fs.open(p("/d/x"), OpenMode::Read).unwrap_err()), 24);
                read(Fault::TooManyFiles);
                assert_eq!(code(fs.list(p("/d")).unwrap_err()), 24);
                read(Fault::TooManyFiles);
                assert_eq!(code(fs.try_lock(p("/d/x"), LockKind::Shared).unwrap_err()), 24);
                read(Fault::TooManyFiles);
                file.map(100, Default::default()).unwrap(); // needs no descriptor
                fs.metadata(p("/d/x")).unwrap();
                fs.clear_faults();
                self.record("EMFILE");
            }
            10 => {
                read(Fault::Interrupted);
                assert_eq!(code(file.read_at(&mut buf, 0).unwrap_err()), 4);
                self.record("EINTR of a read");
            }
            11 => {
                op(Fault::Interrupted);
                assert_eq!(code(file.write_at(&buf, 0).unwrap_err()), 4);
                self.record("EINTR of a write");
            }
            12 => {
                read(Fault::ShortWrite);
                assert_eq!(file.read_at(&mut buf, 0).unwrap(), 50);
                self.record("short read");
            }
            13 => {
                op(Fault::ShortWrite);
                assert_eq!(file.write_at(&buf, 0).unwrap(), 50);
                self.record("short write");
            }
            _ => {
                let clock = SimClock::new(1);
                let (wall, steady) = (clock.now(), clock.monotonic());
                clock.advance(Duration::from_secs(1));
                let ahead = self.below(2) == 0;
                clock.jump(if ahead { 86_400_000 } else { -86_400_000 });
                assert_eq!(clock.monotonic() - steady, Duration::from_secs(1));
                assert_eq!(clock.now() > wall, ahead);
                self.record(if ahead { "clock jumped ahead" } else { "clock jumped back" });
            }
        }
    }
}

/// The crash images on which the histories are inspected.
fn images(random: &mut SeededChoice, unsynced: usize) -> Vec<CrashImage> {
    let mut images = vec![
        CrashImage::Nothing,
        CrashImage::Everything,
        CrashImage::LengthWithoutData,
        CrashImage::LengthWithOldBlocks,
        CrashImage::Prefix(random.choose(unsynced + 1)),
        CrashImage::OnlyOne(random.choose(unsynced + 1)),
    ];
    images.extend((0..4).map(|_| CrashImage::Seeded(random.next_u64())));
    images
}

#[test]
fn every_fault_and_crash_outcome_is_observed() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("outcomes of crashes and faults");
    for round in 0..effort.times(400) {
        let mut history = History::new(effort.seed("outcomes") ^ round, &mut tally);
        // Durable steps first, then the unsynced ones in any order.
        history.leave_freed_bytes();
        history.failed_syncs();
        history.failed_directory_sync();
        history.device();
        history.refused();
        // Writes come first: one may crash on the way, to give its file earlier contents.
        (0..3).for_each(|n| history.write(n));
        let mut steps: Vec<usize> = (0..NAMES.len()).collect();
        while !steps.is_empty() {
            let step = history.below(steps.len());
            let step = steps.swap_remove(step);
            if history.below(4) > 0 {
                history.name(NAMES[step]);
            }
        }
        let unsynced = history.fs.unsynced_ops();
        let fs = history.fs.clone();
        for image in images(&mut history.random, unsynced) {
            history.tally.add("crashes", 1);
            let after = fs.crash_with(&image);
            history.inspect(&after);
        }
        let bytes: Vec<u8> = (0..64).map(|_| history.random.next_u64() as u8).collect();
        let after = fs.crash(&mut BytesChoice::new(&bytes));
        history.inspect(&after);
        tally.add("histories", 1);
    }
    for outcome in OUTCOMES {
        assert!(tally.get(outcome) > 0, "never seen: {outcome}");
    }
}
