//! The possible outcomes of a crash for one unsynced operation, and how a [`Choice`] selects one.
//!
//! Every outcome here is one that POSIX allows for bytes that no sync has covered. A device that
//! loses or misplaces acknowledged bytes is a different failure: see `device.rs`.

use crate::choice::Choice;
use crate::freed::OldBlocks;
use crate::inode::{FileChange, write_into};
use crate::sector_history::SECTOR_BYTES;

/// The byte that allocated but never written blocks contain: the data of some other file.
const STALE_BYTE: u8 = 0xDB;

/// What an extended part of a file reads as if its data was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnwrittenContent {
    /// This byte.
    Byte(u8),
    /// Old blocks: the bytes from the end of the file or the operation's offset, whichever is
    /// greater, to the operation's end.
    Old(Vec<u8>),
}

/// The outcome of an operation. Directory operations are either kept or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CrashOutcome {
    Lost,
    Kept,
    /// The file has its length after the write, but the new part was not written.
    LengthOnly(UnwrittenContent),
    /// Some sectors were written.
    Torn {
        sector_bytes: usize,
        kept: Vec<bool>,
        /// What the new sectors among the others read as.
        unwritten: UnwrittenContent,
        with_length: bool,
    },
}

/// The outcomes of a write that extends its file or spans several sectors, before the details are
/// chosen.
#[derive(Clone, Copy)]
enum Kind {
    Lost,
    Kept,
    Length(u8),
    Torn(usize),
    LengthOld,
}

impl CrashOutcome {
    pub(crate) const LENGTH_WITHOUT_DATA: Self = Self::LengthOnly(UnwrittenContent::Byte(0));

    /// Asks `choice` about a change to a file whose length so far is `len` and that may read `old`
    /// blocks.
    pub(crate) fn choose_for_file(
        choice: &mut dyn Choice,
        change: &FileChange,
        len: usize,
        old: OldBlocks<'_>,
    ) -> Self {
        let FileChange::Write { offset, data } = change else {
            return Self::choose_for_name(choice);
        };
        let end = offset + data.len();
        let extends = end > len;
        let mut kinds = vec![Kind::Lost, Kind::Kept];
        if extends {
            kinds.extend([Kind::Length(0), Kind::Length(STALE_BYTE)]);
        }
        for sector_bytes in [512, 4096] {
            if sectors(*offset, data.len(), sector_bytes).count() > 1 {
                kinds.push(Kind::Torn(sector_bytes));
            }
        }
        let olds = if extends { old.count() } else { 0 };
        if olds > 0 {
            kinds.push(Kind::LengthOld);
        }
        let old_blocks = |choice: &mut dyn Choice| {
            let bytes = old.read(choice.choose(olds), len.max(*offset)..end);
            bytes.map_or(UnwrittenContent::Byte(STALE_BYTE), UnwrittenContent::Old)
        };
        let picked = choice.choose(kinds.len()).min(kinds.len() - 1);
        match kinds.swap_remove(picked) {
            Kind::Lost => Self::Lost,
            Kind::Kept => Self::Kept,
            Kind::Length(byte) => Self::LengthOnly(UnwrittenContent::Byte(byte)),
            Kind::LengthOld => Self::LengthOnly(old_blocks(choice)),
            Kind::Torn(sector_bytes) => {
                let sectors = sectors(*offset, data.len(), sector_bytes);
                let kept = sectors.map(|_| choice.choose(2) == 1).collect();
                let with_length = extends && choice.choose(2) == 1;
                let is_old = olds > 0 && choice.choose(2) == 1;
                let unwritten = if is_old { old_blocks(choice) } else { UnwrittenContent::Byte(0) };
                Self::Torn { sector_bytes, kept, unwritten, with_length }
            }
        }
    }

    /// The file has its length after `change`, and the added part reads as the newest of the `old`
    /// blocks.
    pub(crate) fn length_with_old_blocks(
        change: &FileChange,
        len: usize,
        old: OldBlocks<'_>,
    ) -> Self {
        let FileChange::Write { offset, data } = change else { return Self::Kept };
        let bytes = old.read(0, len.max(*offset)..offset + data.len());
        Self::LengthOnly(bytes.map_or(UnwrittenContent::Byte(STALE_BYTE), UnwrittenContent::Old))
    }

    /// The part of `change` (issued as number `seq`) that a failed sync has written: every other
    /// sector, and its length.
    pub(crate) fn partially_synced(change: &FileChange, seq: u64) -> Self {
        let FileChange::Write { offset, data } = change else { return Self::Kept };
        let first = offset / SECTOR_BYTES;
        let kept = sectors(*offset, data.len(), SECTOR_BYTES).zip(first..);
        let kept = kept.map(|(_, n)| (n as u64 + seq).is_multiple_of(2)).collect();
        let (sector_bytes, unwritten) = (SECTOR_BYTES, UnwrittenContent::Byte(0));
        Self::Torn { sector_bytes, kept, unwritten, with_length: true }
    }

    /// Asks `choice` about an operation that is atomic.
    pub(crate) fn choose_for_name(choice: &mut dyn Choice) -> Self {
        if choice.choose(2) == 1 { Self::Kept } else { Self::Lost }
    }

    /// Applies what is left of `change` to a file's durable image.
    pub(crate) fn apply(&self, change: &FileChange, image: &mut Vec<u8>) {
        let (offset, data) = match change {
            FileChange::Write { offset, data } => (*offset, data.as_slice()),
            FileChange::SetLen(len) => {
                if *self != Self::Lost {
                    image.resize(*len, 0);
                }
                return;
            }
        };
        let end = offset + data.len();
        match self {
            Self::Lost => {}
            Self::Kept => write_into(image, offset, data),
            Self::LengthOnly(unwritten) => extend(image, offset, end, unwritten),
            Self::Torn { sector_bytes, kept, unwritten, with_length } => {
                let parts = || sectors(offset, data.len(), *sector_bytes).zip(kept);
                let last = parts().filter(|(_, kept)| **kept).map(|(sector, _)| sector.end).last();
                if let Some(until) = if *with_length { Some(end) } else { last } {
                    extend(image, offset, until, unwritten);
                }
                for (sector, _) in parts().filter(|(_, kept)| **kept) {
                    if let Some(part) = data.get(sector.start - offset..sector.end - offset) {
                        write_into(image, sector.start, part);
                    }
                }
            }
        }
    }
}

/// Extends `image` to `end` if it is shorter: zeros up to `offset`, `unwritten` from there on.
fn extend(image: &mut Vec<u8>, offset: usize, end: usize, unwritten: &UnwrittenContent) {
    if image.len() >= end {
        return;
    }
    image.resize(image.len().max(offset), 0);
    match unwritten {
        UnwrittenContent::Byte(byte) => image.resize(end, *byte),
        UnwrittenContent::Old(bytes) => {
            image.extend(bytes.iter().take(end - image.len()));
            image.resize(end, 0);
        }
    }
}

/// Splits `offset..offset + len` at the disk's sector boundaries.
fn sectors(
    offset: usize,
    len: usize,
    sector_bytes: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = offset + len;
    (offset / sector_bytes..end.div_ceil(sector_bytes))
        .map(move |n| (n * sector_bytes).max(offset)..((n + 1) * sector_bytes).min(end))
}
