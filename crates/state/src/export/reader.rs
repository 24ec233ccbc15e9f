//! Reading an export. Its bytes are believed as far as they agree with each other: checksums of
//! frames, the order of the rows, their totals, the root, the hash of the stream.
//!
//! Never panics, and allocates no more than the bytes that have arrived justify: a frame, and a row
//! as it grows frame by frame. After an error the reader is of no use.

use std::io::{self, Read};
use std::mem;
use std::path::Path;

use bytes::Bytes;
use lithdb_env::{Error, ErrorKind, Result, read_up_to, zeroed};

use crate::export::format::{
    self, FRAME_HEAD_LEN, FrameKind, HEADER_LEN, Header, MAX_PAYLOAD_LEN, ROW, STORE,
    frame_checksum,
};
use crate::row::{MAX_KEY_LEN, MAX_VALUE_LEN, short};
use crate::store_name::{StoreName, problem};
use crate::totals::{MAX_STORES, Totals};

/// What errors name.
const NAME: &str = "the export";

/// A row of an export.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExportRow<'a> {
    pub(crate) store: &'a StoreName,
    pub(crate) key: &'a [u8],
    pub(crate) modified_at: u64,
    pub(crate) value: &'a [u8],
}

/// An export that is being read.
pub(crate) struct ExportReader<'r> {
    source: &'r mut dyn Read,
    header: Header,
    /// Of the header and of the frames with rows.
    hasher: blake3::Hasher,
    frames: u64,
    /// The bytes of the stream that were read.
    offset: u64,
    /// Rows that have arrived, from `at` on not taken.
    content: Vec<u8>,
    at: usize,
    /// The number of bytes of rows before `content`.
    passed: u64,
    /// Whether only the trailer may follow.
    is_last: bool,
    /// Where the trailer begins, and its bytes.
    trailer: Option<(u64, Vec<u8>)>,
    store: Option<StoreName>,
    /// The key of the last row of the store; `None` before the first.
    key: Option<Vec<u8>>,
    totals: Totals,
}

impl<'r> ExportReader<'r> {
    /// Reads the header.
    pub(crate) fn open(source: &'r mut dyn Read) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        let got = read_up_to(source, &mut bytes).map_err(failed)?;
        let (found, _) = bytes.split_at(got);
        let header = Header::decode(&Bytes::copy_from_slice(found))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        Ok(Self {
            source,
            header,
            hasher,
            frames: 0,
            offset: HEADER_LEN as u64,
            content: Vec::new(),
            at: 0,
            passed: 0,
            is_last: false,
            trailer: None,
            store: None,
            key: None,
            totals: Totals::default(),
        })
    }

    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// The next row; `None` after the last. Only [`finish`](Self::finish) says whether they were
    /// all.
    pub(crate) fn next_row(&mut self) -> Result<Option<ExportRow<'_>>> {
        while self.fill(1)? {
            match self.le(0) {
                [STORE] => self.begin_store()?,
                [ROW] => return self.row().map(Some),
                [tag] => return Err(self.corrupt("a store or a row", &format!("tag {tag}"))),
            }
        }
        self.end_store()?;
        Ok(None)
    }

    /// After the last row: compares it all with the trailer and the root, and returns the totals.
    pub(crate) fn finish(mut self) -> Result<Totals> {
        assert!(self.next_row()?.is_none(), "all rows are read first");
        let Some((at, found)) = mem::take(&mut self.trailer) else {
            unreachable!("rows end with the trailer")
        };
        if found != format::trailer(&self.totals, &self.hasher) {
            let expected = "the totals of the rows and the hash of the stream";
            return Err(corrupt_at(at, expected, "others"));
        }
        let (expected, root) = (self.header.root, self.totals.root());
        if root != expected {
            let found = format!("{root} of the rows");
            return Err(corrupt_at(0, &format!("the root {expected}"), &found));
        }
        match read_up_to(self.source, &mut [0]).map_err(failed)? {
            0 => Ok(self.totals),
            _ => Err(corrupt_at(self.offset, "the end", "more bytes")),
        }
    }

    /// Makes sure that `len` bytes of rows are there; `false` if the rows end before.
    fn fill(&mut self, len: usize) -> Result<bool> {
        while self.content.len() - self.at < len {
            if self.trailer.is_some() {
                return Ok(false);
            }
            self.read_frame()?;
        }
        Ok(true)
    }

    /// As [`fill`](Self::fill), inside a store or a row.
    fn need(&mut self, len: usize) -> Result<()> {
        if self.fill(len)? {
            return Ok(());
        }
        let found = (self.content.len() - self.at).to_string();
        Err(self.corrupt(&format!("{len} bytes of a store or a row"), &found))
    }

    fn read_frame(&mut self) -> Result<()> {
        let start = self.offset;
        let mut head = [0; FRAME_HEAD_LEN];
        read_exact(self.source, &mut self.offset, &mut head)?;
        let ([kind, len, checksum], []) = head.as_chunks() else {
            unreachable!("a head has three numbers")
        };
        let number = u32::from_le_bytes(*kind);
        let Some(frame) = FrameKind::of(number) else {
            return Err(corrupt_at(start, "a frame of kind 1 or 2", &number.to_string()));
        };
        let payload_len = u32::from_le_bytes(*len) as usize;
        if !(1..=MAX_PAYLOAD_LEN).contains(&payload_len) {
            let expected = format!("a frame of 1 to {MAX_PAYLOAD_LEN} bytes");
            return Err(corrupt_at(start, &expected, &payload_len.to_string()));
        }
        if frame == FrameKind::Rows && self.is_last {
            let expected = "the trailer after a frame that is not full";
            return Err(corrupt_at(start, expected, "more rows"));
        }
        let mut payload = zeroed(payload_len).map_err(failed)?;
        read_exact(self.source, &mut self.offset, &mut payload)?;
        let expected = frame_checksum(self.frames, *kind, *len, &payload);
        let found = u32::from_le_bytes(*checksum);
        if found != expected {
            let expected = format!("frame {} with checksum {expected:08x}", self.frames);
            return Err(corrupt_at(start, &expected, &format!("{found:08x}")));
        }
        self.frames += 1;
        match frame {
            FrameKind::Trailer => self.trailer = Some((start, payload)),
            FrameKind::Rows => {
                self.hasher.update(&head);
                self.hasher.update(&payload);
                self.is_last = payload_len < MAX_PAYLOAD_LEN;
                self.take_over(&payload)?;
            }
        }
        Ok(())
    }

    /// Appends a frame's rows to those that were not taken.
    fn take_over(&mut self, payload: &[u8]) -> Result<()> {
        self.passed += self.at as u64;
        self.content.drain(..mem::take(&mut self.at));
        let len = payload.len();
        self.content.try_reserve(len).map_err(|_| Error::out_of_memory("a row", len))?;
        self.content.extend_from_slice(payload);
        Ok(())
    }

    fn begin_store(&mut self) -> Result<()> {
        self.end_store()?;
        self.need(2)?;
        let [_, len] = self.le(0);
        self.need(2 + usize::from(len))?;
        let bytes = self.bytes(2, len.into());
        let Ok(name) = std::str::from_utf8(bytes) else {
            return Err(self.corrupt("the name of a store", &short(bytes)));
        };
        if let Some(problem) = problem(name) {
            return Err(self.corrupt("the name of a store", &format!("{name:?}: {problem}")));
        }
        let name = StoreName::new(name)?;
        if let Some(previous) = self.store.as_ref().filter(|previous| **previous >= name) {
            return Err(self.corrupt(&format!("a store after {previous}"), name.as_str()));
        }
        if self.totals.len() == MAX_STORES {
            return Err(self.corrupt(&format!("at most {MAX_STORES} stores"), "more"));
        }
        (self.store, self.key) = (Some(name), None);
        self.at += 2 + usize::from(len);
        Ok(())
    }

    /// A store has rows.
    fn end_store(&self) -> Result<()> {
        if self.store.is_some() && self.key.is_none() {
            return Err(self.corrupt("a row of the store", "none"));
        }
        Ok(())
    }

    fn row(&mut self) -> Result<ExportRow<'_>> {
        self.need(3)?;
        let [_, low, high] = self.le(0);
        let key_len = usize::from(u16::from_le_bytes([low, high]));
        if key_len == 0 || key_len > MAX_KEY_LEN {
            let expected = format!("a key of 1 to {MAX_KEY_LEN} bytes");
            return Err(self.corrupt(&expected, &key_len.to_string()));
        }
        let value_at = 3 + key_len + 12;
        self.need(value_at)?;
        let modified_at = u64::from_le_bytes(self.le(3 + key_len));
        if modified_at > self.header.version {
            let expected = format!("a version of at most {}", self.header.version);
            return Err(self.corrupt(&expected, &modified_at.to_string()));
        }
        let value_len = u32::from_le_bytes(self.le(3 + key_len + 8)) as usize;
        if value_len > MAX_VALUE_LEN {
            let expected = format!("a value of at most {MAX_VALUE_LEN} bytes");
            return Err(self.corrupt(&expected, &value_len.to_string()));
        }
        self.need(value_at + value_len)?;
        if self.store.is_none() {
            return Err(self.corrupt("a store before its rows", "a row"));
        }
        let key = self.bytes(3, key_len);
        if self.key.as_ref().is_some_and(|last| &last[..] >= key) {
            return Err(self.corrupt("keys in ascending order", &short(key)));
        }
        let key = key.to_vec();
        let start = self.at;
        self.at += value_at + value_len;
        let Some(store) = &self.store else { unreachable!("a row is of a store") };
        let Some(value) = self.content.get(start + value_at..self.at) else {
            unreachable!("the bytes of the row have arrived")
        };
        self.totals.add_row(store, &key, value)?;
        let key = self.key.insert(key);
        Ok(ExportRow { store, key, modified_at, value })
    }

    /// Bytes that have arrived, from the first that was not taken.
    fn bytes(&self, from: usize, len: usize) -> &[u8] {
        let start = self.at + from;
        let Some(bytes) = self.content.get(start..start + len) else {
            unreachable!("the bytes have arrived")
        };
        bytes
    }

    fn le<const N: usize>(&self, from: usize) -> [u8; N] {
        let Some(bytes) = self.bytes(from, N).first_chunk() else {
            unreachable!("the bytes have arrived")
        };
        *bytes
    }

    /// An error about the store or row that is not taken yet.
    fn corrupt(&self, expected: &str, found: &str) -> Error {
        corrupt_at(offset_of_row(self.passed + self.at as u64), expected, found)
    }
}

/// The offset in the stream of the byte of the rows at `at`: every frame before its own is full.
fn offset_of_row(at: u64) -> u64 {
    let (frame, rest) = (at / MAX_PAYLOAD_LEN as u64, at % MAX_PAYLOAD_LEN as u64);
    let frame_len = (FRAME_HEAD_LEN + MAX_PAYLOAD_LEN) as u64;
    HEADER_LEN as u64 + frame * frame_len + FRAME_HEAD_LEN as u64 + rest
}

/// Fills `bytes`, or says where the stream ends.
fn read_exact(source: &mut dyn Read, offset: &mut u64, bytes: &mut [u8]) -> Result<()> {
    let got = read_up_to(source, bytes).map_err(failed)?;
    if got < bytes.len() {
        let expected = format!("{} bytes", bytes.len());
        return Err(corrupt_at(*offset, &expected, &format!("{got}: the export is cut off")));
    }
    *offset += got as u64;
    Ok(())
}

fn corrupt_at(offset: u64, expected: &str, found: &str) -> Error {
    Error::at_offset(
        ErrorKind::Corrupt,
        Path::new(NAME),
        offset,
        format!("expected {expected}, found {found}"),
    )
}

fn failed(error: io::Error) -> Error {
    Error::io("read", Path::new(NAME), error)
}
