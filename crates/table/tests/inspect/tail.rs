//! What can be had of a damaged tail.

use lithdb_table::TableOptions;

use super::harness::{Model, check_opened, epoch, forget_tail, nothing, record};
use super::support::{World, small};

/// One segment; behind its epoch record stand `behind` lone puts; closed.
fn reopened(behind: usize) -> (World, Model) {
    let (world, mut model) = (World::new(2), Model::default());
    let options = one_segment();
    let table = world.create_and_open(&options);
    (0..3).for_each(|n| model.put(&table, &format!("before{n}"), &[n; 30], false));
    table.close().unwrap();
    let table = world.open(&options).unwrap();
    for n in 0..behind {
        model.put(&table, &format!("behind{n}"), &vec![n as u8; 5 + n * 20], n % 2 == 1);
    }
    table.close().unwrap();
    (world, model)
}

fn one_segment() -> TableOptions {
    small().segment_keys(100).shards(2)
}

#[test]
fn a_rotten_epoch_record_of_the_tail_costs_nothing_but_itself() {
    let (world, model) = reopened(8);
    let at = record(&world, 1, epoch);
    for byte in 0..24 {
        for is_closed in [true, false] {
            let name = format!("byte {byte}, closed: {is_closed}");
            let world = world.fork();
            world.fs.flip_bit(world.file("1.keys"), at + byte, 5);
            if !is_closed {
                forget_tail(&world);
            }
            let report = world.verify();
            assert_eq!(report.records, model.keys.len() as u64, "{name}: {report}");
            let plan = world.plan();
            assert_eq!(plan.lost_keys(), Some(0), "{name}: {plan}");
            plan.apply(&world.setup).unwrap();
            check_opened(&name, &world, &model, &nothing());
        }
    }
}

#[test]
fn an_epoch_that_fewer_than_three_records_agree_on_is_not_believed() {
    // An alias is a record of its own: one put, and two.
    for (behind, kept) in [(1, 3), (2, 6)] {
        let (world, _) = reopened(behind);
        let at = record(&world, 1, epoch);
        world.fs.flip_bit(world.file("1.keys"), at + 9, 5);
        assert_eq!(world.plan().segments[0].kept_keys, kept);
    }
}
