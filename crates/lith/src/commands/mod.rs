//! The commands, one file each: its arguments, what it does, and the JSON that it prints.
//!
//! A command uses the files beside `main.rs`, and the crate `lithdb` or `lithdb-state`. Only the tour
//! and `lith state rollback` use other commands.

pub(crate) mod dump;
pub(crate) mod gc;
pub(crate) mod get;
pub(crate) mod info;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod put;
pub(crate) mod rebuild_keymap;
pub(crate) mod repair;
pub(crate) mod rollback;
pub(crate) mod scan;
pub(crate) mod state;
pub(crate) mod tour;
pub(crate) mod verify;
