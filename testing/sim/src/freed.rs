//! The bytes that truncated, removed and crash-lost files leave on the disk: the *old blocks* that
//! a file may read where its length grew but its data was not written.
//!
//! Invariant: the number of pieces and their total size are bounded; the oldest are forgotten
//! first.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::inode::Ino;
use crate::space::BLOCK_BYTES;

const PIECES: usize = 32;
const BYTES: usize = 4 << 20;

/// The number of pieces a crash chooses among: every further one multiplies the images of an
/// exhaustive run.
const CANDIDATES: usize = 6;

#[derive(Debug)]
struct Piece {
    ino: Ino,
    /// The offset of the bytes in their file.
    offset: usize,
    bytes: Vec<u8>,
}

/// The pieces, the newest last.
#[derive(Debug, Clone, Default)]
pub(crate) struct FreedBytes {
    pieces: VecDeque<Arc<Piece>>,
    bytes: usize,
}

/// The old blocks as one file may see them.
#[derive(Clone, Copy)]
pub(crate) struct OldBlocks<'a> {
    freed: &'a FreedBytes,
    ino: Ino,
}

impl FreedBytes {
    /// Remembers bytes that file `ino` held from `offset` on. All-zero pieces are not remembered.
    pub(crate) fn add(&mut self, ino: Ino, offset: usize, bytes: &[u8]) {
        if bytes.len() > BYTES || bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        self.bytes += bytes.len();
        self.pieces.push_back(Arc::new(Piece { ino, offset, bytes: bytes.to_vec() }));
        while self.pieces.len() > PIECES || self.bytes > BYTES {
            let Some(oldest) = self.pieces.pop_front() else { return };
            self.bytes -= oldest.bytes.len();
        }
    }

    pub(crate) fn seen_by(&self, ino: Ino) -> OldBlocks<'_> {
        OldBlocks { freed: self, ino }
    }
}

impl OldBlocks<'_> {
    /// The file's own earlier bytes first, then those of other files; newest first.
    fn candidates(&self) -> impl Iterator<Item = &Piece> {
        let pieces = || self.freed.pieces.iter().rev().map(Arc::as_ref);
        let own = pieces().filter(|piece| piece.ino == self.ino);
        own.chain(pieces().filter(|piece| piece.ino != self.ino)).take(CANDIDATES)
    }

    /// The number of old contents that [`read`](Self::read) distinguishes.
    pub(crate) fn count(&self) -> usize {
        self.candidates().count()
    }

    /// Old content number `which` for `range` of the file. A block keeps its place in the file
    /// where the piece has that place, and bytes keep their place in the block; bytes that the
    /// piece does not cover read as zeros.
    pub(crate) fn read(&self, which: usize, range: Range<usize>) -> Option<Vec<u8>> {
        let piece = self.candidates().nth(which)?;
        let block = BLOCK_BYTES as usize;
        let end = piece.offset + piece.bytes.len();
        let first = piece.offset / block * block;
        let span = (end - first).next_multiple_of(block);
        let byte = |at: usize| {
            let at = if (first..end).contains(&at) { at } else { first + at % span };
            at.checked_sub(piece.offset).and_then(|at| piece.bytes.get(at)).copied().unwrap_or(0)
        };
        Some(range.map(byte).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_reads_its_own_freed_bytes_first_and_in_place() {
        let mut freed = FreedBytes::default();
        freed.add(7, 4090, &[7; 20]);
        freed.add(8, 0, &[8; 4096]);
        freed.add(9, 0, &[0; 4096]);
        let old = freed.seen_by(7);
        assert_eq!(old.count(), 2, "zeros are not remembered");
        assert_eq!(
            old.read(0, 4088..4112).unwrap(),
            [vec![0; 2], vec![7; 20], vec![0; 2]].concat()
        );
        assert_eq!(old.read(1, 8190..8194).unwrap(), [8; 4]);
        assert_eq!(old.read(2, 0..1), None);
        assert_eq!(freed.seen_by(8).read(0, 0..1).unwrap(), [8]);
    }

    #[test]
    fn oldest_freed_pieces_are_dropped() {
        let mut freed = FreedBytes::default();
        for n in 1..=100 {
            freed.add(1, 0, &vec![n; 300_000]);
        }
        assert!(freed.bytes <= BYTES && freed.pieces.len() > 10);
        assert_eq!(freed.seen_by(1).read(0, 0..1).unwrap(), [100]);
    }
}
