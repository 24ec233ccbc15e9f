//! Verifies a table: every byte that belongs to it, also beside a writer. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::SegmentId;

use crate::chain_links::ChainLinks;
use crate::examine::{Examined, examine};
use crate::finding::{Finding, VerifyReport};
use crate::{Meter, Progress};
use lithdb_table::TableSetup;
use lithdb_table::open::chain::{Access, OpenPlan};

/// How many scans are made at most until two agree on a finding.
const MAX_SCANS: usize = 8;
const RESCAN_DELAY: Duration = Duration::from_millis(25);

/// Reads every byte of the table's files and checks every checksum, length, link and count.
/// Changes nothing, and works on a table that does not open. A writer in another process may be
/// active: damage is reported only if two consecutive complete scans of the segment find it. The
/// caller has the roots open for reading.
///
/// # Errors
/// `Missing` if there is no such table; `Unsupported` and `Foreign` as from opening; a
/// read error of the state. Damage is not an error: it is in the report.
pub fn verify(setup: &TableSetup, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
    verify_table(setup, progress).map_err(|e| setup.in_context(&e))
}

fn verify_table(setup: &TableSetup, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport> {
    let chain_links = ChainLinks::load(setup)?;
    let mut meter = Meter::new(progress, chain_links.bytes(setup));
    let mut seen = BTreeMap::new();
    let members = chain_links.members.iter().map(|found| Some(found.id));
    for subject in std::iter::once(None).chain(members) {
        if let Some(examined) = examine_subject(setup, &chain_links, subject, &mut meter)? {
            seen.insert(subject, examined);
        }
    }
    confirm_damage(setup, &mut seen)?;
    meter.finish();
    let mut report = VerifyReport {
        table: setup.name.clone(),
        segments: seen.keys().flatten().count() as u64,
        records: 0,
        values: 0,
        bytes: 0,
        findings: Vec::new(),
    };
    for examined in seen.into_values() {
        report.records += examined.records;
        report.values += examined.values;
        report.bytes += examined.bytes;
        report.findings.extend(examined.findings);
    }
    if report.is_sound()
        && let Some(error) = open_error(setup)?
    {
        // A table that opening refuses is never intact.
        report.findings.push(Finding::from_error(&setup.state_path(), &error));
    }
    Ok(report)
}

/// What is examined: a segment, or (`None`) everything beside the segments.
type Subject = Option<SegmentId>;

/// Examines one subject; `None` if it no longer exists: a segment may have been collected
/// meanwhile. A read error is a finding; a lack of permission is returned as an error.
fn examine_subject(
    setup: &TableSetup,
    chain_links: &ChainLinks,
    subject: Subject,
    meter: &mut Meter<'_>,
) -> Result<Option<Examined>> {
    let Some(id) = subject else {
        let findings = chain_links.findings.clone();
        return Ok(Some(Examined { findings, ..Examined::default() }));
    };
    let index = chain_links.members.partition_point(|found| found.id < id);
    let found = chain_links.members.get(index).filter(|found| found.id == id);
    let Some(found) = found else { return Ok(None) };
    match examine(setup, chain_links, index, meter) {
        Err(error) if error.kind() != ErrorKind::Unsupported && !error.is_permission_denied() => {
            let path = found.paths(&setup.segment_dirs(), 1).keys;
            let findings = vec![Finding::from_error(&path, &error).of(id)];
            Ok(Some(Examined { id, findings, ..Examined::default() }))
        }
        certain => certain.map(Some),
    }
}

/// Rescans whatever seems damaged until two consecutive scans agree. If they never do, only the
/// damage that the last two scans have in common is reported.
fn confirm_damage(setup: &TableSetup, seen: &mut BTreeMap<Subject, Examined>) -> Result<()> {
    let damaged = seen.iter().filter(|(_, examined)| examined.is_damaged());
    let mut unconfirmed: Vec<_> = damaged.map(|(subject, _)| *subject).collect();
    let mut confirmed = Vec::new();
    for _ in 1..MAX_SCANS {
        if unconfirmed.is_empty() {
            break;
        }
        std::thread::sleep(RESCAN_DELAY);
        let chain_links = ChainLinks::load(setup)?;
        confirmed.clear();
        for subject in std::mem::take(&mut unconfirmed) {
            let before = seen.remove(&subject).unwrap_or_default().findings;
            let again =
                examine_subject(setup, &chain_links, subject, &mut Meter::new(&mut |_| {}, 0))?;
            let Some(again) = again else { continue };
            let both = |finding: &&Finding| !finding.is_damage() || before.contains(finding);
            let both: Vec<_> = again.findings.iter().filter(both).cloned().collect();
            if both.len() < again.findings.len() {
                unconfirmed.push(subject);
                confirmed.push((subject, both));
            }
            seen.insert(subject, again);
        }
    }
    for (subject, both) in confirmed {
        seen.entry(subject).or_default().findings = both;
    }
    Ok(())
}

/// The error with which opening would refuse the table, twice in a row.
fn open_error(setup: &TableSetup) -> Result<Option<Error>> {
    let mut before: Option<Error> = None;
    for _ in 0..MAX_SCANS {
        let table_state = ChainLinks::load(setup)?.table_state;
        let plan = OpenPlan::make(&setup.env, &setup.segment_dirs(), &table_state, Access::Read);
        let Err(error) = plan else { return Ok(None) };
        if error.is_permission_denied() {
            return Err(error);
        }
        if before.as_ref().is_some_and(|before| before.message() == error.message()) {
            return Ok(Some(error));
        }
        before = Some(error);
        std::thread::sleep(RESCAN_DELAY);
    }
    // Another error in every scan: a writer is active.
    Ok(None)
}
