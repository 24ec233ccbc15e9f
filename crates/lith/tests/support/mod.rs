//! Runs the built `lith` on temporary directories.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

pub(crate) mod state;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lithdb::{Components, Db, DbOptions};
use lithdb_env::{Fs, OpenMode, OsFs, read_file, write_all_at};
use serde_json::Value as Json;

/// A temporary directory; the database, if any, is in `db`.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
}

impl Fixture {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A database with a table `t`, into which these keys and values were put in order.
    pub(crate) fn with(entries: &[(&str, &[u8])]) -> Self {
        let fixture = Self::new();
        fixture.prepare(|db| {
            let table = db.table("t", Default::default()).unwrap();
            for (key, value) in entries {
                table.put(key.as_bytes(), value).unwrap();
            }
        });
        fixture
    }

    /// The database's directory.
    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    /// Opens the database in this process; creates it if needed.
    pub(crate) fn open(&self) -> Db {
        Db::open_with(DbOptions::new([self.db()]), without_maintenance()).unwrap()
    }

    /// Opens the database in this process, calls `work` and closes it.
    pub(crate) fn prepare(&self, work: impl FnOnce(&Db)) {
        self.prepare_with(without_maintenance(), work);
    }

    /// As [`prepare`](Self::prepare), with other components.
    pub(crate) fn prepare_with(&self, components: Components, work: impl FnOnce(&Db)) {
        let db = Db::open_with(DbOptions::new([self.db()]), components).unwrap();
        work(&db);
        db.close().unwrap();
    }

    /// A path below the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file; creates its parent directories.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        let mut missing: Vec<&Path> =
            path.ancestors().skip(1).take_while(|dir| OsFs.metadata(dir).is_err()).collect();
        while let Some(dir) = missing.pop() {
            OsFs.create_dir(dir).unwrap();
        }
        let file = OsFs.create_new(&path).unwrap();
        write_all_at(&*file, content, 0).unwrap();
        path
    }

    /// Runs `lith` with `--db` and these arguments.
    pub(crate) fn lith(&self, args: &[&str]) -> Run {
        self.lith_with(args, b"")
    }

    /// As [`lith`](Self::lith), with `input` on standard input.
    pub(crate) fn lith_with(&self, args: &[&str], input: &[u8]) -> Run {
        let mut command = lith();
        command.args(args).arg("--db").arg(self.db());
        run(command, input)
    }
}

/// Components without background maintenance.
pub(crate) fn without_maintenance() -> Components {
    Components { without_maintenance: true, ..Components::default() }
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    read_file(&OsFs, path, 1 << 30).unwrap()
}

/// Flips all bits of one byte.
pub(crate) fn flip(path: &Path, offset: u64) {
    let file = OsFs.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    lithdb_env::read_exact_at(&*file, &mut byte, offset).unwrap();
    write_all_at(&*file, &[!byte[0]], offset).unwrap();
}

/// The built program, with `RUST_LOG` unset.
pub(crate) fn lith() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lith"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs `command` to completion.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read closes the pipe.
    if let Err(error) = child.stdin.take().unwrap().write_all(input) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    }
    Run { output: child.wait_with_output().unwrap() }
}

/// Runs `lith` with these arguments and nothing else.
pub(crate) fn bare(args: &[&str]) -> Run {
    let mut command = lith();
    command.args(args);
    run(command, b"")
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) output: Output,
}

impl Run {
    /// Asserts success without errors; returns standard output.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert_eq!(self.output.status.code(), Some(0), "{self:?}");
        assert_eq!(self.errors(), "", "{self:?}");
        self.text()
    }

    /// Asserts success; parses standard output as one document.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Asserts success; parses standard output as one document per line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Json> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts status 1 and a one-line error; returns the error.
    #[track_caller]
    pub(crate) fn failed(&self) -> String {
        self.ended_with(1)
    }

    /// Asserts status 3, no output and a one-line error; returns the error.
    #[track_caller]
    pub(crate) fn no_such_key(&self) -> String {
        assert_eq!(self.text(), "", "{self:?}");
        self.ended_with(3)
    }

    /// Asserts `status` and one JSON document on standard error; returns the error in it.
    #[track_caller]
    pub(crate) fn failed_in_json(&self, status: i32) -> Json {
        assert_eq!(self.output.status.code(), Some(status), "{self:?}");
        let output: Json = serde_json::from_str(&self.errors()).unwrap();
        assert_eq!(output["error"]["status"], status, "{output}");
        output["error"].clone()
    }

    /// Asserts status 1 and a one-line error that contains `why`; returns standard output.
    #[track_caller]
    pub(crate) fn failed_with(&self, why: &str) -> String {
        let error = self.failed();
        assert!(error.contains(why), "{error}");
        self.text()
    }

    /// Asserts status 2, no output and a one-line error; returns the error.
    #[track_caller]
    pub(crate) fn usage(&self) -> String {
        assert_eq!(self.text(), "", "{self:?}");
        self.ended_with(2)
    }

    #[track_caller]
    fn ended_with(&self, status: i32) -> String {
        assert_eq!(self.output.status.code(), Some(status), "{self:?}");
        let errors = self.errors();
        assert_eq!(errors.lines().count(), 1, "{self:?}");
        if errors.starts_with('{') {
            return self.failed_in_json(status)["message"].as_str().unwrap().to_owned();
        }
        assert!(errors.starts_with("lith: ") && errors.ends_with('\n'), "{self:?}");
        errors
    }

    /// Standard output with line breaks and indents replaced by single spaces.
    pub(crate) fn words(&self) -> String {
        self.text().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Standard output.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard error.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}
