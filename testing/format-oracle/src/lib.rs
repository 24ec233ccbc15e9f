//! A reader of LithDB's files written from `docs/FORMAT.md` alone: test support, never published.
//!
//! It shares no code with the engine: where both agree, the document is right. [`table()`] reads a
//! whole table; [`key_file`], [`value_header`], [`metadata()`] and [`state()`] read one file each.
//! The reader is strict and panics at the first deviation from the document: it checks every byte
//! that must be zero and every checksum, length, count and recorded end.
//!
//! ```
//! use lithdb_format_oracle::crc32c;
//! assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
//! assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
//! ```

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests call this and stop at the first deviation; the document describes the fields"
)]

mod checksum;
mod envelope_files;
mod fields;
mod key_file;
mod table;

pub use checksum::crc32c;
pub use envelope_files::{Metadata, RecordedEnd, State, metadata, state};
pub use key_file::{Header, KeyFile, Record, key_file, key_header, value_header};
pub use table::{DecodedRecord, Seal, Segment, Table, table};
