//! A cleanly closed table to damage: whatever happens to its files, reads return the right bytes
//! or an error.

use std::path::PathBuf;

use lithdb_env::ErrorKind;
use lithdb_sim::{SimClock, SimFs};
use lithdb_table::Table;

use super::DAY;

/// A closed table and its content.
pub struct ClosedTable {
    pub fs: SimFs,
    /// Every record in order: key, value.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Collected keys.
    pub gone: Vec<Vec<u8>>,
}

/// The time at which the table is opened again: two days after its creation.
pub fn clock() -> SimClock {
    let clock = SimClock::new(77);
    clock.advance(2 * DAY);
    clock
}

/// Every file and its content.
pub fn files(fs: &SimFs) -> Vec<(PathBuf, Vec<u8>)> {
    fs.file_paths().into_iter().map(|path| (path.clone(), fs.read_raw(&path))).collect()
}

/// Reads everything: right or an error. Returns whether everything was right.
pub fn check_reads(table: &Table, closed: &ClosedTable, context: &str) -> bool {
    let mut all_right = true;
    for (key, value) in &closed.records {
        let name = String::from_utf8_lossy(key);
        match table.get(key) {
            Ok(Some(got)) => assert!(got == value[..], "{context}: wrong bytes of {name}"),
            Ok(None) => panic!("{context}: {name} turned into None"),
            Err(error) => {
                assert_reported_as_damage(&error, context);
                all_right = false;
            }
        }
    }
    for key in &closed.gone {
        assert!(!matches!(table.get(key), Ok(Some(_))), "{context}: a collected key returned");
    }
    let mut count = 0;
    for (entry, (key, value)) in table.iter().unwrap().zip(&closed.records) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                assert_reported_as_damage(&error, context);
                return false;
            }
        };
        assert_eq!(entry.key(), key, "{context}: iteration");
        match entry.value() {
            Ok(got) => assert!(got == value[..], "{context}: wrong bytes from iteration"),
            Err(error) => {
                assert_reported_as_damage(&error, context);
                all_right = false;
            }
        }
        count += 1;
    }
    assert_eq!(count, closed.records.len(), "{context}: iteration ended early, without an error");
    all_right
}

/// Damage is reported as such, with the name of a file.
pub fn assert_reported_as_damage(error: &lithdb_env::Error, context: &str) {
    use ErrorKind::{Corrupt, Foreign, Missing, Unsupported};
    let is_damage = matches!(error.kind(), Corrupt | Foreign | Missing | Unsupported)
        // The file system's own error refuses a state file that is too long.
        || error.to_string().contains("at most");
    assert!(is_damage, "{context}: {error}");
    assert!(error.to_string().contains("/t/"), "{context}: names no file: {error}");
}
