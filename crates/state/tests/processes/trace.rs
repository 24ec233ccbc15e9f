//! The system calls of a process that change files, as `strace` writes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CALLS: &str = "trace=?open,openat,?creat,fsync,fdatasync,write,writev,pwrite64,pwritev,\
                     pwritev2,ftruncate,?truncate,copy_file_range,sendfile,?rename,?renameat,\
                     renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?rmdir,?mkdir,\
                     mkdirat";

/// A call that has returned and succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Mark(String),
    Create(PathBuf),
    MakeDir(PathBuf),
    /// File, and where the bytes end, if the call says it.
    Write(PathBuf, Option<u64>),
    /// File, length.
    Truncate(PathBuf, u64),
    Sync(PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// A call with the thread that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub thread: u64,
    pub call: Call,
}

/// Runs `command` and returns its marks and the calls that concern something below `dir`, in the
/// order in which they returned.
pub fn trace(command: &Command, dir: &Path) -> Vec<Event> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "64", "-e", "signal=none", "-e", CALLS, "-o"]).arg(log.path());
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {stdout}\n{stderr}", output.status);
    let events = parse(&std::fs::read_to_string(log.path()).unwrap());
    let is_ours = |event: &Event| match &event.call {
        Call::Mark(_) => true,
        Call::Create(path)
        | Call::MakeDir(path)
        | Call::Write(path, _)
        | Call::Truncate(path, _)
        | Call::Sync(path)
        | Call::Link(_, path)
        | Call::Remove(path) => path.starts_with(dir),
        Call::Rename(from, to) => from.starts_with(dir) || to.starts_with(dir),
    };
    events.into_iter().filter(is_ours).collect()
}

fn parse(log: &str) -> Vec<Event> {
    let mut begun: BTreeMap<u64, String> = BTreeMap::new();
    let mut events = Vec::new();
    for line in log.lines() {
        let (thread, text) = line.split_once(' ').unwrap();
        let (thread, text) = (thread.parse().unwrap(), text.trim_start());
        if let Some(head) = text.strip_suffix("<unfinished ...>") {
            begun.insert(thread, head.trim_end().to_owned());
            continue;
        }
        let whole = match text.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>")) {
            Some((_, rest)) => begun.remove(&thread).unwrap() + rest,
            None => text.to_owned(),
        };
        events.extend(parse_call(&whole).map(|call| Event { thread, call }));
    }
    events
}

/// Parses one call; `None` if it failed or changed nothing.
fn parse_call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    // The path in <…> after a descriptor, and the paths in quotes, which may be relative to it.
    let of_descriptor = || Some(PathBuf::from(args.split_once('<')?.1.split_once('>')?.0));
    let quoted = |n: usize| {
        let path = Path::new(args.split('"').nth(2 * n + 1)?);
        if path.is_absolute() { Some(path.to_owned()) } else { Some(of_descriptor()?.join(path)) }
    };
    let last_number = || args.rsplit_once(", ").unwrap().1.parse::<u64>().unwrap();
    match name {
        "write" if args.contains("\"MARK ") => {
            let (_, mark) = args.split_once("\"MARK ")?;
            Some(Call::Mark(mark.split_once("\\n")?.0.to_owned()))
        }
        "openat" if args.contains("O_CREAT") => Some(Call::Create(quoted(0)?)),
        "openat" if args.contains("O_TRUNC") => Some(Call::Truncate(quoted(0)?, 0)),
        "openat" => None,
        "mkdir" | "mkdirat" => Some(Call::MakeDir(quoted(0)?)),
        "write" | "writev" => Some(Call::Write(of_descriptor()?, None)),
        "pwrite64" => {
            let end = last_number() + result.trim().parse::<u64>().unwrap();
            Some(Call::Write(of_descriptor()?, Some(end)))
        }
        "ftruncate" => Some(Call::Truncate(of_descriptor()?, last_number())),
        "fsync" | "fdatasync" => Some(Call::Sync(of_descriptor()?)),
        "link" | "linkat" => Some(Call::Link(quoted(0)?, quoted(1)?)),
        "rename" | "renameat" | "renameat2" => Some(Call::Rename(quoted(0)?, quoted(1)?)),
        "unlink" | "unlinkat" | "rmdir" => Some(Call::Remove(quoted(0)?)),
        _ => panic!("not in the model: {text}"),
    }
}
