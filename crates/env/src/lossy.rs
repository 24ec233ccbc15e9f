//! Paths where they are serialized: with replacement characters for what is not UTF-8. A report must not fail because of the
//! name of a directory that somebody else chose.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// One path.
pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Several.
pub fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
