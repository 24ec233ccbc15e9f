//! Compares the value bytes of a segment with the checksums in their records, and finds damaged
//! value files. Reads only; used by `groups` and `examine`.

use std::path::{Path, PathBuf};

use lithdb_env::{Error, ErrorKind, Fs, Result};
use lithdb_segment::record::KeyRecord;
use lithdb_segment::{HEADER_LEN, KeyHeader, SegmentPaths, ShardId, ValueHeader};

use lithdb_segment::key_file::KeyFile;
use lithdb_segment::window::Window;
use lithdb_table::open::inventory::SegmentFiles;

/// What is wrong with a value file as a whole.
#[derive(Debug)]
pub(crate) enum FileFault {
    /// It is on no root.
    Absent,
    /// Its header is invalid or belongs to another file.
    Header(Error),
    /// It has the name of another value file of the segment. Its own path would be this one.
    Misnamed(PathBuf),
}

/// One value file.
#[derive(Debug)]
pub(crate) struct ValueFile {
    /// Its path, existing or not.
    pub(crate) path: PathBuf,
    pub(crate) fault: Option<FileFault>,
    window: Option<Window>,
}

impl ValueFile {
    /// The length; `None` if the file is missing.
    pub(crate) fn len(&self) -> Option<u64> {
        self.window.as_ref().map(Window::len_bytes)
    }
}

/// All files that hold values of a segment: the value files, and the key file for inline values.
#[derive(Debug)]
pub(crate) struct ValueFiles {
    pub(crate) files: Vec<ValueFile>,
    keys: Window,
    keys_path: PathBuf,
}

impl ValueFiles {
    pub(crate) fn open(
        fs: &dyn Fs,
        dirs: &[PathBuf],
        found: &SegmentFiles,
        keys: &KeyFile,
    ) -> Result<Self> {
        let KeyHeader { identity, shards, .. } = keys.header;
        let open = |n| found.values.get(&ShardId(n)).map(|path| open_named(fs, path)).transpose();
        let mut named = (0..shards).map(open).collect::<Result<Vec<_>>>()?;
        // An invalid header identifies no file; it becomes a fault below.
        let shard_of = |named: &Option<(ValueFile, Result<ValueHeader>)>| match named {
            Some((_, Ok(head))) if head.identity == identity => Some(head.shard),
            _ => None,
        };
        let recorded: Vec<_> = named.iter().map(shard_of).collect();
        // A file goes by the shard in its header, unless the right file already has that name.
        let misnamed = recorded.iter().enumerate().map(|(n, own)| {
            let shard = Some(ShardId(n as u16));
            let other = recorded
                .iter()
                .position(|recorded| *recorded == shard)
                .filter(|_| *own != shard)?;
            named.get_mut(other)?.take()
        });
        let misnamed: Vec<_> = misnamed.collect();
        let new = SegmentPaths::for_new(dirs, identity.segment, shards).values;
        let mut files = Vec::with_capacity(new.len());
        for (n, ((named, misnamed), path)) in named.into_iter().zip(misnamed).zip(new).enumerate() {
            let shard = ShardId(n as u16);
            let Some((file, head)) = misnamed.or(named) else {
                files.push(ValueFile { path, fault: Some(FileFault::Absent), window: None });
                continue;
            };
            let fault = match head.and_then(|head| head.belongs_to(&file.path, &identity, shard)) {
                Ok(()) if file.path.file_name() == path.file_name() => None,
                Ok(()) => Some(FileFault::Misnamed(path)),
                Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
                Err(error) => Some(FileFault::Header(error)),
            };
            files.push(ValueFile { fault, ..file });
        }
        Ok(Self { files, keys: Window::of(keys), keys_path: keys.path.clone() })
    }

    /// The path of the file that holds the values of `shard`.
    pub(crate) fn path(&self, shard: ShardId) -> &Path {
        self.files.get(usize::from(shard.0)).map_or(&self.keys_path, |file| &file.path)
    }

    /// Verifies the checksum of a record's value; returns what is wrong with it, if anything.
    pub(crate) fn check(&mut self, record: &KeyRecord<'_>) -> Result<Option<String>> {
        let KeyRecord { shard, offset, stored_len: len, value_checksum: expected, .. } = *record;
        let window = if shard == ShardId::INLINE {
            Some(&mut self.keys)
        } else {
            match self.files.get_mut(usize::from(shard.0)) {
                Some(file) => file.window.as_mut(),
                None => return Ok(Some(format!("there is no value file {shard}"))),
            }
        };
        let found = match window {
            Some(window) => match window.checksum(offset, len)? {
                Some(found) => found,
                None => {
                    let ends = window.len_bytes();
                    return Ok(Some(format!("expected {len} bytes, the file ends at {ends}")));
                }
            },
            None if len > 0 => return Ok(Some("the value file is missing".to_owned())),
            None => 0,
        };
        let wrong = || format!("expected checksum {expected:08x}, found {found:08x}");
        Ok((found != expected).then(wrong))
    }
}

/// Opens a value file and decodes its header.
fn open_named(fs: &dyn Fs, path: &Path) -> Result<(ValueFile, Result<ValueHeader>)> {
    let mut window = Window::open(fs, path)?;
    let head = ValueHeader::decode(path, window.get(0, HEADER_LEN)?);
    Ok((ValueFile { path: path.to_owned(), fault: None, window: Some(window) }, head))
}
