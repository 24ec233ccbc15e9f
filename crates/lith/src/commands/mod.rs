//! The commands, one file each: the arguments it takes and what it does.

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
pub(crate) mod tour;
pub(crate) mod verify;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{Cli, Command as Asked};
use crate::database::Command;
use crate::failure::Failure;
use crate::output::{Output, Purpose};

/// Does what was asked for.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    log(cli.verbose);
    let purpose = match cli.command {
        Asked::Ls | Asked::Get(_) | Asked::Scan(_) | Asked::Dump(_) => Purpose::Result,
        _ => Purpose::Report,
    };
    let out = Output::new(cli.json, purpose);
    let mut command = Command { roots: cli.roots.dirs, pread: cli.pread, out };
    let ended = match cli.command {
        Asked::Ls => ls::run(&mut command),
        Asked::Info(args) => info::run(&args, &mut command),
        Asked::Put(args) => put::run(&args, &mut command),
        Asked::Get(args) => get::run(&args, &mut command),
        Asked::Scan(args) => scan::run(&args, &mut command),
        Asked::Load(args) => load::run(&args, &mut command),
        Asked::Verify(args) => verify::run(&args, &mut command),
        Asked::Gc(args) => gc::run(&args, &mut command),
        Asked::Dump(args) => dump::run(&args, &mut command),
        Asked::Repair(args) => repair::run(&args, &mut command),
        Asked::Rollback(args) => rollback::run(&args, &mut command),
        Asked::RebuildKeymap(args) => rebuild_keymap::run(&args, &mut command),
        Asked::Tour(args) => tour::run(&args, &mut command),
    };
    // Whether it worked out is for the command to say, not for whoever reads.
    let written = command.out.finish();
    ended.and(written)
}

/// Logs go to standard error, and only if they are wanted.
fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    #[expect(clippy::let_underscore_must_use, reason = "whoever set a subscriber before keeps it")]
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
