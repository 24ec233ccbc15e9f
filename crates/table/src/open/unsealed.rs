//! The unsealed segment of a table: how far it is durable, what else can be kept, where it is
//! torn.
//!
//! `UnsealedSegment::examine` reads the key file and the values past the durable end, and changes
//! nothing. Invariant: durable end ≤ kept end ≤ file ends.

use std::path::Path;

use lithdb_env::{Env, Error, ErrorKind, Result, UnixMillis};
use lithdb_segment::record::{CHAIN_FIXED_LEN, Flags, Mark};
use lithdb_segment::scan::{Scanner, Totals, Verdict, corrupt};
use lithdb_segment::{HEADER_LEN, KeyHeader, SegmentId, SegmentPaths, ShardId, ValueHeader};

use lithdb_segment::key_file::KeyFile;
use lithdb_segment::values::ValueVerifier;

/// The unsealed segment as found, before recovery changes anything.
#[derive(Debug, Clone)]
pub struct UnsealedSegment {
    /// Its files.
    pub paths: SegmentPaths,
    /// The header of its key file.
    pub header: KeyHeader,
    /// The durable end (`docs/FORMAT.md`, *Recovery*). If the segment is not resumed, it ends
    /// here.
    pub durable: Totals,
    /// What is kept: the durable part and the complete batches after it.
    pub keep: Totals,
    /// Offsets and values of the epoch records in the kept part.
    pub epochs: Vec<(u32, u64)>,
    /// Bytes past the durable end. They may never have reached the disk, whatever the page cache
    /// shows.
    pub unacknowledged_bytes: u64,
    /// Bytes past the kept end.
    pub torn_bytes: u64,
    /// Why the end is torn, if it is.
    pub torn: Option<String>,
    /// When the flush of the durable part returned; 0 if no mark records it.
    pub durable_at: UnixMillis,
}

impl UnsealedSegment {
    /// Scans the key file, and verifies the values past the durable end. `external_durable_end`:
    /// the durable end that other files record; its time and record count are 0, unknown.
    /// `Corrupt` if acknowledged data is damaged.
    pub(crate) fn examine(
        env: &Env,
        paths: SegmentPaths,
        key_file: &KeyFile,
        external_durable_end: Option<Mark>,
    ) -> Result<Self> {
        let mut whole = key_file.scan(key_file.len, external_durable_end);
        let verdict = whole.run(|_| Ok(()))?;
        let mut torn = match verdict {
            Verdict::Clean => None,
            Verdict::Torn { reason, .. } => Some(reason),
            Verdict::Corrupt { offset, acknowledged, reason } => {
                let reason = format!("{reason}; {acknowledged} bytes were acknowledged");
                return Err(corrupt(&key_file.path, offset, &reason));
            }
        };
        let (durable, durable_epochs) = durable(key_file, &whole)?;
        let marked_ends = whole.mark().map_or(&durable.value_ends, |mark| &mark.value_ends);
        let mut values = ValueVerifier::new(&*env.fs, &paths, key_file, &whole.totals().value_ends);
        let acknowledged = durable.value_ends.iter().zip(marked_ends).map(|(a, b)| *a.max(b));
        open_all(&mut values, key_file, &paths, acknowledged)?;
        let (mut keep, mut epochs) = (durable.clone(), durable_epochs);
        let bytes_after = |values: &ValueVerifier<'_>, totals: &Totals| {
            values.surplus(&totals.value_ends) + (key_file.len - totals.key_end)
        };
        let unacknowledged_bytes = bytes_after(&values, &durable);
        if unacknowledged_bytes > 0 {
            let mut scanner =
                key_file.scan(whole.totals().key_end, None).resume_after(&durable, &epochs);
            if let Some(reason) = check(&mut values, key_file, &mut scanner, &mut keep)? {
                torn = Some(reason);
            }
            epochs = scanner.epochs().to_vec();
            epochs.retain(|(at, _)| u64::from(*at) < keep.key_end);
        }
        let torn_bytes = bytes_after(&values, &keep);
        let mark_time = whole.mark().map_or(UnixMillis::default(), |mark| mark.time);
        let marked = whole.mark().map_or(0, |mark| u64::from(mark.through));
        let durable_at = if marked == durable.key_end { mark_time } else { UnixMillis::default() };
        Ok(Self {
            paths,
            header: key_file.header,
            durable,
            keep,
            epochs,
            unacknowledged_bytes,
            torn_bytes,
            torn,
            durable_at,
        })
    }

    /// The epoch records in the durable part.
    pub(crate) fn durable_epochs(&self) -> &[(u32, u64)] {
        let end = self.epochs.partition_point(|(at, _)| u64::from(*at) < self.durable.key_end);
        self.epochs.split_at(end).0
    }
}

/// The durable part: up to the furthest mark; without a mark, the header and chain record, which
/// were durable before the segment became a successor.
fn durable(key_file: &KeyFile, whole: &Scanner<'_>) -> Result<(Totals, Vec<(u32, u64)>)> {
    let header = HEADER_LEN as u64;
    let beginning = match key_file.chain()? {
        Some(chain) => header + (CHAIN_FIXED_LEN + 8 * chain.value_ends.len()) as u64,
        None if key_file.header.predecessor == SegmentId::NONE => header,
        None => {
            return Err(corrupt(&key_file.path, header, "the chain record is missing or invalid"));
        }
    };
    let through = whole.mark().map_or(0, |mark| u64::from(mark.through));
    let end = through.max(beginning);
    let mut scanner = key_file.scan(end, None);
    let (found, epochs) = if whole.totals().key_end == end {
        (whole.totals(), whole.epochs())
    } else {
        scanner.run(|_| Ok(()))?;
        scanner.require_clean()?;
        (scanner.totals(), scanner.epochs())
    };
    if let Some(mark) = whole.mark()
        && !matches_scan(mark, found)
    {
        let show = |records, ends| format!("{records} records, value files of {ends:?} bytes");
        let expected = show(mark.records, &mark.value_ends);
        let found = show(found.records, &found.value_ends);
        return Err(Error::corrupt(&key_file.path, through, &expected, &found));
    }
    Ok((found.clone(), epochs.to_vec()))
}

/// Whether a mark agrees with the records before it: as many records, no longer value files. A
/// mark from outside the key file has no record count (0).
fn matches_scan(mark: &Mark, found: &Totals) -> bool {
    let covers = |(marked, found): (&u64, &u64)| marked >= found;
    mark.value_ends.len() == found.value_ends.len()
        && mark.value_ends.iter().zip(&found.value_ends).all(covers)
        && (mark.records == 0 || mark.records == found.records)
}

pub(crate) fn changed(path: &Path, offset: u64) -> Error {
    let message = "two reads gave different bytes; open the table again";
    Error::at_offset(ErrorKind::Io, path, offset, message)
}

/// Opens the value files and checks that each belongs to the segment and is as long as was
/// acknowledged.
fn open_all(
    values: &mut ValueVerifier<'_>,
    key_file: &KeyFile,
    paths: &SegmentPaths,
    ends: impl Iterator<Item = u64>,
) -> Result<()> {
    for (n, (path, durable)) in paths.values.iter().zip(ends).enumerate() {
        let file = values.file(n)?;
        if file.len_bytes() < durable {
            let expected = format!("at least {durable} bytes, which were acknowledged");
            return Err(Error::corrupt(path, file.len_bytes(), &expected, "the end of the file"));
        }
        let header = ValueHeader::decode(path, file.get(0, HEADER_LEN)?)?;
        header.belongs_to(path, &key_file.header.identity, ShardId(n as u16))?;
    }
    Ok(())
}

/// Verifies the values of all records that `scanner` returns. Sets `keep` to the end of the last
/// batch before the first invalid value, and returns the reason.
fn check(
    values: &mut ValueVerifier<'_>,
    key_file: &KeyFile,
    scanner: &mut Scanner<'_>,
    keep: &mut Totals,
) -> Result<Option<String>> {
    while let Some(entry) = scanner.next_entry()? {
        let (offset, ends_batch) = (entry.offset, entry.record.flags.has(Flags::END_OF_BATCH));
        if entry.record.is_primary() && !values.holds(&entry.record)? {
            return Ok(Some(format!("the value of the record at {offset} is missing or damaged")));
        }
        if ends_batch {
            keep.clone_from(scanner.totals());
        }
    }
    if scanner.verdict() != Some(&Verdict::Clean) {
        return Err(changed(&key_file.path, scanner.totals().key_end));
    }
    keep.clone_from(scanner.totals());
    Ok(None)
}
