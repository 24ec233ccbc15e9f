//! The file `root.id`: which database a directory belongs to, which of its roots it is, and as of when.
//!
//! Two slots, written in place like `table.state`, so that a full disk does not stand in the way of an opening.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use lithdb_env::{Env, Error, ErrorKind, FileKind, Fs, Result, exists, read_file};
use lithdb_segment::envelope::{ENVELOPE_LEN, Magic};
use serde::{Deserialize, Serialize};

use super::Access;
use lithdb_env::exists_as;
use lithdb_segment::slots::{self, CurrentSlot, SLOT_UNIT, SLOTS, Slotted};

/// The file's name.
pub(super) const ROOT_ID_FILE: &str = "root.id";
/// More than the file of a database with the greatest number of roots takes.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// The most roots a database can have: their number is a u16.
pub(super) const MAX_ROOTS: usize = u16::MAX as usize;

/// What `root.id` says. The order of the fields is the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootId {
    /// Random; the same on all roots of a database.
    pub(super) database_id: u64,
    /// Which root this is.
    pub(super) number: u16,
    /// Counts changes of the set of roots.
    pub(super) version: u32,
    /// Rises with every renewal: odd on root 0 while one is under way, even otherwise. 0 before the commit point of a
    /// creation, and so never on root 0.
    pub(super) sequence: u64,
    /// Random, drawn by each renewal; the same on all roots when it is done. Two histories may count alike.
    pub(super) token: u64,
    /// The token before that one.
    pub(super) previous_token: u64,
    /// Random, one for each root, in the order of their numbers.
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

    /// Reads the id of directory `root`; `None` if it has none.
    ///
    /// # Errors
    /// `Corrupt` (an empty file, too: it is not the same as none), `Unsupported`, what the file system says.
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

    /// Writes the id of directory `root` in the place of an older one of the same length, durably: the slot that rules
    /// last. If there is none, because it is lost, it is created.
    pub(super) fn write(&self, fs: &dyn Fs, root: &Path) -> Result<()> {
        let path = root.join(ROOT_ID_FILE);
        if !exists(fs, &path).map_err(|e| Error::io("look for", &path, e))? {
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

    /// Whether a renewal is under way, or was interrupted. Asked of root 0.
    pub(super) fn is_renewing(&self) -> bool {
        !self.sequence.is_multiple_of(2)
    }

    /// What holds of every id that was ever written.
    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |expected: &str, found: String| {
            Err(Error::corrupt(path, ENVELOPE_LEN as u64, expected, &found))
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
        if self.number == 0 && !self.is_complete() {
            return wrong("root 0 of a complete database", "an incomplete one".to_owned());
        }
        if self.number > 0 && self.is_renewing() {
            return wrong("an even sequence, but on root 0", self.sequence.to_string());
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
            "the identity of a root is damaged (nothing was changed; bring root.id back from a \
             backup of this root, or see `lith repair`)",
        )
        .with_kind(ErrorKind::Corrupt)
}
