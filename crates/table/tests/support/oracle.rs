//! Compares the files of a table, read by the format oracle, with what the table serves.

use std::collections::BTreeMap;

use lithdb_format_oracle::{DecodedRecord, table};
use lithdb_table::{Entry, Table};

use super::Harness;

/// Compares the files on the disk, read by a decoder written from the document alone, with what
/// the table serves, in both directions and by `get`. For a table that has just been opened for
/// writing, or flushed. Returns what the decoder found.
pub fn assert_matches_oracle(
    table: &Table,
    harness: &Harness,
    context: &str,
) -> lithdb_format_oracle::Table {
    let read = read_with_oracle(harness);
    let records = &read.records;
    let served: Vec<DecodedRecord> = table.iter().unwrap().map(|e| found(&e.unwrap())).collect();
    assert_same_records(&served, records, "iterated", context);
    let mut served: Vec<DecodedRecord> =
        table.iter().unwrap().rev().map(|e| found(&e.unwrap())).collect();
    served.reverse();
    assert_same_records(&served, records, "iterated backwards", context);
    let newest = read.newest();
    for (key, found) in &newest {
        let got = table.get(key).unwrap_or_else(|e| panic!("{context}: get: {e}"));
        let name = String::from_utf8_lossy(key);
        assert!(got.as_deref() == Some(&found.value), "{context}: get({name}) differs");
    }
    let stats = table.stats();
    assert_eq!(stats.watermark.0, read.state.watermark, "{context}: watermark");
    assert_eq!(stats.keys, records.len() as u64, "{context}: counted keys");
    read
}

/// The content of the table's files, as the decoder reads it.
pub fn read_with_oracle(harness: &Harness) -> lithdb_format_oracle::Table {
    let paths = harness.fs.file_paths();
    let roots: Vec<BTreeMap<String, Vec<u8>>> = harness
        .setup
        .dirs
        .iter()
        .map(|dir| {
            let below = |path: &std::path::PathBuf| {
                #[expect(clippy::disallowed_methods, reason = "it is in another directory")]
                let name = path.strip_prefix(dir).ok()?.to_str().unwrap().to_owned();
                Some((name, harness.fs.read_raw(path)))
            };
            paths.iter().filter_map(below).collect()
        })
        .collect();
    table(&roots)
}

fn found(entry: &Entry) -> DecodedRecord {
    DecodedRecord {
        segment: entry.position().segment.0,
        offset: entry.position().offset,
        key: entry.key().to_vec(),
        primary: entry.is_primary(),
        value: entry.value().unwrap().to_vec(),
    }
}

fn assert_same_records(
    served: &[DecodedRecord],
    on_disk: &[DecodedRecord],
    how: &str,
    context: &str,
) {
    let differs = served.iter().zip(on_disk).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{context}: {how}: another record than the files hold");
    assert_eq!(served.len(), on_disk.len(), "{context}: {how}: as many as the files hold");
}
