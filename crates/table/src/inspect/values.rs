//! The value bytes of a segment, compared with the checksums of the records that name them.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Fs, Result};
use lithdb_segment::{
    HEADER_LEN, Identity, KeyHeader, SegmentFile, SegmentPaths, ShardId, ValueHeader,
};

use crate::inventory::FoundFiles;
use crate::keyfile::KeyFile;
use crate::window::Window;

/// What is wrong with a value file as such.
#[derive(Debug, Clone)]
pub(super) enum FileFault {
    /// It is on no root.
    Absent,
    /// Its header does not hold, or is another file's.
    Header(Error),
    /// It is the right one, and has the name of another value file of the segment.
    Misnamed(PathBuf),
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

/// A value file as its name says.
struct Named {
    path: PathBuf,
    window: Window,
    head: Result<ValueHeader>,
}

impl Named {
    fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let mut window = Window::open(fs, path)?;
        let head = ValueHeader::decode(path, window.get(0, HEADER_LEN)?);
        Ok(Self { path: path.to_owned(), window, head })
    }

    fn into_file(
        named: Option<Self>,
        expected: PathBuf,
        identity: &Identity,
        shard: ShardId,
    ) -> Result<ValueFile> {
        let Some(Self { path, window, head }) = named else {
            let fault = Some(FileFault::Absent);
            return Ok(ValueFile { path: expected, fault, window: None });
        };
        let fault = match head.and_then(|head| head.belongs_to(&path, identity, shard)) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(error) => Some(FileFault::Header(error)),
        };
        Ok(ValueFile { path, fault, window: Some(window) })
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
        let mut named = Vec::with_capacity(new.values.len());
        for n in 0..header.shards {
            let path = found.values.get(&ShardId(n));
            named.push(path.map(|path| Named::open(fs, path)).transpose()?);
        }
        // A file that says itself that it is another one is that one, unless the name it should have is rightly taken.
        let says = |named: &Named| {
            // One whose header does not hold says nothing; it becomes a fault below.
            let Ok(head) = &named.head else { return None };
            let is_ours = head.identity == identity && head.shard.0 < header.shards;
            is_ours.then(|| usize::from(head.shard.0))
        };
        let said: Vec<_> = named.iter().map(|named| named.as_ref().and_then(says)).collect();
        let mut files: Vec<Option<ValueFile>> = Vec::new();
        files.resize_with(named.len(), || None);
        let mut rest = Vec::with_capacity(named.len());
        for (n, named) in named.into_iter().enumerate() {
            let other = said.get(n).copied().flatten().filter(|other| *other != n);
            let other = other.filter(|other| said.get(*other) != Some(&Some(*other)));
            let place = other.and_then(|other| Some((files.get_mut(other)?, other)));
            match (named, place) {
                (Some(named), Some((place @ None, other))) => {
                    let right = SegmentFile::Values(identity.segment, ShardId(other as u16));
                    let right = named.path.with_file_name(right.to_string());
                    let fault = Some(FileFault::Misnamed(right));
                    *place =
                        Some(ValueFile { path: named.path, fault, window: Some(named.window) });
                    rest.push(None);
                }
                (named, _) => rest.push(named),
            }
        }
        let names = rest.into_iter().zip(new.values).enumerate();
        for ((n, (named, expected)), place) in names.zip(&mut files) {
            if place.is_none() {
                *place = Some(Named::into_file(named, expected, &identity, ShardId(n as u16))?);
            }
        }
        let files = files.into_iter().flatten().collect();
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
        let found = match window.as_deref_mut() {
            Some(window) => window.checksum(offset, len)?,
            None if len > 0 => return Ok(Some("the value file is absent".to_owned())),
            None => Some(0),
        };
        let Some(found) = found else {
            let ends = window.map_or(0, |window| window.len());
            return Ok(Some(format!("expected {len} bytes, the file ends at {ends}")));
        };
        let expected = format_args!("expected checksum {checksum:08x}, found {found:08x}");
        Ok((found != checksum).then(|| expected.to_string()))
    }
}
