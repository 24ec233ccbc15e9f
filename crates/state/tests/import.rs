//! Export, import, reset and diff: what is exported is what is imported, at every crash and every
//! fault of an import or a reset there is a whole store, or none that opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs, unreachable_pub)]

#[path = "import/crash.rs"]
mod crash;
#[path = "import/diff.rs"]
mod diff;
#[path = "import/faults.rs"]
mod faults;
#[path = "import/origin.rs"]
mod origin;
#[path = "import/paths.rs"]
mod paths;
#[path = "import/production.rs"]
mod production;
#[path = "import/refusals.rs"]
mod refusals;
#[path = "import/round_trip.rs"]
mod round_trip;
mod support;
