//! The files of a table, the document and the code: the code opens bytes assembled by hand from
//! the document, and a decoder written from the document alone reads what the code has written in
//! random histories.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use lithdb_format_oracle::{Record, Seal};
use lithdb_segment::{Position, SegmentId};
use lithdb_sim::{Choice, CrashImage, Effort, SeededChoice, SimClock, SimFs, Tally};
use lithdb_table::{Entry, SecondaryKey, Table, TableOptions};
use support::oracle::{assert_matches_oracle, read_with_oracle};
use support::script::{Op, Run, Scenario, verify};
use support::{DAY, Harness};

/// Segment 1, sealed: a group of `first` and `alias` with an inline value, then padding and the
/// mark of a flush, then a batch of `second` in value file 1 and `third` in value file 0, then an
/// epoch, then `first` once more, without a value.
const KEYS_1: &str = "
    4c495448 4b455953 01004000 00000000 00000000 00000000 656c6261 74000000
    01000000 00000000 e8030000 00000000 11110000 00000000 02000000 d7294f8b
    67be9cf0 01010500 0d000000 0d000000 c2933b63 ffff0000 65000000 00000000
    66697273 74737461 6e647320 696e6c69 6e65c909 6be80106 05000600 00000600
    00009709 b140ffff 00006c00 00000000 0000616c 6961739e 13c26805 00090000
    eb82a1ed 04000200 4c495448 4d41524b 97000000 00000000 4c040000 00000000
    02000000 00000000 40000000 00000000 40000000 00000000 52e33e7d 01030600
    1a000000 1a000000 6cb9beec 01000000 40000000 00000000 7365636f 6e64c9b8
    27a50107 05000300 00000300 0000e9b2 942a0000 00004600 00000000 00007468
    6972649f 03a49902 0000000c e1000000 000000dc 05000000 0000005e 453ac701
    07050000 00000000 00000000 00000000 00000040 00000000 00000066 69727374";
/// Its value files; no record names six bytes of the first.
const VALUES_1_0: &str = "
    4c495448 56414c53 01004000 00000000 00000000 00000000 656c6261 74000000
    01000000 00000000 e8030000 00000000 11110000 00000000 00000000 aff52e19
    2e2e2e2e 2e2e6f6e 65";
const VALUES_1_1: &str = "
    4c495448 56414c53 01004000 00000000 00000000 00000000 656c6261 74000000
    01000000 01000000 e8030000 00000000 11110000 00000000 00000000 213761a3
    61207661 6c756520 696e2074 68652073 65636f6e 64206669 6c65";
/// Its metadata, without a digest.
const METADATA_1: &str = "
    4c495448 4d455441 01000000 00000000 00000000 00000000 82000000 c5c2d169
    656c6261 74000000 01000000 00000000 00000000 02000000 e8030000 00000000
    34080000 00000000 11110000 00000000 60010000 00000000 05000000 00000000
    04000000 00000000 01ee9920 02000000 00000000 49000000 00000000 5a000000
    00000000 01000000 00000000 23010000 0ce10000 00000000 00000000 00000000
    0000";
/// Segment 2: the chain record, a batch of the group `fourth` and `part` in the value file and
/// `fifth` inline, an epoch, padding and a mark, and `sixth` past the durable end.
const KEYS_2: &str = "
    4c495448 4b455953 01004000 00000000 00000000 00000000 656c6261 74000000
    02000000 01000000 d0070000 00000000 22220000 00000000 01000000 83000d4c
    701ac25d 03000200 01000000 60010000 05000000 00000000 01ee9920 00000000
    49000000 00000000 5a000000 00000000 ea901f6b 01010600 0e000000 0e000000
    11c6588a 00000000 40000000 00000000 666f7572 746849f5 22780102 04000700
    00000700 0000172b 6d790000 00004300 00000000 00007061 7274fbe5 cf5a0107
    05000100 00000100 0000fc0e 6f57ffff 0000df00 00000000 00006669 66746835
    583add8f 02000000 0ce20000 00000000 c4090000 00000000 3313d8b7 05000800
    833ae227 04000100 4c495448 4d41524b e0000000 00000000 280a0000 00000000
    03000000 00000000 4e000000 00000000 729d36c1 01070500 0f000000 0f000000
    c8461e00 00000000 4e000000 00000000 73697874 68";
const VALUES_2_0: &str = "
    4c495448 56414c53 01004000 00000000 00000000 00000000 656c6261 74000000
    02000000 00000000 d0070000 00000000 22220000 00000000 00000000 4c970106
    6f662073 65676d65 6e742074 776f6265 68696e64 20746865 206d6172 6b";
/// Both slots of the state: the newer one is first, and records the same end of segment 2 as the
/// mark.
const STATE_8: &str = "
    4c495448 53544154 01000000 00000000 00000000 00000000 63000000 191b5c1b
    08000000 00000000 656c6261 74000000 ed5e0000 00000000 84030000 00000000
    01000000 03000000 00000000 280a0000 00000000 03000000 00000000 00000000
    00000000 00000000 00010200 0000e000 00000100 00000000 00004e00 00000000
    000000";
const STATE_7: &str = "
    4c495448 53544154 01000000 00000000 00000000 00000000 63000000 c8bce5a0
    07000000 00000000 656c6261 74000000 ed5e0000 00000000 84030000 00000000
    01000000 03000000 00000000 280a0000 00000000 03000000 00000000 00000000
    00000000 00000000 00010200 0000e000 00000100 00000000 00004e00 00000000
    000000";

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The table above, on two roots.
fn handmade_table() -> Harness {
    let (fs, clock) = (SimFs::new(), SimClock::new(1));
    for root in 0..2 {
        fs.make_dirs(format!("/r{root}/t/segments"));
    }
    for (name, hex) in [
        ("/r0/t/segments/1.keys", KEYS_1),
        ("/r0/t/segments/1-0.values", VALUES_1_0),
        ("/r1/t/segments/1-1.values", VALUES_1_1),
        ("/r0/t/segments/1.metadata", METADATA_1),
        ("/r0/t/segments/2.keys", KEYS_2),
        ("/r1/t/segments/2-0.values", VALUES_2_0),
    ] {
        fs.write_raw(name, unhex(hex));
    }
    let mut state = Vec::new();
    for (n, slot) in [STATE_8, STATE_7].iter().enumerate() {
        state.extend(unhex(slot));
        state.resize((n + 1) * 4096, 0);
    }
    fs.write_raw("/r0/t/table.state", state);
    Harness::on(fs, clock, 2)
}

/// Segment, offset, key, whether it is primary, value.
type Row = (u32, u32, &'static str, bool, &'static str);

const ROWS: [Row; 8] = [
    (1, 64, "first", true, "stands inline"),
    (1, 114, "alias", false, "inline"),
    (1, 216, "second", true, "a value in the second file"),
    (1, 254, "third", true, "one"),
    (1, 315, "first", true, ""),
    (2, 112, "fourth", true, "of segment two"),
    (2, 150, "part", false, "segment"),
    (2, 186, "fifth", true, "5"),
];
const LAST: Row = (2, 304, "sixth", true, "behind the mark");
/// Recovery copies the records after the mark to a new segment.
const RECOVERED: Row = (3, 104, "sixth", true, "behind the mark");

fn row(entry: &Entry) -> (Position, Vec<u8>, bool, Vec<u8>) {
    let value = entry.value().unwrap().to_vec();
    (entry.position(), entry.key().to_vec(), entry.is_primary(), value)
}

fn holds(table: &Table, rows: &[Row]) {
    let expected: Vec<_> = rows
        .iter()
        .map(|&(segment, offset, key, is_primary, value)| {
            let at = Position { segment: SegmentId(segment), offset };
            (at, key.as_bytes().to_vec(), is_primary, value.as_bytes().to_vec())
        })
        .collect();
    let served: Vec<_> = table.iter().unwrap().map(|entry| row(&entry.unwrap())).collect();
    assert_eq!(served, expected);
    for (key, value) in [("first", ""), ("alias", "inline"), ("part", "segment"), ("fifth", "5")] {
        assert_eq!(table.get(key.as_bytes()).unwrap().as_deref(), Some(value.as_bytes()), "{key}");
    }
}

#[test]
fn handmade_table_opens_and_accepts_puts() {
    let harness = handmade_table();
    let rows = [&ROWS[..], &[RECOVERED]].concat();
    let table = harness.open(&TableOptions::new()).unwrap();
    holds(&table, &rows);
    let read = assert_matches_oracle(&table, &harness, "by hand");
    assert_eq!((read.state.watermark, read.state.next_id_floor), (1, 4));
    table.put(b"seventh", b"put by the engine").unwrap();
    table.seal().unwrap();
    let read = assert_matches_oracle(&table, &harness, "by hand, one more, sealed");
    assert_eq!(read.records.len(), rows.len() + 1);
    assert_eq!(read.segments.len(), 4);
}

/// Bytes past the durable end may be torn; bytes before it may not.
#[test]
fn handmade_table_loses_only_unacknowledged_records() {
    let harness = handmade_table();
    harness.fs.flip_bit("/r0/t/segments/2.keys", u64::from(LAST.1) + 33, 0);
    let table = harness.open(&TableOptions::new()).unwrap();
    holds(&table, &ROWS);
    assert_matches_oracle(&table, &harness, "by hand, torn");

    let harness = handmade_table();
    harness.fs.flip_bit("/r0/t/segments/2.keys", 186 + 33, 0);
    let error = harness.open(&TableOptions::new()).map(drop).unwrap_err();
    assert_eq!(error.kind(), lithdb_env::ErrorKind::Corrupt, "{error}");
}

/// A value of any kind: empty, inline, in a value file, large.
fn len(choice: &mut SeededChoice) -> usize {
    [0, 9, 16, 17, 90, 700, 5000, 66_000][choice.choose(8)]
}

/// Random steps; the first one puts something.
fn history(choice: &mut SeededChoice) -> Vec<Op> {
    let mut ops = vec![Op::Put(40)];
    for _ in 0..choice.choose(25) + 10 {
        match choice.choose(16) {
            0..=3 => ops.push(Op::Put(len(choice))),
            4 | 5 => ops.push(Op::Aliased(len(choice))),
            6 => ops.push(Op::Batch(&[40, 10, 600])),
            7 => ops.push(Op::Batch(&[3, 900, 0, 12])),
            8 | 9 => ops.push(Op::Flush),
            10 => ops.push(Op::Seal),
            11 => ops.push(Op::Shards([1, 2, 3, 5][choice.choose(4)])),
            12 => ops.extend([Op::Flush, Op::Advance(Duration::from_secs(61)), Op::Gc]),
            13 => ops.push(Op::Reopen),
            14 => ops.push(Op::Kill),
            _ => ops.push(Op::Tick),
        }
    }
    ops
}

/// What the histories have covered on the disk.
fn count(tally: &mut Tally, read: &lithdb_format_oracle::Table) {
    tally.add("tables", 1);
    tally.add("segments", read.segments.len() as u64);
    tally.add("records", read.records.len() as u64);
    tally.add("secondary records", read.records.iter().filter(|r| !r.primary).count() as u64);
    tally.add("tables that lost segments to collection", u64::from(read.state.watermark > 1));
    for segment in &read.segments {
        tally.add("seals", u64::from(segment.seal != Seal::Mutable));
        tally.add("marks", segment.marks);
        tally.add("segments of several shards", u64::from(segment.value_ends.len() > 1));
        let epoch = |(_, record): &&(usize, Record)| matches!(record, Record::Epoch { .. });
        tally.add("epochs", segment.keys.records.iter().filter(epoch).count() as u64);
    }
}

#[test]
fn format_oracle_reads_files_of_random_histories() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("random histories read by the document");
    let mut choice = SeededChoice::new(effort.seed("by the document"));
    for n in 0..effort.times(20) {
        let options = TableOptions::new().segment_keys(3 + n % 4).inline_max_bytes(16);
        let options = options.ttl(Duration::from_secs(60)).segment_age(DAY);
        let ops = history(&mut choice);
        let roots = 1 + choice.choose(3);
        let scenario = Scenario { name: "at random", roots, options, ops };
        let mut run = Run::new(&scenario);
        run.until_error().unwrap_or_else(|e| panic!("{:?}: {e}", scenario.ops));
        let whole = run.harness.fs.ops();
        tally.add("histories", 1);
        for _ in 0..4 {
            let mut run = Run::new(&scenario);
            let k = 1 + choice.next_u64() % whole;
            run.harness.fs.crash_after(k);
            #[expect(clippy::let_underscore_must_use, reason = "the power fails before the end")]
            let _ = run.until_error();
            drop(run.table.take());
            let image = CrashImage::Seeded(choice.next_u64());
            let harness = run.harness.after_crash(run.harness.fs.crash_with(&image));
            let context = format!("{:?}, crash after {k} of {whole}, {image:?}", scenario.ops);
            verify(&scenario, &harness, &run.model, &context);
            count(&mut tally, &read_with_oracle(&harness));
        }
    }
    for what in [
        "segments",
        "seals",
        "marks",
        "epochs",
        "secondary records",
        "segments of several shards",
        "tables that lost segments to collection",
    ] {
        assert!(tally.get(what) > 10, "{tally:?}");
    }
}

/// The model of the scripts has every key once; here a few keys are put repeatedly, as primary and
/// as secondary ones.
#[test]
fn newest_record_of_an_overwritten_key_is_served() {
    let effort = Effort::from_env();
    let mut tally = Tally::new("keys put again and again, read by the document");
    let mut choice = SeededChoice::new(effort.seed("again and again"));
    for _ in 0..effort.times(12) {
        let options = TableOptions::new().inline_max_bytes(16).shards(2);
        let options = options.ttl(Duration::from_secs(60)).segment_age(DAY);
        let mut harness = Harness::new(2);
        let mut table = harness.create_and_open(&options);
        for round in 0..15 {
            for _ in 0..choice.choose(7) {
                let value = vec![choice.next_u64() as u8; choice.choose(40)];
                let [key, alias] = [0, 1].map(|_| vec![b'a' + choice.choose(6) as u8]);
                let aliases = [SecondaryKey::range(&alias, 0..value.len() / 2)];
                let aliases = &aliases[..usize::from(key != alias && choice.choose(2) == 0)];
                table.put_with(&key, &value, aliases).unwrap();
            }
            match choice.choose(5) {
                0 => table.seal().unwrap(),
                1 => {
                    table.flush().unwrap();
                    harness.clock.advance(Duration::from_secs(31));
                    table.run_gc().unwrap();
                }
                2 => {
                    table.flush().unwrap();
                    drop(table);
                    harness.fs.release_locks();
                    table = harness.open(&options).unwrap();
                }
                _ => {
                    drop(table);
                    let image = CrashImage::Seeded(choice.next_u64());
                    harness = harness.after_crash(harness.fs.crash_with(&image));
                    table = harness.open(&options).unwrap();
                }
            }
            table.flush().unwrap();
            let read = assert_matches_oracle(&table, &harness, &format!("round {round}"));
            count(&mut tally, &read);
            let older = read.records.len() - read.newest().len();
            tally.add("older records of a key", older as u64);
        }
    }
    for what in ["older records of a key", "tables that lost segments to collection"] {
        assert!(tally.get(what) > 10, "{tally:?}");
    }
}
