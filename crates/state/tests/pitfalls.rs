//! Pitfalls: what went wrong in stores of this kind, one test for each, whose name says what must
//! hold. The comment of a test names where it went wrong.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub)]

#[path = "pitfalls/application.rs"]
mod application;
#[path = "pitfalls/background.rs"]
mod background;
#[path = "pitfalls/damage.rs"]
mod damage;
#[path = "pitfalls/engines.rs"]
mod engines;
#[path = "pitfalls/fixture.rs"]
mod fixture;
#[path = "pitfalls/floor.rs"]
mod floor;
#[path = "pitfalls/going_back.rs"]
mod going_back;
#[path = "pitfalls/hashing.rs"]
mod hashing;
#[path = "pitfalls/import.rs"]
mod import;
#[path = "pitfalls/interleave.rs"]
mod interleave;
#[path = "pitfalls/listeners.rs"]
mod listeners;
#[path = "pitfalls/readers.rs"]
mod readers;
#[path = "pitfalls/readers_beside_a_rollback.rs"]
mod readers_beside_a_rollback;
#[path = "pitfalls/refuse.rs"]
mod refuse;
#[path = "pitfalls/rollback.rs"]
mod rollback;
#[path = "pitfalls/snapshots.rs"]
mod snapshots;
mod support;
#[path = "pitfalls/verify.rs"]
mod verify;
#[path = "pitfalls/verify_calls.rs"]
mod verify_calls;
#[path = "pitfalls/verify_meta.rs"]
mod verify_meta;
#[path = "pitfalls/views.rs"]
mod views;
#[path = "pitfalls/watchdog.rs"]
mod watchdog;
