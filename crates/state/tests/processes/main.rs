//! Processes that have a state store open, with the production engine on a real disk: they are
//! killed at random moments, or their system calls are traced.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod beginnings;
mod child;
mod disk;
mod harness;
mod history;
mod kills;
mod known;
mod reading;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod syncs;
mod templates;
mod trace;
