//! The file `root.id`: which database a directory belongs to, and which of its roots it is.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use lithdb_env::{Error, ErrorKind, Fs, Result, read_file, replace_file};
use lithdb_segment::check_writable;
use lithdb_segment::envelope::{self, Magic};
use serde::{Deserialize, Serialize};

use super::Access;

/// The file's name.
pub(super) const ROOT_ID_FILE: &str = "root.id";
/// More than the file of a database with the greatest number of roots takes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most roots a database can have: their number is a u16.
pub(super) const MAX_ROOTS: usize = u16::MAX as usize;

/// What `root.id` says. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct RootId {
    /// Random; the same on all roots of a database.
    pub(super) database_id: u64,
    /// Which root this is.
    pub(super) number: u16,
    /// Counts changes of the set of roots.
    pub(super) version: u32,
    /// Whether the database had been created when this was written. Always so on root 0, whose file is the
    /// commit point.
    pub(super) complete: bool,
    /// Random, one for each root, in the order of their numbers.
    pub(super) root_ids: Vec<u64>,
}

impl RootId {
    /// Reads the id of directory `root`; `None` if it has none.
    ///
    /// # Errors
    /// `Corrupt` (an empty file, too: it is not the same as none), `Unsupported`, what the file system says.
    pub(super) fn read(fs: &dyn Fs, root: &Path, access: Access) -> Result<Option<Self>> {
        let path = root.join(ROOT_ID_FILE);
        let bytes = match read_file(fs, &path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let damaged = matches!(
                    error.kind(),
                    io::ErrorKind::FileTooLarge | io::ErrorKind::UnexpectedEof
                );
                let error = Error::io("read", &path, error);
                return Err(if damaged { damage(&error) } else { error });
            }
        };
        let id: Self = envelope::open_file(Magic::ROOT, &path, &bytes).map_err(|error| {
            if error.kind() == ErrorKind::Corrupt { damage(&error) } else { error }
        })?;
        id.check(&path).map_err(|error| damage(&error))?;
        if access == Access::Write {
            check_writable(&path, &bytes)?;
        }
        Ok(Some(id))
    }

    /// Writes the id of directory `root`, atomically and durably.
    pub(super) fn write(&self, fs: &dyn Fs, root: &Path) -> Result<()> {
        let path = root.join(ROOT_ID_FILE);
        self.check(&path)?;
        replace_file(fs, &path, &envelope::seal(Magic::ROOT, self)?)
    }

    /// The same root of a database whose creation is complete.
    pub(super) fn completed(&self) -> Self {
        Self { complete: true, ..self.clone() }
    }

    /// What holds of every id that was ever written.
    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |expected: &str, found: String| {
            Err(Error::corrupt(path, envelope::ENVELOPE_LEN as u64, expected, &found))
        };
        let count = self.root_ids.len();
        if count > MAX_ROOTS {
            return wrong("at most 65535 roots", count.to_string());
        }
        if usize::from(self.number) >= count {
            return wrong("the number of a root", format!("{} of {count} roots", self.number));
        }
        if self.root_ids.iter().collect::<BTreeSet<_>>().len() != count {
            return wrong("different ids of all roots", "one twice".to_owned());
        }
        if self.number == 0 && !self.complete {
            return wrong("root 0 of a complete database", "an incomplete one".to_owned());
        }
        Ok(())
    }
}

fn damage(error: &Error) -> Error {
    error
        .context(
            "the identity of a root is damaged (nothing was changed; put root.id back from a \
             backup of this root)",
        )
        .reclassified(ErrorKind::Corrupt)
}
