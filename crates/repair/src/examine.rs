//! Examines one segment: what is whole, what is damaged, what is lost. Changes nothing; `verify`
//! reports the result and `plan` plans from it.

mod links;
mod tally;

use std::path::PathBuf;

use lithdb_env::{ErrorKind, Fs, Result, UnixMillis, replacement_path};
use lithdb_segment::record::{Chain, KEY_FIXED_LEN, Mark};
use lithdb_segment::scan::{Totals, Verdict};
use lithdb_segment::{HEADER_LEN, Metadata, SegmentId, SegmentPaths, ShardId};

use crate::Meter;
use crate::chain_links::ChainLinks;
use crate::finding::Finding;
use crate::groups::{DamagedRange, DurableBounds, Groups, examine_groups};
use crate::losses::Losses;
use crate::segment_headers::SegmentHeaders;
use crate::values::ValueFiles;
use crate::walk::Walk;
use links::matches_scan;
use lithdb_segment::key_file::KeyFile;
use lithdb_segment::window::Window;
use lithdb_table::TableSetup;

/// The result of examining one segment.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) id: SegmentId,
    pub(crate) findings: Vec<Finding>,
    /// Key records of whole groups.
    pub(crate) records: u64,
    pub(crate) values: u64,
    pub(crate) bytes: u64,
    /// Key records that are lost; here and below, `None` if unknown.
    pub(crate) lost_keys: Option<u64>,
    pub(crate) lost_values: Option<u64>,
    pub(crate) lost_bytes: Option<u64>,
    /// The known part of the losses.
    pub(crate) losses: Losses,
    /// A finding that repair cannot resolve.
    pub(crate) unrepairable: Option<Finding>,
    /// Unsealed segment only: its files have bytes that belong to no valid record or value.
    /// Indicates a stale root, whose files have other lengths.
    pub(crate) ends_differ: bool,
    /// `None`: nothing of the segment is readable.
    pub(crate) readable: Option<Readable>,
}

/// A segment with readable records.
#[derive(Debug)]
pub(crate) struct Readable {
    /// The key file, with its own header or a reconstructed one.
    pub(crate) key_file: KeyFile,
    /// The key file is whole.
    pub(crate) keys_valid: bool,
    /// The metadata matches the files, and the successor agrees.
    pub(crate) metadata_valid: bool,
    /// The successor's chain record matches the files exactly.
    pub(crate) successor_agrees: bool,
    pub(crate) scan: Scan,
    pub(crate) groups: Groups,
    /// The durable end: a record that begins before it was acknowledged and is durable.
    pub(crate) durable: u64,
    /// The minimum lengths of the value files.
    pub(crate) value_ends: Vec<u64>,
    /// Value files that must be rewritten.
    pub(crate) bad_files: Vec<ShardId>,
    /// When the next segment was created, that is, when this one ended.
    pub(crate) ended: UnixMillis,
}

/// The result of scanning a key file to its end.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) verdict: Verdict,
    pub(crate) totals: Totals,
    pub(crate) epochs: Vec<(u32, u64)>,
    /// The mark with the furthest durable end.
    pub(crate) mark: Option<Mark>,
}

impl Scan {
    pub(crate) fn of(key_file: &KeyFile, end: u64, external_end: Option<Mark>) -> Result<Self> {
        let mut scanner = key_file.scan(end, external_end);
        let verdict = scanner.run(|_| Ok(()))?;
        let (totals, epochs) = (scanner.totals().clone(), scanner.epochs().to_vec());
        Ok(Self { verdict, totals, epochs, mark: scanner.mark().cloned() })
    }
}

impl Examined {
    /// Whether opening refuses the segment or should refuse it.
    pub(crate) fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_damage)
    }
}

/// Examines the member at `index`.
pub(crate) fn examine(
    setup: &TableSetup,
    chain_links: &ChainLinks,
    index: usize,
    meter: &mut Meter<'_>,
) -> Result<Examined> {
    let member = |index: Option<usize>| index.and_then(|index| chain_links.members.get(index));
    let Some(found) = member(Some(index)) else { return Ok(Examined::default()) };
    let dirs = setup.segment_dirs();
    let mut examiner = Examiner {
        fs: &*setup.env.fs,
        paths: found.paths(&dirs, 1),
        dirs,
        chain_links,
        found,
        before: member(index.checked_sub(1)),
        next: member(Some(index + 1)),
        out: Examined { id: found.id, ..Examined::default() },
    };
    examiner.check_links();
    examiner.check_metadata();
    match examiner.usable_key_file()? {
        Some(key_file) => examiner.records(key_file, meter)?,
        None => examiner.report_total_loss(),
    }
    Ok(examiner.out)
}

struct Examiner<'a> {
    fs: &'a dyn Fs,
    dirs: Vec<PathBuf>,
    /// The paths of its files, existing or not; of the value files, only the first.
    paths: SegmentPaths,
    chain_links: &'a ChainLinks,
    found: &'a SegmentHeaders,
    before: Option<&'a SegmentHeaders>,
    next: Option<&'a SegmentHeaders>,
    out: Examined,
}

impl Examiner<'_> {
    fn report(&mut self, finding: Finding) {
        self.out.findings.push(finding.of(self.found.id));
    }

    /// The key file, with a reconstructed header if its own is invalid.
    fn usable_key_file(&mut self) -> Result<Option<KeyFile>> {
        if self.found.becomes_empty() {
            return Ok(None);
        }
        match &self.found.key_file {
            Some(Ok(_)) => {}
            Some(Err(error))
                if error.kind().is_system_failure() || error.kind() == ErrorKind::Missing =>
            {
                return Err(error.clone());
            }
            Some(Err(error)) => self.report(Finding::from_error(&self.paths.keys, error).at(0)),
            None => {
                let what = match self.found.is_absent() {
                    true => "segment files: none found",
                    false => "expected this file on one of the roots, found it on none",
                };
                self.report(Finding::damage(&self.paths.keys, what));
            }
        }
        let before = self.before.map_or(SegmentId::NONE, |before| before.id);
        self.found.usable_key_file(self.fs, self.chain_links.table_state.table_id, before)
    }

    /// The successor's chain record: how this segment ended.
    fn chain_of_next(&self) -> Option<&Chain> {
        self.next?.chain.as_ref().filter(|chain| chain.predecessor == self.found.id)
    }

    /// The durable end of the segment as other files record it.
    fn external_durable_end(&self) -> Option<Mark> {
        let id = self.found.id;
        let before = self.before.and_then(SegmentHeaders::metadata).filter(|m| m.successor == id);
        self.chain_links
            .table_state
            .external_durable_end(id, before.and_then(Metadata::successor_end))
    }

    fn expected_records(&self) -> Option<u64> {
        let chain = self.chain_of_next().map(|chain| chain.records);
        self.found.metadata().map(|metadata| metadata.records).or(chain)
    }

    fn report_total_loss(&mut self) {
        let metadata = self.found.metadata();
        let keys = self.expected_records();
        let bytes_of = |key_end: u32, value_ends: &[u64]| {
            value_ends.iter().fold(u64::from(key_end), |sum, end| sum.saturating_add(*end))
        };
        let bytes = metadata
            .map(Metadata::bytes)
            .or_else(|| self.chain_of_next().map(|end| bytes_of(end.key_end, &end.value_ends)))
            .or_else(|| {
                self.external_durable_end().map(|end| bytes_of(end.through, &end.value_ends))
            })
            .or_else(|| self.bytes_on_disk());
        // Only the metadata counts values apart from keys.
        self.out.lost_values = metadata.map(|m| m.primaries).or(keys.filter(|keys| *keys == 0));
        (self.out.lost_keys, self.out.lost_bytes) = (keys, bytes);
        let damage = self.out.findings.iter_mut().rev().find(|finding| finding.is_damage());
        if let Some(last) = damage {
            last.lost_keys = keys;
        }
    }

    /// The total length of the segment's files, if there are any.
    fn bytes_on_disk(&self) -> Option<u64> {
        let files = self.found.files.values.values().chain(&self.found.files.keys);
        let lens = files.map(|path| self.fs.metadata(path).map_or(0, |found| found.len_bytes));
        lens.reduce(u64::saturating_add)
    }

    /// Where a sealed segment ends. Without metadata its successor says so, and anything after
    /// that was moved or rolled back. Exception: the successor that an interrupted repair left
    /// describes the new key file, which is staged beside the old one; then all of the old one
    /// counts.
    fn sealed_end(&self, key_file: &KeyFile) -> Result<u64> {
        let chain = match (self.found.metadata(), self.chain_of_next()) {
            (Some(metadata), _) => return Ok(metadata.key_end),
            (None, Some(chain)) => chain,
            (None, None) => return Ok(key_file.len),
        };
        let end = u64::from(chain.key_end);
        let is_staged = self.found.files.leftovers.contains(&replacement_path(&key_file.path));
        if !is_staged
            || key_file.len <= end
            || matches_scan(chain, &Scan::of(key_file, end, None)?.totals)
        {
            return Ok(end);
        }
        Ok(key_file.len)
    }

    fn records(&mut self, key_file: KeyFile, meter: &mut Meter<'_>) -> Result<()> {
        let (metadata, chain) = (self.found.metadata(), self.chain_of_next());
        let is_unsealed = self.next.is_none() && self.found.metadata.is_none();
        let end = if is_unsealed { key_file.len } else { self.sealed_end(&key_file)? };
        let scan_end = end.min(key_file.len);
        let scan =
            Scan::of(&key_file, scan_end, self.external_durable_end().filter(|_| is_unsealed))?;
        let furthest_mark = scan.mark.as_ref().filter(|_| is_unsealed);
        // The recorded end in the table state has no record count; the newest mark in the file
        // has.
        let mark = if is_unsealed { Scan::of(&key_file, scan_end, None)?.mark } else { None };
        let mark = mark.unwrap_or_default();
        let durable = match furthest_mark {
            _ if !is_unsealed => DurableBounds::ALL,
            Some(furthest_mark) => DurableBounds {
                through: u64::from(furthest_mark.through),
                marked: u64::from(mark.through),
            },
            None => DurableBounds { through: HEADER_LEN as u64, marked: 0 },
        };
        let value_ends = metadata
            .map(|metadata| &metadata.value_ends)
            .or(chain.map(|chain| &chain.value_ends))
            .or(furthest_mark.map(|mark| &mark.value_ends));
        let value_ends = value_ends.cloned().unwrap_or_default();
        let damage = match &scan.verdict {
            Verdict::Torn { offset, reason } if !is_unsealed => Some((*offset, reason.clone())),
            Verdict::Corrupt { offset, acknowledged, reason } => {
                Some((*offset, format!("{reason}; {acknowledged} bytes were acknowledged")))
            }
            Verdict::Clean | Verdict::Torn { .. } => None,
        };
        let mut walk = Walk {
            identity: key_file.header.identity,
            epochs: metadata.map(|metadata| &*metadata.epochs).unwrap_or_default(),
            // Metadata that holds knows all epochs.
            derive_epoch_until: if metadata.is_some() { 0 } else { durable.through },
            end: if is_unsealed && damage.is_none() { scan.totals.key_end } else { scan_end },
        };
        let mut values = ValueFiles::open(self.fs, &self.dirs, &self.found.files, &key_file)?;
        let mut keys = Window::of(&key_file);
        let mut groups = examine_groups(&walk, &mut keys, &mut values, durable, meter)?;
        let (bad_files, files_valid) = self.check_files(&values, &value_ends);
        // Whether recovery can drop the torn end and continue the segment.
        let is_recoverable =
            is_unsealed && damage.is_none() && files_valid && groups.bad.is_empty();
        if let (true, Some(torn)) = (is_recoverable, groups.torn_batch) {
            walk.end = torn.max(durable.through);
            groups = examine_groups(&walk, &mut keys, &mut values, durable, meter)?;
        }
        if is_recoverable && walk.end < key_file.len {
            let what = "nothing from here on was acknowledged; the next open drops it";
            self.report(Finding::note(&key_file.path, what).at(walk.end));
        } else if let Some(torn) = groups.torn_batch {
            let what = "the batch that begins here is incomplete; it was never acknowledged";
            self.report(Finding::note(&key_file.path, what).at(torn));
        }
        self.report_groups(&key_file, &groups, &values);
        let chain_valid = self.check_chain(&key_file, &groups)?;
        if scan_end < end {
            let what = format!("expected {end} bytes, found the end of the file");
            self.report(Finding::damage(&key_file.path, what).at(scan_end));
        } else if let Some((at, what)) = damage.clone().filter(|_| groups.is_whole()) {
            self.report(Finding::damage(&key_file.path, what).at(at));
        }
        let is_whole = damage.is_none() && groups.is_whole() && scan_end == end;
        let keys_valid = is_whole && chain_valid && self.found.header().is_some();
        let metadata_valid = keys_valid && self.metadata_valid(&key_file, &scan)?;
        if is_unsealed {
            let cut_bytes = durable.through.saturating_sub(key_file.len.max(HEADER_LEN as u64));
            // The number of records between the newest mark and the durable end is unknown.
            let is_beyond_mark = |DamagedRange { at, .. }: &DamagedRange| {
                at.end.saturating_sub(at.start.max(durable.marked)) > KEY_FIXED_LEN as u64
            };
            let is_counted = cut_bytes == 0 && !groups.damaged.iter().any(is_beyond_mark);
            self.count_losses(&groups, is_counted.then_some(mark.records), cut_bytes);
            let mut ends = values.files.iter().zip(&groups.value_ends);
            let is_longer = ends.any(|(file, end)| file.len().is_some_and(|len| len > *end));
            self.out.ends_differ =
                walk.end != key_file.len || groups.torn_batch.is_some() || is_longer;
        } else {
            // If its end is recorded nowhere, what followed the last record is unknown.
            self.count_losses(&groups, self.expected_records(), end - scan_end);
            if let Some(metadata) = metadata.filter(|_| !groups.is_whole() || scan_end < end) {
                self.out.lost_values = Some(metadata.primaries.saturating_sub(groups.values));
            }
        }
        self.count(&groups, walk.end);
        let next = self.next.and_then(SegmentHeaders::header);
        self.out.readable = Some(Readable {
            keys_valid,
            metadata_valid,
            successor_agrees: self
                .chain_of_next()
                .is_some_and(|chain| matches_scan(chain, &scan.totals)),
            key_file,
            scan,
            groups,
            durable: durable.through,
            value_ends,
            bad_files,
            ended: next.map_or_else(UnixMillis::default, |next| next.created),
        });
        Ok(())
    }
}
