//! The value bytes of a segment, compared with the checksums of the records that name them.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Fs, Result};
use lithdb_segment::{HEADER_LEN, KeyHeader, SegmentPaths, ShardId, ValueHeader};

use super::window::{PIECE, Window};
use crate::inventory::FoundFiles;
use crate::keyfile::KeyFile;

/// What is wrong with a value file as such.
#[derive(Debug, Clone)]
pub(super) enum FileFault {
    /// It is on no root.
    Absent,
    /// Its header does not hold, or is another file's.
    Header(Error),
}

/// One value file.
#[derive(Debug)]
pub(super) struct ValueFile {
    /// Where it is, or would be.
    pub(super) path: PathBuf,
    pub(super) fault: Option<FileFault>,
    window: Option<Window>,
}

impl ValueFile {
    /// The length; none of a file that is absent.
    pub(super) fn len(&self) -> Option<u64> {
        self.window.as_ref().map(Window::len)
    }
}

/// All places where a segment's values stand.
#[derive(Debug)]
pub(super) struct ValueFiles {
    pub(super) files: Vec<ValueFile>,
    keys: Window,
    keys_path: PathBuf,
}

impl ValueFiles {
    pub(super) fn open(
        fs: &dyn Fs,
        dirs: &[PathBuf],
        found: &FoundFiles,
        keys: &KeyFile,
        header: &KeyHeader,
    ) -> Result<Self> {
        let identity = header.identity;
        let new = SegmentPaths::for_new(dirs, identity.segment, header.shards);
        let mut files = Vec::with_capacity(new.values.len());
        for (n, expected) in new.values.into_iter().enumerate() {
            let shard = ShardId(n as u16);
            let Some(path) = found.values.get(&shard) else {
                let fault = Some(FileFault::Absent);
                files.push(ValueFile { path: expected, fault, window: None });
                continue;
            };
            let mut window = Window::open(fs, path)?;
            let head = ValueHeader::decode(path, window.get(0, HEADER_LEN)?);
            let fault = match head.and_then(|head| head.belongs_to(path, &identity, shard)) {
                Ok(()) => None,
                Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
                Err(error) => Some(FileFault::Header(error)),
            };
            files.push(ValueFile { path: path.clone(), fault, window: Some(window) });
        }
        Ok(Self { files, keys: Window::of(keys), keys_path: keys.path.clone() })
    }

    /// The file that holds the values of `shard`.
    pub(super) fn path(&self, shard: ShardId) -> &Path {
        self.files.get(usize::from(shard.0)).map_or(&self.keys_path, |file| &file.path)
    }

    /// Reads `len` bytes and compares their checksum; says what is wrong if it is not that.
    pub(super) fn check(
        &mut self,
        shard: ShardId,
        offset: u64,
        len: u32,
        checksum: u32,
    ) -> Result<Option<String>> {
        let mut window = if shard == ShardId::INLINE {
            Some(&mut self.keys)
        } else {
            match self.files.get_mut(usize::from(shard.0)) {
                Some(file) => file.window.as_mut(),
                None => return Ok(Some(format!("there is no value file {shard}"))),
            }
        };
        let mut found = 0;
        let end = offset.saturating_add(u64::from(len));
        let mut at = offset;
        while at < end {
            let Some(window) = window.as_deref_mut() else {
                return Ok(Some("the value file is absent".to_owned()));
            };
            let piece = window.get(at, ((end - at) as usize).min(PIECE))?;
            if piece.is_empty() {
                let ends = window.len();
                return Ok(Some(format!("expected {len} bytes, the file ends at {ends}")));
            }
            found = crc32c::crc32c_append(found, piece);
            at += piece.len() as u64;
        }
        let expected = format_args!("expected checksum {checksum:08x}, found {found:08x}");
        Ok((found != checksum).then(|| expected.to_string()))
    }
}
