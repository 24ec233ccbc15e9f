//! `lith`, the command line of LithDB: parses the arguments, runs one command, reports its error.
//!
//! Each command is a file under `commands/`; the files beside this one are what commands share. A
//! command answers on standard output, in text or with `--json` in JSON; an error is one line on
//! standard error, in the same form. Exit status: 0 done, 1 failed, 2 usage, 3 no such key.

mod args;
mod commands;
mod database;
mod failure;
mod files;
mod keys;
mod output;
mod progress;
mod stderr;
mod walk;

use std::ffi::OsString;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Cli, Command};
use crate::commands::{
    dump, gc, get, info, load, ls, put, rebuild_keymap, repair, rollback, scan, state, tour, verify,
};
use crate::database::Context;
use crate::failure::Failure;
use crate::output::{Output, Purpose};

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    // Before parsing: a usage error is printed in the requested form, too.
    stderr::set_json(args::wants_json(&line));
    match args::parse(line).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    init_logging(cli.verbose);
    let purpose = match &cli.command {
        Command::Ls | Command::Get(_) | Command::Scan(_) | Command::Dump(_) => Purpose::Result,
        Command::State(args) => args.purpose(),
        _ => Purpose::Report,
    };
    let out = Output::new(cli.json, purpose);
    let mut ctx = Context { roots: cli.roots.dirs, pread: cli.pread, out };
    let outcome = match cli.command {
        Command::Ls => ls::run(&mut ctx),
        Command::Info(tables) => info::run(&tables, &mut ctx),
        Command::Put(args) => put::run(&args, &mut ctx),
        Command::Get(args) => get::run(&args, &mut ctx),
        Command::Scan(args) => scan::run(&args, &mut ctx),
        Command::Load(args) => load::run(&args, &mut ctx),
        Command::Verify(tables) => verify::run(&tables, &mut ctx),
        Command::Gc(args) => gc::run(&args, &mut ctx),
        Command::Dump(args) => dump::run(&args, &mut ctx),
        Command::Repair(args) => repair::run(&args, &mut ctx),
        Command::Rollback(args) => rollback::run(&args, &mut ctx),
        Command::RebuildKeymap(tables) => rebuild_keymap::run(&tables, &mut ctx),
        Command::State(args) => state::run(&args, &mut ctx),
        Command::Tour(args) => tour::run(&args, &mut ctx),
    };
    // The command's own error comes before an error of its output.
    let written = ctx.out.finish();
    outcome.and(written)
}

/// Logs to standard error; without `--verbose` only what `RUST_LOG` asks for.
fn init_logging(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    #[expect(clippy::let_underscore_must_use, reason = "an existing subscriber stays")]
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
