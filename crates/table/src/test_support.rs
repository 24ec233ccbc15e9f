//! A table for the unit tests of this crate, on the simulated file system.

use std::time::Duration;

use lithdb_segment::TableName;
use lithdb_sim::{SimClock, SimFs, sim_env};

use crate::{OpenForWriting, Table, TableOptions, TableSetup};

pub(crate) fn setup(fs: &SimFs) -> TableSetup {
    fs.make_dirs("/r");
    let name = TableName::new("t").unwrap();
    TableSetup::for_files(name, &sim_env(fs, &SimClock::new(1)), &["/r".into()])
}

/// Creates a table and opens it for writing.
pub(crate) fn open(setup: &TableSetup) -> Table {
    Table::create(setup).unwrap();
    let how = OpenForWriting { coalesce: Duration::ZERO };
    Table::open(setup, &TableOptions::new(), how).unwrap()
}
