//! Verification, dump and repair of a table's files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cases;
mod edge_cases;
mod fixture;
mod headers;
mod interrupted_repair;
mod losses;
mod repair;
mod state;
#[path = "../../../table/tests/support/mod.rs"]
mod support;
mod swapped_files;
mod unsealed;
mod verify_and_dump;
