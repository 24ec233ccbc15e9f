//! What a crash may lose, and what it never loses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

use std::collections::BTreeSet;
use std::path::Path;

use lithdb_env::{Fs, OpenMode, write_all_at};
use lithdb_sim::{BytesChoice, CrashImage, ExhaustiveChoice, ScriptedChoice, SeededChoice, SimFs};

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// `/d/f` with `bytes`, all durable.
fn with_durable(bytes: &[u8]) -> SimFs {
    let fs = SimFs::new();
    fs.write_raw("/d/f", bytes.to_vec());
    fs
}

/// `look` applied to every image that a crash can leave.
fn all_images<T: Ord>(fs: &SimFs, look: impl Fn(&SimFs) -> T) -> BTreeSet<T> {
    let (mut choice, mut seen) = (ExhaustiveChoice::with_limit(20_000), BTreeSet::new());
    loop {
        seen.insert(look(&fs.crash(&mut choice)));
        if !choice.advance() {
            assert!(choice.rounds() < 20_000, "too many combinations for a test");
            return seen;
        }
    }
}

fn names(fs: &SimFs) -> Vec<String> {
    fs.file_paths().iter().map(|path| path.display().to_string()).collect()
}

#[test]
fn unsynced_data_may_vanish_or_stay() {
    let fs = with_durable(b"old");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, b"new", 0).unwrap();
    let seen = all_images(&fs, |fs| fs.read_raw("/d/f"));
    assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
}

#[test]
fn synced_data_never_vanishes() {
    let fs = with_durable(b"");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, &[7; 3000], 0).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, &[8; 1100], 3000).unwrap();
    for seed in 0..200 {
        let bytes = fs.crash_with(&CrashImage::Seeded(seed)).read_raw("/d/f");
        assert!(bytes.len() >= 3000, "seed {seed}");
        assert!(bytes[..3000].iter().all(|b| *b == 7), "seed {seed}");
    }
}

#[test]
fn synced_file_may_vanish_if_its_directory_was_not_synced() {
    let fs = SimFs::new();
    let file = fs.create_new(p("/f")).unwrap();
    write_all_at(&*file, b"synced", 0).unwrap();
    file.sync_all().unwrap();
    let seen = all_images(&fs, names);
    assert_eq!(seen, BTreeSet::from([vec![], vec!["/f".to_owned()]]));
    assert_eq!(fs.crash_with(&CrashImage::Everything).read_raw("/f"), b"synced");
    assert!(fs.crash_with(&CrashImage::Nothing).file_paths().is_empty());
}

#[test]
fn directory_sync_persists_names_but_not_data() {
    let fs = SimFs::new();
    let file = fs.create_new(p("/f")).unwrap();
    write_all_at(&*file, b"not synced", 0).unwrap();
    fs.sync_dir(p("/")).unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/f"), b"");
}

#[test]
fn directory_lost_from_its_parent_loses_its_files() {
    let fs = SimFs::new();
    fs.create_dir(p("/d")).unwrap();
    fs.create_new(p("/d/f")).unwrap().sync_all().unwrap();
    fs.sync_dir(p("/d")).unwrap();
    assert!(fs.crash_with(&CrashImage::Nothing).file_paths().is_empty());
    fs.crash_with(&CrashImage::Everything).open(p("/d/f"), OpenMode::Read).unwrap();
}

#[test]
fn rename_is_atomic_across_a_crash() {
    let fs = SimFs::new();
    fs.write_raw("/new", b"new".to_vec());
    fs.write_raw("/old", b"old".to_vec());
    fs.rename(p("/new"), p("/old")).unwrap();
    let seen = all_images(&fs, |fs| (names(fs), fs.read_raw("/old")));
    let both = (vec!["/new".to_owned(), "/old".to_owned()], b"old".to_vec());
    assert_eq!(seen, BTreeSet::from([both, (vec!["/old".to_owned()], b"new".to_vec())]));
}

#[test]
fn chained_renames_never_duplicate_or_lose_the_file() {
    let fs = SimFs::new();
    fs.make_dirs("/x");
    fs.write_raw("/a", b"payload".to_vec());
    fs.create_dir(p("/y")).unwrap();
    fs.rename(p("/a"), p("/b")).unwrap();
    fs.rename(p("/b"), p("/x/c")).unwrap();
    fs.rename(p("/x/c"), p("/y/d")).unwrap();
    fs.rename(p("/y/d"), p("/e")).unwrap();
    fs.remove_dir(p("/y")).unwrap();
    let seen = all_images(&fs, names);
    assert!(seen.iter().all(|paths| paths.len() == 1), "{seen:?}");
    let all: BTreeSet<_> = seen.into_iter().map(|mut paths| paths.remove(0)).collect();
    assert_eq!(
        all.iter().map(String::as_str).collect::<Vec<_>>(),
        ["/a", "/b", "/e", "/x/c", "/y/d"]
    );
}

#[test]
fn swapped_directories_never_form_a_cycle() {
    let fs = SimFs::new();
    fs.write_raw("/a/b/f", b"1".to_vec());
    fs.write_raw("/a/g", b"2".to_vec());
    fs.rename(p("/a/b"), p("/b")).unwrap();
    fs.rename(p("/a"), p("/b/a")).unwrap();
    for paths in all_images(&fs, names) {
        assert_eq!(paths.len(), 2, "{paths:?}");
    }
}

#[test]
fn rename_synced_on_one_side_is_durable_on_both() {
    let fs = SimFs::new();
    fs.make_dirs("/x");
    fs.write_raw("/a", b"1".to_vec());
    fs.rename(p("/a"), p("/x/a")).unwrap();
    fs.sync_dir(p("/")).unwrap();
    assert_eq!(names(&fs.crash_with(&CrashImage::Nothing)), ["/x/a"]);
}

#[test]
fn unsynced_removal_may_be_undone_by_a_crash() {
    let fs = with_durable(b"back");
    fs.remove_file(p("/d/f")).unwrap();
    assert_eq!(fs.crash_with(&CrashImage::Nothing).read_raw("/d/f"), b"back");
    assert!(fs.crash_with(&CrashImage::Everything).file_paths().is_empty());

    let fs = with_durable(b"gone");
    fs.remove_file(p("/d/f")).unwrap();
    fs.sync_dir(p("/d")).unwrap();
    assert!(fs.crash_with(&CrashImage::Nothing).file_paths().is_empty());
}

#[test]
fn hard_links_share_their_bytes_before_and_after_a_crash() {
    let fs = with_durable(b"one");
    fs.hard_link(p("/d/f"), p("/d/g")).unwrap();
    fs.sync_dir(p("/d")).unwrap();
    let file = fs.open(p("/d/g"), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, b"two", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.read_raw("/d/f"), b"two");
    assert_eq!(file.links().unwrap(), 2);
    let after = fs.crash_with(&CrashImage::Nothing);
    let (f, g) = (after.metadata(p("/d/f")).unwrap(), after.metadata(p("/d/g")).unwrap());
    assert_eq!((f.identity, f.links), (g.identity, 2));
    after.open(p("/d/f"), OpenMode::ReadWrite).unwrap().write_at(b"3", 0).unwrap();
    assert_eq!(after.read_raw("/d/g"), b"3wo");
}

#[test]
fn length_may_persist_while_data_reads_as_zeros() {
    let fs = with_durable(b"abc");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, b"ABCDE", 0).unwrap();
    fs.create_new(p("/d/g")).unwrap();
    let after = fs.crash_with(&CrashImage::LengthWithoutData);
    assert_eq!(after.read_raw("/d/f"), b"abc\0\0");
    assert_eq!(names(&after), ["/d/f", "/d/g"]);
}

#[test]
fn length_may_persist_while_data_reads_as_stale_blocks() {
    let written = || {
        let fs = with_durable(b"abc");
        let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
        write_all_at(&*file, b"ABCDE", 0).unwrap();
        fs
    };
    let after = written().crash_with(&CrashImage::LengthWithOldBlocks);
    assert_eq!(after.read_raw("/d/f"), b"abc\xDB\xDB", "no blocks were freed");

    let fs = written();
    fs.create_new(p("/d/g")).unwrap().write_at(b"123456", 0).unwrap();
    fs.remove_file(p("/d/g")).unwrap();
    let after = fs.crash_with(&CrashImage::LengthWithOldBlocks);
    assert_eq!(after.read_raw("/d/f"), b"abc45", "a removed file");
    let seen = all_images(&fs, |fs| fs.read_raw("/d/f"));
    assert!(seen.contains(&b"abc45"[..]) && seen.contains(&b"abc\0\0"[..]), "{seen:?}");

    let fs = with_durable(b"abcdefgh");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    file.set_len(3).unwrap();
    file.sync_data().unwrap();
    write_all_at(&*file, b"ABCDE", 0).unwrap();
    let after = fs.crash_with(&CrashImage::LengthWithOldBlocks);
    assert_eq!(after.read_raw("/d/f"), b"abcde", "the bytes before the truncation");
}

#[test]
fn bytes_lost_in_a_crash_may_reappear_as_stale_blocks() {
    let fs = with_durable(b"abc");
    let write = |fs: &SimFs, bytes: &[u8]| {
        let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
        write_all_at(&*file, bytes, 3).unwrap();
    };
    write(&fs, b"DEFGH");
    let fs = fs.crash_with(&CrashImage::Nothing);
    assert_eq!(fs.read_raw("/d/f"), b"abc");
    write(&fs, b"de");
    assert_eq!(fs.crash_with(&CrashImage::LengthWithOldBlocks).read_raw("/d/f"), b"abcDE");
}

#[test]
fn writes_tear_only_at_sector_boundaries() {
    let fs = with_durable(&[0; 2048]);
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    write_all_at(&*file, &[9; 1000], 500).unwrap();
    let mut torn = 0;
    for image in all_images(&fs, |fs| fs.read_raw("/d/f")) {
        assert_eq!(image.len(), 2048);
        assert!(image[..500].iter().chain(&image[1500..]).all(|b| *b == 0));
        for sector in [500..512, 512..1024, 1024..1500] {
            let first = image[sector.start];
            assert!(image[sector].iter().all(|b| *b == first));
        }
        torn += usize::from(image[500] != image[600]);
    }
    assert_eq!(
        torn, 4,
        "first sector without second, second without first, with and without third"
    );
}

#[test]
fn unsynced_writes_survive_in_any_combination() {
    let fs = SimFs::new();
    for name in ["/a", "/b"] {
        fs.write_raw(name, vec![0; 2]);
        let file = fs.open(p(name), OpenMode::ReadWrite).unwrap();
        file.write_at(&[1], 0).unwrap();
        file.write_at(&[1], 1).unwrap();
    }
    let seen = all_images(&fs, |fs| [fs.read_raw("/a"), fs.read_raw("/b")].concat());
    assert_eq!(seen.len(), 16);
}

#[test]
fn simple_crash_images_keep_exactly_what_they_name() {
    let fs = with_durable(&[0; 3]);
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    for n in 0..3 {
        file.write_at(&[1], n).unwrap();
    }
    assert_eq!(fs.unsynced_ops(), 3);
    let image = |image| fs.crash_with(&image).read_raw("/d/f");
    assert_eq!(image(CrashImage::Nothing), [0, 0, 0]);
    assert_eq!(image(CrashImage::Everything), [1, 1, 1]);
    assert_eq!(image(CrashImage::Prefix(2)), [1, 1, 0]);
    assert_eq!(image(CrashImage::OnlyOne(1)), [0, 1, 0]);
    assert_eq!(image(CrashImage::Seeded(5)), image(CrashImage::Seeded(5)));
}

#[test]
fn kept_rename_implies_its_creation() {
    let fs = SimFs::new();
    fs.create_new(p("/f.new")).unwrap().sync_all().unwrap();
    fs.create_new(p("/other")).unwrap();
    fs.rename(p("/f.new"), p("/f")).unwrap();
    assert_eq!(fs.unsynced_ops(), 3);
    assert_eq!(names(&fs.crash_with(&CrashImage::OnlyOne(2))), ["/f"]);
}

#[test]
fn crash_invalidates_all_open_handles() {
    let fs = with_durable(b"abc");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    let map = file.map(3, Default::default()).unwrap();
    assert_eq!(map.bytes(1, 2).unwrap(), &b"bc"[..]);
    let after = fs.crash_with(&CrashImage::Nothing);
    assert_eq!(file.read_at(&mut [0], 0).unwrap_err().to_string(), "simulated crash");
    assert!(file.write_at(b"x", 0).is_err() && file.len().is_err() && file.sync_data().is_err());
    assert!(map.bytes(0, 1).is_none());
    assert!(fs.list(p("/d")).is_err());
    assert_eq!(after.list(p("/d")).unwrap().len(), 1);
}

#[test]
fn map_shows_live_bytes_and_nothing_past_the_end() {
    let fs = with_durable(b"abc");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    let map = file.map(10, Default::default()).unwrap();
    file.write_at(b"BCD", 1).unwrap();
    fs.remove_file(p("/d/f")).unwrap();
    drop(file);
    assert_eq!(map.bytes(0, 4).unwrap(), &b"aBCD"[..]);
    assert!(map.bytes(0, 5).is_none(), "a real one would raise SIGBUS");
    assert_eq!(fs.bus_errors(), 1);
}

#[test]
fn crash_after_n_operations_fails_everything_else() {
    let fs = with_durable(b"abc");
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    let before = fs.ops();
    fs.crash_after(2);
    file.write_at(b"A", 0).unwrap();
    assert!(!fs.is_dead());
    file.write_at(b"B", 1).unwrap();
    assert!(fs.is_dead());
    assert!(file.write_at(b"C", 2).is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert_eq!(fs.ops() - before, 2);
    assert_eq!(fs.crash_with(&CrashImage::Everything).read_raw("/d/f"), b"ABc");
}

#[test]
fn exhaustive_choice_visits_every_combination_once() {
    use lithdb_sim::Choice;
    let (mut choice, mut seen) = (ExhaustiveChoice::new(), Vec::new());
    loop {
        // The second question depends on the first answer.
        let first = choice.choose(3);
        seen.push((first, if first == 1 { choice.choose(2) } else { choice.choose(1) }));
        if !choice.advance() {
            break;
        }
    }
    assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (2, 0)]);
    assert_eq!(choice.rounds(), 4);
}

#[test]
fn choices_follow_scripts_bytes_and_seeds() {
    let fs = with_durable(&[0; 2]);
    let file = fs.open(p("/d/f"), OpenMode::ReadWrite).unwrap();
    file.write_at(&[1], 0).unwrap();
    file.write_at(&[1], 1).unwrap();
    let scripted = fs.crash(&mut ScriptedChoice::new(vec![0, 1])).read_raw("/d/f");
    assert_eq!(scripted, [0, 1]);
    assert_eq!(fs.crash(&mut BytesChoice::new(&[3])).read_raw("/d/f"), [1, 0], "then zeros");
    let seeded = |seed| fs.crash(&mut SeededChoice::new(seed)).read_raw("/d/f");
    assert_eq!((0..40).map(seeded).collect::<BTreeSet<_>>().len(), 4);
}
