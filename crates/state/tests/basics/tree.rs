//! The tree of files in `docs/STATE.md` is that of a store.

use std::collections::BTreeSet;
use std::path::Path;

use lithdb_env::{FileKind, Fs, OsFs};

use super::{commit_to, open};

const DOCUMENT: &str = include_str!("../../../../docs/STATE.md");

/// What the document shows: names with `…` hold a random number or depend on the history.
fn shown(name: &str, parent: &str) -> String {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (parent, name.split_once('.')) {
        ("tables", _) => "…".to_owned(),
        ("segments", Some((_, kind))) => format!("….{kind}"),
        _ if name.starts_with("engine-") => "engine-…".to_owned(),
        _ => match name.strip_prefix('v') {
            Some(number) if is_number(number) => "v…".to_owned(),
            _ => name.to_owned(),
        },
    }
}

/// The lines below a directory; names that are shown alike are shown once.
fn lines(dir: &Path, depth: usize) -> String {
    let parent = dir.file_name().unwrap().to_str().unwrap();
    let entries = OsFs.list(dir).unwrap().into_iter();
    let entries = entries.map(|entry| match entry.kind {
        FileKind::Dir => {
            let below = lines(&dir.join(&entry.name), depth + 1);
            (format!("{}/", shown(&entry.name, parent)), below)
        }
        _ => (shown(&entry.name, parent), String::new()),
    });
    let sorted: BTreeSet<(String, String)> = entries.collect();
    let indent = "  ".repeat(depth);
    sorted.iter().map(|(name, below)| format!("{indent}{name}\n{below}")).collect()
}

#[test]
fn the_tree_in_the_document_is_that_of_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    for version in [2, 4] {
        commit_to(&db, version);
        db.snapshot().unwrap().wait().unwrap();
    }
    db.rollback_to(3).unwrap().close().unwrap();
    let found = format!("state/\n{}", lines(&dir.path().join("state"), 1));
    let (_, rest) = DOCUMENT.split_once("<!-- tree -->\n```text\n").unwrap();
    let (documented, _) = rest.split_once("```").unwrap();
    assert!(found == documented, "docs/STATE.md must show this tree:\n{found}");
}
