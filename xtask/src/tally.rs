//! `cargo xtask tally`: adds up the lines that tests append to the file that `LITHDB_TALLY` names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::list::read_text;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that LITHDB_TALLY named when the tests ran
    file: PathBuf,
}

/// Counts by name, per kind of test: the part of a test's name before the colon.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    runs: u64,
    counts: BTreeMap<String, u64>,
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    print!("{}", Tally::read(&args.file)?);
    Ok(true)
}

impl Tally {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        Self::parse(&text).map_err(|wrong| format!("{}: {wrong}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut tally = Self::default();
        for line in text.lines() {
            let wrong = || format!("expected NAME, a tab and COUNT=NUMBER …, found {line:?}");
            let (name, counts) = line.split_once('\t').ok_or_else(wrong)?;
            let kind = name.split_once(':').map_or(name, |(kind, _)| kind);
            let kind = tally.kinds.entry(kind.to_owned()).or_default();
            kind.runs += 1;
            for count in counts.split('\t').filter(|count| !count.is_empty()) {
                let (what, number) = count.rsplit_once('=').ok_or_else(wrong)?;
                let number: u64 = number.parse().map_err(|_| wrong())?;
                *kind.counts.entry(what.to_owned()).or_default() += number;
            }
        }
        Ok(tally)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, kind) in &self.kinds {
            let counts = kind.counts.iter().map(|(what, n)| format!("{n} {what}"));
            writeln!(f, "{name} ({}): {}", kind.runs, counts.collect::<Vec<_>>().join(", "))?;
            for (what, n) in &kind.counts {
                *sums.entry(what).or_default() += n;
            }
        }
        const REPORTED: [&str; 8] = [
            "crash points",
            "images",
            "nested crash points",
            "nested images",
            "error points",
            "byte flips",
            "lengths",
            "histories",
        ];
        let reported =
            REPORTED.iter().filter_map(|what| sums.get(what).map(|n| format!("{n} {what}")));
        writeln!(f, "in all: {}", reported.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_summed() {
        let text =
            "crashes: a\tcrash points=2\timages=10\ncrashes: b\timages=5\nmodel\thistories=7\n";
        let shown = Tally::parse(text).unwrap().to_string();
        assert_eq!(
            shown,
            "crashes (2): 2 crash points, 15 images\nmodel (1): 7 histories\n\
             in all: 2 crash points, 15 images, 7 histories\n"
        );
    }

    #[test]
    fn malformed_line_is_an_error_that_quotes_it() {
        for text in ["nothing", "name\tcount", "name\tcount=many"] {
            assert!(Tally::parse(text).unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
        assert_eq!(Tally::parse("").unwrap(), Tally::default());
    }
}
