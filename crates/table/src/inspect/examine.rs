//! One segment, examined: what of it is whole, what is wrong, what is lost.

mod links;
mod tally;

use std::path::PathBuf;

use lithdb_env::{ErrorKind, Fs, Result, UnixMillis, replacement_path};
use lithdb_segment::record::{Chain, KEY_FIXED_LEN, Mark};
use lithdb_segment::scan::{Totals, Verdict};
use lithdb_segment::{HEADER_LEN, Metadata, SegmentId, SegmentPaths, ShardId};
use xxhash_rust::xxh3::Xxh3;

use super::Meter;
use super::finding::Finding;
use super::found::Found;
use super::groups::{Broken, Groups, Promised, examine_groups};
use super::losses::{Losses, bytes_of};
use super::outline::Outline;
use super::values::ValueFiles;
use super::walk::Walk;
use crate::keyfile::KeyFile;
use crate::table::TableSetup;
use crate::window::{PIECE, Window};
use links::says;

/// What was found of one segment.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) id: SegmentId,
    pub(super) findings: Vec<Finding>,
    /// Key records that are whole, with their values.
    pub(super) records: u64,
    pub(super) values: u64,
    pub(super) bytes: u64,
    /// What is lost, as far as it can be known.
    pub(super) losses: Losses,
    /// What no repair can decide.
    pub(super) by_hand: Option<Finding>,
    /// Of an unsealed segment: every byte of its files belongs to a record or value that holds. A root of another time, whose
    /// files go less far or further than the others', would show.
    pub(super) ends_agree: bool,
    /// `None`: nothing of the segment can be read.
    pub(super) readable: Option<Readable>,
}

/// A segment whose records can be read.
#[derive(Debug)]
pub(super) struct Readable {
    /// The key file with the header that it has or must have had.
    pub(super) key_file: KeyFile,
    /// The key file is whole.
    pub(super) keys_hold: bool,
    /// The metadata says what is there, and the successor agrees.
    pub(super) metadata_holds: bool,
    /// The successor's chain record says exactly what is there.
    pub(super) next_agrees: bool,
    pub(super) totals: Totals,
    pub(super) epochs: Vec<(u32, u64)>,
    pub(super) groups: Groups,
    /// What begins before was acknowledged, and is durable.
    pub(super) promised: u64,
    /// How long the value files must be at least.
    pub(super) value_ends: Vec<u64>,
    /// Value files that must be written anew.
    pub(super) bad_files: Vec<ShardId>,
    pub(super) newest_mark: Option<Mark>,
    /// When the next segment began: this one ended then.
    pub(super) ended: UnixMillis,
}

impl Examined {
    pub(super) fn new(id: SegmentId) -> Self {
        Self {
            id,
            findings: Vec::new(),
            records: 0,
            values: 0,
            bytes: 0,
            losses: Losses::default(),
            by_hand: None,
            ends_agree: true,
            readable: None,
        }
    }

    /// Whether opening refuses the segment, or should.
    pub(super) fn is_damaged(&self) -> bool {
        self.findings.iter().any(Finding::is_damage)
    }
}

/// Examines the member at `index`.
///
/// # Errors
/// `Unsupported`; a disk that does not read.
pub(super) fn examine(
    setup: &TableSetup,
    outline: &Outline,
    index: usize,
    meter: &mut Meter<'_>,
) -> Result<Examined> {
    let member = |index: Option<usize>| index.and_then(|index| outline.members.get(index));
    let Some(found) = member(Some(index)) else { return Ok(Examined::new(SegmentId::NONE)) };
    let mut examination = Examination {
        fs: &*setup.env.fs,
        dirs: setup.segment_dirs(),
        outline,
        found,
        before: member(index.checked_sub(1)),
        next: member(Some(index + 1)),
        out: Examined::new(found.id),
    };
    examination.run(meter)?;
    Ok(examination.out)
}

struct Examination<'a> {
    fs: &'a dyn Fs,
    dirs: Vec<PathBuf>,
    outline: &'a Outline,
    found: &'a Found,
    before: Option<&'a Found>,
    next: Option<&'a Found>,
    out: Examined,
}

/// What the scan of a key file says of its end.
struct Scan {
    verdict: Verdict,
    totals: Totals,
    epochs: Vec<(u32, u64)>,
    mark: Option<Mark>,
}

impl Examination<'_> {
    fn run(&mut self, meter: &mut Meter<'_>) -> Result<()> {
        self.check_links();
        self.check_metadata();
        let Some(key_file) = self.usable_key_file()? else {
            self.lose_everything();
            return Ok(());
        };
        let is_tail = self.next.is_none() && self.found.metadata.is_none();
        if is_tail { self.tail(key_file, meter) } else { self.sealed(key_file, meter) }
    }

    fn report(&mut self, finding: Finding) {
        self.out.findings.push(finding.of(self.found.id));
    }

    fn expected_paths(&self) -> SegmentPaths {
        self.found.paths(&self.dirs, 1)
    }

    /// The key file, with a header that is pieced together if its own does not hold.
    fn usable_key_file(&mut self) -> Result<Option<KeyFile>> {
        let path = self.expected_paths().keys;
        if self.found.is_to_be_empty() {
            return Ok(None);
        }
        let error = match &self.found.key_file {
            Some(Ok(file)) => return Ok(Some(file.clone())),
            Some(Err(error)) => error,
            None if self.found.is_absent() => {
                let what = "expected this segment, found none of its files";
                self.report(Finding::damage(&path, what));
                return Ok(None);
            }
            None => {
                let what = "expected this file on one of the roots, found it on none";
                self.report(Finding::damage(&path, what));
                return Ok(None);
            }
        };
        if error.kind().is_failed_call() || error.kind() == ErrorKind::Missing {
            return Err(error.clone());
        }
        self.report(Finding::refused(&path, error).at(0));
        let before = self.before.map_or(SegmentId::NONE, |before| before.id);
        let header = self.found.piece_together(self.fs, self.outline.rules.table_id, before)?;
        let Some(header) = header else { return Ok(None) };
        let window = Window::open(self.fs, &path)?;
        Ok(Some(window.into_key_file(header)))
    }

    /// What the successor says that this segment ended as.
    fn chain_of_next(&self) -> Option<&Chain> {
        self.next?.chain.as_ref().filter(|chain| chain.predecessor == self.found.id)
    }

    /// What is promised of the segment outside of it.
    fn promise(&self) -> Option<Mark> {
        let id = self.found.id;
        let before = self.before.and_then(Found::metadata).filter(|m| m.successor == id);
        self.outline.rules.promise(id, before.and_then(Metadata::successor_end))
    }

    fn expected_records(&self) -> Option<u64> {
        let chain = self.chain_of_next().map(|chain| chain.records);
        self.found.metadata().map(|metadata| metadata.records).or(chain)
    }

    fn lose_everything(&mut self) {
        let (metadata, chain) = (self.found.metadata(), self.chain_of_next());
        let keys = self.expected_records();
        // Nothing but the metadata tells values from keys.
        let values = metadata.map_or(keys.filter(|keys| *keys == 0), |m| Some(m.primaries));
        let promise = self.promise();
        let bytes = metadata
            .map(Metadata::bytes)
            .or_else(|| chain.map(|chain| bytes_of(chain.key_end, &chain.value_ends)))
            .or_else(|| promise.map(|mark| bytes_of(mark.through, &mark.value_ends)))
            .or_else(|| self.bytes_on_disk());
        self.out.losses = Losses {
            keys: keys.unwrap_or_default(),
            values: values.unwrap_or_default(),
            bytes: bytes.unwrap_or_default(),
            unknown_keys: keys.is_none(),
            unknown_values: values.is_none(),
            unknown_bytes: bytes.is_none(),
            ..Losses::default()
        };
        let damage = self.out.findings.iter_mut().rev().find(|finding| finding.is_damage());
        if let Some(last) = damage {
            last.lost_keys = keys;
        }
    }

    /// How long the segment's files are, if there are any.
    fn bytes_on_disk(&self) -> Option<u64> {
        let files = self.found.files.values.values().chain(&self.found.files.keys);
        let lens = files.map(|path| self.fs.metadata(path).map_or(0, |found| found.len_bytes));
        lens.reduce(u64::saturating_add)
    }

    /// Where a segment without metadata ends: where its successor says, whatever stands behind that (records that were moved,
    /// or rolled back). But a repair that was interrupted leaves a successor that describes what the key file was going to
    /// be, with that file beside the old one: then all of the old one counts.
    fn end_by_chain(&self, key_file: &KeyFile, chain: &Chain) -> Result<u64> {
        let end = u64::from(chain.key_end);
        let staged = replacement_path(&key_file.path);
        let is_staged = self.found.files.leftovers.contains(&staged);
        if !is_staged || key_file.len <= end || says(chain, &scan(key_file, end, None)?.totals) {
            return Ok(end);
        }
        Ok(key_file.len)
    }

    fn sealed(&mut self, key_file: KeyFile, meter: &mut Meter<'_>) -> Result<()> {
        let (metadata, chain) = (self.found.metadata(), self.chain_of_next());
        let end = match (metadata, chain) {
            (Some(metadata), _) => metadata.key_end,
            (None, Some(chain)) => self.end_by_chain(&key_file, chain)?,
            (None, None) => key_file.len,
        };
        let value_ends = metadata.map(|metadata| metadata.value_ends.clone());
        let value_ends = value_ends.or(chain.map(|chain| chain.value_ends.clone()));
        let value_ends = value_ends.unwrap_or_default();
        let scan_end = end.min(key_file.len);
        let mut values =
            ValueFiles::open(self.fs, &self.dirs, &self.found.files, &key_file, &key_file.header)?;
        let scan = scan(&key_file, scan_end, None)?;
        let epochs = metadata.map(|metadata| metadata.epochs.clone()).unwrap_or_default();
        // Metadata that holds knows all epochs.
        let walk = Walk {
            identity: key_file.header.identity,
            epochs: &epochs,
            asks_records_until: if metadata.is_some() { 0 } else { scan_end },
            end: scan_end,
        };
        let groups = groups(&key_file, &walk, &mut values, Promised::ALL, meter)?;
        let (bad_files, _) = self.check_files(&values, &value_ends);
        self.report_groups(&key_file, &groups, &values);
        let chain_holds = self.check_chain(&key_file, &groups)?;
        let is_whole = scan.verdict == Verdict::Clean && groups.is_whole();
        if scan_end < end {
            let what = format!("expected {end} bytes, found the end of the file");
            self.report(Finding::damage(&key_file.path, what).at(scan_end));
        } else if !is_whole && groups.is_whole() {
            let (at, what) = why(&scan.verdict);
            self.report(Finding::damage(&key_file.path, what).at(at));
        }
        let keys_hold = is_whole && scan_end == end && chain_holds && self.found.header().is_some();
        let metadata_holds = keys_hold && self.metadata_holds(&key_file, &scan)?;
        let next_agrees = self.chain_of_next().is_some_and(|chain| says(chain, &scan.totals));
        let is_missing_some = !groups.is_whole() || scan_end < end;
        // If nothing says where it ended, nobody knows what came behind the last record.
        self.count_losses(&groups, self.expected_records(), groups.records, end - scan_end);
        if let Some(metadata) = self.found.metadata().filter(|_| is_missing_some) {
            self.out.losses.values = metadata.primaries.saturating_sub(groups.values);
            self.out.losses.unknown_values = false;
        }
        self.count(&groups, scan_end);
        self.out.readable = Some(Readable {
            key_file,
            keys_hold,
            metadata_holds,
            next_agrees,
            totals: scan.totals,
            epochs: scan.epochs,
            groups,
            promised: u64::MAX,
            value_ends,
            bad_files,
            newest_mark: scan.mark,
            ended: self
                .next
                .and_then(Found::header)
                .map_or_else(UnixMillis::default, |h| h.created),
        });
        Ok(())
    }

    fn tail(&mut self, key_file: KeyFile, meter: &mut Meter<'_>) -> Result<()> {
        let promise = self.promise();
        // The state's promise does not say how many records it covers; the newest mark in the file does.
        let mark = scan(&key_file, key_file.len, None)?.mark.unwrap_or_default();
        let scan = scan(&key_file, key_file.len, promise)?;
        let header = HEADER_LEN as u64;
        let promised = scan.mark.as_ref().map_or(header, |mark| u64::from(mark.through));
        let known = Promised { through: promised, marked: u64::from(mark.through) };
        let value_ends = scan.mark.as_ref().map(|mark| mark.value_ends.clone());
        let value_ends = value_ends.unwrap_or_default();
        let mut values =
            ValueFiles::open(self.fs, &self.dirs, &self.found.files, &key_file, &key_file.header)?;
        let is_corrupt = matches!(scan.verdict, Verdict::Corrupt { .. });
        let mut walk = Walk {
            identity: key_file.header.identity,
            epochs: &[],
            asks_records_until: promised,
            end: if is_corrupt { key_file.len } else { scan.totals.key_end },
        };
        let mut found = groups(&key_file, &walk, &mut values, known, meter)?;
        let (bad_files, is_harmless) = self.check_files(&values, &value_ends);
        let holds = !is_corrupt && is_harmless && !found.is_promise_broken;
        if let (true, Some(torn)) = (holds, found.torn_batch) {
            walk.end = torn.max(promised);
            found = groups(&key_file, &walk, &mut values, known, meter)?;
        }
        if holds && walk.end < key_file.len {
            let what = "from here on nothing was acknowledged; the next opening leaves it out";
            self.report(Finding::note(&key_file.path, what).at(walk.end));
        } else if let Some(torn) = found.torn_batch {
            let what = "a batch that begins here is not whole; it was never acknowledged";
            self.report(Finding::note(&key_file.path, what).at(torn));
        }
        self.report_groups(&key_file, &found, &values);
        let chain_holds = self.check_chain(&key_file, &found)?;
        if is_corrupt && found.is_whole() {
            let (at, what) = why(&scan.verdict);
            self.report(Finding::damage(&key_file.path, what).at(at));
        }
        // How many records stood between the newest mark and the promise nobody says.
        let cut_bytes = promised.saturating_sub(key_file.len.max(header));
        let is_beyond_mark = |broken: &Broken| {
            broken.end.saturating_sub(broken.start.max(known.marked)) > KEY_FIXED_LEN as u64
        };
        let is_counted = cut_bytes == 0 && !found.broken.iter().any(is_beyond_mark);
        let expected = is_counted.then_some(mark.records);
        self.count_losses(&found, expected, found.records_marked, cut_bytes);
        self.count(&found, walk.end);
        let mut ends = values.files.iter().zip(&found.value_ends);
        let is_longer = ends.any(|(file, end)| file.len().is_some_and(|len| len > *end));
        self.out.ends_agree = walk.end == key_file.len && found.torn_batch.is_none() && !is_longer;
        let keys_hold =
            !is_corrupt && found.is_whole() && chain_holds && self.found.header().is_some();
        self.out.readable = Some(Readable {
            key_file,
            keys_hold,
            metadata_holds: false,
            next_agrees: false,
            totals: scan.totals,
            epochs: scan.epochs,
            groups: found,
            promised,
            value_ends,
            bad_files,
            newest_mark: scan.mark,
            ended: UnixMillis::default(),
        });
        Ok(())
    }
}

fn scan(key_file: &KeyFile, end: u64, promise: Option<Mark>) -> Result<Scan> {
    let mut scanner = key_file.scan(end, promise);
    let verdict = scanner.run(|_| Ok(()))?;
    Ok(Scan {
        verdict,
        totals: scanner.totals().clone(),
        epochs: scanner.epochs().to_vec(),
        mark: scanner.mark().cloned(),
    })
}

fn groups(
    key_file: &KeyFile,
    walk: &Walk<'_>,
    values: &mut ValueFiles,
    promised: Promised,
    meter: &mut Meter<'_>,
) -> Result<Groups> {
    examine_groups(walk, &mut Window::of(key_file), values, promised, meter)
}

fn why(verdict: &Verdict) -> (u64, String) {
    match verdict {
        Verdict::Clean => (HEADER_LEN as u64, "the records do not hold".to_owned()),
        Verdict::Torn { offset, reason } => (*offset, reason.clone()),
        Verdict::Corrupt { offset, acknowledged, reason } => {
            let what = format!("{reason}; {acknowledged} bytes were acknowledged");
            (*offset, what)
        }
    }
}

/// The XXH3-128 of the first `end` bytes.
pub(super) fn digest(keys: &mut Window, end: u64) -> Result<[u8; 16]> {
    let mut hasher = Xxh3::new();
    let mut at = 0;
    while at < end {
        let piece = keys.get(at, ((end - at) as usize).min(PIECE))?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        at += piece.len() as u64;
    }
    Ok(hasher.digest128().to_le_bytes())
}
