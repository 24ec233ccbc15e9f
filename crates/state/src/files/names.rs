//! The one codec of the names of a store's directories.
//!
//! A name parses only if it is written the same way, so that what a store removes is its own.

use lithdb_env::human::parsed;
use lithdb_lthash::RootHash;

/// Digits of a version: those of `u64::MAX`, so that names are in the order of versions.
const VERSION_DIGITS: usize = 20;
/// Hexadecimal digits of the root in the name of an abandoned snapshot, and of an engine.
const SHORT_DIGITS: usize = 8;
/// Hexadecimal digits of a random number.
const RANDOM_DIGITS: usize = 16;

/// The directory of a snapshot.
pub(crate) fn snapshot_name(version: u64) -> String {
    format!("{version:0VERSION_DIGITS$}")
}

/// The directory of a snapshot that is being made.
pub(crate) fn new_snapshot_name(version: u64) -> String {
    format!("{}.new", snapshot_name(version))
}

/// The version in the name of a snapshot's directory.
pub(crate) fn parse_snapshot_name(name: &str) -> Option<u64> {
    parsed(name).filter(|version| snapshot_name(*version) == name)
}

/// The directory of a snapshot of a branch that was rolled back.
pub(crate) fn abandoned_name(version: u64, root: &RootHash) -> String {
    let digits: String = root.to_string().chars().take(SHORT_DIGITS).collect();
    format!("{}-{digits}", snapshot_name(version))
}

/// The version in the name of an abandoned snapshot's directory.
pub(crate) fn parse_abandoned_name(name: &str) -> Option<u64> {
    let (version, root) = name.split_once('-')?;
    parse_snapshot_name(version).filter(|_| is_hex(root, SHORT_DIGITS))
}

/// The directory of a working copy's engine. Its number is made of `random`, and used once: what
/// still holds the files of an earlier engine removes them by their paths.
pub(crate) fn engine_dir_name(random: u64) -> String {
    let number = (random >> u32::BITS) as u32 ^ random as u32;
    format!("engine-{number:0SHORT_DIGITS$x}")
}

/// Whether this is the name of a working copy's engine.
pub(crate) fn is_engine_dir_name(name: &str) -> bool {
    name.strip_prefix("engine-").is_some_and(|number| is_hex(number, SHORT_DIGITS))
}

/// The directory in `views` of a clone in which a view is replayed.
pub(crate) fn view_clone_name(random: u64) -> String {
    format!("{random:0RANDOM_DIGITS$x}")
}

/// Whether this is the name of a clone in which a view is replayed.
pub(crate) fn is_view_clone_name(name: &str) -> bool {
    is_hex(name, RANDOM_DIGITS)
}

/// The directory in `trash` of something that is being removed.
pub(crate) fn trash_name(what: &str, random: u64) -> String {
    format!("{what}-{random:0RANDOM_DIGITS$x}")
}

/// Whether this is the name of something that is being removed: a working copy, a snapshot, or the
/// engine of a flat layout that was adopted.
pub(crate) fn is_trash_name(name: &str) -> bool {
    let Some((what, random)) = name.rsplit_once('-') else { return false };
    let is_version = |prefix| {
        what.strip_prefix(prefix).is_some_and(|version| parse_snapshot_name(version).is_some())
    };
    let is_own =
        matches!(what, "working" | "engine") || is_version("snapshot-") || is_version("abandoned-");
    is_own && is_hex(random, RANDOM_DIGITS)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
