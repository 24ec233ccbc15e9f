//! A model of a database: `op` generates histories of operations; `run`, `tables`, `reads`,
//! `clocks`, `reopen` and `rollback` apply them to a database on a simulated disk; `expect` and
//! `check` compare what is found with what may and must exist.

pub mod check;
pub mod clocks;
pub mod expect;
pub mod op;
pub mod process;
pub mod reads;
pub mod reopen;
pub mod rollback;
pub mod run;
pub mod tables;
