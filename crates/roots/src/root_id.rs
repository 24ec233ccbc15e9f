//! The file `root.id`: the database a directory belongs to, its root number and its generation.
//!
//! It has two slots, written in place like `table.state`, so that opening works on a full disk.
//! Only this crate reads and writes it; every id that is written satisfies `RootId::check`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Fs, Result, exists, read_file};
use lithdb_segment::envelope::{ENVELOPE_LEN, Magic};
use serde::{Deserialize, Serialize};

use super::Access;
use lithdb_env::exists_as;
use lithdb_segment::slots::{self, CurrentSlot, SLOT_UNIT, SLOTS, Slotted};

/// The file name.
pub(super) const ROOT_ID_FILE: &str = "root.id";
/// More than the file takes with the maximum number of roots.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// The maximum number of roots of a database: the root number is a u16.
pub(super) const MAX_ROOTS: usize = u16::MAX as usize;

/// The contents of `root.id`. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootId {
    /// Random; the same on all roots of a database.
    pub(super) database_id: u64,
    /// The number of this root.
    pub(super) number: u16,
    /// Counts changes of the set of roots.
    pub(super) version: u32,
    /// Grows with every renewal: odd on root 0 while one is in progress, even otherwise. 0 before
    /// the commit point of a creation, hence never on root 0.
    pub(super) sequence: u64,
    /// Random, new with each renewal, and the same on all roots once it is complete: distinguishes
    /// diverged copies with equal sequence.
    pub(super) token: u64,
    /// The token of the previous generation.
    pub(super) previous_token: u64,
    /// Random, one for each root, by root number.
    pub(super) root_ids: Vec<u64>,
}

impl RootId {
    /// The id of root 0 of a new database.
    pub(super) fn fresh(env: &Env, roots: usize) -> Result<Self> {
        let (database_id, token) = (env.random_u64()?, env.random_u64()?);
        let root_ids = (0..roots).map(|_| env.random_u64()).collect::<Result<_>>()?;
        let (number, version, sequence, previous_token) = (0, 0, 2, token);
        Ok(Self { database_id, number, version, sequence, token, previous_token, root_ids })
    }

    /// Reads the id of directory `root`; `None` if there is no file.
    ///
    /// # Errors
    /// `Corrupt` (an empty file, too: it is not the same as no file), `Unsupported`, file system
    /// errors.
    pub(super) fn read(fs: &dyn Fs, root: &Path, access: Access) -> Result<Option<Self>> {
        let path = root.join(ROOT_ID_FILE);
        if !exists_as(fs, &path, FileKind::File)? {
            return Ok(None);
        }
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
        let slot_len = bytes.len() / SLOTS;
        if slot_len == 0 || !bytes.len().is_multiple_of(SLOTS * SLOT_UNIT) {
            let (expected, found) = ("two slots of 4096 bytes, or a multiple", bytes.len());
            return Err(damage(&Error::corrupt(&path, 0, expected, &format!("{found} bytes"))));
        }
        let found = slots::current_slot::<Self>(&path, &bytes, slot_len);
        let CurrentSlot { record: id, writable, .. } = found.map_err(|error| {
            if error.kind() == ErrorKind::Corrupt { damage(&error) } else { error }
        })?;
        id.check(&path).map_err(|error| damage(&error))?;
        if access == Access::Write {
            writable?;
        }
        Ok(Some(id))
    }

    /// Creates the id of directory `root`, atomically and durably.
    pub(super) fn create(&self, fs: &dyn Fs, root: &Path) -> Result<()> {
        let path = root.join(ROOT_ID_FILE);
        self.check(&path)?;
        slots::create(fs, &path, self)
    }

    /// Overwrites the id of directory `root` with one of the same length, durably, the current
    /// slot last. Creates the file if it is missing.
    pub(super) fn write(&self, fs: &dyn Fs, root: &Path) -> Result<()> {
        let path = root.join(ROOT_ID_FILE);
        if !exists(fs, &path).map_err(|e| Error::io("stat", &path, e))? {
            return self.create(fs, root);
        }
        self.check(&path)?;
        let bytes =
            read_file(fs, &path, MAX_FILE_BYTES).map_err(|e| Error::io("read", &path, e))?;
        let current_slot = slots::current_slot::<Self>(&path, &bytes, bytes.len() / SLOTS)?.slot;
        slots::write_both(fs, &path, self, 1 - current_slot.min(1))
    }

    /// Whether the database had been created when this was written.
    pub(super) fn is_complete(&self) -> bool {
        self.sequence > 0
    }

    /// Whether a renewal is in progress or was interrupted. Meaningful on root 0 only.
    pub(super) fn is_renewing(&self) -> bool {
        !self.sequence.is_multiple_of(2)
    }

    /// Checks the invariants of every written id.
    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |expected: &str, found: String| {
            Err(Error::corrupt(path, ENVELOPE_LEN as u64, expected, &found))
        };
        let count = self.root_ids.len();
        if count > MAX_ROOTS {
            return wrong("at most 65535 roots", count.to_string());
        }
        if usize::from(self.number) >= count {
            return wrong(
                "a root number below the root count",
                format!("{} of {count}", self.number),
            );
        }
        if self.root_ids.iter().collect::<BTreeSet<_>>().len() != count {
            return wrong("a distinct id for each root", "a duplicate".to_owned());
        }
        if self.number == 0 && !self.is_complete() {
            return wrong("a positive sequence on root 0", "0".to_owned());
        }
        if self.number > 0 && self.is_renewing() {
            return wrong("an even sequence on a root above 0", self.sequence.to_string());
        }
        Ok(())
    }
}

impl Slotted for RootId {
    const MAGIC: Magic = Magic::ROOT;

    fn generation(&self) -> u64 {
        self.sequence
    }
}

fn damage(error: &Error) -> Error {
    error
        .context(
            "the identity of a root is damaged (nothing was changed; restore root.id from a backup \
             of this root, or see `lith repair`)",
        )
        .with_kind(ErrorKind::Corrupt)
}
