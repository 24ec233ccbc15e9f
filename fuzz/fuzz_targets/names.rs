//! Names of files and tables: a name that parses is formatted back to the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lithdb_segment::{SegmentFile, TableName};

fuzz_target!(|name: &str| {
    if let Some(file) = SegmentFile::parse(name) {
        assert_eq!(file.to_string(), name);
        assert!(file.segment().is_some());
    }
    if let Ok(table) = TableName::new(name) {
        assert_eq!(table.as_str(), name);
        assert!(name.len() <= TableName::MAX_LEN && !name.contains(['/', '.', '\0']));
    }
});
