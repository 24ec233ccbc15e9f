//! Writing: accepting records, committing them, sealing segments.

pub(crate) mod activity;
pub(crate) mod commit;
mod flush;
pub(crate) mod in_flight;
pub(crate) mod put;
mod roll_over;
pub(crate) mod seal;
mod stream;
pub(crate) mod writer;
