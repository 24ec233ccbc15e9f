//! The frame around manifests and tables: named sections, a table of contents, a trailer.
//!
//! ```text
//! sections … | "TOC!" u32 count, count × (pos u64, len u64, name len u16, name)
//!            | "SFA!" version u8 = 1, kind u8 = 0, xxh3-128 of the TOC, TOC pos u64, TOC len u64
//! ```
//!
//! The crate `sfa` reserves memory for as many sections as the table of contents claims before it
//! compares the checksum. So this reader, whose memory is bounded by [`MAX_TOC_LEN`], goes first.

use std::path::Path;

use lithdb_env::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

/// The length of the trailer, in bytes.
const TRAILER_LEN: u64 = 38;
/// The longest table of contents; those of `lsm-tree` are below 300 bytes.
const MAX_TOC_LEN: u64 = 64 << 10;

/// A part of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) pos: u64,
    pub(super) len: u64,
}

/// Takes fixed-width little-endian fields from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*field)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(field)
    }
}

/// Reads and checks the table of contents of an archive of `len` bytes. `read` returns the bytes
/// at an offset; it is asked only for ranges within `len`.
pub(super) fn sections(
    path: &Path,
    len: u64,
    read: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
) -> Result<Vec<Section>> {
    let Some(trailer_pos) = len.checked_sub(TRAILER_LEN) else {
        let found = format!("{len} bytes");
        return Err(Error::corrupt(path, 0, "a trailer of 38 bytes", &found));
    };
    let trailer = read(trailer_pos, TRAILER_LEN as usize)?;
    let parsed = parse_trailer(&trailer)
        .filter(|(_, toc)| toc.0.checked_add(toc.1) == Some(trailer_pos) && toc.1 <= MAX_TOC_LEN);
    let Some((checksum, (toc_pos, toc_len))) = parsed else {
        let expected = "a trailer that follows a table of contents";
        return Err(Error::corrupt(path, trailer_pos, expected, "other bytes"));
    };
    let toc = read(toc_pos, toc_len as usize)?;
    let found = xxh3_128(&toc);
    if found != checksum {
        let (expected, found) = (format!("digest {checksum:032x}"), format!("{found:032x}"));
        return Err(Error::corrupt(path, toc_pos, &expected, &found));
    }
    let within = |section: &Section| section.pos.checked_add(section.len) <= Some(toc_pos);
    match parse_toc(&toc).filter(|sections| sections.iter().all(within)) {
        Some(sections) => Ok(sections),
        None => Err(Error::corrupt(path, toc_pos, "a table of contents", "other bytes")),
    }
}

fn parse_trailer(trailer: &[u8]) -> Option<(u128, (u64, u64))> {
    let mut fields = Fields { rest: trailer };
    let is_known = fields.array()? == *b"SFA!" && fields.u8()? == 1 && fields.u8()? == 0;
    let (checksum, pos, len) = (fields.u128()?, fields.u64()?, fields.u64()?);
    is_known.then_some((checksum, (pos, len)))
}

fn parse_toc(toc: &[u8]) -> Option<Vec<Section>> {
    let mut fields = Fields { rest: toc };
    if fields.array()? != *b"TOC!" {
        return None;
    }
    let count = fields.u32()?;
    let mut sections = Vec::new();
    for _ in 0..count {
        let (pos, len) = (fields.u64()?, fields.u64()?);
        let name_len = fields.array().map(u16::from_le_bytes)?;
        let name = fields.bytes(usize::from(name_len))?.to_vec();
        sections.push(Section { name, pos, len });
    }
    fields.rest.is_empty().then_some(sections)
}
