//! The keymap alone: inserts, lookups and the watermark at the same time.

use std::sync::Arc;

use lithdb_keymap::{Candidates, KeyHash, Keymap, MemoryKeymap};
use lithdb_segment::{Position, SegmentId};

use crate::harness::{go, join_all};
use crate::search::search;

/// Two keys with the same hash; the offset says which of them a record has.
const HASH: KeyHash = KeyHash(0x1234_5678_9abc_def0);

fn at(segment: u32, key: u32) -> Position {
    Position::new(SegmentId(segment), key)
}

fn insert(keymap: &MemoryKeymap, new: Position) {
    keymap.insert(HASH, new, &mut |old| Ok(old.offset == new.offset)).unwrap();
}

fn find(keymap: &MemoryKeymap) -> Vec<Position> {
    let mut found = Candidates::new();
    keymap.candidates(HASH, &mut found);
    found.iter().copied().collect()
}

#[test]
fn concurrent_inserts_lookups_and_watermark_lose_nothing() {
    search("keymap", 1000, || {
        let keymap = Arc::new(MemoryKeymap::new());
        insert(&keymap, at(1, 1));
        let (a, b, c, d) = (keymap.clone(), keymap.clone(), keymap.clone(), keymap.clone());
        let threads = [
            // One key put again by two threads; either may be the newer one.
            go(move || insert(&a, at(4, 1))),
            go(move || {
                insert(&b, at(3, 1));
                assert!(find(&b).iter().any(|p| p.offset == 1 && *p >= at(3, 1)));
                insert(&b, at(5, 2));
                assert!(find(&b).contains(&at(5, 2)));
            }),
            go(move || {
                let items = [(HASH, at(2, 1)), (HASH, at(3, 2))];
                c.insert_batch(&items, &mut |new, old| Ok(new.offset == old.offset)).unwrap();
                c.raise_watermark(SegmentId(3));
                assert!(find(&c).iter().all(|p| p.segment >= SegmentId(3)));
            }),
            go(move || {
                let mut newest = at(0, 1);
                for _ in 0..3 {
                    let found = find(&d);
                    assert!(found.is_sorted_by(|a, b| a > b), "newest first: {found:?}");
                    let now = found.iter().filter(|p| p.offset == 1).max();
                    // The oldest may be below the watermark before the next one exists.
                    if let Some(now) = now {
                        assert!(*now >= newest, "{now:?} after {newest:?}");
                        newest = *now;
                    }
                }
            }),
        ];
        join_all(threads);
        assert_eq!(find(&keymap), [at(5, 2), at(4, 1)]);
    });
}
