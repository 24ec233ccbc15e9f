//! The disk under the file system: what tests do to files behind everybody's back.
//!
//! Nothing here counts as an operation, meets a fault or is traced, and all of it works on a file system that
//! has crashed. What is written is durable at once, with the other entries of its directory. A path that
//! is not there is a mistake of the test.

#![expect(clippy::expect_used, reason = "a wrong path in a test must stop the test, with its name")]

use std::path::{Path, PathBuf};

use crate::dir::DirNode;
use crate::fault::Faults;
use crate::fs::SimFs;
use crate::inode::{Body, FileNode, Node};
use crate::tree::{ROOT, Tree};

impl SimFs {
    /// Creates a directory and all on the way to it, durably.
    ///
    /// # Panics
    /// If a file is in the way.
    pub fn make_dirs(&self, path: impl AsRef<Path>) {
        self.state().tree.make_dirs(path.as_ref()).expect("no file is in the way");
    }

    /// All regular files, by their live names, sorted.
    pub fn file_paths(&self) -> Vec<PathBuf> {
        let state = self.state();
        let mut paths = Vec::new();
        let mut work = vec![(ROOT, PathBuf::from("/"))];
        while let Some((ino, path)) = work.pop() {
            match state.tree.node(ino).map(|node| &node.body) {
                Ok(Body::Dir(dir)) => {
                    work.extend(dir.live.iter().map(|(name, ino)| (*ino, path.join(name))));
                }
                Ok(Body::File(_)) => paths.push(path),
                Err(_) => {}
            }
        }
        paths.sort();
        paths
    }

    /// The live bytes of a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn read_raw(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let state = self.state();
        let node = state.tree.resolve(path.as_ref()).and_then(|ino| state.tree.node(ino));
        node.and_then(Node::file).expect("the file is there").live.clone()
    }

    /// Gives a file these bytes, and creates it and its directories if they are not there.
    ///
    /// # Panics
    /// If a directory has the name, or a file that of one of its directories.
    pub fn write_raw(&self, path: impl AsRef<Path>, bytes: Vec<u8>) {
        let path = path.as_ref();
        let mut state = self.state();
        let tree = &mut state.tree;
        let ino = if let Ok(ino) = tree.resolve(path) {
            ino
        } else {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let dir = tree.make_dirs(dir).expect("no file is in the way of the directories");
            let ino = tree.create_file(path).expect("the file can be created");
            tree.settle_names(dir).expect("the directory is there");
            ino
        };
        tree.overwrite(ino, bytes).expect("the path is a file");
    }

    /// Turns over bit `bit` (0 to 7) of the byte at `offset`.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64, bit: u8) {
        let mut bytes = self.read_raw(&path);
        let byte = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at));
        *byte.expect("the offset lies in the file") ^= 1 << (bit % 8);
        self.write_raw(path, bytes);
    }

    /// Cuts or extends (with zeros) a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate_raw(&self, path: impl AsRef<Path>, len_bytes: u64) {
        let mut bytes = self.read_raw(&path);
        bytes.resize(usize::try_from(len_bytes).expect("a length that fits in memory"), 0);
        self.write_raw(path, bytes);
    }

    /// Removes a file's name, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn remove_raw(&self, path: impl AsRef<Path>) {
        let mut state = self.state();
        let (dir, _) = state.tree.parent(path.as_ref()).expect("the directory is there");
        state.tree.remove_file(path.as_ref()).expect("the file is there");
        state.tree.settle_names(dir).expect("the directory is there");
    }

    /// An independent copy of what is visible now, all of it durable, without faults or locks. This one
    /// goes on living.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let named = state.tree.nodes.iter().filter(|(_, node)| node.links > 0);
        let nodes = named.map(|(ino, node)| (*ino, settled(node))).collect();
        let tree: Tree = state.tree.with_nodes(nodes);
        Self::from_tree(tree, Faults::default())
    }
}

fn settled(node: &Node) -> Node {
    let body = match &node.body {
        Body::File(file) => Body::File(FileNode::settled(file.live.clone(), file.extents.clone())),
        Body::Dir(dir) => Body::Dir(DirNode {
            live: dir.live.clone(),
            durable: dir.live.clone(),
            ..DirNode::default()
        }),
    };
    Node { links: node.links, open: 0, body }
}
