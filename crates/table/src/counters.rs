//! Counters of a table for the `metrics` facade. They use the recorder that is installed when the
//! table is opened. Nothing in the engine reads them.

use lithdb_segment::TableName;
use metrics::Counter;

/// Counters of the put and get paths.
pub(crate) struct Counters {
    /// Values put.
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
