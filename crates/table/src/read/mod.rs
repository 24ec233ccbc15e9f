//! Reading: lookups, iterators, and the views of processes that only read.

pub(crate) mod check_keymap;
pub(crate) mod follow;
pub(crate) mod get;
pub(crate) mod iter;
pub(crate) mod reader;
mod refresh;
pub(crate) mod source;
pub(crate) mod view;
