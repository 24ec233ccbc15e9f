//! Serializers for paths that replace what is not UTF-8 by replacement characters: a report must
//! not fail because a directory name is not UTF-8.
//!
//! Used with `#[serde(serialize_with = "…")]`.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// Serializes one path.
pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Serializes several paths.
pub fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
