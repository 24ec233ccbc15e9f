//! The metadata of a segment under repair: no opening accepts it, and a new plan reads from it
//! what was there before and how far the repair had come.
//!
//! No file system replaces a key file and its metadata atomically. Old metadata beside a new key
//! file could pass for a segment with extra bytes after its end. So the metadata is replaced
//! first, by one with a length that no file has. The rest of its contents is in an extra
//! (`docs/FORMAT.md`, `N.metadata`). `repair_segment` writes it, `segment_headers` reads it.

use lithdb_env::{Error, ErrorKind, Result};
use lithdb_segment::Metadata;
use lithdb_segment::envelope::{self, Magic};
use lithdb_segment::record::{EPOCH_LEN, Record, decode};

use lithdb_segment::key_file::{KeyFile, read};

/// The type of the extra.
const UNDER_REPAIR: u16 = 1;
/// A length that no key file has.
const IMPOSSIBLE_LEN: u64 = u64::MAX;

const NONE: u8 = 0;
const DAMAGED: u8 = 1;
const VALID: u8 = 2;

/// The progress of a segment's repair.
#[derive(Debug, Clone)]
pub(crate) struct InterruptedRepair {
    /// The final metadata of the segment. For an empty segment that replaces one of which nothing
    /// is left, only ids and revision count.
    pub(crate) target: Metadata,
    /// The metadata before the repair: missing, damaged, or this.
    pub(crate) before: Option<Result<Metadata>>,
}

impl InterruptedRepair {
    /// Encodes this as metadata.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        let mut extra = self.target.key_end.to_le_bytes().to_vec();
        match &self.before {
            None => extra.push(NONE),
            Some(Err(_)) => extra.push(DAMAGED),
            Some(Ok(before)) => {
                extra.push(VALID);
                extra.extend_from_slice(&envelope::encode(Magic::METADATA, before)?);
            }
        }
        let mut metadata = Metadata { key_end: IMPOSSIBLE_LEN, ..self.target.clone() };
        metadata.extras.push((UNDER_REPAIR, extra));
        Ok(metadata)
    }

    /// Decodes metadata of a segment under repair; `None` for any other. `path` is for errors
    /// only.
    pub(crate) fn of(metadata: &Metadata, path: &std::path::Path) -> Option<Self> {
        let mut target = metadata.clone();
        let at = target.extras.iter().position(|(kind, _)| *kind == UNDER_REPAIR)?;
        let (_, extra) = target.extras.remove(at);
        let (end, rest) = extra.split_first_chunk::<8>()?;
        let (kind, before) = rest.split_first()?;
        target.key_end = u64::from_le_bytes(*end);
        let before = match *kind {
            NONE => None,
            VALID => Some(envelope::decode_file(Magic::METADATA, path, before)),
            _ => {
                let message = "it was damaged before the repair";
                Some(Err(Error::at(ErrorKind::Corrupt, path, message)))
            }
        };
        Some(Self { target, before })
    }

    /// Whether an empty segment replaces this one: then its present files do not count.
    pub(crate) fn is_empty(&self) -> bool {
        self.target.key_end == 0
    }

    /// Whether the new key file is in place: it begins a new epoch.
    pub(crate) fn is_key_file_replaced(&self, keys: &KeyFile) -> Result<bool> {
        let Some((at, epoch)) = self.target.epochs.first() else { return Ok(false) };
        let bytes = read(&*keys.file, &keys.path, u64::from(*at), EPOCH_LEN)?;
        let identity = keys.header.identity;
        let decoded = decode(&identity, identity.salt, *at, &bytes);
        let begun = decoded.map(|decoded| decoded.record);
        Ok(matches!(begun, Ok(Record::Epoch(begun, _)) if begun == *epoch))
    }
}

#[cfg(test)]
mod tests {
    use lithdb_env::UnixMillis;
    use lithdb_segment::{SegmentId, Stamp};

    use super::*;

    fn metadata(key_end: u64) -> Metadata {
        Metadata {
            table_id: 1,
            segment: SegmentId(3),
            revision: 2,
            predecessor: SegmentId(2),
            successor: SegmentId(4),
            created: UnixMillis(5),
            sealed_at: Stamp::certain(UnixMillis(6)),
            salt: 7,
            key_end,
            records: 8,
            primaries: 8,
            running: 9,
            value_ends: vec![64],
            epochs: vec![(112, 10)],
            codec: 0,
            digest: None,
            extras: vec![(900, vec![1])],
        }
    }

    #[test]
    fn interrupted_repair_round_trips_through_metadata() {
        let path = std::path::Path::new("3.metadata");
        let damaged = Error::new(ErrorKind::Corrupt, "damaged");
        let befores = [None, Some(Err(damaged)), Some(Ok(metadata(1000)))];
        for (before, end) in befores.into_iter().zip([0, 1200, 1200]) {
            let target = metadata(end);
            let written = InterruptedRepair { target: target.clone(), before: before.clone() };
            let written = written.metadata().unwrap();
            assert_eq!(written.key_end, u64::MAX, "no file is that long");
            let found = InterruptedRepair::of(&written, path).unwrap();
            assert_eq!(found.is_empty(), end == 0);
            assert_eq!(found.target, target);
            assert_eq!(found.before.is_some(), before.is_some());
            let what =
                |before: Option<Result<_>>| before.map(|before| before.map_err(|e| e.kind()));
            assert_eq!(what(found.before), what(before));
        }
        assert!(InterruptedRepair::of(&metadata(1000), path).is_none());
    }
}
