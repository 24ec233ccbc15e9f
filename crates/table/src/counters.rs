//! Counters of a table for the `metrics` facade. They go to the recorder that is installed when the table is opened, and
//! decide nothing.

use lithdb_segment::TableName;
use metrics::Counter;

/// What is counted on the way of puts and gets.
pub(crate) struct Counters {
    /// Values that were put.
    pub(crate) values_put: Counter,
    /// Bytes of these values.
    pub(crate) bytes_put: Counter,
    /// Calls of `get`.
    pub(crate) gets: Counter,
}

impl Counters {
    pub(crate) fn new(table: &TableName) -> Self {
        let table = table.to_string();
        Self {
            values_put: metrics::counter!("lithdb_values_put_total", "table" => table.clone()),
            bytes_put: metrics::counter!("lithdb_bytes_put_total", "table" => table.clone()),
            gets: metrics::counter!("lithdb_gets_total", "table" => table),
        }
    }
}
