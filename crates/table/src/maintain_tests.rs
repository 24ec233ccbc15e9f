//! Upkeep of a table that was closed meanwhile.

use lithdb_sim::SimFs;

use super::*;
use crate::support_tests::{open, setup};

#[test]
fn a_mark_is_not_written_after_the_table_was_dropped() {
    let fs = SimFs::new();
    let setup = setup(&fs);
    let table = open(&setup);
    table.put(b"key", b"value").unwrap();
    table.flush().unwrap();
    let side = table.inner.enter_write().unwrap();
    table.begin_drop().unwrap();
    assert_eq!(table.inner.write_mark(side).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn space_is_not_given_back_after_the_table_was_closed() {
    let fs = SimFs::new();
    let table = open(&setup(&fs));
    table.put(b"key", b"value").unwrap();
    table.flush().unwrap();
    let side = table.inner.enter_write().unwrap();
    table.close().unwrap();
    let ops = fs.ops();
    assert_eq!(table.inner.give_back(side).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(fs.ops(), ops);
}
