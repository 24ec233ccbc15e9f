//! Writing: accepting records, committing them, sealing segments.

pub(crate) mod commit;
pub(crate) mod in_flight;
pub(crate) mod put;
pub(crate) mod seal;
mod stream;
