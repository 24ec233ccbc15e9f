//! Verification: every byte that counts, beside a writer if there is one.

use std::collections::BTreeMap;
use std::time::Duration;

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::SegmentId;

use super::examine::{Examined, examine};
use super::finding::{Finding, VerifyReport};
use super::outline::Outline;
use super::{Meter, Progress};
use crate::plan::{Access, Plan};
use crate::table::TableSetup;

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
    let mut looks = Looks {
        setup,
        examined: BTreeMap::new(),
        beside: outline.findings(&setup.state_path()),
        outline,
    };
    for index in 0..looks.outline.members.len() {
        let examined = looks.examine(index, &mut meter)?;
        looks.examined.insert(examined.id, examined);
    }
    looks.until_certain()?;
    meter.finish();
    let mut report = VerifyReport {
        table: setup.name.clone(),
        segments: looks.examined.len() as u64,
        records: 0,
        values: 0,
        bytes: 0,
        findings: looks.beside,
    };
    for examined in looks.examined.into_values() {
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

fn is_denied(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Looks at a table, one after the other.
struct Looks<'a> {
    setup: &'a TableSetup,
    /// The latest.
    outline: Outline,
    examined: BTreeMap<SegmentId, Examined>,
    /// Findings beside the segments.
    beside: Vec<Finding>,
}

impl Looks<'_> {
    /// Examines a member. What the disk cannot read is a finding; what this user may not read says nothing.
    fn examine(&self, index: usize, meter: &mut Meter<'_>) -> Result<Examined> {
        let error = match examine(self.setup, &self.outline, index, meter) {
            Err(error) if error.kind() != ErrorKind::Unsupported && !is_denied(&error) => error,
            certain => return certain,
        };
        let Some(found) = self.outline.members.get(index) else { return Err(error) };
        let mut examined = Examined::new(found.id);
        let path = found.paths(&self.setup.segment_dirs(), 1).keys;
        examined.findings.push(Finding::refused(&path, &error).of(found.id));
        Ok(examined)
    }

    /// Looks again at whatever seems damaged, until two looks show the same. Of what is different at every look, only that
    /// counts on which the last two agree.
    fn until_certain(&mut self) -> Result<()> {
        let damaged = self.examined.values().filter(|examined| examined.is_damaged());
        let mut doubtful: Vec<_> = damaged.map(|examined| Some(examined.id)).collect();
        if self.beside.iter().any(Finding::is_damage) {
            doubtful.push(None);
        }
        let mut agreed = Vec::new();
        for _ in 1..LOOKS {
            if doubtful.is_empty() {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            self.outline = Outline::look(self.setup)?;
            agreed.clear();
            for subject in std::mem::take(&mut doubtful) {
                let before = std::mem::take(self.findings(subject));
                if !self.look_again(subject)? {
                    continue;
                }
                let now = self.findings(subject);
                let both = |finding: &&Finding| !finding.is_damage() || before.contains(finding);
                let both: Vec<_> = now.iter().filter(both).cloned().collect();
                if both.len() < now.len() {
                    doubtful.push(subject);
                    agreed.push((subject, both));
                }
            }
        }
        for (subject, both) in agreed {
            *self.findings(subject) = both;
        }
        Ok(())
    }

    /// The findings of a segment, or those beside the segments.
    fn findings(&mut self, subject: Option<SegmentId>) -> &mut Vec<Finding> {
        match subject.and_then(|id| self.examined.get_mut(&id)) {
            Some(examined) => &mut examined.findings,
            None => &mut self.beside,
        }
    }

    /// Whether the subject is still there: a segment may have been collected meanwhile.
    fn look_again(&mut self, subject: Option<SegmentId>) -> Result<bool> {
        let Some(id) = subject else {
            self.beside = self.outline.findings(&self.setup.state_path());
            return Ok(true);
        };
        let Some(index) = self.outline.index_of(id) else {
            self.examined.remove(&id);
            return Ok(false);
        };
        let again = self.examine(index, &mut Meter::new(&mut |_| {}, 0))?;
        self.examined.insert(id, again);
        Ok(true)
    }
}

/// What opening would say that is wrong, twice in a row.
fn refusal(setup: &TableSetup) -> Result<Option<Error>> {
    let mut before: Option<Error> = None;
    for _ in 0..LOOKS {
        let rules = Outline::look(setup)?.rules;
        let plan = Plan::make(&setup.env, &setup.segment_dirs(), &rules, Access::Read);
        let Err(error) = plan else { return Ok(None) };
        if is_denied(&error) {
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
