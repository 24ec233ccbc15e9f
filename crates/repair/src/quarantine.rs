//! Finds the files of a segment that earlier repairs quarantined, so that a later repair uses a
//! fresh revision.

use std::collections::BTreeSet;
use std::path::Path;

use lithdb_env::{Error, Result};
use lithdb_segment::quarantine::is_quarantine_dir;
use lithdb_segment::{Metadata, SegmentFile, SegmentId};
use lithdb_table::TableSetup;

/// What repairs quarantined of a segment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quarantined {
    /// How many repairs quarantined files of it.
    pub(crate) repairs: u32,
    /// A revision above the one that replaced the newest quarantined metadata.
    pub(crate) next_revision: u32,
    /// A key file was quarantined: the segment has other contents now.
    pub(crate) has_keys: bool,
}

/// Searches the quarantine directories of the table for files of segment `id`.
pub(crate) fn quarantined_of(setup: &TableSetup, id: SegmentId) -> Result<Quarantined> {
    let fs = &*setup.env.fs;
    let list = |dir: &Path| fs.list(dir).map_err(|e| Error::io("list", dir, e));
    let (mut repairs, mut kept) = (BTreeSet::new(), Quarantined::default());
    for table in &setup.dirs {
        for quarantine in list(table)?.into_iter().filter(|entry| is_quarantine_dir(&entry.name)) {
            let dir = table.join(&quarantine.name);
            for entry in list(&dir)? {
                let file = SegmentFile::parse(&entry.name).filter(|file| file.segment() == id);
                let Some(file) = file else { continue };
                repairs.insert(quarantine.name.clone());
                kept.has_keys |= file == SegmentFile::Keys(id);
                if file != SegmentFile::Metadata(id) {
                    continue;
                }
                match Metadata::read(fs, &dir.join(&entry.name)) {
                    Ok(metadata) if metadata.segment == id => {
                        let next = metadata.revision.saturating_add(2);
                        kept.next_revision = kept.next_revision.max(next);
                    }
                    Err(error) if error.kind().is_system_failure() => return Err(error),
                    // Invalid metadata has no revision to avoid.
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
    kept.repairs = repairs.len() as u32;
    Ok(kept)
}
