//! Dumps every record of a segment's key file, for people and as JSON. Reads only; works on
//! damaged files and beside a writer.

use std::fmt;
use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, FileKind, Result, UnixMillis};
use lithdb_segment::record::{Chain, Decoded, Flags, Mark, Record};
use lithdb_segment::scan::{Totals, Verdict};
use lithdb_segment::{HEADER_LEN, KeyHeader, Metadata, SegmentId, ShardId, ValueHeader};
use serde::Serialize;

use crate::examine::Scan;
use crate::segment_headers::SegmentHeaders;
use crate::state_slots;
use crate::walk::{Walk, WalkItem};
use lithdb_env::exists_as;
use lithdb_segment::key_file::KeyFile;
use lithdb_segment::window::Window;
use lithdb_table::TableSetup;
use lithdb_table::open::inventory::Inventory;
use lithdb_table::show_key;
use lithdb_table::state::TableState;

/// One line of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "line")]
#[expect(missing_docs, reason = "the fields are those of docs/FORMAT.md, under the same names")]
pub enum DumpLine {
    /// A file that is invalid as a whole.
    Unreadable {
        #[serde(serialize_with = "crate::lossy::path")]
        path: PathBuf,
        what: String,
    },
    /// The metadata of a sealed segment.
    Metadata {
        #[serde(serialize_with = "crate::lossy::path")]
        path: PathBuf,
        segment: SegmentId,
        revision: u32,
        predecessor: SegmentId,
        successor: SegmentId,
        created: UnixMillis,
        #[serde(rename = "last_write")]
        sealed_at: UnixMillis,
        key_end: u64,
        records: u64,
        primaries: u64,
        running: u32,
        value_ends: Vec<u64>,
    },
    /// The header of a value file.
    ValueHeader {
        #[serde(serialize_with = "crate::lossy::path")]
        path: PathBuf,
        len: u64,
        segment: SegmentId,
        shard: ShardId,
        salt: u64,
        created: UnixMillis,
    },
    /// The header of a key file.
    KeyHeader {
        #[serde(serialize_with = "crate::lossy::path")]
        path: PathBuf,
        len: u64,
        table_id: u64,
        segment: SegmentId,
        predecessor: SegmentId,
        created: UnixMillis,
        salt: u64,
        shards: u16,
    },
    /// A chain record.
    Chain {
        offset: u32,
        predecessor: SegmentId,
        key_end: u32,
        records: u64,
        running: u32,
        value_ends: Vec<u64>,
    },
    /// An epoch record.
    Epoch { offset: u32, epoch: u64, time: UnixMillis },
    /// A mark.
    Mark { offset: u32, through: u32, time: UnixMillis, records: u64, value_ends: Vec<u64> },
    /// Padding.
    Padding { offset: u32, len: usize },
    /// A key record.
    Key {
        offset: u32,
        key: String,
        is_primary: bool,
        ends_group: bool,
        ends_batch: bool,
        shard: ShardId,
        value_offset: u64,
        value_len: u32,
        value_checksum: u32,
        checksum: u32,
    },
    /// Bytes that are not a record.
    Damage { offset: u64, end: u64, what: String },
    /// The scanner's verdict on the key file.
    Verdict {
        #[serde(serialize_with = "crate::lossy::path")]
        path: PathBuf,
        end: u64,
        records: u64,
        running: u32,
        verdict: String,
    },
}

/// Calls `each` for every record of the key file, in order: of one segment, or of all that have
/// files. Headers and metadata come before the records, the scanner's verdict after them. Works on
/// damaged files and beside a writer, in one pass.
///
/// # Errors
/// `Missing` if there is no such segment; errors of `each`; read errors.
pub fn dump(
    setup: &TableSetup,
    segment: Option<SegmentId>,
    each: &mut dyn FnMut(&DumpLine) -> Result<()>,
) -> Result<()> {
    dump_table(setup, segment, each).map_err(|e| setup.in_context(&e))
}

fn dump_table(
    setup: &TableSetup,
    segment: Option<SegmentId>,
    each: &mut dyn FnMut(&DumpLine) -> Result<()>,
) -> Result<()> {
    let fs = &*setup.env.fs;
    let state = state_slots::load(fs, &setup.state_path())?.0;
    for dir in setup.dirs.iter().chain(&setup.segment_dirs()) {
        exists_as(fs, dir, FileKind::Dir)?;
    }
    let inventory = Inventory::list(fs, &setup.segment_dirs())?;
    if let Some(id) = segment.filter(|id| !inventory.segments.contains_key(id)) {
        let message = format!("segment {id}: expected its files, found none");
        return Err(Error::new(ErrorKind::Missing, message));
    }
    let wanted = |id: SegmentId| segment.is_none_or(|wanted| wanted == id);
    for (id, files) in inventory.segments.iter().filter(|(id, _)| wanted(**id)) {
        dump_segment(setup, state.as_ref(), &SegmentHeaders::read(fs, *id, files)?, each)?;
    }
    Ok(())
}

fn dump_segment(
    setup: &TableSetup,
    state: Option<&TableState>,
    found: &SegmentHeaders,
    each: &mut dyn FnMut(&DumpLine) -> Result<()>,
) -> Result<()> {
    let mut head = SegmentHead::default();
    let key_file = head.read(setup, state, found);
    if head.has_vanished_file {
        // A writer may have collected the segment since the directory was listed.
        let (state, _) = state_slots::load(&*setup.env.fs, &setup.state_path())?;
        if state.is_some_and(|state| found.id < state.watermark) {
            return Ok(());
        }
    }
    head.lines.iter().try_for_each(&mut *each)?;
    let Some(key_file) = key_file else { return Ok(()) };
    let metadata = found.metadata();
    let end = metadata.map_or(key_file.len, |m| m.key_end.min(key_file.len));
    let epochs = metadata.map(|metadata| metadata.epochs.as_slice()).unwrap_or_default();
    let external_end = state.filter(|_| found.metadata.is_none());
    let external_end = external_end.and_then(|state| state.external_durable_end(found.id, None));
    let scan = Scan::of(&key_file, end, external_end)?;
    let mark = scan.mark.as_ref().filter(|_| metadata.is_none());
    let derive_epoch_until = mark.map_or(0, |mark| u64::from(mark.through));
    let walk = Walk { identity: key_file.header.identity, epochs, derive_epoch_until, end };
    walk.run(&mut Window::of(&key_file), &mut |item| each(&record_line(item)))?;
    each(&verdict_line(&key_file.path, scan))
}

/// The lines before the records of a segment.
#[derive(Default)]
struct SegmentHead {
    lines: Vec<DumpLine>,
    /// A file that was listed no longer exists.
    has_vanished_file: bool,
}

impl SegmentHead {
    fn unreadable(&mut self, path: &Path, error: &Error) {
        self.has_vanished_file |= error.kind() == ErrorKind::Missing;
        self.lines.push(DumpLine::Unreadable { path: path.to_owned(), what: error.to_string() });
    }

    /// Reads headers and metadata; returns the key file, if it is readable.
    fn read(
        &mut self,
        setup: &TableSetup,
        state: Option<&TableState>,
        found: &SegmentHeaders,
    ) -> Option<KeyFile> {
        let fs = &*setup.env.fs;
        let paths = found.paths(&setup.segment_dirs(), 1);
        if found.interrupted_repair.is_some() {
            let (path, what) = (paths.metadata.clone(), "a repair was interrupted".to_owned());
            self.lines.push(DumpLine::Unreadable { path, what });
        }
        match &found.metadata {
            Some(Ok(metadata)) => self.lines.push(metadata_line(&paths.metadata, metadata)),
            Some(Err(error)) => self.unreadable(&paths.metadata, error),
            None => {}
        }
        for path in found.files.values.values() {
            let opened = Window::open(fs, path).and_then(|mut window| {
                let header = ValueHeader::decode(path, window.get(0, HEADER_LEN)?)?;
                Ok((window.len_bytes(), header))
            });
            match opened {
                Ok((len, header)) => self.lines.push(DumpLine::ValueHeader {
                    path: path.clone(),
                    len,
                    segment: header.identity.segment,
                    shard: header.shard,
                    salt: header.identity.salt,
                    created: header.created,
                }),
                Err(error) => self.unreadable(path, &error),
            }
        }
        if let Some(error) = found.header_error() {
            self.unreadable(&paths.keys, error);
        }
        let named = found.table_ids().chain(found.value_file_table_ids.iter().copied()).next();
        let table_id = state.map(|state| state.table_id).or(named).unwrap_or_default();
        let key_file = match found.usable_key_file(fs, table_id, SegmentId::NONE) {
            Ok(key_file) => key_file,
            // A missing file has been reported above.
            Err(error) if error.kind() == ErrorKind::Missing => None,
            Err(error) => {
                self.unreadable(&paths.keys, &error);
                None
            }
        };
        let file = key_file.as_ref();
        self.lines.extend(file.map(|file| header_line(&file.path, file.len, &file.header)));
        key_file
    }
}

fn metadata_line(path: &Path, metadata: &Metadata) -> DumpLine {
    DumpLine::Metadata {
        path: path.to_owned(),
        segment: metadata.segment,
        revision: metadata.revision,
        predecessor: metadata.predecessor,
        successor: metadata.successor,
        created: metadata.created,
        sealed_at: metadata.sealed_at.time(),
        key_end: metadata.key_end,
        records: metadata.records,
        primaries: metadata.primaries,
        running: metadata.running,
        value_ends: metadata.value_ends.clone(),
    }
}

fn header_line(path: &Path, len: u64, header: &KeyHeader) -> DumpLine {
    DumpLine::KeyHeader {
        path: path.to_owned(),
        len,
        table_id: header.identity.table_id,
        segment: header.identity.segment,
        predecessor: header.predecessor,
        created: header.created,
        salt: header.identity.salt,
        shards: header.shards,
    }
}

fn record_line(WalkItem { at, decoded, .. }: WalkItem<'_>) -> DumpLine {
    let offset = at.start as u32;
    let Decoded { record, checksum, .. } = match decoded {
        Ok(decoded) => decoded,
        Err(invalid) => {
            let what = invalid.to_string();
            return DumpLine::Damage { offset: at.start, end: at.end, what };
        }
    };
    match record {
        Record::Key(record) => DumpLine::Key {
            offset,
            key: show_key(record.key),
            is_primary: record.is_primary(),
            ends_group: record.flags.has(Flags::END_OF_GROUP),
            ends_batch: record.flags.has(Flags::END_OF_BATCH),
            shard: record.shard,
            value_offset: record.offset,
            value_len: record.stored_len,
            value_checksum: record.value_checksum,
            checksum,
        },
        Record::Epoch(epoch, time) => DumpLine::Epoch { offset, epoch, time },
        Record::Chain(Chain { predecessor, key_end, records, running, value_ends }) => {
            DumpLine::Chain { offset, predecessor, key_end, records, running, value_ends }
        }
        Record::Mark(Mark { through, time, records, value_ends }) => {
            DumpLine::Mark { offset, through, time, records, value_ends }
        }
        Record::Padding(len) => DumpLine::Padding { offset, len },
    }
}

fn verdict_line(path: &Path, scan: Scan) -> DumpLine {
    let verdict = match scan.verdict {
        Verdict::Clean => "clean".to_owned(),
        Verdict::Torn { offset, reason } => format!("torn at {offset}: {reason}"),
        Verdict::Corrupt { offset, acknowledged, reason } => {
            format!("corrupt at {offset}, {acknowledged} bytes were acknowledged: {reason}")
        }
    };
    let Totals { key_end, records, running, .. } = scan.totals;
    DumpLine::Verdict { path: path.to_owned(), end: key_end, records, running, verdict }
}

impl fmt::Display for DumpLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, what } => write!(f, "{}: UNREADABLE: {what}", path.display()),
            Self::Metadata {
                path,
                segment,
                revision,
                predecessor,
                successor,
                created,
                sealed_at,
                key_end,
                records,
                primaries,
                running,
                value_ends,
            } => {
                write!(f, "{}: metadata of segment {segment}, ", path.display())?;
                write!(
                    f,
                    "revision {revision}, predecessor {predecessor}, successor {successor}, "
                )?;
                write!(f, "created {created}, sealed {sealed_at}, key end {key_end}, ")?;
                write!(f, "{records} keys, {primaries} values, running checksum {running:08x}, ")?;
                write!(f, "value file lengths {value_ends:?}")
            }
            Self::ValueHeader { path, len, segment, shard, salt, created } => write!(
                f,
                "{}: values of segment {segment}, shard {shard}, salt {salt:016x}, created {created}, {len} bytes",
                path.display()
            ),
            Self::KeyHeader {
                path,
                len,
                table_id,
                segment,
                predecessor,
                created,
                salt,
                shards,
            } => {
                write!(
                    f,
                    "{}: keys of segment {segment}, table {table_id:016x}, ",
                    path.display()
                )?;
                write!(f, "predecessor {predecessor}, created {created}, salt {salt:016x}, ")?;
                write!(f, "{shards} shards, {len} bytes")
            }
            Self::Chain { offset, predecessor, key_end, records, running, value_ends } => write!(
                f,
                "{offset:>10} chain    segment {predecessor} ended at {key_end}, {records} keys, running checksum {running:08x}, value file lengths {value_ends:?}"
            ),
            Self::Epoch { offset, epoch, time } => {
                write!(f, "{offset:>10} epoch    {epoch:016x} at {time}")
            }
            Self::Mark { offset, through, time, records, value_ends } => write!(
                f,
                "{offset:>10} mark     through {through}, {records} keys, value file lengths {value_ends:?}, at {time}"
            ),
            Self::Padding { offset, len } => write!(f, "{offset:>10} padding  {len} bytes"),
            Self::Key {
                offset,
                key,
                is_primary,
                ends_group,
                ends_batch,
                shard,
                value_offset,
                value_len,
                value_checksum,
                checksum,
            } => {
                let kind = if *is_primary { "primary" } else { "alias" };
                write!(f, "{offset:>10} {kind:<8} {key} -> {shard}:{value_offset}+{value_len} ")?;
                write!(f, "value {value_checksum:08x} record {checksum:08x}")?;
                f.write_str(if *ends_group { " end of group" } else { "" })?;
                f.write_str(if *ends_batch { " and batch" } else { "" })
            }
            Self::Damage { offset, end, what } => {
                write!(f, "{offset:>10} DAMAGE   up to {end}: {what}")
            }
            Self::Verdict { path, end, records, running, verdict } => write!(
                f,
                "{}: {verdict}; {records} keys up to {end}, running checksum {running:08x}",
                path.display()
            ),
        }
    }
}
