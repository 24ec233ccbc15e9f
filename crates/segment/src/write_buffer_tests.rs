//! Tests of the write buffer: reads, draining, chunk sizes, the memory budget.

use std::path::Path;

use lithdb_env::{Budgets, Fs, UnixMillis, read_exact_at};
use lithdb_sim::{SimClock, SimFs, sim_env};

use super::*;
use crate::{
    Context, Group, HandleCache, Leftovers, NewSegment, ReadMode, SealJob, Segment, SegmentId,
    SegmentWriter, Stamp, Verify,
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
fn buffered_bytes_are_readable_until_written_to_the_file() {
    let file = file();
    let write_buffer = WriteBuffer::new(0, &Budgets::default().buffers);
    write_buffer.make_room(11).unwrap();
    write_buffer.append(0, b"hello ");
    write_buffer.append(6, b"world");
    assert_eq!(write_buffer.read(4, 100).unwrap(), &b"o world"[..]);
    assert_eq!(write_buffer.read(4, 3).unwrap(), &b"o w"[..]);
    assert_eq!(write_buffer.drain(&*file).unwrap(), Some((0, 11)));
    assert_eq!(write_buffer.read(4, 3), None);
    assert_eq!(content(&*file), b"hello world");
}

#[test]
fn an_append_is_never_split_between_chunks() {
    let file = file();
    let write_buffer = WriteBuffer::new(0, &Budgets::default().buffers);
    let piece = vec![7_u8; CHUNK_LEN / 3 + 1];
    for n in 0..4 {
        write_buffer.append(n * piece.len() as u64, &piece);
    }
    assert_eq!(write_buffer.read(0, usize::MAX).unwrap().len() % piece.len(), 0);
    assert!(write_buffer.write_full_chunks(&*file).unwrap().is_some());
    assert_eq!(write_buffer.drain(&*file).unwrap().unwrap().1, 4 * piece.len() as u64);
    assert_eq!(content(&*file), vec![7; 4 * piece.len()]);
}

#[test]
fn direct_writes_leave_a_gap_served_from_the_file() {
    let file = file();
    let write_buffer = WriteBuffer::new(0, &Budgets::default().buffers);
    write_buffer.append(0, b"ab");
    write_all_at(&*file, b"LARGE", 2).unwrap();
    write_buffer.append(7, b"cd");
    assert_eq!(write_buffer.read(2, 5), None);
    assert_eq!(write_buffer.read(1, 5).unwrap(), &b"b"[..]);
    assert_eq!(write_buffer.read(7, 5).unwrap(), &b"cd"[..]);
    write_buffer.drain(&*file).unwrap();
    assert_eq!(content(&*file), b"abLARGEcd");
}

#[test]
fn bytes_of_a_failed_write_stay_readable() {
    let sim = SimFs::new();
    let file = sim.create_new(Path::new("/f")).unwrap();
    let write_buffer = WriteBuffer::new(0, &Budgets::default().buffers);
    write_buffer.append(0, b"kept");
    sim.fail_op(1, lithdb_sim::Fault::Eio, true);
    assert!(write_buffer.drain(&*file).is_err());
    assert_eq!(write_buffer.read(0, 10).unwrap(), &b"kept"[..]);
}

fn capacity(write_buffer: &WriteBuffer) -> usize {
    let state = write_buffer.state.read();
    let frozen = state.frozen.iter().map(|chunk| &chunk.buffer);
    let buffers = frozen.chain([&state.active]).chain(&state.spare);
    buffers.map(|buffer| buffer.bytes.capacity()).sum()
}

#[test]
fn released_memory_is_reacquired_on_append() {
    let file = file();
    let write_buffer = WriteBuffer::new(0, &Budgets::default().buffers);
    write_buffer.append(0, b"in the file");
    write_buffer.drain(&*file).unwrap();
    write_buffer.append(11, b" and not");
    write_buffer.release();
    assert_eq!(
        write_buffer.read(11, 9).unwrap(),
        &b" and not"[..],
        "bytes that wait are not given up"
    );
    write_buffer.drain(&*file).unwrap();
    write_buffer.release();
    assert_eq!(capacity(&write_buffer), 0);
    assert_eq!(write_buffer.read(0, 9), None);
    write_buffer.append(19, b" yet");
    assert_eq!(write_buffer.read(19, 9).unwrap(), &b" yet"[..]);
    write_buffer.drain(&*file).unwrap();
    assert_eq!(content(&*file), b"in the file and not yet");
}

#[test]
fn buffers_grow_on_append_and_are_freed_by_drain() {
    let (file, budget) = (file(), Budgets::default().buffers);
    let write_buffer = WriteBuffer::new(0, &budget);
    write_buffer.make_room(100).unwrap();
    write_buffer.append(0, &[1; 100]);
    assert_eq!(budget.used(), FIRST_CHUNK_LEN as u64);
    for n in 0..40 {
        write_buffer.make_room(60_000).unwrap();
        write_buffer.append(100 + n * 60_000, &[2; 60_000]);
        write_buffer.write_full_chunks(&*file).unwrap();
    }
    assert!(budget.used() >= CHUNK_LEN as u64);
    write_buffer.drain(&*file).unwrap();
    assert!(budget.used() <= MAX_IDLE_LEN as u64, "{budget:?}");
    assert_eq!(content(&*file).len(), 100 + 40 * 60_000);
    drop(write_buffer);
    assert_eq!(budget.used(), 0);
}

#[test]
fn exhausted_budget_refuses_room_and_keeps_accepted_bytes() {
    let (file, budget) = (file(), Budgets::new(0, 0, 50_000).buffers);
    let write_buffer = WriteBuffer::new(0, &budget);
    write_buffer.make_room(40_000).unwrap();
    write_buffer.append(0, &[1; 40_000]);
    assert!(write_buffer.make_room(20_000).unwrap_err().to_string().contains("write_buffer_bytes"));
    write_buffer.drain(&*file).unwrap();
    write_buffer.make_room(20_000).unwrap();
    assert_eq!(content(&*file).len(), 40_000);
}

#[test]
fn sealed_segment_keeps_no_write_buffer() {
    let fs = SimFs::new();
    fs.make_dirs("/t");
    let context = Arc::new(Context {
        env: sim_env(&fs, &SimClock::new(1)),
        table_id: 1,
        dirs: vec!["/t".into()],
        read_mode: ReadMode::Pread,
        verify: Verify::Always,
        handles: Arc::new(HandleCache::new(9)),
        leftovers: Leftovers::default(),
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
        segment.write_full_chunks().unwrap();
    }
    let write_buffers =
        || segment.values.iter().chain([&segment.keys]).filter_map(|f| f.write_buffer.as_ref());
    assert_eq!(write_buffers().count(), 3);
    assert!(write_buffers().all(|write_buffer| capacity(write_buffer) >= CHUNK_LEN));
    let totals = writer.totals().clone();
    SealJob {
        segment: Arc::clone(&segment),
        totals,
        successor: SegmentId(2),
        sealed_at: Stamp::certain(now),
        successor_end: None,
    }
    .run()
    .unwrap();
    assert_eq!(write_buffers().map(capacity).sum::<usize>(), 0);
}
