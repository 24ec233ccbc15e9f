//! Generated histories of a state store: operations, their execution, and what is checked.

pub mod check;
pub mod op;
pub mod overlap;
pub mod production;
pub mod reopen;
pub mod run;
