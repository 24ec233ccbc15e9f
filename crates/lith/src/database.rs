//! Opening the database that the command line names.

use std::io::ErrorKind;
use std::path::PathBuf;

use lithdb::env::{Fs, OsFs};
use lithdb::{Components, Db, DbOptions, ReadMode, Table};

use crate::failure::Failure;
use crate::output::{Output, print_note};
use crate::progress::Spinner;

/// What every command has: where the database is, and where the answer goes.
pub(crate) struct Command {
    /// The root directories as given.
    pub(crate) roots: Vec<PathBuf>,
    /// Read by `pread`.
    pub(crate) pread: bool,
    /// Standard output.
    pub(crate) out: Output,
}

impl Command {
    /// The options of the database. Only what is asked to creates one.
    pub(crate) fn options(&self) -> Result<DbOptions, Failure> {
        if self.roots.is_empty() {
            return Err(Failure::usage("expected --db DIR, the directory of the database"));
        }
        Ok(self.options_for(&self.roots))
    }

    /// The options of a database in these directories.
    pub(crate) fn options_for(&self, roots: &[PathBuf]) -> DbOptions {
        let read_mode = if self.pread { ReadMode::Pread } else { ReadMode::Map };
        DbOptions::new(roots.to_vec()).create_if_missing(false).read_mode(read_mode)
    }

    /// Opens for reading, beside whoever writes.
    pub(crate) fn open_read_only(&self) -> Result<Db, Failure> {
        let options = self.options()?;
        let _spinner = Spinner::new("opening");
        Ok(Db::open_read_only(options)?)
    }

    /// Opens for writing.
    pub(crate) fn open(&self) -> Result<Db, Failure> {
        self.open_with(self.options()?)
    }

    /// Opens for writing, and does nothing by itself: a table that is open here without its application's GC filter must
    /// not be collected behind its back.
    pub(crate) fn open_with(&self, options: DbOptions) -> Result<Db, Failure> {
        let _spinner = Spinner::new("opening");
        let components = Components { without_maintenance: true, ..Components::default() };
        let db = Db::open_with(options, components)?;
        if let Some(report) = db.finished_rollback() {
            print_note("a rollback had been interrupted, and was finished first:");
            report.to_string().lines().for_each(print_note);
        }
        Ok(db)
    }

    /// The root directories without links in their paths, as far as they exist.
    pub(crate) fn real_roots(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut real = Vec::with_capacity(self.roots.len());
        for root in &self.roots {
            match OsFs.canonicalize(root) {
                Ok(path) => real.push(path),
                // It is created later, or refused by whoever opens it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io(root.display(), &error)),
            }
        }
        Ok(real)
    }
}

/// Opens a table as it is recorded.
pub(crate) fn existing_table(db: &Db, name: &str) -> lithdb::Result<Table> {
    let _spinner = Spinner::new("reading keys");
    db.existing_table(name)
}

/// The names of the tables that a command is about: the one that was named, or all.
pub(crate) fn names(db: &Db, named: Option<&str>) -> Result<Vec<String>, Failure> {
    match named {
        Some(name) => Ok(vec![name.to_owned()]),
        None => Ok(db.tables()?.iter().map(ToString::to_string).collect()),
    }
}
