//! Checks that a segment, its metadata and its neighbours on the chain agree. Part of `examine`.

use lithdb_env::Result;
use lithdb_segment::record::Chain;
use lithdb_segment::scan::Totals;
use lithdb_segment::{HEADER_LEN, SegmentId};

use super::{Examiner, Scan};
use crate::finding::Finding;
use crate::groups::Groups;
use crate::losses::Losses;
use crate::segment_headers::SegmentHeaders;
use lithdb_segment::key_file::KeyFile;

impl Examiner<'_> {
    pub(super) fn check_links(&mut self) {
        let id = |neighbour: Option<&SegmentHeaders>| {
            neighbour.map_or(SegmentId::NONE, |found| found.id)
        };
        let (before, next) = (id(self.before), id(self.next));
        if let Some(header) = self.found.header()
            && before.is_some()
            && header.predecessor != before
        {
            let wrong = format!("the header names segment {} as predecessor", header.predecessor);
            self.report_fork(before, &wrong);
        }
        if let Some(metadata) = self.found.metadata()
            && metadata.successor != next
        {
            let wrong = format!("the metadata names segment {} as successor", metadata.successor);
            self.report_fork(before, &wrong);
        }
    }

    fn report_fork(&mut self, before: SegmentId, wrong: &str) {
        let what = format!(
            "the chain forks: segment {before} precedes it, but {wrong}; decide by hand which of \
             the files belong to the table"
        );
        let finding = Finding::damage(&self.paths.keys, what);
        self.out.unrepairable.get_or_insert_with(|| finding.clone());
        self.report(finding);
    }

    pub(super) fn check_metadata(&mut self) {
        if self.found.interrupted_repair.is_some() {
            let what = "a repair of this segment was interrupted; plan and apply it again";
            self.report(Finding::damage(&self.paths.metadata, what));
        }
        match &self.found.metadata {
            Some(Err(error)) => self.report(Finding::from_error(&self.paths.metadata, error)),
            None if self.next.is_some() && !self.found.is_absent() => {
                let what = "expected the metadata of a sealed segment, found none";
                self.report(Finding::damage(&self.paths.metadata, what));
            }
            Some(Ok(_)) | None => {}
        }
    }

    /// Whether the metadata matches the key file, and the successor agrees.
    pub(super) fn metadata_valid(&mut self, key_file: &KeyFile, scan: &Scan) -> Result<bool> {
        let Some(metadata) = self.found.metadata() else { return Ok(false) };
        let totals = &scan.totals;
        let show = |running: u32| format!("{running:08x}");
        let covers = metadata.value_ends.iter().zip(&totals.value_ends).all(|(a, b)| a >= b);
        let mut compared = vec![
            ("keys", metadata.records.to_string(), totals.records.to_string()),
            ("values", metadata.primaries.to_string(), totals.primaries.to_string()),
            ("running checksum", show(metadata.running), show(totals.running)),
            ("epochs", format!("{:?}", metadata.epochs), format!("{:?}", scan.epochs)),
            ("value files cover all values", true.to_string(), covers.to_string()),
        ];
        if let Some(expected) = metadata.digest {
            let found = key_file.digest(metadata.key_end)?;
            compared.push(("digest", format!("{expected:02x?}"), format!("{found:02x?}")));
        }
        let mut is_valid = self.found.interrupted_repair.is_none();
        for (name, expected, found) in
            compared.iter().filter(|(_, expected, found)| expected != found)
        {
            let wrong = format!("{name}: the metadata has {expected}, the files have {found}");
            self.report(Finding::damage(&self.paths.metadata, wrong));
            is_valid = false;
        }
        let next = self.chain_of_next().filter(|_| metadata.revision == 0);
        if let Some(chain) = next.filter(|chain| **chain != metadata.chain()) {
            let what = format!(
                "the successor's chain record disagrees with the end of the segment: {chain:?}"
            );
            let keys = chain.records.saturating_sub(metadata.records);
            let losses = Losses { keys, ..Losses::default() };
            self.out.losses.add(&losses);
            self.report(Finding::damage(&self.paths.metadata, what).with_losses(&losses));
            is_valid = false;
        }
        Ok(is_valid)
    }

    /// Checks that the key file begins with the chain record of its predecessor.
    pub(super) fn check_chain(&mut self, key_file: &KeyFile, groups: &Groups) -> Result<bool> {
        let header = HEADER_LEN as u64;
        let Some(before) = self.before else { return Ok(true) };
        if key_file.chain()?.is_some_and(|chain| chain.predecessor == before.id) {
            return Ok(true);
        }
        // A damaged record has been reported already.
        if groups.damaged.first().is_none_or(|damaged| damaged.at.start != header) {
            let what = format!("expected the chain record that names segment {}", before.id);
            self.report(Finding::damage(&key_file.path, what).at(header));
        }
        Ok(false)
    }
}

/// Whether a successor's chain record matches `totals`. Its value ends may be larger.
pub(super) fn matches_scan(chain: &Chain, totals: &Totals) -> bool {
    u64::from(chain.key_end) == totals.key_end
        && chain.records == totals.records
        && chain.running == totals.running
        && chain.value_ends.len() == totals.value_ends.len()
        && chain
            .value_ends
            .iter()
            .zip(&totals.value_ends)
            .all(|(recorded, found)| recorded >= found)
}
