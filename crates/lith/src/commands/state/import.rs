//! `lith state import`: makes a state store of an export. `--json`: `{"version":…,"root":…,
//! "rows":…,"bytes":…}`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lithdb_state::{ImportReport, RootHash, StateDb};

use super::options;
use crate::database::Context;
use crate::failure::Failure;
use crate::files;
use crate::output::{counted, duration, size};
use crate::progress::Progress;

/// The arguments of `lith state import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file with the export; - is standard input
    file: PathBuf,
    /// Refuse an export with another root
    #[arg(long, value_name = "HEX")]
    expect_root: Option<RootHash>,
}

pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    let (input, total): (Box<dyn Read>, _) = if args.file == Path::new("-") {
        (Box::new(std::io::stdin().lock()), None)
    } else {
        files::stream(&args.file).map_err(|e| Failure::io(args.file.display(), &e))?
    };
    let started = Instant::now();
    let source = Counted { input, total, done: 0, bar: Progress::new("importing") };
    let report = StateDb::import(dir, source, options(), args.expect_root)?;
    let ImportReport { version, root, rows, bytes, .. } = &report;
    ctx.out.text(format_args!(
        "imported {}, {} of keys and values in {}\n  version {version}\n  root {root}",
        counted(*rows, "row"),
        size(*bytes),
        duration(started.elapsed())
    ))?;
    ctx.out.json(&report)
}

/// Shows how much of the input was read.
struct Counted {
    input: Box<dyn Read>,
    total: Option<u64>,
    done: u64,
    bar: Progress,
}

impl Read for Counted {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let got = self.input.read(room)?;
        self.done += got as u64;
        self.bar.set(self.done, self.total);
        Ok(got)
    }
}
