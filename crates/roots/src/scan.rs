//! One scan of the listed root directories: their resolved paths, identities and `root.id` files.
//! Reads only. `decide` turns the result into a plan.

use std::io;
use std::path::{Path, PathBuf};

use lithdb_env::{DirEntry, Error, ErrorKind, FileKind, Fs, LEFTOVER_SUFFIX, Result, exists};
use lithdb_segment::{SEGMENTS_DIR, STATE_FILE, TableName};

use super::Access;
use super::locks::LOCK_FILE;
use super::root_id::{MAX_ROOTS, ROOT_ID_FILE, RootId};

/// One directory that was listed as a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScannedRoot {
    /// Absolute, symbolic links resolved; where it would be created if it does not exist.
    pub(super) path: PathBuf,
    /// Identifies the directory under any name; `None` if it does not exist.
    identity: Option<(u64, u64)>,
    /// The contents of its `root.id`.
    pub(super) id: Option<RootId>,
    /// Why its `root.id` is invalid.
    pub(super) damage: Option<String>,
    /// The first entry that creating a database does not leave. Set only without a complete
    /// `root.id`.
    pub(super) foreign: Option<String>,
    /// Which parts of tables it holds. Set only without a complete `root.id`.
    pub(super) holds: TablesFound,
}

impl ScannedRoot {
    /// Whether the directory exists.
    pub(super) fn exists(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether nothing shows that the directory was a root.
    pub(super) fn is_blank(&self) -> bool {
        self.id.is_none() && self.damage.is_none() && self.holds == TablesFound::Nothing
    }
}

/// Which parts of tables a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TablesFound {
    /// Nothing.
    Nothing,
    /// Segment directories.
    Segments,
    /// A `table.state`, which exists on root 0 only.
    State,
}

/// Scans all `roots`, in the order in which they are listed.
///
/// # Errors
/// An invalid list, a `root.id` of another version, file system errors.
pub(super) fn scan(fs: &dyn Fs, roots: &[PathBuf], access: Access) -> Result<Vec<ScannedRoot>> {
    if roots.is_empty() || roots.len() > MAX_ROOTS {
        return invalid(format!(
            "expected 1 to {MAX_ROOTS} root directories, found {}",
            roots.len()
        ));
    }
    let mut all: Vec<ScannedRoot> = Vec::with_capacity(roots.len());
    for given in roots {
        let seen = find(fs, given)?;
        for (other, named) in all.iter().zip(roots) {
            let (a, b) = (named.display(), given.display());
            let is_same_inode = seen.exists() && seen.identity == other.identity;
            if is_same_inode || seen.path == other.path {
                return invalid(format!(
                    "{a} and {b} are the same directory; list every root once"
                ));
            }
            if seen.path.starts_with(&other.path) || other.path.starts_with(&seen.path) {
                return invalid(format!(
                    "one of the roots {a} and {b} is inside the other; use separate directories"
                ));
            }
        }
        all.push(seen);
    }
    all.iter_mut().filter(|seen| seen.exists()).try_for_each(|seen| read(fs, seen, access))?;
    Ok(all)
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// Resolves the path and identity of a directory, without reading its contents.
fn find(fs: &dyn Fs, given: &Path) -> Result<ScannedRoot> {
    if given.as_os_str().is_empty() {
        let message = "the path of a root directory is empty; use \".\" for the current directory";
        return invalid(message.to_owned());
    }
    let (path, is_present) = resolve(fs, given)?;
    let mut identity = None;
    if is_present {
        let metadata = fs.metadata(&path).map_err(|e| Error::io("stat", &path, e))?;
        if metadata.kind != FileKind::Dir {
            return invalid(format!("root {} is not a directory", given.display()));
        }
        identity = Some(metadata.identity);
    }
    Ok(ScannedRoot {
        path,
        identity,
        id: None,
        damage: None,
        foreign: None,
        holds: TablesFound::Nothing,
    })
}

/// The absolute path with symbolic links resolved, and whether it exists. Components that do not
/// exist are not links.
fn resolve(fs: &dyn Fs, given: &Path) -> Result<(PathBuf, bool)> {
    let mut absent = Vec::new();
    let mut at = given;
    loop {
        let look = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        match fs.canonicalize(look) {
            Ok(mut path) => {
                path.extend(absent.iter().rev());
                return Ok((path, absent.is_empty()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("resolve", given, error)),
        }
        let missing = |what: &str| {
            let message = format!("root {}: {} {what}", given.display(), look.display());
            Error::new(ErrorKind::Missing, message)
        };
        if exists(fs, look).map_err(|e| Error::io("stat", look, e))? {
            return Err(missing("is a dangling symbolic link; mount or create its target"));
        }
        let (Some(name), Some(parent)) = (at.file_name(), at.parent()) else {
            return Err(missing(
                "follows \"..\" from a directory that does not exist; leave out \"..\"",
            ));
        };
        absent.push(name);
        at = parent;
    }
}

fn read(fs: &dyn Fs, seen: &mut ScannedRoot, access: Access) -> Result<()> {
    match RootId::read(fs, &seen.path, access) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            seen.damage = Some(error.message().to_owned());
        }
        read => seen.id = read?,
    }
    if !seen.id.as_ref().is_some_and(RootId::is_complete) {
        let entries = list(fs, &seen.path)?;
        seen.holds = holds(fs, &seen.path, &entries)?;
        seen.foreign = entries.into_iter().find(is_foreign).map(|entry| entry.name);
    }
    Ok(())
}

pub(super) fn list(fs: &dyn Fs, root: &Path) -> Result<Vec<DirEntry>> {
    fs.list(root).map_err(|e| Error::io("list", root, e))
}

/// Which parts of tables `root` holds.
pub(super) fn holds(fs: &dyn Fs, root: &Path, entries: &[DirEntry]) -> Result<TablesFound> {
    let mut most = TablesFound::Nothing;
    for dir in entries.iter().filter(|entry| is_table(entry)) {
        for (name, held) in
            [(SEGMENTS_DIR, TablesFound::Segments), (STATE_FILE, TablesFound::State)]
        {
            let path = root.join(&dir.name).join(name);
            if exists(fs, &path).map_err(|e| Error::io("stat", &path, e))? {
                most = most.max(held);
            }
        }
    }
    Ok(most)
}

/// The first entry of a directory that neither creating a database nor repairing its tables
/// leaves.
///
/// # Errors
/// File system errors.
pub(super) fn first_foreign_entry(fs: &dyn Fs, root: &Path) -> Result<Option<String>> {
    let mut entries = list(fs, root)?.into_iter();
    let foreign_entry = entries.find(|entry| is_foreign(entry) && !is_table(entry));
    Ok(foreign_entry.map(|entry| entry.name))
}

fn is_table(entry: &DirEntry) -> bool {
    entry.kind == FileKind::Dir && TableName::new(&entry.name).is_ok()
}

fn is_foreign(entry: &DirEntry) -> bool {
    match entry.kind {
        FileKind::File => !left_by_creation(&entry.name),
        FileKind::Dir => entry.name != "lost+found", // every ext file system has one
        FileKind::Symlink | FileKind::Other => true,
    }
}

fn left_by_creation(name: &str) -> bool {
    let whole = name.strip_suffix(LEFTOVER_SUFFIX);
    matches!(name, LOCK_FILE | ROOT_ID_FILE) || whole == Some(ROOT_ID_FILE)
}
