//! What a crash can do to one unsynced operation, and how a [`Choice`] picks among it.

use crate::choice::Choice;
use crate::inode::{FileChange, write_into};

/// What blocks read as that were given to a file, but never written: what somebody else left there.
const STALE_BYTE: u8 = 0xDB;

/// What became of an operation. Directory operations are kept or lost, nothing between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// The file is as long as after the write, but the new part is filled with this byte.
    LengthOnly(u8),
    /// Some sectors were written.
    Torn {
        sector_bytes: usize,
        kept: Vec<bool>,
        with_length: bool,
    },
}

impl Fate {
    pub(crate) const LENGTH_WITHOUT_DATA: Self = Self::LengthOnly(0);

    /// Asks `choice` about a change to a file that is `len` bytes long so far.
    pub(crate) fn of_file(choice: &mut dyn Choice, change: &FileChange, len: usize) -> Self {
        let FileChange::Write { offset, data } = change else { return Self::of_name(choice) };
        let extends = offset + data.len() > len;
        let mut fates = vec![Self::Lost, Self::Kept];
        if extends {
            fates.extend([Self::LENGTH_WITHOUT_DATA, Self::LengthOnly(STALE_BYTE)]);
        }
        for sector_bytes in [512, 4096] {
            if sectors(*offset, data.len(), sector_bytes).count() > 1 {
                fates.push(Self::Torn { sector_bytes, kept: Vec::new(), with_length: false });
            }
        }
        let picked = choice.choose(fates.len()).min(fates.len() - 1);
        match fates.swap_remove(picked) {
            Self::Torn { sector_bytes, .. } => {
                let sectors = sectors(*offset, data.len(), sector_bytes);
                let kept = sectors.map(|_| choice.choose(2) == 1).collect();
                let with_length = extends && choice.choose(2) == 1;
                Self::Torn { sector_bytes, kept, with_length }
            }
            fate => fate,
        }
    }

    /// Asks `choice` about an operation that is atomic.
    pub(crate) fn of_name(choice: &mut dyn Choice) -> Self {
        if choice.choose(2) == 1 { Self::Kept } else { Self::Lost }
    }

    /// Does to a file's durable image what is left of `change`.
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
            Self::LengthOnly(fill) => {
                if image.len() < offset {
                    image.resize(offset, 0);
                }
                if image.len() < end {
                    image.resize(end, *fill);
                }
            }
            Self::Torn { sector_bytes, kept, with_length } => {
                for (sector, kept) in sectors(offset, data.len(), *sector_bytes).zip(kept) {
                    let part = data.get(sector.start - offset..sector.end - offset);
                    if let Some(part) = part.filter(|_| *kept) {
                        write_into(image, sector.start, part);
                    }
                }
                if *with_length && image.len() < end {
                    image.resize(end, 0);
                }
            }
        }
    }
}

/// The parts of `offset..offset + len` that lie in one sector of the disk each.
fn sectors(
    offset: usize,
    len: usize,
    sector_bytes: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = offset + len;
    (offset / sector_bytes..end.div_ceil(sector_bytes))
        .map(move |n| (n * sector_bytes).max(offset)..((n + 1) * sector_bytes).min(end))
}
