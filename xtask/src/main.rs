//! `cargo xtask`: chores of the repository that are too much for a shell script.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool beside the engine: none of its files is ever part of a crash image"
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

/// What went wrong, in one line that names the thing.
type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Breaks the engine in each way of testing/mutants.toml, in a copy, and demands that the named tests fail
    Mutants(mutants::Args),
    /// Runs the crash harness and the fuzzers for as long as asked for, with another seed in every round
    Deep(deep::Args),
    /// Adds up what the tests have tried
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
