//! `lith state export`: writes all rows of a version to a new file, or to standard output.
//! `--json`, for a file: `{"version":…,"root":…,"rows":…,"bytes":…,"export_bytes":…}`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lithdb_state::ExportReport;

use super::view;
use crate::database::Context;
use crate::failure::Failure;
use crate::files;
use crate::output::{counted, duration, size};
use crate::progress::Progress;

/// The arguments of `lith state export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to create; - is standard output
    file: PathBuf,
    /// The version [default: the newest]
    #[arg(long, value_name = "VERSION")]
    at: Option<u64>,
}

/// A regular file has the whole export or does not exist.
pub(super) fn run(args: &Args, dir: &Path, ctx: &mut Context) -> Result<(), Failure> {
    if args.file == Path::new("-") {
        if ctx.out.is_json() {
            return Err(Failure::usage("--json needs a file: expected FILE, found -"));
        }
        view(dir, args.at)?.export(Counted::new(std::io::stdout().lock()))?;
        return Ok(());
    }
    let started = Instant::now();
    let mut report = None;
    files::create(&args.file, &mut |out| {
        report = Some(view(dir, args.at)?.export(Counted::new(out))?);
        Ok(())
    })?;
    let Some(report) = report else { unreachable!("the file was written") };
    let ExportReport { version, root, rows, export_bytes, .. } = &report;
    ctx.out.text(format_args!(
        "exported {}, {} in {}\n  version {version}\n  root {root}",
        counted(*rows, "row"),
        size(*export_bytes),
        duration(started.elapsed())
    ))?;
    ctx.out.json(&report)
}

/// Shows how many bytes were written.
struct Counted<W> {
    out: W,
    done: u64,
    bar: Progress,
}

impl<W: Write> Counted<W> {
    fn new(out: W) -> Self {
        Self { out, done: 0, bar: Progress::new("exporting") }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done += written as u64;
        self.bar.set(self.done, None);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
