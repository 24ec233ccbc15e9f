//! Decides from a scan of the roots how to open them: returns a plan, or the reason for refusing.
//! Pure: no disk access. Only `plan_open` and `repair` call it.

use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Result};

use super::root_id::RootId;
use super::scan::{ScannedRoot, TablesFound};

/// How to open the roots. `roots` are sorted by root number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootsPlan {
    /// Nothing was ever acknowledged here: create a database.
    Create(Vec<PathBuf>),
    /// The roots are all those of one database, and no others.
    Open { roots: Vec<PathBuf>, ids: Vec<RootId> },
}

impl RootsPlan {
    pub(super) fn roots(&self) -> &[PathBuf] {
        match self {
            Self::Create(roots) | Self::Open { roots, .. } => roots,
        }
    }
}

/// A root with an id.
#[derive(Clone, Copy)]
struct Member<'a> {
    seen: &'a ScannedRoot,
    id: &'a RootId,
}

impl std::fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seen, id } = self;
        write!(
            f,
            "{} (root {} of {}, database {:016x})",
            seen.path.display(),
            id.number,
            id.root_ids.len(),
            id.database_id
        )
    }
}

fn refuse<T>(kind: ErrorKind, message: String) -> Result<T> {
    Err(Error::new(kind, message))
}

/// Decides what to do with the scanned roots.
pub(super) fn decide<'a>(seen: &'a [ScannedRoot], create: bool) -> Result<RootsPlan> {
    if let Some(damage) = seen.iter().find_map(|seen| seen.damage.as_ref()) {
        return refuse(ErrorKind::Corrupt, damage.clone());
    }
    let with_id = |seen: &'a ScannedRoot| Some(Member { seen, id: seen.id.as_ref()? });
    let members: Vec<Member<'_>> = seen.iter().filter_map(with_id).collect();
    // Root 0 is authoritative. Without it, one complete root proves that there was a root 0.
    let root_0 = members.iter().find(|member| member.id.number == 0);
    match root_0.or_else(|| members.iter().find(|member| member.id.is_complete())) {
        Some(reference) => open(seen, &members, *reference),
        None if members.is_empty() => no_root_id(seen, create),
        None => interrupted_creation(seen, &members, create),
    }
}

/// No root has an id.
fn no_root_id(seen: &[ScannedRoot], create: bool) -> Result<RootsPlan> {
    if create {
        return plan_creation(seen);
    }
    let Some(first) = seen.iter().find(|seen| !seen.exists()).or(seen.first()) else {
        return refuse(ErrorKind::InvalidArgument, "no root directories were given".to_owned());
    };
    let what = match (&first.foreign, first.exists()) {
        (_, false) => "does not exist".to_owned(),
        (None, true) => "is empty: it holds no database".to_owned(),
        (Some(name), true) if first.holds == TablesFound::Nothing => {
            format!("holds {name:?} but no root.id: it is not a root of a database")
        }
        (Some(_), true) => {
            return refuse(ErrorKind::Missing, lost_id_message(first));
        }
    };
    let remedy = "check the path and the mount, or open it with creation enabled";
    refuse(ErrorKind::Missing, format!("{} {what}; {remedy}", first.path.display()))
}

/// There are ids, but all were written before the commit point of a creation.
fn interrupted_creation(
    seen: &[ScannedRoot],
    members: &[Member<'_>],
    create: bool,
) -> Result<RootsPlan> {
    for member in members {
        if !create {
            return refuse(
                ErrorKind::Missing,
                format!(
                    "{member}: creation of the database was interrupted, or is in progress in \
                     another process; it holds no data yet; open it with creation enabled to restart"
                ),
            );
        }
        let (expected, found) = (member.id.root_ids.len(), seen.len());
        if expected != found {
            return refuse(
                ErrorKind::Missing,
                format!(
                    "{member}: creation of a database with {expected} roots was interrupted; \
                     found {found} listed; list the same roots again, or remove root.id there"
                ),
            );
        }
    }
    plan_creation(seen)
}

fn plan_creation(seen: &[ScannedRoot]) -> Result<RootsPlan> {
    for seen in seen {
        if seen.holds > TablesFound::Nothing {
            return refuse(ErrorKind::Missing, lost_id_message(seen));
        }
        if let Some(name) = &seen.foreign {
            return refuse(
                ErrorKind::Foreign,
                format!(
                    "{} holds {name:?} and no database: expected an empty directory to create one \
                     in; choose another directory",
                    seen.path.display()
                ),
            );
        }
    }
    Ok(RootsPlan::Create(seen.iter().map(|seen| seen.path.clone()).collect()))
}

/// There is a database, and `reference` is one of its roots.
fn open(seen: &[ScannedRoot], members: &[Member<'_>], reference: Member<'_>) -> Result<RootsPlan> {
    for member in members {
        check_same_set(reference, *member)?;
    }
    let unidentified: Vec<&ScannedRoot> = seen.iter().filter(|seen| seen.id.is_none()).collect();
    let mut in_order = Vec::with_capacity(members.len());
    for (number, root_id) in reference.id.root_ids.iter().enumerate() {
        let mut with_number = members.iter().filter(|m| usize::from(m.id.number) == number);
        let Some(member) = with_number.next() else {
            return refuse(
                ErrorKind::Missing,
                absent_message(reference, number, *root_id, &unidentified),
            );
        };
        if let Some(double) = with_number.next() {
            return refuse(
                ErrorKind::Foreign,
                format!(
                    "{member} and {double} are the same root: one is a copy; remove it from the list"
                ),
            );
        }
        in_order.push(member);
    }
    if let Some(extra) = unidentified.first() {
        return refuse(
            ErrorKind::Foreign,
            format!(
                "{} is not a root of the database of {reference}, all of whose roots are listed; \
                 remove it from the list",
                extra.path.display()
            ),
        );
    }
    for member in &in_order {
        check_generation(reference, **member)?;
    }
    let roots = in_order.iter().map(|member| member.seen.path.clone()).collect();
    let ids = in_order.iter().map(|member| member.id.clone()).collect();
    Ok(RootsPlan::Open { roots, ids })
}

fn check_same_set(reference: Member<'_>, member: Member<'_>) -> Result<()> {
    if member.id.database_id != reference.id.database_id {
        return refuse(
            ErrorKind::Foreign,
            format!(
                "{member} and {reference} belong to different databases; list the roots of one only"
            ),
        );
    }
    if (member.id.version, &member.id.root_ids) != (reference.id.version, &reference.id.root_ids) {
        return refuse(
            ErrorKind::Corrupt,
            format!(
                "{member} and {reference} disagree on the roots of their database (versions {} and \
                 {}): one was restored from another time; restore all roots as of one time",
                member.id.version, reference.id.version
            ),
        );
    }
    Ok(())
}

/// Requires all roots to be of one generation, or in transition from one to the next. `reference`
/// is root 0 at this point.
fn check_generation(reference: Member<'_>, member: Member<'_>) -> Result<()> {
    let (zero, id) = (reference.id, member.id);
    let found = (id.sequence, id.token);
    let agrees = id.number == zero.number
        || if zero.is_renewing() {
            found == (zero.sequence - 1, zero.previous_token)
                || found == (zero.sequence + 1, zero.token)
        } else {
            found == (zero.sequence, zero.token)
        };
    if agrees {
        return Ok(());
    }
    let (older, newer) =
        if id.sequence > zero.sequence { (reference, member) } else { (member, reference) };
    let how = if id.sequence == zero.sequence { "diverged from" } else { "older than" };
    refuse(
        ErrorKind::Corrupt,
        format!(
            "{older} is {how} {newer} (generations {} and {}): one of them was restored from a \
             backup; restore all roots as of one time; nothing was changed",
            older.id.sequence, newer.id.sequence
        ),
    )
}

fn absent_message(
    reference: Member<'_>,
    number: usize,
    root_id: u64,
    unidentified: &[&ScannedRoot],
) -> String {
    let absent =
        format!("root {number} (id {root_id:016x}) of the database of {reference} is missing");
    let Some(unidentified_root) = unidentified.first() else {
        return format!(
            "{absent}; add its directory to the list; if it is permanently lost, see \
             `lith repair --lost-root`"
        );
    };
    if unidentified_root.holds > TablesFound::Nothing {
        return format!("{absent}; {}", lost_id_message(unidentified_root));
    }
    let what = if unidentified_root.exists() { "has no root.id" } else { "does not exist" };
    format!(
        "{absent}; {} {what}: mount the disk that belongs there, or list the right directory; \
         nothing was created; if that root is permanently lost, see `lith repair --lost-root`",
        unidentified_root.path.display()
    )
}

/// The message about a root without its id.
fn lost_id_message(seen: &ScannedRoot) -> String {
    format!(
        "{} holds tables, but its root.id is lost: restore it from a backup of this root, or see \
         `lith repair`",
        seen.path.display()
    )
}
