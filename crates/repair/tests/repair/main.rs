//! What verification, dump and repair say of a table's files, and do to them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod beginnings;
mod cases;
mod harness;
mod interrupted;
mod look;
mod losses;
mod names;
mod rare;
mod repair;
mod states;
#[path = "../../../table/tests/support/mod.rs"]
mod support;
mod tail;
