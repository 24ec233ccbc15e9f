//! Inspects the files on disk without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files of one segment.
#[derive(Debug, Default)]
struct SegmentFiles {
    keys: u32,
    metadata: u32,
    shards: BTreeSet<u16>,
}

/// A temporary directory, in memory where possible: for tests that create many databases and do
/// not depend on what a sync does.
pub fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// The `segments` directories of a table.
pub fn segment_dirs(roots: &[PathBuf], table: &str) -> Vec<PathBuf> {
    roots.iter().map(|root| root.join(table).join("segments")).collect()
}

/// All regular files below `dir`, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut work) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = work.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("its type").is_dir() {
                work.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The key file of the newest segment of a table.
pub fn newest_key_file(roots: &[PathBuf], table: &str) -> PathBuf {
    let keys = segment_dirs(roots, table).into_iter().flat_map(|dir| files_below(&dir));
    let keys = keys.filter(|path| path.extension().is_some_and(|e| e == "keys"));
    let id = |path: &PathBuf| -> u32 {
        path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("an id")
    };
    keys.max_by_key(id).expect("a segment")
}

/// Checks the files of a table that is open or was closed cleanly: it has `segments` segments;
/// each has one key file and the value files 0 to n, all but the newest are sealed, and there are
/// no other files.
///
/// # Panics
/// If a file is missing or unexpected.
pub fn check_files(roots: &[PathBuf], table: &str, segments: usize) {
    let mut found: BTreeMap<u32, SegmentFiles> = BTreeMap::new();
    for path in segment_dirs(roots, table).into_iter().flat_map(|dir| files_below(&dir)) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let parsed = name.split_once('.').and_then(|(stem, extension)| {
            let (id, shard) = match stem.split_once('-') {
                Some((id, shard)) => (id, Some(shard.parse().ok()?)),
                None => (stem, None),
            };
            Some((id.parse().ok()?, shard, extension))
        });
        match parsed {
            Some((id, None, "keys")) => found.entry(id).or_default().keys += 1,
            Some((id, None, "metadata")) => found.entry(id).or_default().metadata += 1,
            Some((id, Some(shard), "values")) => {
                let is_new = found.entry(id).or_default().shards.insert(shard);
                assert!(is_new, "{table}: {name} exists twice");
            }
            _ => panic!("{table}: unexpected file {}", path.display()),
        }
    }
    let newest = found.keys().next_back().copied();
    for (id, files) in &found {
        let is_sealed = u32::from(Some(*id) != newest);
        assert_eq!(
            (files.keys, files.metadata),
            (1, is_sealed),
            "{table}: segment {id}: {files:?}"
        );
        let is_whole = files.shards.iter().copied().eq(0..files.shards.len() as u16);
        assert!(is_whole && !files.shards.is_empty(), "{table}: segment {id}: {files:?}");
    }
    assert_eq!(found.len(), segments, "{table}: segments on the disk: {:?}", found.keys());
}
