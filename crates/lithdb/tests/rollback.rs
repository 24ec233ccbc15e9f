//! Rolling back: what stays, what goes, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use lithdb::rollback::{Action, max_be_u64, through_key};
use lithdb::{NoMatch, Rollback};
use support::{World, small};

fn key(n: u64) -> Vec<u8> {
    [b"k".as_slice(), &n.to_be_bytes()].concat()
}

fn rollback(world: &World) -> Rollback {
    let env = world.components().env.unwrap();
    Rollback::new(["/r0", "/r1"]).env(env)
}

fn fill(world: &World, tables: &[&str], range: std::ops::Range<u64>) {
    let db = world.open();
    for table in tables {
        let table = db.table(table, small()).unwrap();
        for n in range.clone() {
            table.put(&key(n), &n.to_le_bytes().repeat(5)).unwrap();
            if n % 3 == 0 {
                table.flush().unwrap();
            }
        }
    }
    db.close().unwrap();
}

fn check(world: &World, tables: &[&str], numbers: &[u64], absent: std::ops::Range<u64>) {
    let db = world.open();
    for table in tables {
        let table = db.existing_table(table).unwrap();
        let found: Vec<_> = table.iter().unwrap().map(|e| e.unwrap().key().to_vec()).collect();
        assert_eq!(found, numbers.iter().map(|n| key(*n)).collect::<Vec<_>>());
        for n in numbers {
            assert_eq!(table.get(&key(*n)).unwrap().unwrap(), n.to_le_bytes().repeat(5)[..]);
        }
        for n in absent.clone() {
            assert!(table.get(&key(n)).unwrap().is_none(), "{n}");
        }
    }
    db.close().unwrap();
}

#[test]
fn every_boundary_of_two_tables() {
    for last in 0..19 {
        let world = World::new();
        fill(&world, &["a", "b"], 0..19);
        let plan = rollback(&world).plan(max_be_u64(1, last)).unwrap();
        println!("{plan}");
        let report = plan.execute().unwrap();
        println!("{report}");
        let expected = if last == 18 { Action::Nothing } else { Action::Cut };
        assert!(report.tables.iter().all(|t| t.action == expected), "{report}");
        let numbers: Vec<u64> = (0..=last).collect();
        check(&world, &["a", "b"], &numbers, last + 1..19);
        fill(&world, &["a", "b"], 100..110);
        let numbers: Vec<u64> = (0..=last).chain(100..110).collect();
        check(&world, &["a", "b"], &numbers, last + 1..19);
        // And once more.
        rollback(&world).plan(through_key(key(104))).unwrap().execute().unwrap();
        let numbers: Vec<u64> = (0..=last).chain(100..105).collect();
        check(&world, &["a", "b"], &numbers, 105..110);
    }
}

#[test]
fn everything_goes_if_that_is_what_was_asked_for() {
    let world = World::new();
    fill(&world, &["a"], 10..25);
    let refused = rollback(&world).plan(max_be_u64(1, 5)).unwrap_err();
    assert!(refused.to_string().contains("table a"), "{refused}");
    let plan = rollback(&world).on_no_match(NoMatch::Clear).plan(max_be_u64(1, 5)).unwrap();
    let report = plan.execute().unwrap();
    assert_eq!(report.tables[0].action, Action::Clear);
    check(&world, &["a"], &[], 10..25);
    fill(&world, &["a"], 3..7);
    check(&world, &["a"], &[3, 4, 5, 6], 10..25);
}
