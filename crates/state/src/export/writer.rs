//! Writing an export: rows in order, cut into frames. What is written is hashed again, so that an
//! export that was finished can be imported.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use lithdb_env::{Error, ErrorKind, Result};

use crate::export::format::{
    self, FrameKind, HEADER_LEN, Header, MAX_PAYLOAD_LEN, ROW, STORE, frame_head,
};
use crate::row::{check_lengths, short};
use crate::store_name::StoreName;
use crate::totals::Totals;

/// An export that is being written.
pub(crate) struct ExportWriter<'w> {
    out: &'w mut dyn Write,
    header: Header,
    /// Of everything that was written.
    hasher: blake3::Hasher,
    /// Rows of the next frame: shorter than a whole one.
    content: Vec<u8>,
    frames: u64,
    len_bytes: u64,
    /// Store and key of the last row.
    last: Option<(StoreName, Vec<u8>)>,
    totals: Totals,
}

impl<'w> ExportWriter<'w> {
    /// Writes the header.
    pub(crate) fn new(out: &'w mut dyn Write, header: Header) -> Result<Self> {
        let mut content = Vec::new();
        let reserved = content.try_reserve_exact(MAX_PAYLOAD_LEN);
        reserved.map_err(|_| Error::out_of_memory("an export", MAX_PAYLOAD_LEN))?;
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LEN, "a header has a fixed length");
        let mut writer = Self {
            out,
            header,
            hasher: blake3::Hasher::new(),
            content,
            frames: 0,
            len_bytes: 0,
            last: None,
            totals: Totals::default(),
        };
        writer.hasher.update(&bytes);
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// `Corrupt` unless rows ascend by store and key and are of this version; failed writes.
    pub(crate) fn put(
        &mut self,
        store: &StoreName,
        key: &[u8],
        modified_at: u64,
        value: &[u8],
    ) -> Result<()> {
        let refuse = |what: String| {
            let message = format!("store {store}, key {}: {what}", short(key));
            Err(Error::new(ErrorKind::Corrupt, message))
        };
        check_lengths(store, key, Some(value)).map_err(|e| e.with_kind(ErrorKind::Corrupt))?;
        if modified_at > self.header.version {
            let version = self.header.version;
            return refuse(format!("expected a row of version {version}, found {modified_at}"));
        }
        let is_next = match &mut self.last {
            Some((last_store, last_key)) if *last_store == *store => {
                let is_next = &last_key[..] < key;
                last_key.clear();
                last_key.extend_from_slice(key);
                is_next
            }
            last => {
                let is_next = last.as_ref().is_none_or(|(last_store, _)| *last_store < *store);
                *last = Some((store.clone(), key.to_vec()));
                let name = store.as_str().as_bytes();
                self.append(&[STORE, name.len() as u8])?;
                self.append(name)?;
                is_next
            }
        };
        if !is_next {
            return refuse("expected rows in ascending order".to_owned());
        }
        self.totals.add_row(store, key, value)?;
        self.append(&[ROW])?;
        self.append(&(key.len() as u16).to_le_bytes())?;
        self.append(key)?;
        self.append(&modified_at.to_le_bytes())?;
        self.append(&(value.len() as u32).to_le_bytes())?;
        self.append(value)
    }

    /// Writes the trailer, if the rows were those of `expected`. Returns the length of the export.
    ///
    /// # Errors
    /// `Corrupt` names the store that differs; failed writes.
    pub(crate) fn finish(mut self, expected: &Totals) -> Result<u64> {
        let names = expected.iter().chain(self.totals.iter()).map(|(name, _)| name);
        let differs = |name: &&StoreName| expected.get(name) != self.totals.get(name);
        if let Some(name) = names.collect::<BTreeSet<_>>().into_iter().find(differs) {
            let message = format!(
                "store {name} of version {}: its rows are not those of its hash and counts: the \
                 state cannot be exported; verify it",
                self.header.version
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let (expected, found) = (self.header.root, self.totals.root());
        if expected != found {
            let message = format!("the exported rows: expected the root {expected}, found {found}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if !self.content.is_empty() {
            self.write_rows()?;
        }
        let trailer = format::trailer(&self.totals, &self.hasher);
        let head = frame_head(FrameKind::Trailer, self.frames, &trailer);
        self.write(&head)?;
        self.write(&trailer)?;
        self.out.flush().map_err(failed)?;
        Ok(self.len_bytes)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = MAX_PAYLOAD_LEN - self.content.len();
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.content.extend_from_slice(now);
            bytes = rest;
            if self.content.len() == MAX_PAYLOAD_LEN {
                self.write_rows()?;
            }
        }
        Ok(())
    }

    fn write_rows(&mut self) -> Result<()> {
        let head = frame_head(FrameKind::Rows, self.frames, &self.content);
        self.hasher.update(&head);
        self.hasher.update(&self.content);
        self.write(&head)?;
        let content = std::mem::take(&mut self.content);
        self.write(&content)?;
        self.content = content;
        self.content.clear();
        self.frames += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(failed)?;
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("write", Path::new("the export"), error)
}
