//! Which versions can be reached, and from where: the one function that opening, views, rolling
//! back and their dry runs ask.

use std::fmt;
use std::ops::RangeInclusive;

use lithdb_env::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::totals::Totals;
use crate::wal::Log;

/// How a version is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reach {
    /// The version.
    pub target: u64,
    /// Where it begins.
    pub base: Base,
    /// The versions of the log that are replayed onto it.
    pub replays: u64,
}

/// Where the way to a version begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Base {
    /// The empty state with which the log begins.
    Empty {
        /// The version of the empty state.
        version: u64,
    },
    /// A snapshot.
    Snapshot {
        /// The version of the snapshot.
        version: u64,
    },
}

impl Base {
    /// The version of the base.
    #[must_use]
    pub fn version(self) -> u64 {
        match self {
            Self::Empty { version } | Self::Snapshot { version } => version,
        }
    }
}

/// A version cannot be reached. It is the source of an error of kind `Missing`:
///
/// ```
/// # use lithdb_state::{StateDb, StateOptions, Unreachable};
/// # let dir = tempfile::tempdir()?;
/// # let db = StateDb::open(dir.path().join("state"), StateOptions::new())?;
/// let error = db.reach(7).expect_err("nothing has been committed");
/// let unreachable = Unreachable::of(&error).expect("it says which versions there are");
/// assert_eq!((unreachable.target, unreachable.has.clone()), (7, Some(0..=0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unreachable {
    /// The version that was asked for.
    pub target: u64,
    /// The newest base below it: a snapshot, or the empty state.
    pub base: Option<u64>,
    /// The versions of the log that are needed.
    pub needs: RangeInclusive<u64>,
    /// The versions that the log has; `None` if it has none.
    pub has: Option<RangeInclusive<u64>>,
    /// A version that is missing in the middle of the log.
    pub gap: Option<u64>,
}

impl Unreachable {
    /// The reason, if an error is one of a version that cannot be reached.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    fn into_error(self) -> Error {
        Error::with_source(ErrorKind::Missing, self.to_string(), self)
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: &RangeInclusive<u64>| format!("{}..={}", range.start(), range.end());
        let target = self.target;
        write!(f, "version {target} cannot be reached: ")?;
        match self.base {
            Some(base) => write!(f, "from version {base} it needs ")?,
            None => write!(f, "there is no snapshot at or below it, so that it needs ")?,
        }
        write!(f, "the log's versions {}; the log has ", range(&self.needs))?;
        match &self.has {
            Some(has) => f.write_str(&range(has))?,
            None => f.write_str("none")?,
        }
        self.gap.map_or(Ok(()), |gap| write!(f, ", but not {gap}"))
    }
}

impl std::error::Error for Unreachable {}

/// How `target` is reached from the newest of the valid `snapshots` at or below it, or from the
/// empty state with which the log begins.
///
/// # Errors
/// `Missing` with [`Unreachable`] as its source.
pub(crate) fn reach(log: &Log, snapshots: &[u64], target: u64) -> Result<Reach> {
    reach_within(log, log.range()?, snapshots, target)
}

/// As [`reach`], if of the log's versions only those in `has` count. The record of the target is
/// needed even if a snapshot is the base: it is the newest one after a rollback.
pub(crate) fn reach_within(
    log: &Log,
    has: Option<RangeInclusive<u64>>,
    snapshots: &[u64],
    target: u64,
) -> Result<Reach> {
    let snapshot = snapshots.iter().rev().find(|version| **version <= target);
    let base = match snapshot {
        Some(version) => Some(Base::Snapshot { version: *version }),
        None => empty_base(log, has.as_ref(), target)?,
    };
    let first = base.map_or(0, |base| base.version().saturating_add(1).min(target));
    let unreachable = |gap| {
        let base = base.map(Base::version);
        Unreachable { target, base, needs: first..=target, has: has.clone(), gap }.into_error()
    };
    let (Some(base), Some(has)) = (base, &has) else { return Err(unreachable(None)) };
    if first < *has.start() || target > *has.end() {
        return Err(unreachable(None));
    }
    match log.first_absent(first..=target)? {
        Some(gap) => Err(unreachable(Some(gap))),
        None => Ok(Reach { target, base, replays: target - base.version() }),
    }
}

/// The lowest version that [`reach_within`] accepts.
///
/// # Errors
/// As [`reach_within`] for the newest version, if there is none.
pub(crate) fn lowest(
    log: &Log,
    has: Option<RangeInclusive<u64>>,
    snapshots: &[u64],
) -> Result<u64> {
    let Some(versions) = has.clone() else {
        unreachable!("the log of an open store has a base record")
    };
    // Every base is a version that can be reached, and nothing below the lowest has one.
    for candidate in std::iter::once(versions.start()).chain(snapshots) {
        match reach_within(log, has.clone(), snapshots, *candidate) {
            Err(error) if Unreachable::of(&error).is_some() => {}
            reached => return reached.map(|reached| reached.target),
        }
    }
    reach_within(log, has, snapshots, *versions.end()).map(|reached| reached.target)
}

/// Reads the record of the target and every record that is replayed: a damaged one is found before
/// anything is truncated.
///
/// # Errors
/// `Corrupt`, `Io`.
pub(crate) fn check_readable(log: &Log, reached: &Reach) -> Result<()> {
    let first = reached.base.version().saturating_add(1).min(reached.target);
    (first..=reached.target).try_for_each(|version| log.record(version).map(drop))
}

/// The empty state, if the log begins with it and not after `target`.
fn empty_base(log: &Log, has: Option<&RangeInclusive<u64>>, target: u64) -> Result<Option<Base>> {
    let Some(version) = has.map(|has| *has.start()).filter(|version| *version <= target) else {
        return Ok(None);
    };
    let empty = Totals::default().root();
    if !log.head(version)?.is_some_and(|head| head.is_base && head.root == empty) {
        return Ok(None);
    }
    // The whole record: it has no rows, either.
    Ok(log.record(version)?.map(|record| Base::Empty { version: record.version }))
}
