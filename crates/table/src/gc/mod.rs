//! Garbage collection: which segments have expired, by which clock, and their removal.

pub(crate) mod clock;
pub(crate) mod collect;
pub(crate) mod filter;
