//! What an examination reports and counts.

use lithdb_segment::ShardId;

use super::super::finding::Finding;
use super::super::groups::Groups;
use super::super::losses::{Losses, sum};
use super::super::values::{FileFault, ValueFiles};
use super::Examination;
use crate::keyfile::KeyFile;

/// So many damaged stretches of one file are reported one by one.
const STRETCHES: usize = 16;

impl Examination<'_> {
    /// Looks at the value files as such. Says which files must be written anew, and whether all of them hold.
    pub(super) fn check_files(
        &mut self,
        values: &ValueFiles,
        value_ends: &[u64],
    ) -> (Vec<ShardId>, bool) {
        let (mut bad, mut is_harmless) = (Vec::new(), true);
        for (n, file) in values.files.iter().enumerate() {
            let least = value_ends.get(n).copied().unwrap_or_default();
            let finding = match (&file.fault, file.len()) {
                (Some(FileFault::Absent), _) => {
                    let what = "expected this file on one of the roots, found it on none";
                    Finding::damage(&file.path, what)
                }
                (Some(FileFault::Header(error)), _) => Finding::refused(&file.path, error).at(0),
                (Some(FileFault::Misnamed(right)), _) => {
                    let name = right.file_name().unwrap_or_default().to_string_lossy();
                    let what =
                        format!("it holds value file {n} of the segment: rename it back to {name}");
                    let finding = Finding::damage(&file.path, what);
                    self.out.by_hand.get_or_insert_with(|| finding.clone());
                    finding
                }
                (None, Some(len)) if len < least => {
                    let what = format!("expected {least} bytes, found the end of the file");
                    Finding::damage(&file.path, what).at(len)
                }
                _ => continue,
            };
            is_harmless = false;
            self.report(finding);
            if file.fault.is_some() {
                bad.push(ShardId(n as u16));
            }
        }
        let surplus = self.found.files.values.range(ShardId(values.files.len() as u16)..);
        for (_, path) in surplus {
            self.report(Finding::note(path, "the segment has no such value file"));
        }
        (bad, is_harmless)
    }

    pub(super) fn report_groups(
        &mut self,
        key_file: &KeyFile,
        groups: &Groups,
        values: &ValueFiles,
    ) {
        let path = &key_file.path;
        for broken in groups.broken.iter().take(STRETCHES) {
            let until = broken.end;
            let what = format!("the records up to {until} are damaged: {}", broken.reason);
            self.report(Finding::damage(path, what).at(broken.start).losing(&broken.losses));
        }
        if let Some(rest) = groups.broken.get(STRETCHES..).filter(|rest| !rest.is_empty()) {
            let mut losses = Losses::default();
            rest.iter().for_each(|broken| losses.add(&broken.losses));
            let what = format!("{} more stretches of records are damaged", rest.len());
            let start = rest.first().map_or(0, |broken| broken.start);
            self.report(Finding::damage(path, what).at(start).losing(&losses));
        }
        for (shard, bad) in &groups.bad {
            let what = match bad.count {
                1 => format!("a value does not hold: {}", bad.reason),
                count => format!("{count} values do not hold, the first: {}", bad.reason),
            };
            let finding = Finding::damage(values.path(*shard), what).at(bad.offset);
            self.report(finding.losing(&bad.losses));
        }
    }

    /// Sums up what is lost. Records that are missing and cannot be told apart are put down to the first damage of the
    /// key file. `expected` records there were, `kept` of them are there; if `expected` is unknown, so is what is lost.
    /// `cut_bytes` of the key file are missing at its end.
    pub(super) fn count_losses(
        &mut self,
        groups: &Groups,
        expected: Option<u64>,
        kept: u64,
        cut_bytes: u64,
    ) {
        let mut losses = Losses { bytes: cut_bytes, ..Losses::default() };
        for broken in &groups.broken {
            losses.add(&broken.losses);
            losses.bytes = losses.bytes.saturating_add(broken.end - broken.start);
            losses.add_range(broken.start..broken.end);
        }
        groups.bad.values().for_each(|bad| losses.add(&bad.losses));
        let known = kept.saturating_add(losses.keys);
        let missing = expected.map(|expected| expected.saturating_sub(known));
        losses.keys = losses.keys.saturating_add(missing.unwrap_or_default());
        losses.unknown_keys = missing.is_none();
        losses.unknown_values = missing != Some(0);
        losses.ranges.sort_by_key(|range| range.start);
        self.out.losses.add(&losses);
        let keys = self.expected_paths().keys;
        // At the key file's own damage, or what else is damaged: the metadata that would say how many there were.
        let damage = || self.out.findings.iter().enumerate().filter(|(_, f)| f.is_damage());
        let at = damage().find(|(_, f)| f.path == keys).or_else(|| damage().next_back());
        let at = at.map(|(n, _)| n);
        if let Some(finding) = at.and_then(|at| self.out.findings.get_mut(at)) {
            finding.lost_keys = sum([finding.lost_keys, missing]);
        }
    }

    pub(super) fn count(&mut self, groups: &Groups, key_end: u64) {
        let broken: u64 = groups.broken.iter().map(|broken| broken.end - broken.start).sum();
        self.out.records = groups.records;
        self.out.values = groups.values;
        let keys = key_end.saturating_sub(broken).saturating_sub(groups.torn_bytes);
        self.out.bytes = keys.saturating_add(groups.value_bytes);
    }
}
