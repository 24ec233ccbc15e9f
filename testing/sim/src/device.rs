//! A device that loses or misplaces blocks that it has acknowledged: damage of *durable* bytes.
//!
//! These are not outcomes of a crash. Nobody can write so that they do no harm: a program must notice them, or not need
//! the block, and never serve what is in it. (Old blocks in place of bytes that no sync has covered are: see
//! `CrashImage::LengthWithOldBlocks`.) Lengths and names stay as they are; they are somebody else's blocks. Like all
//! damage, it is there at once, meets no fault and is not counted.

#![expect(clippy::expect_used, reason = "a wrong path in a test must stop the test, with its name")]

use std::path::Path;

use crate::fs::SimFs;

impl SimFs {
    /// What `len_bytes` at `offset` of a file held durably before what they hold now, the newest first: one content for
    /// each sync that changed them, with zeros where the file was shorter. None if they were written once. A crash
    /// and a fork remember them; only the newest few changes of a sector are known.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn older_blocks(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        len_bytes: usize,
    ) -> Vec<Vec<u8>> {
        let state = self.state();
        let node = state.tree.resolve(path.as_ref()).and_then(|ino| state.tree.node(ino));
        let file = node.and_then(crate::inode::Node::file).expect("the file is there");
        let start = usize::try_from(offset).expect("an offset that fits in memory");
        file.older.contents(&file.live, start..start + len_bytes)
    }

    /// Puts bytes into a file as far as it reaches: it does not get longer.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn write_block(&self, path: impl AsRef<Path>, offset: u64, block: &[u8]) {
        let mut bytes = self.read_raw(&path);
        let start = usize::try_from(offset).expect("an offset that fits in memory");
        for (place, byte) in bytes.iter_mut().skip(start).zip(block) {
            *place = *byte;
        }
        self.write_raw(path, bytes);
    }

    /// A lost write: the block holds what it held before the newest sync that changed it, and `true`; `false` if it never
    /// held anything else.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn stale_block(&self, path: impl AsRef<Path>, offset: u64, len_bytes: usize) -> bool {
        let older = self.older_blocks(&path, offset, len_bytes).into_iter().next();
        older.inspect(|block| self.write_block(path, offset, block)).is_some()
    }

    /// A misdirected write: the block of `meant` lands on that of `hit`, which is gone; the one of `meant` stays as it was
    /// before, or zeros if it was never written.
    ///
    /// # Panics
    /// If one of the files is not there.
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
