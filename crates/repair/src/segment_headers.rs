//! Reads the metadata, headers and chain record of one segment, each valid or not, before any key
//! record is read. Everything else in this crate starts from these.

use std::path::PathBuf;

use lithdb_env::{Error, ErrorKind, Fs, Result};
use lithdb_segment::record::Chain;
use lithdb_segment::{
    HEADER_LEN, Identity, KeyHeader, Metadata, SegmentId, SegmentPaths, ValueHeader,
};

use crate::interrupted_repair::InterruptedRepair;
use lithdb_segment::key_file::KeyFile;
use lithdb_segment::window::Window;
use lithdb_table::open::chain::require_writable;
use lithdb_table::open::inventory::SegmentFiles;
use lithdb_table::open::sealed::check_matches_header;

/// One segment's files, with the metadata, headers and chain record that are valid.
#[derive(Debug, Default)]
pub(crate) struct SegmentHeaders {
    pub(crate) id: SegmentId,
    pub(crate) files: SegmentFiles,
    /// `None`: there is no metadata file.
    pub(crate) metadata: Option<Result<Metadata>>,
    /// `None`: there is no key file.
    pub(crate) key_file: Option<Result<KeyFile>>,
    /// The chain record, if it is valid.
    pub(crate) chain: Option<Chain>,
    /// A repair of the segment was interrupted; `metadata` is then the one that matches its
    /// present key file.
    pub(crate) interrupted_repair: Option<InterruptedRepair>,
    /// The highest revision that it has or may have had, if its metadata records one.
    pub(crate) revision: Option<u32>,
    /// The table ids in its value files, if neither key file header nor metadata is valid.
    pub(crate) value_file_table_ids: Vec<u64>,
}

impl SegmentHeaders {
    /// A segment without any file.
    pub(crate) fn absent(id: SegmentId) -> Self {
        Self { id, ..Self::default() }
    }

    /// Reads metadata, header and chain record.
    pub(crate) fn read(fs: &dyn Fs, id: SegmentId, files: &SegmentFiles) -> Result<Self> {
        let metadata = files.metadata.as_ref().map(|path| Metadata::read(fs, path));
        let key_file = files.keys.as_ref().map(|path| KeyFile::open(fs, path));
        let mut found = Self { files: files.clone(), metadata, key_file, ..Self::absent(id) };
        for error in [found.metadata_error(), found.header_error()].into_iter().flatten() {
            if error.kind().is_system_failure() || error.kind() == ErrorKind::Unsupported {
                return Err(error.clone());
            }
        }
        found.chain = found.key_file().map_or(Ok(None), KeyFile::chain)?;
        found.resolve_interrupted_repair()?;
        if found.header().is_none() && found.metadata().is_none() {
            let headers = found.value_headers(fs)?;
            found.value_file_table_ids = headers.iter().map(|(_, h)| h.identity.table_id).collect();
        }
        Ok(found)
    }

    /// The value file headers that are valid and match the name of their file.
    fn value_headers(&self, fs: &dyn Fs) -> Result<Vec<(&PathBuf, ValueHeader)>> {
        let mut headers = Vec::new();
        for (shard, path) in &self.files.values {
            let header = Window::open(fs, path)
                .and_then(|mut window| ValueHeader::decode(path, window.get(0, HEADER_LEN)?));
            match header {
                Ok(header) if (header.identity.segment, header.shard) == (self.id, *shard) => {
                    headers.push((path, header));
                }
                Err(e) if e.kind().is_system_failure() || e.kind() == ErrorKind::Unsupported => {
                    return Err(e);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(headers)
    }

    /// Checks that no file of the segment has features that forbid writing. Ignores invalid files.
    pub(crate) fn require_writable(&self, fs: &dyn Fs) -> Result<()> {
        let keys = self.key_file().map(|file| &file.path);
        let metadata = self.files.metadata.as_ref().filter(|_| self.metadata().is_some());
        let headers = self.value_headers(fs)?;
        let values = headers.into_iter().map(|(path, _)| path);
        keys.into_iter()
            .chain(metadata)
            .chain(values)
            .try_for_each(|path| require_writable(fs, path))
    }

    /// Replaces metadata that an interrupted repair left by the one that matches the key file.
    fn resolve_interrupted_repair(&mut self) -> Result<()> {
        let path = self.files.metadata.clone().unwrap_or_default();
        self.interrupted_repair =
            self.metadata().and_then(|metadata| InterruptedRepair::of(metadata, &path));
        let Some(interrupted_repair) = &self.interrupted_repair else { return Ok(()) };
        let is_key_file_replaced = self
            .key_file()
            .map(|keys| interrupted_repair.is_key_file_replaced(keys))
            .transpose()?;
        self.metadata = match is_key_file_replaced {
            Some(true) => Some(Ok(interrupted_repair.target.clone())),
            _ => interrupted_repair.before.clone(),
        };
        Ok(())
    }

    /// Whether an interrupted repair was replacing it by an empty segment: its files do not count.
    pub(crate) fn becomes_empty(&self) -> bool {
        self.interrupted_repair.as_ref().is_some_and(InterruptedRepair::is_empty)
    }

    /// Replaces files of another table or segment, and metadata that does not match the key file,
    /// by errors.
    pub(crate) fn check_identity(&mut self, table_id: u64) {
        if let Some(Ok(file)) = &self.key_file
            && let Err(error) = file.header.belongs_to(&file.path, table_id, self.id)
        {
            (self.key_file, self.chain) = (Some(Err(error)), None);
        }
        let path = self.files.metadata.clone().unwrap_or_default();
        let is_ours =
            |metadata: &Metadata| (metadata.table_id, metadata.segment) == (table_id, self.id);
        let foreign = |expected: String, metadata: &Metadata| {
            let Metadata { table_id, segment, value_ends, .. } = metadata;
            let found = format!(
                "segment {segment} of table {table_id:016x}, value files {}",
                value_ends.len()
            );
            Error::at(ErrorKind::Foreign, &path, format_args!("expected {expected}, found {found}"))
        };
        let ours = || format!("the metadata of segment {} of this table", self.id);
        let recorded =
            self.interrupted_repair.as_ref().map(|interrupted_repair| &interrupted_repair.target);
        let recorded = recorded.into_iter().chain(self.metadata());
        self.revision =
            recorded.filter(|recorded| is_ours(recorded)).map(|recorded| recorded.revision).max();
        if let Some(interrupted_repair) =
            self.interrupted_repair.take_if(|found| !is_ours(&found.target))
        {
            self.metadata = Some(Err(foreign(ours(), &interrupted_repair.target)));
        }
        let Some(Ok(metadata)) = &self.metadata else { return };
        let problem = if !is_ours(metadata) {
            Some(foreign(ours(), metadata))
        } else if !(1..=256).contains(&metadata.value_ends.len()) {
            Some(foreign("1 to 256 value files".to_owned(), metadata))
        } else {
            self.header().and_then(|header| check_matches_header(&path, metadata, header).err())
        };
        if let Some(error) = problem {
            self.metadata = Some(Err(error));
        }
    }

    /// Whether it has no files except leftovers.
    pub(crate) fn is_absent(&self) -> bool {
        self.files.is_leftover()
    }

    /// The metadata, if it is valid.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        if let Some(Ok(metadata)) = &self.metadata { Some(metadata) } else { None }
    }

    pub(crate) fn metadata_error(&self) -> Option<&Error> {
        self.metadata.as_ref().and_then(|metadata| metadata.as_ref().err())
    }

    /// The key file, if its header is valid.
    pub(crate) fn key_file(&self) -> Option<&KeyFile> {
        if let Some(Ok(file)) = &self.key_file { Some(file) } else { None }
    }

    pub(crate) fn header_error(&self) -> Option<&Error> {
        self.key_file.as_ref().and_then(|file| file.as_ref().err())
    }

    /// The header of the key file, if it is valid.
    pub(crate) fn header(&self) -> Option<&KeyHeader> {
        self.key_file().map(|file| &file.header)
    }

    /// The predecessor, from the first of header, metadata and chain record that has one.
    pub(crate) fn predecessor(&self) -> Option<SegmentId> {
        let recorded = [
            self.header().map(|header| header.predecessor),
            self.metadata().map(|metadata| metadata.predecessor),
            self.chain.as_ref().map(|chain| chain.predecessor),
        ];
        recorded.into_iter().flatten().find(|id| id.is_some() && *id < self.id)
    }

    /// The successor, if the metadata has one.
    pub(crate) fn successor(&self) -> Option<SegmentId> {
        self.metadata().map(|metadata| metadata.successor).filter(|id| *id > self.id)
    }

    /// The table ids in its key file and its metadata. A header alone may be stale block content:
    /// see [`SegmentFiles::require_table`].
    pub(crate) fn table_ids(&self) -> impl Iterator<Item = u64> {
        let is_alone = |file: &&KeyFile| file.len <= HEADER_LEN as u64 && self.metadata.is_none();
        let key_file = self.key_file().filter(|file| !is_alone(file));
        let header = key_file.map(|file| file.header.identity.table_id);
        header.into_iter().chain(self.metadata().map(|metadata| metadata.table_id))
    }

    /// Whether its files prove that something in it was acknowledged. Opening applies the same
    /// test if the state says that the table is empty.
    pub(crate) fn is_acknowledged(&self) -> Result<bool> {
        Ok(self.files.metadata.is_some() || self.has_mark()?)
    }

    /// Whether its key file has a valid mark.
    pub(crate) fn has_mark(&self) -> Result<bool> {
        self.key_file().map_or(Ok(false), KeyFile::has_mark)
    }

    /// The paths of all its files, existing or not.
    pub(crate) fn paths(&self, dirs: &[PathBuf], shards: u16) -> SegmentPaths {
        let new = SegmentPaths::for_new(dirs, self.id, shards);
        let values = new.values.into_iter().enumerate().map(|(n, path)| {
            let found = self.files.values.get(&lithdb_segment::ShardId(n as u16));
            found.cloned().unwrap_or(path)
        });
        SegmentPaths {
            keys: self.files.keys.clone().unwrap_or(new.keys),
            values: values.collect(),
            metadata: self.files.metadata.clone().unwrap_or(new.metadata),
        }
    }

    /// The key file; if its header is invalid, with one reconstructed from the metadata or the
    /// value files. `before` is the predecessor. `None` if the salt is unknown.
    pub(crate) fn usable_key_file(
        &self,
        fs: &dyn Fs,
        table_id: u64,
        before: SegmentId,
    ) -> Result<Option<KeyFile>> {
        let path = match (&self.key_file, &self.files.keys) {
            (Some(Ok(file)), _) => return Ok(Some(file.clone())),
            (_, Some(path)) => path,
            (_, None) => return Ok(None),
        };
        let header = match self.metadata() {
            Some(metadata) => KeyHeader {
                identity: Identity { table_id, segment: metadata.segment, salt: metadata.salt },
                predecessor: metadata.predecessor,
                created: metadata.created,
                shards: metadata.value_ends.len() as u16,
            },
            None => {
                let headers = self.value_headers(fs)?.into_iter().map(|(_, header)| header);
                let mut ours = headers.filter(|header| header.identity.table_id == table_id);
                let last = self.files.values.keys().next_back();
                let (Some(ours), Some(last)) = (ours.next(), last) else { return Ok(None) };
                let ValueHeader { identity, created, .. } = ours;
                KeyHeader { identity, predecessor: before, created, shards: last.0 + 1 }
            }
        };
        let mut file = Window::open(fs, path)?.into_key_file(header);
        if self.metadata().is_none() && before == SegmentId::NONE {
            // The predecessor was collected, or is not known here: the chain record names it.
            let chain = file.chain()?;
            file.header.predecessor = chain.map_or(before, |chain| chain.predecessor);
        }
        Ok(Some(file))
    }
}
