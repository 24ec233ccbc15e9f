//! `cargo xtask`: repository tasks that are too complex for a shell script.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a development tool: none of its files is part of a crash image"
)]

mod deep;
mod list;
mod mutants;
mod process;
mod scratch;
mod tally;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The error is one line that names what failed.
type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Repository tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Applies each mutation of testing/mutants.toml in a copy and requires that the named tests
    /// fail
    Mutants(mutants::Args),
    /// Runs the crash tests and the fuzzers for a given time, with a new seed in every round
    Deep(deep::Args),
    /// Adds up what the tests tried
    Tally(tally::Args),
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let task = Cli::parse().task;
    let ended = process::install_signal_handlers().and_then(|()| match task {
        Task::Mutants(args) => mutants::run(root, &args),
        Task::Deep(args) => deep::run(root, &args),
        Task::Tally(args) => tally::run(&args),
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
