use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use lithdb_env::ErrorKind;
use lithdb_sim::{CrashImage, Fault, SimClock, SimFs, sim_env};

use super::*;

fn engines(fs: &SimFs) -> ModelEngines {
    ModelEngines::new(sim_env(fs, &SimClock::new(0)))
}

fn put(engine: &Arc<dyn Engine>, key: &str, value: &str) {
    engine.apply(&mut [(key.as_bytes(), Some(value.as_bytes()))].into_iter()).unwrap();
}

fn rows(engine: &Arc<dyn Engine>) -> Vec<(String, String)> {
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let range = Arc::clone(engine).range(&engine.pin(), Bound::Unbounded, Bound::Unbounded);
    range.map(|row| row.map(|(key, value)| (text(key), text(value))).unwrap()).collect()
}

/// A flush, a second one beside a deletion, a compaction, a flush: how many moments are durable.
fn scenario(engine: &Arc<dyn Engine>) -> usize {
    let mut durable = 0;
    for round in 0..4_usize {
        put(engine, "round", &round.to_string());
        put(engine, &format!("key-{round}"), "value");
        let Ok(sealed) = engine.seal(&[]) else { break };
        if engine.flush(&sealed).is_err() {
            break;
        }
        durable = round + 1;
        if round == 2 && engine.compact_once().is_err() {
            break;
        }
    }
    durable
}

#[test]
fn crash_at_every_operation_leaves_one_sealed_moment() {
    let mut points = 0;
    loop {
        let fs = SimFs::new();
        let engines_before = engines(&fs);
        let engine = engines_before.create(Path::new("/engine")).unwrap();
        fs.crash_after(points);
        let durable = scenario(&engine);
        let is_done = !fs.is_dead();
        for image in [CrashImage::Nothing, CrashImage::Everything, CrashImage::Seeded(points)] {
            let after = fs.crash_with(&image);
            let reopened = engines(&after).open(Path::new("/engine"), OpenMode::Write).unwrap();
            let rows = rows(&reopened);
            let found = rows.len().saturating_sub(1);
            assert!(found >= durable, "{durable} flushes were acknowledged, found {rows:?}");
            if found > 0 {
                assert_eq!(rows[found], ("round".to_owned(), (found - 1).to_string()));
            }
        }
        if is_done {
            break;
        }
        points += 1;
    }
    assert!(points > 20, "{points}");
}

#[test]
fn failure_at_every_operation_latches_or_can_be_repeated() {
    for fault in [Fault::Eio, Fault::NoSpace, Fault::TooManyFiles] {
        for at in 1.. {
            let fs = SimFs::new();
            let engine = engines(&fs).create(Path::new("/engine")).unwrap();
            fs.fail_op(at, fault, false);
            let before = fs.faults_hit();
            let durable = scenario(&engine);
            if fs.faults_hit() == before {
                break;
            }
            let failure = engine.failure();
            if let Some(failure) = &failure {
                assert!(failure.latches());
                assert_eq!(engine.seal(&[]).unwrap_err().kind(), ErrorKind::Latched);
            } else {
                put(&engine, "round", "last");
                engine.flush(&engine.seal(&[]).unwrap()).unwrap();
            }
            let expected = rows(&engine);
            drop(engine);
            let engine = engines(&fs).open(Path::new("/engine"), OpenMode::Write).unwrap();
            if failure.is_none() {
                assert_eq!(rows(&engine), expected);
            }
            assert!(rows(&engine).len() > durable || durable == 0);
        }
    }
}

#[test]
fn flipped_bit_of_any_file_is_corrupt() {
    let fs = SimFs::new();
    let factory = engines(&fs);
    let engine = factory.create(Path::new("/engine")).unwrap();
    assert_eq!(scenario(&engine), 4);
    drop(engine);
    for entry in lithdb_env::Fs::list(&fs, Path::new("/engine")).unwrap() {
        let path = format!("/engine/{}", entry.name);
        let bytes = fs.read_raw(&path);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs.write_raw(&path, flipped);
            let error = factory.open(Path::new("/engine"), OpenMode::Write).unwrap_err();
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
        }
        fs.write_raw(&path, bytes);
    }
    factory.open(Path::new("/engine"), OpenMode::Write).unwrap();
}
