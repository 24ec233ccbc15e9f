//! Crashes: builds a possible post-crash file system from the durable images and the unsynced
//! operations.
//!
//! The operations of all files and directories are decided in order of issue, each independently,
//! except that: operations on one name keep their order (a lost one loses the later ones on that
//! name, too); a rename happens in both its directories or in neither; a directory is not removed
//! while an operation in it is lost; and no rename moves a file into a directory that does not
//! exist. So a rename neither duplicates nor loses what it moves.
//!
//! Durable file contents never change: a crash that also costs durable bytes is a crash followed
//! by corruption (`device.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::choice::{Choice, SeededChoice};
use crate::crash_outcome::CrashOutcome;
use crate::dir::{DirChange, DirNode, Entries, NameRef};
use crate::freed::OldBlocks;
use crate::fs::SimFs;
use crate::inode::{Body, FileChange, FileNode, Ino, Node, zero_unwritable};
use crate::space::{BLOCK_BYTES, blocks_of};
use crate::tree::{ROOT, Tree};

/// An image that a crash may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashImage {
    /// Everything unsynced is lost.
    Nothing,
    /// Everything is kept.
    Everything,
    /// The first so many unsynced operations, in order of issue, are kept whole; the rest are
    /// lost.
    Prefix(usize),
    /// Only the unsynced operation of this number (from 0) is kept. An operation on names also
    /// keeps the earlier ones on the same names, without which it could not have happened.
    OnlyOne(usize),
    /// Operations on names and lengths are kept; written data is not: the added part reads as
    /// zeros.
    LengthWithoutData,
    /// Like `LengthWithoutData`, but the added part reads as old blocks: what this file held there
    /// before it was truncated or an earlier crash lost it, else the bytes of the file that was
    /// truncated, removed or lost last. Seeded images have older ones, too.
    LengthWithOldBlocks,
    /// Random, reproducible from the seed.
    Seeded(u64),
}

impl SimFs {
    /// The file system after a crash with the outcomes that `choice` decides. `self` is dead from
    /// now on, but can be crashed again with other choices.
    pub fn crash(&self, choice: &mut dyn Choice) -> Self {
        self.crash_by(&mut |_, op| match op {
            Pending::File { change, len, old } => {
                CrashOutcome::choose_for_file(choice, change, len, old)
            }
            Pending::Name => CrashOutcome::choose_for_name(choice),
        })
    }

    /// The file system after a crash that leaves `image`; see [`crash`](Self::crash).
    pub fn crash_with(&self, image: &CrashImage) -> Self {
        let keep = |kept: bool| if kept { CrashOutcome::Kept } else { CrashOutcome::Lost };
        match *image {
            CrashImage::Nothing => self.crash_by(&mut |_, _| CrashOutcome::Lost),
            CrashImage::Everything => self.crash_by(&mut |_, _| CrashOutcome::Kept),
            CrashImage::Prefix(count) => self.crash_by(&mut |n, _| keep(n < count)),
            CrashImage::OnlyOne(alone) => {
                let needed = self.state().tree.prerequisites_of(alone);
                self.crash_by(&mut |n, _| keep(needed.contains(&n)))
            }
            CrashImage::LengthWithoutData => self.crash_by(&mut |_, op| match op {
                Pending::File { change: FileChange::Write { .. }, .. } => {
                    CrashOutcome::LENGTH_WITHOUT_DATA
                }
                Pending::File { .. } | Pending::Name => CrashOutcome::Kept,
            }),
            CrashImage::LengthWithOldBlocks => self.crash_by(&mut |_, op| match op {
                Pending::File { change, len, old } => {
                    CrashOutcome::length_with_old_blocks(change, len, old)
                }
                Pending::Name => CrashOutcome::Kept,
            }),
            CrashImage::Seeded(seed) => self.crash(&mut SeededChoice::new(seed)),
        }
    }

    /// The number of operations that a crash could lose. `Prefix` and `OnlyOne` number them.
    pub fn unsynced_ops(&self) -> usize {
        self.state().tree.pending().len()
    }

    fn crash_by(&self, decide: &mut Decide<'_>) -> Self {
        let mut state = self.state();
        state.faults.die();
        state.locks.release_all();
        let tree = CrashRebuild::new(&state.tree).apply_outcomes(decide);
        Self::from_tree(tree, state.faults.after_crash())
    }
}

/// An unsynced operation whose crash outcome is to be decided.
enum Pending<'a> {
    File { change: &'a FileChange, len: usize, old: OldBlocks<'a> },
    Name,
}

type Decide<'a> = dyn FnMut(usize, Pending<'_>) -> CrashOutcome + 'a;

enum Op<'a> {
    File(Ino, &'a FileChange),
    Name(&'a DirChange),
}

impl Tree {
    /// The unsynced operations in order of issue, except those on files that no crash brings back.
    fn pending(&self) -> Vec<Op<'_>> {
        let referenced = self.referenced();
        let mut ops = BTreeMap::new();
        for (ino, node) in self.nodes.iter().filter(|(ino, _)| referenced.contains(ino)) {
            match &node.body {
                Body::File(file) => {
                    ops.extend(file.log.iter().map(|op| (op.seq, Op::File(*ino, &op.change))));
                }
                // A rename between directories is in two logs and counts once.
                Body::Dir(dir) => {
                    ops.extend(dir.log.iter().map(|op| (op.seq, Op::Name(&op.change))));
                }
            }
        }
        ops.into_values().collect()
    }

    /// Operation number `alone` and, if it is one on names, the operations it depends on.
    fn prerequisites_of(&self, alone: usize) -> BTreeSet<usize> {
        let ops = self.pending();
        let mut needed = BTreeSet::from([alone]);
        let Some(Op::Name(change)) = ops.get(alone) else { return needed };
        let mut places: BTreeSet<&NameRef> = change.places().collect();
        for (n, op) in ops.iter().enumerate().take(alone).rev() {
            if let Op::Name(change) = op
                && change.places().any(|place| places.contains(place))
            {
                needed.insert(n);
                places.extend(change.places());
            }
        }
        needed
    }
}

/// A file system between its durable image and its state after the crash.
struct CrashRebuild<'a> {
    tree: &'a Tree,
    dirs: BTreeMap<Ino, Entries>,
    files: BTreeMap<Ino, Vec<u8>>,
    /// Names whose last operations are lost.
    blocked: BTreeSet<NameRef>,
}

impl<'a> CrashRebuild<'a> {
    fn new(tree: &'a Tree) -> Self {
        let (mut dirs, mut files) = (BTreeMap::new(), BTreeMap::new());
        for (ino, node) in &tree.nodes {
            match &node.body {
                Body::Dir(dir) => drop(dirs.insert(*ino, dir.durable.clone())),
                Body::File(file) => drop(files.insert(*ino, file.durable.clone())),
            }
        }
        Self { tree, dirs, files, blocked: BTreeSet::new() }
    }

    fn apply_outcomes(mut self, decide: &mut Decide<'_>) -> Tree {
        let tree = self.tree;
        for (n, op) in tree.pending().into_iter().enumerate() {
            match op {
                Op::File(ino, change) => {
                    let Some(image) = self.files.get_mut(&ino) else { continue };
                    let (len, old) = (image.len(), tree.freed.seen_by(ino));
                    decide(n, Pending::File { change, len, old }).apply(change, image);
                }
                Op::Name(change) => {
                    let kept = self.is_possible(change)
                        && decide(n, Pending::Name) != CrashOutcome::Lost
                        && self.apply(change);
                    if !kept {
                        self.blocked.extend(change.places().cloned());
                    }
                }
            }
        }
        self.rebuild()
    }

    /// Whether the earlier operations on the same names, and in a removed directory, were kept.
    fn is_possible(&self, change: &DirChange) -> bool {
        let removed = match change {
            DirChange::Unlink { ino, .. } => Some(ino),
            DirChange::Link { .. } | DirChange::Rename { .. } => None,
        };
        !change.places().any(|place| self.blocked.contains(place))
            && !self.blocked.iter().any(|(dir, _)| Some(dir) == removed)
    }

    /// Applies a change, or nothing of it if it would detach something from the tree.
    fn apply(&mut self, change: &DirChange) -> bool {
        let crossing = match change {
            DirChange::Rename { from, to, .. } if from.0 != to.0 => Some((from.0, to.0)),
            DirChange::Rename { .. } | DirChange::Link { .. } | DirChange::Unlink { .. } => None,
        };
        let Some((from, to)) = crossing else {
            for (dir, _) in change.places().take(1) {
                change.apply(*dir, self.dirs.entry(*dir).or_default());
            }
            return true;
        };
        let before = [from, to].map(|dir| (dir, self.dirs.get(&dir).cloned().unwrap_or_default()));
        let was_reachable = self.reachable().contains(&from);
        for dir in [from, to] {
            change.apply(dir, self.dirs.entry(dir).or_default());
        }
        if was_reachable && !self.reachable().contains(&to) {
            self.dirs.extend(before);
            return false;
        }
        true
    }

    fn reachable(&self) -> BTreeSet<Ino> {
        let mut seen = BTreeSet::from([ROOT]);
        let mut work = vec![ROOT];
        while let Some(dir) = work.pop() {
            let children = self.dirs.get(&dir).into_iter().flat_map(Entries::values);
            work.extend(children.filter(|child| seen.insert(**child)));
        }
        seen
    }

    /// The tree whose live and durable images are the rebuilt ones.
    fn rebuild(mut self) -> Tree {
        let mut nodes = BTreeMap::new();
        let reachable = self.reachable();
        let mut links: BTreeMap<Ino, u64> = BTreeMap::from([(ROOT, 1)]);
        for entries in self.dirs.iter().filter(|(dir, _)| reachable.contains(dir)).map(|(_, e)| e) {
            for ino in entries.values() {
                *links.entry(*ino).or_default() += 1;
            }
        }
        for (ino, links) in links {
            let body = match (self.dirs.remove(&ino), self.files.remove(&ino)) {
                (Some(entries), _) => Body::Dir(DirNode {
                    live: entries.clone(),
                    durable: entries,
                    ..DirNode::default()
                }),
                (None, Some(bytes)) => Body::File(self.settle(ino, bytes)),
                (None, None) => continue,
            };
            nodes.insert(ino, Node { links, open: 0, body });
        }
        let mut tree = self.tree.with_nodes(nodes);
        self.record_lost_bytes(&mut tree);
        tree
    }

    /// Written bytes that are not in the image may still be on the disk, in blocks that belong to
    /// no file.
    fn record_lost_bytes(&self, after: &mut Tree) {
        for (ino, node) in &self.tree.nodes {
            let Ok(was) = node.file() else { continue };
            let is = after.node(*ino).and_then(Node::file).map_or(&[][..], |file| &file.live);
            let block = BLOCK_BYTES as usize;
            let mut blocks = was.live.chunks(block).zip(is.chunks(block));
            let same = blocks.position(|(was, is)| was != is).map_or(is.len(), |n| n * block);
            let lost = was.live.get(same.min(was.live.len())..).unwrap_or_default().to_vec();
            after.freed.add(*ino, same, &lost);
        }
    }

    /// A file of `bytes` that keeps its allocated space within its length.
    fn settle(&self, ino: Ino, mut bytes: Vec<u8>) -> FileNode {
        let old = self.tree.node(ino).and_then(Node::file);
        if let Ok(old) = &old {
            zero_unwritable(&mut bytes, &old.unwritable);
        }
        let (mut extents, old_len) = old
            .as_ref()
            .map_or_else(|_| Default::default(), |f| (f.extents.clone(), f.live.len() as u64));
        let len = bytes.len() as u64;
        extents.truncate(len.div_ceil(BLOCK_BYTES));
        if len > old_len {
            extents.insert(blocks_of(old_len, len - old_len));
        }
        let older = old.map_or_else(
            |_| Default::default(),
            |file| file.older_after_crash(self.tree.last_seq(), &bytes),
        );
        FileNode::fully_synced(bytes, extents, older)
    }
}
