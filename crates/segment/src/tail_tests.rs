use std::path::Path;

use lithdb_env::{Fs, read_exact_at};
use lithdb_sim::SimFs;

use super::*;

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
    let tail = Tail::new(0);
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
    let tail = Tail::new(0);
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
    let tail = Tail::new(0);
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
    let tail = Tail::new(0);
    tail.append(0, b"kept");
    sim.fail_op(1, lithdb_sim::Fault::Eio, true);
    assert!(tail.drain(&*file).is_err());
    assert_eq!(tail.read(0, 10).unwrap(), &b"kept"[..]);
}
