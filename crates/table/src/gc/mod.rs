//! Garbage collection: which segments have expired, by which clock, and their removal. Whole
//! segments expire, oldest first; the watermark is durable before a file is unlinked.

pub(crate) mod clock;
pub(crate) mod collect;
pub(crate) mod filter;
