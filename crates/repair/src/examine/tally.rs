//! Reports the findings of an examination and counts the losses. Part of `examine`.

use lithdb_segment::ShardId;

use super::Examiner;
use crate::finding::Finding;
use crate::groups::{DamagedRange, Groups};
use crate::losses::{Losses, sum};
use crate::values::{FileFault, ValueFiles};
use lithdb_segment::key_file::KeyFile;

/// How many damaged ranges of one file are reported individually.
const MAX_RANGE_FINDINGS: usize = 16;

impl Examiner<'_> {
    /// Checks existence, header, name and length of the value files. Returns those that must be
    /// rewritten, and whether all files are valid.
    pub(super) fn check_files(
        &mut self,
        values: &ValueFiles,
        value_ends: &[u64],
    ) -> (Vec<ShardId>, bool) {
        let (mut bad, mut files_valid) = (Vec::new(), true);
        for (n, file) in values.files.iter().enumerate() {
            let least = value_ends.get(n).copied().unwrap_or_default();
            let finding = match (&file.fault, file.len()) {
                (Some(FileFault::Absent), _) => {
                    let what = "expected this file on one of the roots, found it on none";
                    Finding::damage(&file.path, what)
                }
                (Some(FileFault::Header(error)), _) => Finding::from_error(&file.path, error).at(0),
                (Some(FileFault::Misnamed(right)), _) => {
                    let right = right.file_name().unwrap_or_default().display();
                    let what = format!(
                        "it holds value file {n} of the segment: rename it back to {right}"
                    );
                    let finding = Finding::damage(&file.path, what);
                    self.out.unrepairable.get_or_insert_with(|| finding.clone());
                    finding
                }
                (None, Some(len)) if len < least => {
                    let what = format!("expected {least} bytes, found the end of the file");
                    Finding::damage(&file.path, what).at(len)
                }
                _ => continue,
            };
            files_valid = false;
            self.report(finding);
            if file.fault.is_some() {
                bad.push(ShardId(n as u16));
            }
        }
        let surplus = self.found.files.values.range(ShardId(values.files.len() as u16)..);
        for (_, path) in surplus {
            self.report(Finding::note(path, "the segment has no such value file"));
        }
        (bad, files_valid)
    }

    pub(super) fn report_groups(
        &mut self,
        key_file: &KeyFile,
        groups: &Groups,
        values: &ValueFiles,
    ) {
        let path = &key_file.path;
        for damaged in groups.damaged.iter().take(MAX_RANGE_FINDINGS) {
            let until = damaged.at.end;
            let what = format!("the records up to {until} are damaged: {}", damaged.reason);
            self.report(
                Finding::damage(path, what).at(damaged.at.start).with_losses(&damaged.losses),
            );
        }
        if let Some(rest) = groups.damaged.get(MAX_RANGE_FINDINGS..).filter(|rest| !rest.is_empty())
        {
            let mut losses = Losses::default();
            rest.iter().for_each(|damaged| losses.add(&damaged.losses));
            let what = format!("{} more ranges of records are damaged", rest.len());
            let start = rest.first().map_or(0, |damaged| damaged.at.start);
            self.report(Finding::damage(path, what).at(start).with_losses(&losses));
        }
        for (shard, bad) in &groups.bad {
            let what = match bad.count {
                1 => format!("a value is corrupt: {}", bad.reason),
                count => format!("{count} values are corrupt, the first: {}", bad.reason),
            };
            let finding = Finding::damage(values.path(*shard), what).at(bad.offset);
            self.report(finding.with_losses(&bad.losses));
        }
    }

    /// Sums up the losses. Missing records that cannot be identified are attributed to the first
    /// damage of the key file. `expected`: the original number of records (of an unsealed segment,
    /// up to its newest mark); if that is unknown, so is the loss. `cut_bytes`: how many bytes are
    /// missing at the end of the key file.
    pub(super) fn count_losses(&mut self, groups: &Groups, expected: Option<u64>, cut_bytes: u64) {
        let mut losses = Losses { bytes: cut_bytes, ..Losses::default() };
        for DamagedRange { at, losses: lost, .. } in &groups.damaged {
            losses.add(lost);
            losses.bytes = losses.bytes.saturating_add(at.end - at.start);
            losses.add_range(at.clone());
        }
        groups.bad.values().for_each(|bad| losses.add(&bad.losses));
        let known = groups.records_before_mark.saturating_add(losses.keys);
        let missing = expected.map(|expected| expected.saturating_sub(known));
        losses.ranges.sort_by_key(|range| range.start);
        self.out.losses.add(&losses);
        let Losses { keys, values, bytes, .. } = self.out.losses;
        self.out.lost_keys = missing.map(|missing| keys.saturating_add(missing));
        self.out.lost_values = (missing == Some(0)).then_some(values);
        self.out.lost_bytes = Some(bytes);
        // Attribute them to damage of the key file, otherwise to the last damage: the metadata
        // that would have had the count.
        let mut damage: Vec<_> =
            self.out.findings.iter_mut().filter(|finding| finding.is_damage()).collect();
        let at = damage.iter().position(|finding| finding.path == self.paths.keys);
        let at = at.or(damage.len().checked_sub(1)).and_then(|at| damage.get_mut(at));
        if let Some(finding) = at {
            finding.lost_keys = sum([finding.lost_keys, missing]);
        }
    }

    pub(super) fn count(&mut self, groups: &Groups, key_end: u64) {
        let damaged: u64 =
            groups.damaged.iter().map(|damaged| damaged.at.end - damaged.at.start).sum();
        self.out.records = groups.records;
        self.out.values = groups.values;
        let keys = key_end.saturating_sub(damaged).saturating_sub(groups.torn_bytes);
        self.out.bytes = keys.saturating_add(groups.value_bytes);
    }
}
