//! The disk below the file system: changes to files that the program does not see being made.
//!
//! Nothing here counts as an operation, triggers a fault or is traced, and all of it works on a
//! file system that has crashed. What is written is durable at once, together with the other
//! entries of its directory. A path that does not exist is a bug of the test: it panics.

#![expect(clippy::expect_used, reason = "a wrong path in a test must stop the test, with its name")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dir::DirNode;
use crate::fault::Faults;
use crate::fs::SimFs;
use crate::inode::{Body, FileNode, Node};
use crate::tree::{ROOT, Tree};

impl SimFs {
    /// Creates a directory and its missing parents, durably.
    ///
    /// # Panics
    /// If a file has the name of one of them.
    pub fn make_dirs(&self, path: impl AsRef<Path>) {
        self.state().tree.make_dirs(path.as_ref()).expect("no parent is a file");
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
    /// If the file does not exist.
    pub fn read_raw(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let state = self.state();
        let node = state.tree.resolve(path.as_ref()).and_then(|ino| state.tree.node(ino));
        node.and_then(Node::file).expect("the file exists").live.clone()
    }

    /// Replaces a file's bytes; creates the file and its directories if they do not exist.
    ///
    /// # Panics
    /// If the path is a directory, or one of its parents is a file.
    pub fn write_raw(&self, path: impl AsRef<Path>, bytes: Vec<u8>) {
        let path = path.as_ref();
        let mut state = self.state();
        let tree = &mut state.tree;
        let ino = if let Ok(ino) = tree.resolve(path) {
            ino
        } else {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let dir = tree.make_dirs(dir).expect("no parent is a file");
            let ino = tree.create_file(path).expect("the file can be created");
            tree.force_sync_names(dir).expect("the directory exists");
            ino
        };
        tree.overwrite(ino, bytes).expect("the path is a file");
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`.
    ///
    /// # Panics
    /// If the file or the byte does not exist.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64, bit: u8) {
        let mut bytes = self.read_raw(&path);
        let byte = bytes.get_mut(offset as usize);
        *byte.expect("the offset lies in the file") ^= 1 << (bit % 8);
        self.write_raw(path, bytes);
    }

    /// Truncates a file, or extends it with zeros.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn truncate_raw(&self, path: impl AsRef<Path>, len_bytes: u64) {
        let mut bytes = self.read_raw(&path);
        bytes.resize(usize::try_from(len_bytes).expect("a length that fits in memory"), 0);
        self.write_raw(path, bytes);
    }

    /// Removes a file's name, durably.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn remove_raw(&self, path: impl AsRef<Path>) {
        let mut state = self.state();
        let (dir, _) = state.tree.parent(path.as_ref()).expect("the directory exists");
        state.tree.remove_file(path.as_ref()).expect("the file exists");
        state.tree.force_sync_names(dir).expect("the directory exists");
    }

    /// Removes a directory and everything in it, durably: a missing root.
    ///
    /// # Panics
    /// If the directory does not exist, or is the root directory.
    pub fn remove_dir_raw(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        for file in self.file_paths().iter().filter(|file| file.starts_with(path)) {
            self.remove_raw(file);
        }
        let mut state = self.state();
        let mut dirs = vec![path.to_owned()];
        let mut next = 0;
        while let Some(dir) = dirs.get(next).cloned() {
            let ino = state.tree.resolve(&dir).expect("the directory exists");
            let node = state.tree.node(ino).and_then(Node::dir).expect("the path is a directory");
            dirs.extend(node.live.keys().map(|name| dir.join(name)));
            next += 1;
        }
        for dir in dirs.iter().rev() {
            let (parent, _) = state.tree.parent(dir).expect("the directory is not the root");
            state.tree.remove_dir(dir).expect("the directory is empty");
            state.tree.force_sync_names(parent).expect("the directory exists");
        }
    }

    /// Exchanges the names of two files or directories, durably: two roots mounted the wrong way
    /// round.
    ///
    /// # Panics
    /// If one of them does not exist, or one contains the other.
    pub fn swap_raw(&self, one: impl AsRef<Path>, two: impl AsRef<Path>) {
        let (one, two) = (one.as_ref(), two.as_ref());
        assert!(!one.starts_with(two) && !two.starts_with(one), "one path contains the other");
        let mut state = self.state();
        let tree = &mut state.tree;
        let places = [one, two].map(|path| {
            let place = tree.parent(path).expect("the directory exists");
            tree.force_sync_names(place.0).expect("the directory exists");
            (place, tree.resolve(path).expect("the path exists"))
        });
        let [(first, is_first), (second, is_second)] = places;
        for (place, ino) in [(first, is_second), (second, is_first)] {
            let dir = tree.node_mut(place.0).and_then(Node::dir_mut).expect("it is a directory");
            dir.live.insert(place.1.clone(), ino);
            dir.durable.insert(place.1, ino);
        }
    }

    /// An independent copy of the live image, all of it durable, without faults or locks. `self`
    /// stays usable.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let named = state.tree.nodes.iter().filter(|(_, node)| node.links > 0);
        let nodes = named.map(|(ino, node)| (*ino, fully_synced(node))).collect();
        let tree: Tree = state.tree.with_nodes(nodes);
        Self::from_tree(tree, Faults::default())
    }
}

fn fully_synced(node: &Node) -> Node {
    let body = match &node.body {
        Body::File(file) => {
            let (extents, older) = (file.extents.clone(), Arc::clone(&file.older));
            Body::File(FileNode::fully_synced(file.live.clone(), extents, older))
        }
        Body::Dir(dir) => Body::Dir(DirNode {
            live: dir.live.clone(),
            durable: dir.live.clone(),
            ..DirNode::default()
        }),
    };
    Node { links: node.links, open: 0, body }
}
