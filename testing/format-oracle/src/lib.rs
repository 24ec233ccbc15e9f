//! A reader of LithDB's files written from `docs/FORMAT.md` alone: test support, never published.
//!
//! It shares no code with the engine: what both agree on is what the document says. [`table()`] reads all of a table, [`key_file`],
//! [`value_header`], [`metadata()`] and [`state()`] one file each. It is strict and stops where something is not as
//! documented: every byte that must be zero is looked at, every checksum, length, count and promise is compared.
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
    reason = "tests call this and stop where something is wrong; the fields are those of the document"
)]

mod checksum;
mod envelope_files;
mod fields;
mod key_file;
mod table;

pub use checksum::crc32c;
pub use envelope_files::{DurableEnd, Metadata, State, metadata, state};
pub use key_file::{Header, KeyFile, Record, key_file, key_header, value_header};
pub use table::{DecodedRecord, Seal, Segment, Table, table};
