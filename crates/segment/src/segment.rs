//! The reading side of a segment, mutable or sealed, and the state that readers and the writer
//! share.
//!
//! Invariants: bytes below the *durable* lengths never change again and may be returned zero-copy
//! from a mapping; bytes above are copied, from the write buffer if they are not in the file yet.
//! A sealed segment is durable to its end. A segment marked with [`Segment::delete_on_drop`]
//! unlinks its files when its last holder drops it, unless its table has been closed; the next
//! open removes them then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lithdb_env::sync::atomic::Ordering;
use lithdb_env::sync::{Mutex, OnceLock, RwLock};
use lithdb_env::{Env, Error, ErrorKind, File, Result, read_exact_at};
use serde::{Deserialize, Serialize};

use crate::create::Leftovers;
use crate::data_file::DataFile;
use crate::handle::{Handle, HandleCache, OpenFile, ReadMode};
use crate::header::{HEADER_LEN, Identity, KeyHeader, ValueHeader};
use crate::ids::{Address, SegmentId, ShardId};
use crate::metadata::Metadata;
use crate::paths::SegmentPaths;
use crate::record::{KEY_FIXED_LEN, check_key_record, decode_unchecked};
use crate::scan::Scanner;
use crate::value::Value;

/// Whether reads verify the checksums of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// On every read: a flipped bit is an error.
    #[default]
    Always,
    /// Never, for callers that verify the bytes themselves. Key records are verified regardless.
    Never,
}

/// What all segments of a table share.
#[derive(Debug)]
pub struct Context {
    /// Disk, clock and threads.
    pub env: Env,
    /// The table's random id.
    pub table_id: u64,
    /// The `segments` directory of the table on every root, in the order of the roots.
    pub dirs: Vec<PathBuf>,
    /// How files are read.
    pub read_mode: ReadMode,
    /// Whether values are verified on read.
    pub verify: Verify,
    /// The cache of open files, shared by all tables.
    pub handles: Arc<HandleCache>,
    /// What failed creations of segments could not remove.
    pub leftovers: Leftovers,
}

/// The permission of an open table to unlink the files of its segments by name. The last holder of
/// a segment may outlive the table, and another table of the same name may then have files of the
/// same names.
#[derive(Debug, Clone)]
pub struct UnlinkPermission(Arc<Mutex<bool>>);

impl UnlinkPermission {
    /// The permission of a table that is open for writing.
    #[expect(
        clippy::new_without_default,
        reason = "only a holder of the locks may have it: no default"
    )]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(true)))
    }

    /// Revokes the permission, before the table's locks or name may pass to others. Waits for an
    /// unlink in progress; files that remain are below the watermark, and the next open removes
    /// them.
    pub fn revoke(&self) {
        *self.0.lock() = false;
    }
}

/// One segment.
#[derive(Debug)]
pub struct Segment {
    context: Arc<Context>,
    header: KeyHeader,
    paths: SegmentPaths,
    pub(crate) keys: DataFile,
    pub(crate) values: Vec<DataFile>,
    epochs: RwLock<Arc<[(u32, u64)]>>,
    sealed: OnceLock<Metadata>,
    /// Bytes of the files after their ends; freed with the segment.
    waiting_bytes: u64,
    delete_on_drop: OnceLock<UnlinkPermission>,
}

impl Segment {
    /// A sealed segment with the given files. Files are opened when needed.
    pub fn sealed(
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
        metadata: Metadata,
    ) -> Self {
        let ends = (metadata.key_end, &*metadata.value_ends);
        let mut segment =
            Self::unsealed_for_reader(context, paths, header, ends, ends, &metadata.epochs);
        segment.sealed = metadata.into();
        segment
    }

    /// The unsealed segment of another process: readable up to `ends`, durable up to its newest
    /// mark (`durable`).
    pub fn unsealed_for_reader(
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
        ends: (u64, &[u64]),
        durable: (u64, &[u64]),
        epochs: &[(u32, u64)],
    ) -> Self {
        let file = |path: &Path, shard, end: u64| {
            let durable = match shard {
                ShardId::INLINE => durable.0,
                // What no mark covers is not durable: it is copied, not borrowed.
                ShardId(n) => durable.1.get(usize::from(n)).copied().unwrap_or_default(),
            };
            let handle = Handle::closed(path.to_owned());
            DataFile::new(handle, shard, None, durable.min(end), end)
        };
        Self::assemble(context, paths, header, ends, epochs, file)
    }

    /// Extends the readable and durable ends of another process's unsealed segment.
    pub fn extend_readable(
        &self,
        ends: (u64, &[u64]),
        durable: (u64, &[u64]),
        epochs: &[(u32, u64)],
    ) {
        // Epochs seed the checksums of records, so they are published before the records; values
        // are published before the keys that name them.
        *self.epochs.write() = epochs.into();
        for (file, end) in self.values.iter().zip(ends.1).chain([(&self.keys, &ends.0)]) {
            file.end.fetch_max(*end, Ordering::AcqRel);
        }
        for (file, end) in self.values.iter().zip(durable.1).chain([(&self.keys, &durable.0)]) {
            file.durable.fetch_max((*end).min(file.end()), Ordering::AcqRel);
        }
    }

    /// Marks the segment as sealed by another process. All of it must already be readable.
    pub fn mark_sealed(&self, metadata: Metadata) {
        assert_eq!(
            self.key_end(),
            metadata.key_end,
            "segment {}: sealed at another length",
            self.id()
        );
        let ends = (metadata.key_end, &*metadata.value_ends);
        self.extend_readable(ends, ends, &metadata.epochs);
        self.set_sealed(metadata);
    }

    /// `file` creates a `DataFile` from a path, a shard and an end.
    pub(crate) fn assemble(
        context: &Arc<Context>,
        paths: SegmentPaths,
        header: KeyHeader,
        (key_end, value_ends): (u64, &[u64]),
        epochs: &[(u32, u64)],
        mut file: impl FnMut(&Path, ShardId, u64) -> DataFile,
    ) -> Self {
        let keys = file(&paths.keys, ShardId::INLINE, key_end);
        let values = (0..).map(ShardId).zip(paths.values.iter().zip(value_ends));
        Self {
            context: Arc::clone(context),
            header,
            keys,
            values: values.map(|(shard, (path, end))| file(path, shard, *end)).collect(),
            paths,
            epochs: RwLock::new(epochs.into()),
            sealed: OnceLock::new(),
            waiting_bytes: 0,
            delete_on_drop: OnceLock::new(),
        }
    }

    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.header.identity.segment
    }

    /// Table, segment and salt.
    pub fn identity(&self) -> &Identity {
        &self.header.identity
    }

    /// The header of the key file.
    pub fn header(&self) -> &KeyHeader {
        &self.header
    }

    /// Where the files are.
    pub fn paths(&self) -> &SegmentPaths {
        &self.paths
    }

    /// What all segments of the table share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The metadata, if the segment is sealed.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.sealed.get()
    }

    /// The readable end of the key file, in bytes.
    pub fn key_end(&self) -> u64 {
        self.keys.end()
    }

    /// The readable ends of the value files, in bytes.
    pub fn value_ends(&self) -> Vec<u64> {
        self.values.iter().map(DataFile::end).collect()
    }

    /// Durable bytes of all files.
    pub fn durable_bytes(&self) -> u64 {
        self.values.iter().chain([&self.keys]).map(DataFile::durable).sum()
    }

    pub(crate) fn set_sealed(&self, metadata: Metadata) {
        let is_first = self.sealed.set(metadata).is_ok();
        assert!(is_first, "segment {} is already sealed", self.id());
    }

    /// Marks the files for removal when the last holder drops the segment. The watermark that
    /// permits this must be durable.
    pub fn delete_on_drop(&self, permission: &UnlinkPermission) {
        let is_first = self.delete_on_drop.set(permission.clone()).is_ok();
        assert!(is_first, "segment {} is already marked for removal", self.id());
    }

    /// Sets the number of bytes after the ends in the files of this sealed segment.
    #[must_use]
    pub fn with_waiting_bytes(mut self, bytes: u64) -> Self {
        self.waiting_bytes = bytes;
        self
    }

    /// Bytes of the files after the sealed ends. They are kept for whoever has them mapped or
    /// linked, until the segment is removed.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// The offset and number of each epoch.
    pub fn epochs(&self) -> Arc<[(u32, u64)]> {
        Arc::clone(&self.epochs.read())
    }

    pub(crate) fn add_epoch(&self, offset: u32, epoch: u64) {
        let mut epochs = self.epochs.write();
        *epochs = epochs.iter().copied().chain([(offset, epoch)]).collect();
    }

    fn epoch_at(&self, offset: u32) -> u64 {
        let epochs = self.epochs.read();
        let before = epochs.partition_point(|(at, _)| *at <= offset);
        let newest = before.checked_sub(1).and_then(|n| epochs.get(n));
        newest.map_or(self.header.identity.salt, |(_, epoch)| *epoch)
    }

    /// The file that holds the values of `shard`.
    pub(crate) fn file(&self, shard: ShardId) -> Option<&DataFile> {
        match shard {
            ShardId::INLINE => Some(&self.keys),
            ShardId(n) => self.values.get(usize::from(n)),
        }
    }

    /// Opens the file if necessary, and checks that its header belongs to this segment.
    pub(crate) fn open(&self, file: &DataFile) -> Result<Arc<OpenFile>> {
        let handle = &file.handle;
        let (path, ours) = (handle.path(), &self.header.identity);
        handle.get(&*self.context.env.fs, &self.context.handles, |opened| {
            let head = self.opened(opened, path, file.min_len())?;
            if file.shard != ShardId::INLINE {
                return ValueHeader::decode(path, &head)?.belongs_to(path, ours, file.shard);
            }
            let found = KeyHeader::decode(path, &head)?;
            if found == self.header {
                return Ok(());
            }
            found.belongs_to(path, ours.table_id, ours.segment)?;
            let message = format_args!(
                "expected the header with salt {:016x}, found a different one with salt {:016x}",
                ours.salt, found.identity.salt
            );
            Err(Error::at(ErrorKind::Foreign, path, message))
        })
    }

    /// Reads the header of a newly opened file. A file shorter than `end` is an error: a mapping
    /// must never reach past the end of its file.
    fn opened(&self, file: &dyn File, path: &Path, end: u64) -> Result<[u8; HEADER_LEN]> {
        let len = file.len().map_err(|e| Error::io("get the length of", path, e))?;
        if len < end {
            if self.was_rolled_back()? {
                let message =
                    "another process has rolled back this segment; refresh and read again";
                return Err(Error::at(ErrorKind::Missing, path, message));
            }
            let expected = format!("at least {end} bytes");
            return Err(Error::corrupt(path, len, &expected, "the end of the file"));
        }
        let mut head = [0; HEADER_LEN];
        read_exact_at(file, &mut head, 0).map_err(|e| Error::io("read", path, e))?;
        Ok(head)
    }

    /// Whether the metadata on disk is a newer revision than the known one. A rollback renames it
    /// into place before the shorter key file.
    fn was_rolled_back(&self) -> Result<bool> {
        let known = self.metadata().map_or(0, |metadata| metadata.revision);
        match Metadata::read(&*self.context.env.fs, &self.paths.metadata) {
            Ok(now) => {
                let is_this = now.table_id == self.context.table_id && now.segment == self.id();
                Ok(is_this && now.revision > known)
            }
            Err(error) if error.kind().is_system_failure() => Err(error),
            // Absent or damaged metadata is no evidence of a rollback.
            Err(_) => Ok(false),
        }
    }

    fn read(&self, file: &DataFile, offset: u64, len: usize) -> Result<Bytes> {
        file.read(&*self.open(file)?, self.context.read_mode, offset, len)
    }

    /// Up to `len` bytes of the key file at `offset`.
    pub fn read_keys(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.read(&self.keys, offset, len)
    }

    /// A scanner of the key file up to `end`, which must be the end of a batch.
    pub fn scan(self: &Arc<Self>, end: u64) -> Result<Scanner<'static>> {
        // Both are held by the scanner: another process may collect the segment meanwhile.
        let (segment, open) = (Arc::clone(self), self.open(&self.keys)?);
        let source = move |offset: u64, len: usize| {
            segment.keys.read(&open, segment.context.read_mode, offset, len)
        };
        Ok(Scanner::new(source, &self.paths.keys, self.header, end))
    }

    /// The address of the value if the record at `offset` has this key, `None` if it has another
    /// key. `Corrupt` if the record is damaged: a damaged key must not look like a miss.
    pub fn lookup(&self, offset: u32, key: &[u8]) -> Result<Option<Address>> {
        let open = self.open(&self.keys)?;
        let at = u64::from(offset);
        let room = self.keys.end().saturating_sub(at);
        let want = (KEY_FIXED_LEN + key.len()).min(room as usize);
        let bytes = self.keys.read(&open, self.context.read_mode, at, want)?;
        if let Some(record) = decode_unchecked(&bytes)
            && record.key == key
        {
            let (whole, _) = bytes.split_at(KEY_FIXED_LEN + key.len());
            self.check_record(offset, whole)?;
            return Ok(Some(record.address(self.id())));
        }
        let whole = self.record_bytes(&open, offset, bytes)?;
        self.check_record(offset, &whole)?;
        Ok(None)
    }

    /// Reads the key and value address of the record at `offset`, and whether it is primary.
    /// `Corrupt` if there is no valid key record at `offset`.
    pub fn read_key(&self, offset: u32) -> Result<(Bytes, Address, bool)> {
        let open = self.open(&self.keys)?;
        let mode = self.context.read_mode;
        let head = self.keys.read(&open, mode, u64::from(offset), KEY_FIXED_LEN)?;
        let bytes = self.record_bytes(&open, offset, head)?;
        self.check_record(offset, &bytes)?;
        let Some(record) = decode_unchecked(&bytes) else {
            return Err(self.not_a_record(offset));
        };
        let end = KEY_FIXED_LEN + record.key.len();
        let (address, primary) = (record.address(self.id()), record.is_primary());
        Ok((bytes.slice(KEY_FIXED_LEN..end), address, primary))
    }

    /// The whole record at `offset` without an inline value, given its first bytes.
    fn record_bytes(&self, open: &OpenFile, offset: u32, begun: Bytes) -> Result<Bytes> {
        let n = crate::bytes_le::u16_at(&begun, 6).ok_or_else(|| self.not_a_record(offset))?;
        let len = KEY_FIXED_LEN + usize::from(n);
        if begun.len() >= len {
            return Ok(begun.slice(..len));
        }
        let room = self.keys.end().saturating_sub(u64::from(offset)) as usize;
        self.keys.read(open, self.context.read_mode, u64::from(offset), len.min(room))
    }

    fn check_record(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        let checked = check_key_record(self.identity(), self.epoch_at(offset), offset, bytes);
        checked.map_err(|invalid| {
            let reason = invalid.to_string();
            Error::corrupt(&self.paths.keys, u64::from(offset), "a valid key record", &reason)
        })
    }

    fn not_a_record(&self, offset: u32) -> Error {
        Error::corrupt(&self.paths.keys, u64::from(offset), "a key record", "the end of the file")
    }

    /// The bytes at `address`, verified unless the table's options say otherwise. `Corrupt` if
    /// they are not the bytes that were put.
    pub fn read_value(&self, address: &Address) -> Result<Value> {
        let bytes = self.value_bytes(address)?;
        if self.context.verify == Verify::Always {
            self.compare(address, crc32c::crc32c(&bytes))?;
        }
        Ok(Value::new(bytes))
    }

    /// Passes the bytes at `address` to `each` in pieces of at most 1 MiB, and verifies their
    /// checksum at the end. Otherwise like [`read_value`](Self::read_value).
    pub fn read_chunked(
        &self,
        address: &Address,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        const PIECE: u32 = 1 << 20;
        let (mut done, mut checksum) = (0, 0);
        while done < address.len_bytes {
            let len_bytes = PIECE.min(address.len_bytes - done);
            let offset = address.offset + u64::from(done);
            let piece = self.value_bytes(&Address { offset, len_bytes, ..*address })?;
            checksum = crc32c::crc32c_append(checksum, &piece);
            each(&piece)?;
            done += len_bytes;
        }
        self.compare(address, checksum)
    }

    fn value_bytes(&self, address: &Address) -> Result<Bytes> {
        let Some(file) = self.file(address.shard) else {
            let expected = format!("one of {} shards", self.values.len());
            let found = address.shard.to_string();
            return Err(Error::corrupt(&self.paths.keys, 0, &expected, &found));
        };
        let open = self.open(file)?;
        let len = address.len_bytes as usize;
        if len == 0 {
            return Ok(Bytes::new());
        }
        if address.offset.saturating_add(len as u64) > file.end() {
            let expected = format!("{len} bytes within the first {}", file.end());
            return Err(Error::corrupt(file.handle.path(), address.offset, &expected, "fewer"));
        }
        let bytes = file.read(&open, self.context.read_mode, address.offset, len)?;
        if bytes.len() < len {
            let found = format!("{} bytes", bytes.len());
            let expected = format!("{len} bytes");
            return Err(Error::corrupt(file.handle.path(), address.offset, &expected, &found));
        }
        Ok(bytes)
    }

    fn compare(&self, address: &Address, found: u32) -> Result<()> {
        if found == address.checksum {
            return Ok(());
        }
        let path = self.file(address.shard).unwrap_or(&self.keys).handle.path();
        let expected =
            format!("{} bytes with checksum {:08x}", address.len_bytes, address.checksum);
        Err(Error::corrupt(path, address.offset, &expected, &format!("{found:08x}")))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let Some(permission) = self.delete_on_drop.get() else { return };
        let may_unlink = permission.0.lock();
        if !*may_unlink {
            return;
        }
        for path in self.paths.all() {
            match self.context.env.fs.remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // The file is below the watermark: the next open removes it.
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove"),
            }
        }
    }
}
