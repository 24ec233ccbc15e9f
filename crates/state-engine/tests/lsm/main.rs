//! The production engine: damage, crashes, failing system calls, and what its crate would get
//! wrong without the adapter.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod child;
mod crash_images;
mod damage;
mod inject;
mod late;
mod overlap;
mod rows;
mod strace;
