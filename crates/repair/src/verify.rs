//! Verification: every byte that counts, beside a writer if there is one.

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

/// How often it is looked again before a finding is believed.
const MAX_SCANS: usize = 8;
const RESCAN_DELAY: Duration = Duration::from_millis(25);

/// Reads every byte of the table's files and compares every checksum, length, link and count. Changes nothing, and does
/// not need the table to open. A writer in another process may be at work: damage is reported when complete looks at the
/// segment in question, one after the other, show the same. The caller holds the shared lock of every root.
///
/// # Errors
/// `Missing` if there is no such table; `Unsupported`, `Conflict` and `Foreign` as opening says them; a state that the disk
/// does not read. Damage is not an error: the report says it.
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
        // Nothing that opening refuses is called sound.
        report.findings.push(Finding::from_error(&setup.state_path(), &error));
    }
    Ok(report)
}

/// What is examined: a segment, or what lies beside the segments.
type Subject = Option<SegmentId>;

/// Examines one subject; `None` if it is not there any more: a segment may have been collected meanwhile. What the disk
/// cannot read is a finding; what this user may not read says nothing.
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
        Err(error)
            if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) =>
        {
            let path = found.paths(&setup.segment_dirs(), 1).keys;
            let findings = vec![Finding::from_error(&path, &error).of(id)];
            Ok(Some(Examined { id, findings, ..Examined::default() }))
        }
        certain => certain.map(Some),
    }
}

/// Looks again at whatever seems damaged, until two looks show the same. Of what is different in every scan, only that
/// counts on which the last two agree.
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

/// What opening would say that is wrong, twice in a row.
fn open_error(setup: &TableSetup) -> Result<Option<Error>> {
    let mut before: Option<Error> = None;
    for _ in 0..MAX_SCANS {
        let table_state = ChainLinks::load(setup)?.table_state;
        let plan = OpenPlan::make(&setup.env, &setup.segment_dirs(), &table_state, Access::Read);
        let Err(error) = plan else { return Ok(None) };
        if error.kind() == ErrorKind::PermissionDenied {
            return Err(error);
        }
        if before.as_ref().is_some_and(|before| before.message() == error.message()) {
            return Ok(Some(error));
        }
        before = Some(error);
        std::thread::sleep(RESCAN_DELAY);
    }
    // Something else in every scan: the writer is at work.
    Ok(None)
}
