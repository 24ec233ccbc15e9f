//! Directories on a real disk: their bytes, and copies of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files and the directories (`None`) below `dir`, by their paths in it.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(next) = work.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, None);
                work.push(path);
            } else {
                found.insert(name, Some(std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// The tree of a directory without its lock file, whose content every attempt to open changes.
pub fn tree_without_lock(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = if dir.exists() { tree(dir) } else { BTreeMap::new() };
    found.remove(Path::new("state.lock"));
    found
}

/// The names in a directory, in order; empty if there is none.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies a directory to a place where nothing is.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for (name, bytes) in tree(from) {
        match bytes {
            None => std::fs::create_dir_all(to.join(name)).unwrap(),
            Some(bytes) => {
                let path = to.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}
