//! One partition: order, growth, dropping of dead entries.

use lithdb_segment::{Position, SegmentId};
use proptest::prelude::*;

use crate::Candidates;
use crate::partition::{Entry, Partition};

const ALL: SegmentId = SegmentId::FIRST;

fn at(segment: u32, offset: u32) -> Position {
    Position::new(SegmentId(segment), offset)
}

fn found(partition: &Partition, tag: u32, watermark: SegmentId) -> Vec<Position> {
    let mut out = Candidates::new();
    partition.find(tag, watermark, &mut out);
    out.to_vec()
}

/// Few distinct tags, at both ends and in the middle of the range, so that they cluster.
fn crowded_tag() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, (u32::MAX - 3)..=u32::MAX, Just(1 << 31), any::<u32>()]
}

proptest! {
    #[test]
    fn every_entry_is_found_newest_first(
        tags in prop::collection::vec(crowded_tag(), 0..600),
        reserved in 0..200usize,
    ) {
        let mut partition = Partition::default();
        partition.reserve(reserved, ALL);
        let mut expected = std::collections::BTreeMap::<u32, Vec<Position>>::new();
        for (i, &tag) in tags.iter().enumerate() {
            let position = at(1 + (i as u32).wrapping_mul(0x9e37_79b9) % 97, i as u32);
            partition.add(Entry::new(tag, position), ALL);
            expected.entry(tag).or_default().push(position);
        }
        partition.check();
        prop_assert_eq!(partition.len(), tags.len());
        for (tag, mut positions) in expected {
            positions.sort_by(|a, b| b.cmp(a));
            prop_assert_eq!(found(&partition, tag, ALL), positions);
        }
        prop_assert!(found(&partition, 12_345, ALL).is_empty() || tags.contains(&12_345));
    }

    #[test]
    fn rewrite_keeps_live_and_drops_dead_entries(
        tags in prop::collection::vec(crowded_tag(), 1..300),
        watermark in 1..10u32,
    ) {
        let watermark = SegmentId(watermark);
        let mut partition = Partition::default();
        for (i, &tag) in tags.iter().enumerate() {
            partition.add(Entry::new(tag, at(1 + i as u32 % 9, i as u32)), ALL);
        }
        let alive = (0..tags.len()).filter(|i| 1 + *i as u32 % 9 >= watermark.0);
        let alive: Vec<_> = alive.collect();
        partition.reserve(10_000, watermark);
        partition.check();
        prop_assert_eq!(partition.len(), alive.len());
        for i in alive {
            prop_assert!(found(&partition, tags[i], ALL).contains(&at(1 + i as u32 % 9, i as u32)));
        }
    }
}

#[test]
fn replaced_position_keeps_the_order() {
    let mut partition = Partition::default();
    for (tag, offset) in [(6, 1), (7, 10), (7, 20), (7, 30), (8, 2)] {
        partition.add(Entry::new(tag, at(1, offset)), ALL);
    }
    partition.replace(7, at(1, 10), at(1, 25));
    assert_eq!(found(&partition, 7, ALL), [at(1, 30), at(1, 25), at(1, 20)]);
    partition.replace(7, at(1, 20), at(2, 0));
    assert_eq!(found(&partition, 7, ALL), [at(2, 0), at(1, 30), at(1, 25)]);
    partition.replace(7, at(2, 0), at(2, 1));
    assert_eq!(found(&partition, 7, ALL), [at(2, 1), at(1, 30), at(1, 25)]);
    assert_eq!(
        (found(&partition, 6, ALL), found(&partition, 8, ALL)),
        (vec![at(1, 1)], vec![at(1, 2)])
    );
    partition.check();
}

#[test]
fn an_entry_may_take_the_slot_of_a_dead_one() {
    let mut partition = Partition::default();
    assert!(partition.add_if_unique(Entry::new(7, at(1, 1)), ALL));
    assert!(!partition.add_if_unique(Entry::new(7, at(2, 1)), ALL));
    assert!(partition.add_if_unique(Entry::new(7, at(2, 1)), SegmentId(2)));
    assert_eq!((partition.len(), found(&partition, 7, ALL)), (1, vec![at(2, 1)]));
    partition.check();
}

#[test]
fn a_partition_whose_keys_expire_stops_growing_and_shrinks() {
    let mut partition = Partition::default();
    let mut tag = 0u32;
    let mut fill = |partition: &mut Partition, segment: u32, keys: u32, watermark: u32| {
        for offset in 0..keys {
            tag = tag.wrapping_add(0x9e37_79b9);
            partition.add(Entry::new(tag, at(segment, offset)), SegmentId(watermark));
        }
    };
    // Ten segments of a thousand keys are live at any time.
    for segment in 1..200 {
        fill(&mut partition, segment, 1_000, segment.saturating_sub(9).max(1));
    }
    partition.check();
    assert!(partition.memory_bytes() < 10_000 * 24, "{} bytes", partition.memory_bytes());
    // Then all but the newest expire; the next rewrite frees the memory.
    fill(&mut partition, 200, 8_000, 200);
    partition.check();
    assert!(partition.memory_bytes() < 8_000 * 24, "{} bytes", partition.memory_bytes());
}

#[test]
fn reserved_room_is_not_rewritten() {
    let mut partition = Partition::default();
    partition.reserve(5_000, ALL);
    let bytes = partition.memory_bytes();
    assert!(bytes >= 5_000 * 12);
    for i in 0..5_000u32 {
        partition.add(Entry::new(i.wrapping_mul(0x9e37_79b9), at(1, i)), ALL);
    }
    assert_eq!(partition.memory_bytes(), bytes);
}
