//! What follows from a look at the roots: a plan, or why there is none. Touches no disk.

use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Result};

use super::root_id::RootId;
use super::scan::{ScannedRoot, TablesFound};

/// What opening the roots comes to. `roots` are in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootsPlan {
    /// Nothing was ever acknowledged here: a database is created.
    Create(Vec<PathBuf>),
    /// All roots of one database are there, and nothing else.
    Open { roots: Vec<PathBuf>, ids: Vec<RootId> },
}

impl RootsPlan {
    pub(super) fn roots(&self) -> &[PathBuf] {
        match self {
            Self::Create(roots) | Self::Open { roots, .. } => roots,
        }
    }
}

/// A root that has an id.
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

/// What is to be done with the roots as they were seen.
pub(super) fn decide<'a>(seen: &'a [ScannedRoot], create: bool) -> Result<RootsPlan> {
    if let Some(damage) = seen.iter().find_map(|seen| seen.damage.as_ref()) {
        return refuse(ErrorKind::Corrupt, damage.clone());
    }
    let with_id = |seen: &'a ScannedRoot| Some(Member { seen, id: seen.id.as_ref()? });
    let members: Vec<Member<'_>> = seen.iter().filter_map(with_id).collect();
    // Root 0 rules. Without it, one complete root proves that there was one.
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
    let Some(first) = seen.iter().find(|seen| !seen.is_there()).or(seen.first()) else {
        return refuse(ErrorKind::InvalidArgument, "no root directories were given".to_owned());
    };
    let what = match (&first.foreign, first.is_there()) {
        (_, false) => "does not exist".to_owned(),
        (None, true) => "is empty: there is no database in it".to_owned(),
        (Some(name), true) if first.holds == TablesFound::Nothing => {
            format!("holds {name:?} but no root.id: it is not a root of a database")
        }
        (Some(_), true) => {
            return refuse(ErrorKind::Missing, lost_id_message(first));
        }
    };
    let remedy = "check the path and that it is mounted, or ask for the database to be created";
    refuse(ErrorKind::Missing, format!("{} {what}; {remedy}", first.path.display()))
}

/// There are ids, all from before the commit point of a creation.
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
                    "{member}: the creation of the database was interrupted, or goes on in another \
                     process; there is nothing in it yet; ask for it to be created to start anew"
                ),
            );
        }
        let (expected, found) = (member.id.root_ids.len(), seen.len());
        if expected != found {
            return refuse(
                ErrorKind::Missing,
                format!(
                    "{member}: the creation of a database with {expected} roots was interrupted, and \
                     {found} were given; list the same roots again, or remove root.id there"
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
                    "{} holds {name:?} and no database: a database is created only in an empty \
                     directory; name another one",
                    seen.path.display()
                ),
            );
        }
    }
    Ok(RootsPlan::Create(seen.iter().map(|seen| seen.path.clone()).collect()))
}

/// There is a database, and `reference` is a root of it.
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
                ErrorKind::Conflict,
                format!(
                    "{member} and {double} are the same root: one is a copy; take the copy off the list"
                ),
            );
        }
        in_order.push(member);
    }
    if let Some(extra) = unidentified.first() {
        return refuse(
            ErrorKind::Conflict,
            format!(
                "{} is not a root of the database of {reference}, whose roots are all there; take it off \
                 the list",
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
                "{member} and {reference} belong to different databases; list the roots of one"
            ),
        );
    }
    if (member.id.version, &member.id.root_ids) != (reference.id.version, &reference.id.root_ids) {
        return refuse(
            ErrorKind::Corrupt,
            format!(
                "{member} and {reference} do not agree on the roots of their database (versions {} and {}); \
                 one is from another time; put it back as it was with the others",
                member.id.version, reference.id.version
            ),
        );
    }
    Ok(())
}

/// `reference` is root 0, by now. All roots are of one generation, or on the way from one to the next.
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
    let how = if id.sequence == zero.sequence { "of another history than" } else { "older than" };
    refuse(
        ErrorKind::Corrupt,
        format!(
            "{older} is {how} {newer} (generations {} and {}): it was put back, or the other was; bring the roots of one time together; nothing was changed",
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
        format!("root {number} (id {root_id:016x}) of the database of {reference} is absent");
    let Some(unidentified_root) = unidentified.first() else {
        return format!(
            "{absent}; add its directory to the list; if it is gone for good, see `lith repair --lost-root`"
        );
    };
    if unidentified_root.holds > TablesFound::Nothing {
        return format!("{absent}; {}", lost_id_message(unidentified_root));
    }
    let what = if unidentified_root.is_there() { "has no root.id" } else { "does not exist" };
    format!(
        "{absent}; {} {what}: mount what belongs there, or name the right directory; nothing was created; if that root is gone for good, see `lith repair --lost-root`",
        unidentified_root.path.display()
    )
}

/// What is said of a root without its id, by everybody.
fn lost_id_message(seen: &ScannedRoot) -> String {
    format!(
        "{} holds tables, but its root.id is lost: bring it back from a backup of this root, or see `lith repair`",
        seen.path.display()
    )
}
