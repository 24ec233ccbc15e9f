//! Which snapshots are pruned.

use super::*;
use crate::snapshot::SnapshotClass::{Abandoned, Damaged, Stale, Valid};

#[test]
fn newest_valid_snapshot_and_unusable_ones_are_never_pruned() {
    let snapshots =
        [(10, Stale), (20, Valid), (30, Damaged), (40, Valid), (50, Valid), (60, Abandoned)];
    let select = |prune: Prune| prune.select(&snapshots);
    assert_eq!(select(Prune::Below(20)), [10]);
    assert_eq!(select(Prune::Below(41)), [10, 20, 40]);
    assert_eq!(select(Prune::Below(u64::MAX)), [10, 20, 40]);
    assert_eq!(select(Prune::Beyond(0)), [10, 20, 40]);
    assert_eq!(select(Prune::Beyond(1)), [10, 20]);
    assert_eq!(select(Prune::Beyond(2)), [10]);
    assert_eq!(select(Prune::Beyond(usize::MAX)), [10]);
}

#[test]
fn without_a_valid_snapshot_only_stale_ones_below_go() {
    let snapshots = [(10, Stale), (30, Damaged), (60, Abandoned)];
    assert_eq!(Prune::Beyond(0).select(&snapshots), [0; 0]);
    assert_eq!(Prune::Below(70).select(&snapshots), [10]);
    assert_eq!(Prune::Below(70).select(&[]), [0; 0]);
}
