//! Maintenance of a table that was closed meanwhile.

use lithdb_sim::SimFs;

use super::*;
use crate::test_support::{open, setup};

#[test]
fn a_mark_is_not_written_after_the_table_was_dropped() {
    let fs = SimFs::new();
    let setup = setup(&fs);
    let table = open(&setup);
    table.put(b"key", b"value").unwrap();
    table.flush().unwrap();
    let writer = table.enter_write().unwrap();
    table.begin_drop().unwrap();
    let end = writer.log.lock().end();
    assert_eq!(writer.write_mark().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(writer.log.lock().end(), end, "nothing is appended either");
}

#[test]
fn space_is_not_released_after_close() {
    let fs = SimFs::new();
    let table = open(&setup(&fs));
    table.put(b"key", b"value").unwrap();
    table.flush().unwrap();
    let writer = table.enter_write().unwrap();
    table.close().unwrap();
    let ops = fs.ops();
    assert_eq!(writer.release_idle_resources().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(fs.ops(), ops);
}
