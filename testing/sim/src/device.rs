//! A device that loses or misplaces blocks that it has acknowledged: corruption of *durable*
//! bytes.
//!
//! These are not crash outcomes. No write ordering can make them harmless: a program must detect
//! them or not need the block, and must never serve the wrong contents. (Stale blocks in place of
//! bytes that no sync has covered *are* a crash outcome: see `CrashImage::LengthWithOldBlocks`.)
//! Lengths and names do not change; only the blocks do. Like all corruption, it takes effect at
//! once, triggers no fault and is not counted as an operation.

#![expect(clippy::expect_used, reason = "a wrong path in a test must stop the test, with its name")]

use std::path::Path;

use crate::fs::SimFs;

impl SimFs {
    /// The earlier durable contents of `len_bytes` bytes at `offset`, newest first: one for each
    /// sync that changed them, with zeros where the file was shorter. Empty if they were written
    /// only once. The history survives a crash and a fork; only the newest few changes of a sector
    /// are known.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn older_blocks(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        len_bytes: usize,
    ) -> Vec<Vec<u8>> {
        let state = self.state();
        let node = state.tree.resolve(path.as_ref()).and_then(|ino| state.tree.node(ino));
        let file = node.and_then(crate::inode::Node::file).expect("the file exists");
        let start = usize::try_from(offset).expect("an offset that fits in memory");
        file.older.contents(&file.live, start..start + len_bytes)
    }

    /// Overwrites bytes of a file without extending it: what would lie past its end is dropped.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn write_block(&self, path: impl AsRef<Path>, offset: u64, block: &[u8]) {
        let mut bytes = self.read_raw(&path);
        let start = usize::try_from(offset).expect("an offset that fits in memory");
        for (place, byte) in bytes.iter_mut().skip(start).zip(block) {
            *place = *byte;
        }
        self.write_raw(path, bytes);
    }

    /// A lost write: restores the contents that the block had before the newest sync that changed
    /// it and returns `true`; returns `false` if the block never had other contents.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn stale_block(&self, path: impl AsRef<Path>, offset: u64, len_bytes: usize) -> bool {
        let older = self.older_blocks(&path, offset, len_bytes).into_iter().next();
        older.inspect(|block| self.write_block(path, offset, block)).is_some()
    }

    /// A misdirected write: the block written for `meant` overwrites the block at `hit`. The block
    /// at `meant` keeps its previous contents, or zeros if it had none.
    ///
    /// # Panics
    /// If one of the files does not exist.
    pub fn misdirect_block(&self, meant: (&Path, u64), hit: (&Path, u64), len_bytes: usize) {
        let bytes = self.read_raw(meant.0);
        let start = usize::try_from(meant.1).expect("an offset that fits in memory");
        let mut block: Vec<u8> = bytes.into_iter().skip(start).take(len_bytes).collect();
        block.resize(len_bytes, 0);
        if !self.stale_block(meant.0, meant.1, len_bytes) {
            self.write_block(meant.0, meant.1, &vec![0; len_bytes]);
        }
        self.write_block(hit.0, hit.1, &block);
    }
}
