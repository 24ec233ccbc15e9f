//! Repairs that are killed, with the table opened between attempts, and ids and revisions that are
//! never used twice.

use std::time::Duration;

use lithdb_repair::DumpLine;
use lithdb_segment::SegmentId;
use lithdb_sim::CrashImage;

use super::fixture::{Model, check_opened, nothing, options, read_metadata, remove_segment, table};
use super::support::Harness;

/// Five segments of inline values, the middle ones without marks and epochs.
fn plain_table() -> (Harness, Model) {
    let (harness, mut model) = (Harness::new(1), Model::default());
    let table = harness.create_and_open(&options());
    for n in 0..28 {
        model.put(&table, &format!("k{n}"), b"inline", false);
    }
    table.close().unwrap();
    let lines = harness.dump(Some(3));
    let is_plain =
        |line: &DumpLine| !matches!(line, DumpLine::Mark { .. } | DumpLine::Epoch { .. });
    assert!(lines.iter().all(is_plain), "{lines:?}");
    assert!(
        read_metadata(&harness, 3).records > 2 && read_metadata(&harness, 4).successor.is_some()
    );
    (harness, model)
}

/// Opens the table between two repair attempts: that is refused, or changes nothing that matters.
fn open_between_attempts(harness: &Harness) {
    drop(harness.open(&options()));
    harness.fs.release_locks();
}

#[test]
fn salvage_killed_anywhere_loses_nothing_despite_opens() {
    let (harness, model) = plain_table();
    harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
    let ops = {
        let harness = harness.fork();
        let plan = harness.plan();
        assert_eq!(plan.lost_keys(), Some(0), "{plan}");
        lithdb_repair::apply(plan, &harness.setup).unwrap();
        harness.fs.ops()
    };
    let crash = |harness: &Harness, after: u64, image: &CrashImage| {
        let plan = harness.plan();
        harness.fs.crash_after(harness.fs.ops() + after);
        #[expect(clippy::let_underscore_must_use, reason = "it ends where the power fails")]
        let _ = lithdb_repair::apply(plan, &harness.setup);
        harness.after_crash(harness.fs.crash_with(image))
    };
    for n in 0..ops {
        for image in [
            CrashImage::Nothing,
            CrashImage::Everything,
            CrashImage::LengthWithoutData,
            CrashImage::Seeded(n),
        ] {
            let after = crash(&harness.fork(), n, &image);
            for opens_between in [false, true] {
                let name = format!("killed after {n}, {image:?}, opened: {opens_between}");
                let after = after.fork();
                if opens_between {
                    open_between_attempts(&after);
                }
                let plan = after.plan();
                assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
                lithdb_repair::apply(plan, &after.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                check_opened(&name, &after, &model, &nothing());
            }
            // Killed again during the second attempt.
            for m in (n % 3..ops).step_by(3) {
                let name = format!("killed after {n}, {image:?}, then after {m}");
                let again = crash(&after.fork(), m, &image);
                open_between_attempts(&again);
                let plan = again.plan();
                assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
                lithdb_repair::apply(plan, &again.setup).unwrap_or_else(|e| panic!("{name}: {e}"));
                check_opened(&name, &again, &model, &nothing());
            }
        }
    }
}

#[test]
fn stale_seal_with_longer_key_file_is_refused() {
    let (harness, _) = plain_table();
    let path = harness.file("3.metadata");
    let old = harness.fs.read_raw(&path);
    harness.fs.flip_bit(harness.file("3.keys"), 50, 2);
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    let keys = harness.fs.read_raw(harness.file("3.keys"));
    harness.fs.write_raw(&path, old);
    assert!(
        keys.len() as u64 > read_metadata(&harness, 3).key_end,
        "it looks like a file with a torn end"
    );
    let error = harness.open(&options()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("3.keys"), "{error}");
    assert_eq!(harness.fs.read_raw(harness.file("3.keys")), keys, "nothing was truncated");
}

#[test]
fn id_and_revision_never_name_two_contents() {
    let (harness, _) = table();
    // The mutable segment is lost: its id is sealed, and a new segment succeeds it.
    remove_segment(&harness, 5);
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    let replaced = read_metadata(&harness, 5);
    assert!(replaced.revision >= 1 && replaced.records == 0, "{replaced:?}");
    assert_eq!(replaced.successor, SegmentId(6));
    // Salvaged, and salvaged again without metadata.
    let (harness, model) = table();
    let mut revisions = vec![read_metadata(&harness, 2).revision];
    for (round, key) in ["k4", "k5", "k6"].into_iter().enumerate() {
        harness.flip("2.keys", key.as_bytes());
        match round {
            0 => {}
            1 => harness.fs.remove_raw(harness.file("2.metadata")),
            _ => harness.fs.flip_bit(harness.file("2.metadata"), 50, 0),
        }
        assert_eq!(model.at(key).segment, SegmentId(2));
        lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
        let revision = read_metadata(&harness, 2).revision;
        assert!(!revisions.contains(&revision), "{revision} after {revisions:?}");
        revisions.push(revision);
    }
    // At a later time, too: the time in seconds exceeds every number that was counted up.
    harness.clock.advance(Duration::from_secs(1_000_000));
    harness.flip("2.keys", b"k7");
    harness.fs.remove_raw(harness.file("2.metadata"));
    lithdb_repair::apply(harness.plan(), &harness.setup).unwrap();
    assert!(read_metadata(&harness, 2).revision >= 1_000_000);
}
