//! Verification: every byte that counts, beside a writer if there is one.

use std::collections::BTreeMap;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::SegmentId;

use crate::examine::{Examined, examine};
use crate::finding::{Finding, VerifyReport};
use crate::outline::Outline;
use crate::{Meter, Progress};
use lithdb_table::TableSetup;
use lithdb_table::plan::{Access, Plan};

/// How often it is looked again before a finding is believed.
const LOOKS: usize = 8;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

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
    let outline = Outline::look(setup)?;
    let mut meter = Meter::new(progress, outline.bytes(setup));
    let mut seen = BTreeMap::new();
    let members = outline.members.iter().map(|found| Some(found.id));
    for subject in std::iter::once(None).chain(members) {
        if let Some(examined) = look_at(setup, &outline, subject, &mut meter)? {
            seen.insert(subject, examined);
        }
    }
    make_certain(setup, &mut seen)?;
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
        && let Some(error) = refusal(setup)?
    {
        // Nothing that opening refuses is called sound.
        report.findings.push(Finding::refused(&setup.state_path(), &error));
    }
    Ok(report)
}

/// What there is to look at: a segment, or what lies beside the segments.
type Subject = Option<SegmentId>;

/// Examines one subject; `None` if it is not there any more: a segment may have been collected meanwhile. What the disk
/// cannot read is a finding; what this user may not read says nothing.
fn look_at(
    setup: &TableSetup,
    outline: &Outline,
    subject: Subject,
    meter: &mut Meter<'_>,
) -> Result<Option<Examined>> {
    let Some(id) = subject else {
        let findings = outline.findings.clone();
        return Ok(Some(Examined { findings, ..Examined::default() }));
    };
    let index = outline.members.partition_point(|found| found.id < id);
    let found = outline.members.get(index).filter(|found| found.id == id);
    let Some(found) = found else { return Ok(None) };
    match examine(setup, outline, index, meter) {
        Err(error)
            if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) =>
        {
            let path = found.paths(&setup.segment_dirs(), 1).keys;
            let findings = vec![Finding::refused(&path, &error).of(id)];
            Ok(Some(Examined { id, findings, ..Examined::default() }))
        }
        certain => certain.map(Some),
    }
}

/// Looks again at whatever seems damaged, until two looks show the same. Of what is different at every look, only that
/// counts on which the last two agree.
fn make_certain(setup: &TableSetup, seen: &mut BTreeMap<Subject, Examined>) -> Result<()> {
    let damaged = seen.iter().filter(|(_, examined)| examined.is_damaged());
    let mut doubtful: Vec<_> = damaged.map(|(subject, _)| *subject).collect();
    let mut agreed = Vec::new();
    for _ in 1..LOOKS {
        if doubtful.is_empty() {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        let outline = Outline::look(setup)?;
        agreed.clear();
        for subject in std::mem::take(&mut doubtful) {
            let before = seen.remove(&subject).unwrap_or_default().findings;
            let again = look_at(setup, &outline, subject, &mut Meter::new(&mut |_| {}, 0))?;
            let Some(again) = again else { continue };
            let both = |finding: &&Finding| !finding.is_damage() || before.contains(finding);
            let both: Vec<_> = again.findings.iter().filter(both).cloned().collect();
            if both.len() < again.findings.len() {
                doubtful.push(subject);
                agreed.push((subject, both));
            }
            seen.insert(subject, again);
        }
    }
    for (subject, both) in agreed {
        seen.entry(subject).or_default().findings = both;
    }
    Ok(())
}

/// What opening would say that is wrong, twice in a row.
fn refusal(setup: &TableSetup) -> Result<Option<Error>> {
    let mut before: Option<Error> = None;
    for _ in 0..LOOKS {
        let rules = Outline::look(setup)?.rules;
        let plan = Plan::make(&setup.env, &setup.segment_dirs(), &rules, Access::Read);
        let Err(error) = plan else { return Ok(None) };
        if error.kind() == ErrorKind::PermissionDenied {
            return Err(error);
        }
        if before.as_ref().is_some_and(|before| before.message() == error.message()) {
            return Ok(Some(error));
        }
        before = Some(error);
        std::thread::sleep(BETWEEN_LOOKS);
    }
    // Another thing at every look: the writer is at work.
    Ok(None)
}
