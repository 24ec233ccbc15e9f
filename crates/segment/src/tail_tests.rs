use std::path::Path;

use lithdb_env::{Budgets, Fs, UnixMillis, read_exact_at};
use lithdb_sim::{SimClock, SimFs, sim_env};

use super::*;
use crate::{
    Context, Group, HandleLimit, NewSegment, ReadMode, SealJob, Segment, SegmentId, SegmentWriter,
    Stamp, Verify,
};

fn file() -> Arc<dyn File> {
    SimFs::new().create_new(Path::new("/f")).unwrap()
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

#[test]
fn bytes_are_found_in_the_tail_until_they_are_in_the_file() {
    let file = file();
    let tail = Tail::new(0, &Budgets::default().buffers);
    tail.make_room(11).unwrap();
    tail.append(0, b"hello ");
    tail.append(6, b"world");
    assert_eq!(tail.read(4, 100).unwrap(), &b"o world"[..]);
    assert_eq!(tail.read(4, 3).unwrap(), &b"o w"[..]);
    assert_eq!(tail.drain(&*file).unwrap(), Some((0, 11)));
    assert_eq!(tail.read(4, 3), None);
    assert_eq!(content(&*file), b"hello world");
}

#[test]
fn an_append_is_never_split_between_chunks() {
    let file = file();
    let tail = Tail::new(0, &Budgets::default().buffers);
    let piece = vec![7_u8; CHUNK_LEN / 3 + 1];
    for n in 0..4 {
        tail.append(n * piece.len() as u64, &piece);
    }
    assert_eq!(tail.read(0, usize::MAX).unwrap().len() % piece.len(), 0);
    assert!(tail.relieve(&*file).unwrap().is_some());
    assert_eq!(tail.drain(&*file).unwrap().unwrap().1, 4 * piece.len() as u64);
    assert_eq!(content(&*file), vec![7; 4 * piece.len()]);
}

#[test]
fn bytes_that_went_another_way_leave_a_gap_that_the_file_answers_for() {
    let file = file();
    let tail = Tail::new(0, &Budgets::default().buffers);
    tail.append(0, b"ab");
    write_all_at(&*file, b"LARGE", 2).unwrap();
    tail.append(7, b"cd");
    assert_eq!(tail.read(2, 5), None);
    assert_eq!(tail.read(1, 5).unwrap(), &b"b"[..]);
    assert_eq!(tail.read(7, 5).unwrap(), &b"cd"[..]);
    tail.drain(&*file).unwrap();
    assert_eq!(content(&*file), b"abLARGEcd");
}

#[test]
fn bytes_of_a_failed_write_stay_readable() {
    let sim = SimFs::new();
    let file = sim.create_new(Path::new("/f")).unwrap();
    let tail = Tail::new(0, &Budgets::default().buffers);
    tail.append(0, b"kept");
    sim.fail_op(1, lithdb_sim::Fault::Eio, true);
    assert!(tail.drain(&*file).is_err());
    assert_eq!(tail.read(0, 10).unwrap(), &b"kept"[..]);
}

fn capacity(tail: &Tail) -> usize {
    let state = tail.state.read();
    let frozen = state.frozen.iter().map(|chunk| &chunk.buffer);
    let buffers = frozen.chain([&state.active]).chain(&state.spare);
    buffers.map(|buffer| buffer.bytes.capacity()).sum()
}

#[test]
fn released_memory_is_taken_again_when_more_is_appended() {
    let file = file();
    let tail = Tail::new(0, &Budgets::default().buffers);
    tail.append(0, b"in the file");
    tail.drain(&*file).unwrap();
    tail.append(11, b" and not");
    tail.release();
    assert_eq!(tail.read(11, 9).unwrap(), &b" and not"[..], "bytes that wait are not given up");
    tail.drain(&*file).unwrap();
    tail.release();
    assert_eq!(capacity(&tail), 0);
    assert_eq!(tail.read(0, 9), None);
    tail.append(19, b" yet");
    assert_eq!(tail.read(19, 9).unwrap(), &b" yet"[..]);
    tail.drain(&*file).unwrap();
    assert_eq!(content(&*file), b"in the file and not yet");
}

#[test]
fn buffers_grow_with_what_is_appended_and_go_with_a_drain() {
    let (file, budget) = (file(), Budgets::default().buffers);
    let tail = Tail::new(0, &budget);
    tail.make_room(100).unwrap();
    tail.append(0, &[1; 100]);
    assert_eq!(budget.used(), FIRST_LEN as u64);
    for n in 0..40 {
        tail.make_room(60_000).unwrap();
        tail.append(100 + n * 60_000, &[2; 60_000]);
        tail.relieve(&*file).unwrap();
    }
    assert!(budget.used() >= CHUNK_LEN as u64);
    tail.drain(&*file).unwrap();
    assert!(budget.used() <= MAX_KEPT_LEN as u64, "{budget:?}");
    assert_eq!(content(&*file).len(), 100 + 40 * 60_000);
    drop(tail);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_used_up_budget_refuses_room_and_what_was_accepted_stays() {
    let (file, budget) = (file(), Budgets::new(0, 0, 50_000).buffers);
    let tail = Tail::new(0, &budget);
    tail.make_room(40_000).unwrap();
    tail.append(0, &[1; 40_000]);
    assert!(tail.make_room(20_000).unwrap_err().to_string().contains("write_buffer_bytes"));
    tail.drain(&*file).unwrap();
    tail.make_room(20_000).unwrap();
    assert_eq!(content(&*file).len(), 40_000);
}

#[test]
fn tails_of_a_sealed_segment_keep_no_memory() {
    let fs = SimFs::new();
    fs.make_dirs("/t");
    let context = Arc::new(Context {
        env: sim_env(&fs, &SimClock::new(1)),
        table_id: 1,
        dirs: vec!["/t".into()],
        read_mode: ReadMode::Pread,
        verify: Verify::Always,
        handles: Arc::new(HandleLimit::new(9)),
    });
    let now = UnixMillis(1);
    let new = NewSegment { id: SegmentId(1), chain: None, shards: 2, now };
    let (segment, totals) = Segment::create(&context, &new).unwrap();
    let mut writer = SegmentWriter::new(Arc::clone(&segment), 0, totals, None);
    let (value, key) = (vec![7; 60_000], vec![8; 60_000]);
    for _ in 0..50 {
        let checksum = crc32c::crc32c(&value);
        let group = Group { key: &key, value: &value, checksum, aliases: &[] };
        writer.append(&[group], now).unwrap();
        segment.relieve().unwrap();
    }
    let tails = || segment.values.iter().chain([&segment.keys]).filter_map(|f| f.tail.as_ref());
    assert_eq!(tails().count(), 3);
    assert!(tails().all(|tail| capacity(tail) >= CHUNK_LEN));
    let totals = writer.totals().clone();
    SealJob {
        segment: Arc::clone(&segment),
        totals,
        successor: SegmentId(2),
        stamp: Stamp::certain(now),
        successor_end: None,
    }
    .run()
    .unwrap();
    assert_eq!(tails().map(capacity).sum::<usize>(), 0);
}
