//! A model of a database: histories of operations are made (`op`), done to a database on a simulated disk (`run`, `tables`, `reads`,
//! `clocks`, `reopen`, `rollback`), and what is then found is compared with what may and must be there (`expect`, `check`).

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
