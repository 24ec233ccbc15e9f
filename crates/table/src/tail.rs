//! The unsealed end of a table, as it is found: what of it was acknowledged, what else may be kept, what is torn.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::{Env, Error, ErrorKind, File, OpenMode, Result, UnixMillis};
use lithdb_segment::record::{Flags, KEY_FIXED_LEN, Mark};
use lithdb_segment::scan::{Entry, Scanner, Totals, Verdict, corrupt};
use lithdb_segment::{HEADER_LEN, KeyHeader, SegmentPaths, ShardId, ValueHeader};

use crate::keyfile::{KeyFile, read};

/// What is known of the mutable segment before anything is done to it.
#[derive(Debug, Clone)]
pub struct TailFound {
    /// Its files.
    pub paths: SegmentPaths,
    /// The header of its key file.
    pub header: KeyHeader,
    /// What is kept. Its end is where the segment goes on; value ends are never below the promise.
    pub keep: Totals,
    /// What was promised to be durable: end of keys and ends of values.
    pub promised: (u64, Vec<u64>),
    /// The key file from the promise to the kept end: the bytes whose checksums were compared.
    pub unpromised_keys: Bytes,
    /// Values that unpromised primary records name outside of the key file: shard, offset, length, checksum.
    pub unpromised_values: Vec<(ShardId, u64, u32, u32)>,
    /// Why the end is torn, if it is.
    pub torn: Option<String>,
    /// Where epochs began, in what is kept.
    pub epochs: Vec<(u32, u64)>,
    /// Value files whose header must be written anew: nothing in them was ever acknowledged.
    pub bad_headers: Vec<ShardId>,
    /// The newest time that the file records.
    pub newest_time: UnixMillis,
    /// Some file is longer than what is kept, and by how many bytes all are.
    pub surplus: u64,
}

impl TailFound {
    /// Scans the key file, and reads the values that no mark vouches for.
    ///
    /// # Errors
    /// `Corrupt` if something that was acknowledged does not hold.
    pub(crate) fn examine(
        env: &Env,
        paths: SegmentPaths,
        key_file: &KeyFile,
        promise: Option<Mark>,
    ) -> Result<Self> {
        let mut first = key_file.scan(key_file.len, promise);
        let verdict = first.run(|_| Ok(()))?;
        let mut torn = match verdict {
            Verdict::Clean => None,
            Verdict::Torn { reason, .. } => Some(reason),
            Verdict::Corrupt { offset, acknowledged, reason } => {
                let reason = format!("{reason}; {acknowledged} bytes were acknowledged");
                return Err(corrupt(&key_file.path, offset, &reason));
            }
        };
        let promised = promised(key_file, first.mark());
        let values = Values::open(env, &paths, key_file, &promised.1)?;
        let mut keep_end = first.totals().key_end;
        let (mut unpromised_keys, mut second);
        let unpromised_values = loop {
            unpromised_keys = key_file.piece(promised.0, keep_end)?;
            second = key_file.scan_with(&unpromised_keys, promised.0, keep_end);
            match values.check(&mut second, promised.0)? {
                Checked::Whole(unpromised) => break unpromised,
                Checked::TornAt(offset, reason) => {
                    keep_end = offset.max(promised.0);
                    torn = Some(reason);
                }
            }
        };
        let mut keep = second.totals().clone();
        for (end, promised) in keep.value_ends.iter_mut().zip(&promised.1) {
            *end = (*end).max(*promised);
        }
        let surplus = values.surplus(&keep.value_ends) + key_file.len.saturating_sub(keep.key_end);
        let mark_time = first.mark().map_or(UnixMillis::default(), |mark| mark.time);
        Ok(Self {
            paths,
            header: key_file.header,
            promised,
            unpromised_keys,
            unpromised_values,
            torn,
            epochs: second.epochs().to_vec(),
            bad_headers: values.bad_headers,
            newest_time: key_file.header.created.max(mark_time),
            surplus,
            keep,
        })
    }
}

fn promised(key_file: &KeyFile, mark: Option<&Mark>) -> (u64, Vec<u64>) {
    let header = HEADER_LEN as u64;
    let shards = usize::from(key_file.header.shards);
    match mark {
        Some(mark) => (u64::from(mark.through).max(header), mark.value_ends.clone()),
        None => (header, vec![header; shards]),
    }
}

impl KeyFile {
    /// The bytes from `start` to `end`.
    fn piece(&self, start: u64, end: u64) -> Result<Bytes> {
        let len = end.saturating_sub(start) as usize;
        let bytes = read(&*self.file, &self.path, start, len)?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        Err(changed(&self.path, start))
    }

    /// A scanner that sees `piece`, which stands at `start`, instead of what the file holds there.
    fn scan_with(
        &self,
        piece: &Bytes,
        start: u64,
        end: u64,
    ) -> Scanner<impl Fn(u64, usize) -> Result<Bytes> + use<>> {
        let (file, path, piece) = (Arc::clone(&self.file), self.path.clone(), piece.clone());
        let source = move |offset: u64, len: usize| {
            if offset >= start {
                let from = ((offset - start) as usize).min(piece.len());
                return Ok(piece.slice(from..(from + len).min(piece.len())));
            }
            // Records are not split at the promise: it is the end of one.
            read(&*file, &path, offset, len.min((start - offset) as usize))
        };
        Scanner::new(source, &self.path, self.header, end)
    }
}

fn changed(path: &Path, offset: u64) -> Error {
    Error::new(
        ErrorKind::Io,
        format!(
            "{} at offset {offset}: two reads gave different bytes; open it again",
            path.display()
        ),
    )
}

/// The value files of the tail.
struct Values {
    files: Vec<(Arc<dyn File>, u64)>,
    paths: SegmentPaths,
    bad_headers: Vec<ShardId>,
}

enum Checked {
    Whole(Vec<(ShardId, u64, u32, u32)>),
    TornAt(u64, String),
}

impl Values {
    fn open(env: &Env, paths: &SegmentPaths, key_file: &KeyFile, promised: &[u64]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.values.len());
        let mut bad_headers = Vec::new();
        for (n, (path, promised)) in paths.values.iter().zip(promised).enumerate() {
            let shard = ShardId(n as u16);
            let file = env.fs.open(path, OpenMode::Read).map_err(|e| Error::io("open", path, e))?;
            let len = file.len().map_err(|e| Error::io("measure", path, e))?;
            let holds_values = *promised > HEADER_LEN as u64;
            if holds_values && len < *promised {
                let expected = format!("{promised} bytes, which were acknowledged");
                return Err(Error::corrupt(path, len, &expected, "the end of the file"));
            }
            let head = read(&*file, path, 0, HEADER_LEN)?;
            let identity = &key_file.header.identity;
            let header = ValueHeader::decode(path, &head)
                .and_then(|header| header.belongs_to(path, identity, shard));
            match header {
                Ok(()) => {}
                // A header that never became durable is zeros or cut; anything else is not ours to mend.
                Err(e) if !holds_values && e.kind() == ErrorKind::Corrupt => {
                    bad_headers.push(shard)
                }
                Err(error) => return Err(error),
            }
            files.push((file, len));
        }
        Ok(Self { files, paths: paths.clone(), bad_headers })
    }

    /// Compares the values of all records from `promised` on.
    fn check<S: lithdb_segment::scan::KeySource>(
        &self,
        scanner: &mut Scanner<S>,
        promised: u64,
    ) -> Result<Checked> {
        let mut unpromised = Vec::new();
        let mut begun = None;
        while let Some(entry) = scanner.next_entry()? {
            // Where the batch begins, not where the one before ends: the chain record, a mark or an epoch between
            // them is kept.
            let batch_start = begun.take().unwrap_or_else(|| u64::from(entry.offset));
            if !entry.record.flags.has(Flags::END_OF_BATCH) {
                begun = Some(batch_start);
            }
            if u64::from(entry.offset) < promised || !entry.record.is_primary() {
                continue;
            }
            let record = entry.record;
            let shard = record.shard;
            let bytes = if shard == ShardId::INLINE {
                None
            } else {
                unpromised.push((shard, record.offset, record.stored_len, record.value_checksum));
                Some(self.read(&entry)?)
            };
            let (offset, key_len) = (u64::from(entry.offset), record.key.len());
            let (checksum, expected) = (record.value_checksum, record.stored_len as usize);
            let found = match &bytes {
                Some(bytes) if bytes.len() < expected => None,
                Some(bytes) => Some(crc32c::crc32c(bytes)),
                None => {
                    let (window, start) = scanner.window();
                    let from = (offset - start) as usize + KEY_FIXED_LEN + key_len;
                    window.get(from..from + expected).map(crc32c::crc32c)
                }
            };
            if found != Some(checksum) {
                let reason = format!("the value of the record at {offset} does not hold");
                return Ok(Checked::TornAt(batch_start, reason));
            }
        }
        match scanner.verdict() {
            Some(Verdict::Clean) => Ok(Checked::Whole(unpromised)),
            _ => Err(changed(&self.paths.keys, scanner.totals().key_end)),
        }
    }

    fn read(&self, entry: &Entry<'_>) -> Result<Bytes> {
        let index = usize::from(entry.record.shard.0);
        let (Some((file, len)), Some(path)) = (self.files.get(index), self.paths.values.get(index))
        else {
            return Ok(Bytes::new());
        };
        if entry.record.offset.saturating_add(u64::from(entry.record.stored_len)) > *len {
            return Ok(Bytes::new()); // shorter than the record says: no memory for a length that is not there
        }
        read(&**file, path, entry.record.offset, entry.record.stored_len as usize)
    }

    fn surplus(&self, keep: &[u64]) -> u64 {
        self.files.iter().zip(keep).map(|((_, len), end)| len.saturating_sub(*end)).sum()
    }
}
