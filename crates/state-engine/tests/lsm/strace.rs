//! Runs the child under `strace` and parses what it writes, with all strings as hexadecimal, so
//! that they hold no separators.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::child;

/// A finished call.
#[derive(Debug, Clone)]
pub struct Call {
    pub pid: String,
    pub name: String,
    args: String,
    result: String,
}

/// A run of the child.
#[derive(Debug)]
pub struct Run {
    pub output: Output,
    pub calls: Vec<Call>,
    pub log: String,
}

/// Runs the child in `dir`; `options` are those of `strace`.
pub fn run(dir: &Path, options: &[String]) -> Run {
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "100000000", "-e", "signal=none"])
        .args(options)
        .arg("-o")
        .arg(log.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child::TEST, "--nocapture", "--test-threads=1"])
        .env(child::DIR, dir)
        .env_remove("LITHDB_TALLY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    Run { output, calls: parse(&log), log }
}

impl Run {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// The marks of the child, in order.
    pub fn marks(&self) -> Vec<String> {
        let stdout = self.stdout();
        let marks = stdout.lines().filter_map(|line| Some(line.split_once("MARK ")?.1.to_owned()));
        marks.collect()
    }
}

fn parse(log: &str) -> Vec<Call> {
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(head) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, head.trim_end().to_owned());
            continue;
        }
        let whole = match call.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>")) {
            Some((_, rest)) => begun.remove(pid).unwrap_or_default() + rest,
            None => call.to_owned(),
        };
        let Some((name, rest)) = whole.split_once('(') else { continue };
        let Some((args, result)) = rest.rsplit_once(" = ") else { continue };
        let args = args.trim_end().strip_suffix(')').unwrap_or(args);
        let [pid, name, args, result] = [pid, name, args, result].map(str::to_owned);
        calls.push(Call { pid, name, args, result });
    }
    calls
}

fn decode(hex: &str) -> Vec<u8> {
    let bytes = hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16));
    bytes.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("not hexadecimal: {hex}"))
}

fn path(hex: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(decode(hex)).unwrap())
}

/// The descriptor and the path in `3<path>`.
fn descriptor(text: &str) -> Option<(i64, PathBuf)> {
    let (fd, rest) = text.split_once('<')?;
    Some((fd.trim().parse().ok()?, path(rest.split_once('>')?.0)))
}

impl Call {
    pub fn succeeded(&self) -> bool {
        !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// The strings in the arguments.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        self.args.split('"').skip(1).step_by(2).map(decode).collect()
    }

    /// The paths in the arguments; relative ones do not occur.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.args.split('"').skip(1).step_by(2).map(path).collect()
    }

    /// The descriptor that is the first argument, and the path it was opened at.
    pub fn file(&self) -> Option<(i64, PathBuf)> {
        descriptor(&self.args)
    }

    /// The descriptor that was returned.
    pub fn opened(&self) -> Option<i64> {
        descriptor(&self.result).map(|(fd, _)| fd)
    }

    pub fn has_flag(&self, flag: &str) -> bool {
        self.args.contains(flag)
    }

    /// The last argument, if it is a number.
    pub fn last_number(&self) -> Option<u64> {
        self.args.rsplit(", ").next()?.parse().ok()
    }

    pub fn returned(&self) -> u64 {
        self.result.trim().parse().unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Whether the call concerns something below `dir`.
    pub fn is_below(&self, dir: &Path) -> bool {
        let is_data = matches!(self.name.as_str(), "write" | "pwrite64" | "read" | "pread64");
        let named = if is_data { Vec::new() } else { self.paths() };
        let file = self.file().map(|(_, path)| path);
        named.iter().chain(&file).any(|path| path.starts_with(dir))
    }
}
