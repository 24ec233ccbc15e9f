//! The earlier durable contents of a file's sectors: what a device shows again after it has lost a
//! write that it acknowledged.
//!
//! Owned by the file's node; every code path that advances the durable image calls
//! [`SectorHistory::note`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::inode::FileChange;

pub(crate) const SECTOR_BYTES: usize = 512;

/// The number of earlier contents remembered per sector.
const VERSIONS: usize = 8;

#[derive(Debug, Clone)]
struct Version {
    /// The place in the order of issue of the sync that replaced it.
    until: u64,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SectorHistory {
    sectors: BTreeMap<usize, Vec<Version>>,
    /// The earlier lengths of the file and the sync that replaced each; in order.
    lens: Vec<(u64, usize)>,
}

/// The sectors that changes touch, as they were before, and the length of the file.
pub(crate) struct Before {
    len: usize,
    sectors: BTreeMap<usize, Vec<u8>>,
}

fn sector_range(sector: usize) -> Range<usize> {
    sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
}

fn part(image: &[u8], range: Range<usize>) -> &[u8] {
    let end = range.end.min(image.len());
    image.get(range.start.min(end)..end).unwrap_or_default()
}

impl Before {
    /// The parts of `durable` that `changes` are going to replace.
    pub(crate) fn of<'a>(durable: &[u8], changes: impl Iterator<Item = &'a FileChange>) -> Self {
        let mut sectors = BTreeMap::new();
        for change in changes {
            let touched = match change {
                FileChange::Write { offset, data } => *offset..offset + data.len(),
                FileChange::SetLen(len) => *len..durable.len(),
            };
            let end = touched.end.min(durable.len()).div_ceil(SECTOR_BYTES);
            for sector in touched.start / SECTOR_BYTES..end {
                sectors.entry(sector).or_insert_with(|| part(durable, sector_range(sector)).into());
            }
        }
        Self { len: durable.len(), sectors }
    }
}

impl SectorHistory {
    /// Remembers what is in `before` and, since `seq`, no longer in `durable`.
    pub(crate) fn note(&mut self, seq: u64, before: Before, durable: &[u8]) {
        for (sector, bytes) in before.sectors {
            if part(durable, sector_range(sector)) == bytes {
                continue;
            }
            let versions = self.sectors.entry(sector).or_default();
            versions.push(Version { until: seq, bytes });
            if versions.len() > VERSIONS {
                versions.remove(0);
            }
        }
        if before.len != durable.len() {
            self.lens.push((seq, before.len));
        }
    }

    /// Whether some sector of `range` had other contents before.
    pub(crate) fn has(&self, range: &Range<usize>) -> bool {
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        !sectors.is_empty() && self.sectors.range(sectors).next().is_some()
    }

    /// The earlier contents of `range`, newest first: different from each other and from its
    /// contents `now`, and of the current length; zeros where the file was shorter. Times at which
    /// none of its sectors existed do not count.
    pub(crate) fn contents(&self, now: &[u8], range: Range<usize>) -> Vec<Vec<u8>> {
        let current = part(now, range.clone()).to_vec();
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        let versions = self.sectors.range(sectors.clone());
        let mut times: BTreeSet<u64> =
            versions.flat_map(|(_, versions)| versions.iter().map(|v| v.until)).collect();
        times.extend(self.lens.iter().filter(|(_, len)| *len < range.end).map(|(seq, _)| *seq));
        let mut found: Vec<Vec<u8>> = Vec::new();
        for time in times.into_iter().rev() {
            let len = self.lens.iter().find(|(until, _)| *until >= time).map_or(now.len(), |l| l.1);
            if len <= sectors.start * SECTOR_BYTES {
                continue;
            }
            let mut content = current.clone();
            for sector in sectors.clone() {
                let versions = self.sectors.get(&sector).into_iter().flatten();
                let Some(version) = versions.into_iter().find(|v| v.until >= time) else {
                    continue;
                };
                for (at, byte) in sector_range(sector).zip(&version.bytes) {
                    if let Some(place) =
                        at.checked_sub(range.start).and_then(|at| content.get_mut(at))
                    {
                        *place = *byte;
                    }
                }
            }
            for byte in content.iter_mut().skip(len.saturating_sub(range.start)) {
                *byte = 0;
            }
            if content != current && !found.contains(&content) {
                found.push(content);
            }
        }
        found
    }
}
