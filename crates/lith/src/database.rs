//! Opens the database and the tables that the command line names.

use std::io::ErrorKind;
use std::path::PathBuf;

use lithdb::inspect::KeymapReport;
use lithdb::{Components, Db, DbOptions, ReadMode, Table, TableName};
use lithdb_env::{Fs, OsFs};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress::{Progress, Spinner};
use crate::stderr::print_note;

/// What every command gets: the location of the database, and the output.
pub(crate) struct Context {
    /// The root directories as given.
    pub(crate) roots: Vec<PathBuf>,
    /// Read with `pread` instead of mapping files.
    pub(crate) pread: bool,
    /// Standard output.
    pub(crate) out: Output,
}

impl Context {
    /// The options of the database. They do not create it if it does not exist.
    pub(crate) fn options(&self) -> Result<DbOptions, Failure> {
        if self.roots.is_empty() {
            return Err(Failure::usage("expected --db DIR, a root directory of the database"));
        }
        Ok(self.options_for(&self.roots))
    }

    /// The options of a database in these directories.
    pub(crate) fn options_for(&self, roots: &[PathBuf]) -> DbOptions {
        let read_mode = if self.pread { ReadMode::Pread } else { ReadMode::Map };
        DbOptions::new(roots.to_vec()).create_if_missing(false).read_mode(read_mode)
    }

    /// Opens for reading; another process may write.
    pub(crate) fn open_read_only(&self) -> Result<Db, Failure> {
        let options = self.options()?;
        let _spinner = Spinner::new("opening");
        Ok(Db::open_read_only(options)?)
    }

    /// Opens for writing.
    pub(crate) fn open(&self) -> Result<Db, Failure> {
        self.open_with(self.options()?)
    }

    /// Opens for writing, without maintenance: here the application's GC filter is missing, so
    /// nothing may be collected in the background.
    pub(crate) fn open_with(&self, options: DbOptions) -> Result<Db, Failure> {
        let spinner = Spinner::new("opening");
        let components = Components { without_maintenance: true, ..Components::default() };
        let db = Db::open_with(options, components)?;
        drop(spinner);
        if let Some(report) = db.finished_rollback() {
            print_note("finished an interrupted rollback:");
            report.to_string().lines().for_each(print_note);
        }
        Ok(db)
    }

    /// The canonical paths of those root directories that exist.
    pub(crate) fn real_roots(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut real = Vec::with_capacity(self.roots.len());
        for root in &self.roots {
            match OsFs.canonicalize(root) {
                Ok(path) => real.push(path),
                // Opening the database creates it or returns the error.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io(root.display(), &error)),
            }
        }
        Ok(real)
    }
}

/// Opens a table with its recorded settings.
pub(crate) fn existing_table(db: &Db, name: &str) -> lithdb::Result<Table> {
    let _spinner = Spinner::new("reading keys");
    db.existing_table(name)
}

/// Looks up every record of a table in its keymap, and looks for entries without a record.
pub(crate) fn check_keymap(table: &Table) -> lithdb::Result<KeymapReport> {
    table.verify_keymap(&mut Progress::new("checking keymap").follow())
}

// The tables that a command works on: the named one, or all. Not a doc comment: clap would print
// it as the description of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Tables {
    /// The table [default: all tables]
    #[arg(value_name = "TABLE", value_parser = parse_table)]
    pub(crate) table: Option<String>,
}

impl Tables {
    /// The names of the tables.
    pub(crate) fn names(&self, db: &Db) -> lithdb::Result<Vec<String>> {
        match &self.table {
            Some(name) => Ok(vec![name.clone()]),
            None => Ok(db.tables()?.iter().map(ToString::to_string).collect()),
        }
    }
}

/// Parses the name of a table, before anything is opened.
pub(crate) fn parse_table(typed: &str) -> Result<String, String> {
    match TableName::new(typed) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(error.message().to_owned()),
    }
}
