//! Flips bits in every file of an engine and truncates every file: what is read afterwards is
//! right or an error. Nothing aborts the process, whatever lengths the damaged bytes claim.

use std::path::Path;

use lithdb_env::{Error, ErrorKind};
use lithdb_process_tests::scratch;
use lithdb_sim::{Choice, Effort, SeededChoice, Tally};
use lithdb_state_engine::{Engines, OpenMode};

use crate::rows::{self, Map, engines, rows_at};

const LAST: u64 = 10;

/// An engine of several levels, closed.
fn template(dir: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let engine = engines().create(dir).unwrap();
    for version in 1..=LAST {
        rows::apply(&engine, version).unwrap();
        let sealed = engine.seal(&[(rows::META, &rows::meta_of(version))]).unwrap();
        engine.flush(&sealed).unwrap();
        if version % 4 == 0 {
            engine.compact_once().unwrap();
        }
    }
    assert!(engine.stats().files > 3);
    drop(engine);
    rows::tree(dir)
}

/// Opens the engine and reads everything in three ways.
fn read_everything(dir: &Path, mode: OpenMode, expected: &Map) -> Result<(), Error> {
    let engine = engines().open(dir, mode)?;
    let pin = engine.pin();
    for (key, value) in expected {
        let found = engine.get(&pin, key)?;
        assert_eq!(found.as_deref(), Some(&value[..]), "{key:?}");
    }
    for key in 0..50 {
        let key = format!("key-{key:02}").into_bytes();
        let found = engine.get(&pin, &key)?;
        assert_eq!(found.as_deref(), expected.get(&key).map(|value| &value[..]), "{key:?}");
    }
    assert_eq!(rows::read(&engine)?, *expected);
    let unbounded = std::ops::Bound::Unbounded;
    let backwards = std::sync::Arc::clone(&engine).range(&pin, unbounded, unbounded).rev();
    let backwards = backwards.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
    assert_eq!(backwards.collect::<Result<Map, _>>()?, *expected);
    Ok(())
}

/// The offsets to damage: all of a small file, and of the end of a table, where its lengths are;
/// some of the rest. All in a deep run.
fn offsets(len: usize, effort: Effort, choice: &mut SeededChoice) -> Vec<usize> {
    let is_chosen =
        |at: &usize| effort.is_deep() || len < 1000 || *at + 420 >= len || choice.choose(12) == 0;
    (0..len).filter(is_chosen).collect()
}

#[test]
fn flipped_bit_is_an_error_or_harmless() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("damage of the production engine");
    let mut choice = SeededChoice::new(effort.seed("flipped bits of the engine"));
    let dir = scratch();
    let files = template(&dir.path().join("engine"));
    let (copy, expected) = (dir.path().join("copy"), rows_at(LAST));
    rows::write_tree(&copy, &files);
    read_everything(&copy, OpenMode::ReadInPlace, &expected).unwrap();
    for (name, bytes) in &files {
        let path = copy.join(name);
        for at in offsets(bytes.len(), effort, &mut choice) {
            // The highest bits of lengths are the dangerous ones: each is tried.
            let bits = if bytes.len() < 1000 || at + 420 >= bytes.len() { 8 } else { 1 };
            for bit in 0..bits {
                let bit = if bits == 8 { bit } else { choice.choose(8) };
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                std::fs::write(&path, &flipped).unwrap();
                tally.add("bit flips", 1);
                match read_everything(&copy, OpenMode::ReadInPlace, &expected) {
                    Ok(()) => tally.add("harmless", 1),
                    Err(error) => {
                        let context = format!("{name} at {at} bit {bit}: {error}");
                        assert_is_damage(&error, &context);
                        let is_panic = error.to_string().contains("panicked");
                        tally.add(if is_panic { "panics caught" } else { "errors" }, 1);
                    }
                }
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    read_everything(&copy, OpenMode::ReadInPlace, &expected).unwrap();
    assert!(tally.get("errors") > 5000);
}

fn assert_is_damage(error: &Error, context: &str) {
    let is_caught_panic = error.latches() && error.to_string().contains("panicked");
    let kinds =
        [ErrorKind::Corrupt, ErrorKind::Missing, ErrorKind::Foreign, ErrorKind::Unsupported];
    assert!(kinds.contains(&error.kind()) || is_caught_panic, "{context}");
}

#[test]
fn short_or_missing_file_is_an_error() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("shortened files of the production engine");
    let mut choice = SeededChoice::new(effort.seed("short files of the engine"));
    let dir = scratch();
    let files = template(&dir.path().join("engine"));
    let expected = rows_at(LAST);
    for (name, bytes) in &files {
        let mut lengths =
            vec![0, 1, bytes.len() / 2, bytes.len().saturating_sub(38), bytes.len() - 1];
        lengths.extend((0..effort.times(20)).map(|_| choice.choose(bytes.len())));
        for len in lengths {
            for mode in [OpenMode::ReadInPlace, OpenMode::Write] {
                let copy = scratch();
                rows::write_tree(copy.path(), &files);
                std::fs::write(copy.path().join(name), &bytes[..len]).unwrap();
                let before = rows::tree(copy.path());
                let error = read_everything(copy.path(), mode, &expected).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}, {len} bytes: {error}");
                assert_eq!(rows::tree(copy.path()), before, "a refused opening changes nothing");
                tally.add("truncations", 1);
            }
        }
        let copy = scratch();
        rows::write_tree(copy.path(), &files);
        std::fs::remove_file(copy.path().join(name)).unwrap();
        let before = rows::tree(copy.path());
        let error = read_everything(copy.path(), OpenMode::Write, &expected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{name}: {error}");
        assert_eq!(rows::tree(copy.path()), before, "a refused opening changes nothing");
    }
}

/// `lsm-tree` reserves memory for as many sections as a table of contents claims, and for as many
/// files as a manifest claims, before it compares a checksum: 160 GiB here.
#[test]
fn flipped_bit_in_a_manifest_is_an_error_before_the_engine_sees_it() {
    let dir = scratch();
    let files = template(&dir.path().join("engine"));
    let mut claims = 0;
    for (name, bytes) in files.iter().filter(|(name, _)| name.as_str() != "current") {
        let toc = bytes.windows(4).rposition(|window| window == b"TOC!").unwrap();
        for damage in [toc + 7, bytes.len() - 1, bytes.len() - 9] {
            let copy = scratch();
            rows::write_tree(copy.path(), &files);
            let mut damaged = bytes.clone();
            damaged[damage] ^= 0x80;
            std::fs::write(copy.path().join(name), damaged).unwrap();
            let error = engines().open(copy.path(), OpenMode::Write).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
            assert!(error.path().unwrap().ends_with(name), "{error}");
            claims += 1;
        }
    }
    assert!(claims > 12);
}
