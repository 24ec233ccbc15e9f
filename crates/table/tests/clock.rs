//! When values expire, whatever the wall clock does: the table of *Clock* in `docs/OPERATIONS.md`.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use lithdb_env::{Clock, ErrorKind, UnixMillis};
use lithdb_table::{Maintenance, Table, TableOptions};
use support::{DAY, Harness};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// The TTL unless a scenario sets another one.
const TTL: Duration = Duration::from_secs(30 * 86_400);

/// A step of a scenario. `Ahead` and `Back` move the wall clock alone.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Puts this number and seals the segment with it.
    Seal(u8),
    /// Puts this number and leaves it unsealed.
    Put(u8),
    /// Time passes on both clocks, with the table open and maintained.
    Run(Duration),
    /// The wall clock jumps ahead.
    Ahead(Duration),
    /// The wall clock jumps back.
    Back(Duration),
    /// The process is stopped for so long.
    Stop(Duration),
    /// The same, and the wall clock also loses or gains so many seconds.
    StopOff(Duration, i64),
    /// The process is killed and restarts at once.
    Kill,
    /// The wall clock is accepted.
    Accept,
    /// A collection leaves these numbers; the flag says whether the wall clock is untrusted.
    Left(&'static [u8], bool),
}
use Step::{Accept, Ahead, Back, Kill, Left, Put, Run, Seal, Stop, StopOff};

struct ClockCase {
    harness: Harness,
    options: TableOptions,
    table: Table,
}

impl ClockCase {
    fn new(ttl: Duration) -> Self {
        let harness = Harness::new(1);
        let options = TableOptions::new().ttl(ttl);
        let table = harness.create_and_open(&options);
        Self { harness, options, table }
    }

    fn play(ttl: Duration, name: &str, steps: &[Step]) {
        let mut case = Self::new(ttl);
        for (n, step) in steps.iter().enumerate() {
            case.step(*step, &format!("{name}, step {n}: {step:?}"));
        }
    }

    fn step(&mut self, step: Step, context: &str) {
        let clock = self.harness.clock.clone();
        match step {
            Seal(n) => {
                self.table.put(&[n], b"value").unwrap();
                self.table.seal().unwrap();
            }
            Put(n) => {
                self.table.put(&[n], b"value").unwrap();
                self.table.flush().unwrap();
            }
            Run(duration) => {
                let piece = (duration / 40).max(MINUTE).min(HOUR);
                let mut rest = duration;
                while !rest.is_zero() {
                    let passed = piece.min(rest);
                    clock.advance(passed);
                    rest -= passed;
                    self.run_maintenance();
                }
            }
            Ahead(by) => clock.jump(by.as_millis() as i64),
            Back(by) => clock.jump(-(by.as_millis() as i64)),
            Stop(duration) => self.step(StopOff(duration, 0), context),
            StopOff(duration, secs) => {
                self.table.close().unwrap();
                clock.advance(duration);
                clock.jump(secs * 1000);
                self.table = self.harness.open(&self.options).unwrap();
            }
            Kill => {
                self.table = {
                    let harness = self
                        .harness
                        .after_crash(self.harness.fs.crash_with(&lithdb_sim::CrashImage::Nothing));
                    self.harness = harness;
                    self.harness.open(&self.options).unwrap()
                };
            }
            Accept => self.table.accept_clock().unwrap(),
            Left(numbers, is_held) => {
                let report = self.table.run_gc().unwrap();
                let left: Vec<u8> =
                    (0..20).filter(|n| self.table.get(&[*n]).unwrap().is_some()).collect();
                assert_eq!(left, numbers, "{context}");
                assert_eq!(report.held_for.is_some(), is_held, "{context}: {report:?}");
            }
        }
    }

    fn run_maintenance(&self) {
        let collect = true;
        let (flush_bytes, flush_after, idle_after) = (None, None, Duration::MAX);
        self.table.tick(&Maintenance { flush_bytes, flush_after, idle_after, collect }).unwrap();
    }
}

const A_YEAR: i64 = 365 * 86_400;

/// How far a clock is behind that has lost its time: it shows a year before 2020.
const NO_BATTERY: Duration = Duration::from_secs(LOST as u64);
const LOST: i64 = 20 * 365 * 86_400;

#[test]
fn clock_scenarios_expire_at_the_expected_time() {
    let rows: &[(&str, &[Step])] = &[
        ("right", &[Seal(0), Run(29 * DAY), Left(&[0], false), Run(2 * DAY), Left(&[], false)]),
        (
            "right, with stops of a night",
            &[
                Seal(0),
                Run(29 * DAY),
                Stop(20 * HOUR),
                Left(&[0], false),
                Run(5 * HOUR),
                Left(&[], false),
            ],
        ),
        (
            "stopped for a month",
            &[
                Seal(0),
                Stop(31 * DAY),
                Seal(1),
                Left(&[0, 1], true),
                Run(59 * MINUTE),
                Left(&[0, 1], true),
                Run(MINUTE),
                Left(&[1], false),
                Run(30 * DAY),
                Left(&[], false),
            ],
        ),
        (
            "stopped for a month, accepted",
            &[
                Seal(0),
                Stop(31 * DAY),
                Seal(1),
                Left(&[0, 1], true),
                Accept,
                Left(&[1], false),
                Run(30 * DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead for a moment",
            &[
                Seal(0),
                Ahead(40 * YEAR),
                Seal(1),
                Left(&[0, 1], true),
                Run(30 * MINUTE),
                Back(40 * YEAR),
                Left(&[0, 1], false),
                Seal(2),
                Run(30 * DAY - HOUR),
                Left(&[0, 1, 2], false),
                Run(2 * HOUR),
                Left(&[], false),
            ],
        ),
        (
            "ahead while it runs, for longer than the hold",
            &[
                Seal(0),
                Run(10 * DAY),
                Ahead(40 * YEAR),
                Seal(1),
                Run(2 * HOUR),
                Seal(2),
                Left(&[0, 1, 2], false),
                Run(19 * DAY),
                Left(&[0, 1, 2], false),
                Run(DAY),
                Left(&[1, 2], false),
                Run(10 * DAY + HOUR),
                Left(&[], false),
            ],
        ),
        (
            "ahead, accepted",
            &[
                Seal(0),
                Ahead(40 * YEAR),
                Seal(1),
                Accept,
                Left(&[1], false),
                Run(TTL),
                Left(&[], false),
            ],
        ),
        (
            "ahead twice",
            &[
                Seal(0),
                Ahead(YEAR),
                Left(&[0], true),
                Run(50 * MINUTE),
                Ahead(YEAR),
                Run(50 * MINUTE),
                Left(&[0], true),
                Run(15 * MINUTE),
                Left(&[0], false),
                Run(30 * DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead twice, accepted between",
            &[
                Seal(0),
                Ahead(YEAR),
                Seal(1),
                Accept,
                Ahead(YEAR),
                Left(&[1], true),
                Run(2 * HOUR),
                Left(&[1], false),
                Run(30 * DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead when it starts, back within the hold",
            &[
                Seal(0),
                StopOff(MINUTE, A_YEAR),
                Seal(1),
                Left(&[0, 1], true),
                Run(30 * MINUTE),
                Back(YEAR),
                Left(&[0, 1], false),
                Run(30 * DAY - HOUR),
                Left(&[0, 1], false),
                Run(HOUR),
                Left(&[], false),
            ],
        ),
        (
            "ahead when it starts, right when it starts again",
            &[
                Seal(0),
                StopOff(MINUTE, 10 * A_YEAR),
                Seal(1),
                Left(&[0, 1], true),
                StopOff(20 * HOUR, -10 * A_YEAR),
                Left(&[0, 1], false),
                Run(29 * DAY),
                Left(&[0, 1], false),
                Run(5 * HOUR),
                Left(&[1], false),
                Run(DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead when it starts, for longer than the hold, then right",
            &[
                Seal(0),
                StopOff(MINUTE, A_YEAR),
                Run(59 * MINUTE),
                Left(&[0], true),
                Run(MINUTE),
                Left(&[], false),
                Seal(1),
                Back(YEAR),
                Left(&[1], true),
                Run(2 * HOUR),
                Left(&[1], false),
                Run(29 * DAY),
                Left(&[1], false),
                Run(DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead when it starts, accepted",
            &[Seal(0), StopOff(MINUTE, A_YEAR), Left(&[0], true), Accept, Left(&[], false)],
        ),
        (
            "ahead when it starts, by less than the limit",
            &[
                Seal(0),
                Run(29 * DAY),
                Left(&[0], false),
                StopOff(4 * HOUR, 20 * 3600 - 1),
                Left(&[0], false),
                Run(MINUTE),
                Left(&[], false),
            ],
        ),
        (
            "behind when it starts, right when it starts again",
            &[
                Seal(0),
                StopOff(MINUTE, -A_YEAR),
                Seal(1),
                Left(&[0, 1], true),
                StopOff(8 * HOUR, A_YEAR),
                Left(&[0, 1], false),
                Run(30 * DAY - 9 * HOUR),
                Left(&[0, 1], false),
                Run(HOUR),
                Left(&[1], false),
                Run(8 * HOUR),
                Left(&[], false),
            ],
        ),
        (
            "behind, and right again",
            &[
                Seal(0),
                Back(YEAR),
                Seal(1),
                Left(&[0, 1], true),
                Run(30 * MINUTE),
                Ahead(YEAR),
                Left(&[0, 1], false),
                Run(30 * DAY - HOUR),
                Left(&[0, 1], false),
                Run(HOUR),
                Left(&[], false),
            ],
        ),
        (
            "behind for good",
            &[
                Seal(0),
                Back(YEAR),
                Run(2 * HOUR),
                Seal(1),
                Left(&[0, 1], false),
                Run(10 * DAY),
                Stop(10 * HOUR),
                Run(20 * DAY - 13 * HOUR),
                Left(&[0, 1], false),
                Run(2 * HOUR),
                Left(&[1], false),
                Run(2 * HOUR),
                Left(&[], false),
            ],
        ),
        (
            "behind, accepted",
            &[
                Back(YEAR),
                Seal(0),
                Accept,
                Left(&[0], false),
                Run(29 * DAY),
                Left(&[0], false),
                Run(DAY),
                Left(&[], false),
            ],
        ),
        (
            "ahead for good, then right, accepted",
            &[
                Ahead(10 * YEAR),
                Accept,
                Seal(0),
                Back(10 * YEAR),
                Seal(1),
                Left(&[0, 1], true),
                Accept,
                Left(&[0, 1], false),
                Kill,
                Left(&[0, 1], false),
                Run(29 * DAY),
                Left(&[0, 1], false),
                Run(DAY),
                Left(&[], false),
            ],
        ),
        (
            "without a battery, month by month",
            &[
                Seal(0),
                Back(NO_BATTERY),
                Run(10 * DAY),
                Left(&[0], true),
                Kill,
                Run(10 * DAY),
                Stop(DAY),
                Run(9 * DAY),
                Left(&[0], true),
                Run(DAY + HOUR),
                Left(&[], true),
            ],
        ),
    ];
    for (name, steps) in rows {
        ClockCase::play(TTL, name, steps);
    }
}

#[test]
fn data_put_while_the_clock_was_behind_does_not_expire_early() {
    // The process starts with a clock without a battery, which is set while it runs.
    let starts = [Seal(0), Put(1), StopOff(MINUTE, -LOST), Put(2), Seal(3)];
    let set = [Ahead(NO_BATTERY), Run(MINUTE), Left(&[0, 1, 2, 3], false), Run(5 * HOUR)];
    ClockCase::play(
        6 * HOUR,
        "set while it runs",
        &[&starts[..], &set, &[Left(&[0, 1, 2, 3], false)]].concat(),
    );
    // Each process has another clock; the last one is right, eight hours after the first one.
    let each = [
        Seal(0),
        StopOff(MINUTE, -LOST),
        Seal(1),
        StopOff(8 * HOUR, LOST),
        Left(&[1], false),
        Run(5 * HOUR),
        Left(&[1], false),
        Run(HOUR),
        Left(&[], false),
    ];
    ClockCase::play(6 * HOUR, "each process another clock", &each);
    // It was wrong for longer than the hold, by less and less.
    for wrong in [LOST, 86_400 * 730] {
        let longer = [
            Seal(0),
            StopOff(MINUTE, -wrong),
            Run(3 * HOUR),
            Seal(1),
            StopOff(MINUTE, wrong / 2),
            Run(90 * MINUTE),
            Seal(2),
            StopOff(10 * HOUR, wrong / 2),
            Run(2 * HOUR),
            Left(&[1, 2], false),
            Run(3 * HOUR),
            Left(&[1, 2], false),
            Run(4 * HOUR),
            Left(&[], false),
        ];
        ClockCase::play(6 * HOUR, "wrong for longer than the hold", &longer);
    }
}

#[test]
fn a_clock_wrong_since_the_creation_expires_nothing_early() {
    let harness = Harness::new(1);
    harness.clock.jump(-(2 * YEAR.as_millis() as i64));
    let options = TableOptions::new().ttl(TTL);
    let table = harness.create_and_open(&options);
    let mut case = ClockCase { harness, options, table };
    let steps = [
        Seal(0),
        Ahead(2 * YEAR),
        Run(2 * HOUR),
        Seal(1),
        Left(&[0, 1], false),
        Kill,
        Run(29 * DAY),
        Left(&[0, 1], false),
    ];
    for step in steps.into_iter().chain([Run(2 * DAY), Left(&[], false)]) {
        case.step(step, &format!("{step:?}"));
    }
}

#[test]
fn clock_in_doubt_is_remembered_across_a_kill() {
    let steps = [
        Seal(0),
        Ahead(40 * YEAR),
        Run(10 * MINUTE),
        Kill,
        Left(&[0], true),
        Run(2 * HOUR),
        Left(&[0], false),
        Run(30 * DAY),
        Left(&[], false),
    ];
    ClockCase::play(TTL, "ahead, killed in the hold", &steps);
    // Only a seal has seen the jump.
    let steps = [
        Seal(0),
        Ahead(40 * YEAR),
        Seal(1),
        Kill,
        Left(&[0, 1], true),
        Run(2 * HOUR),
        Left(&[0, 1], false),
        Run(30 * DAY),
        Left(&[], false),
    ];
    ClockCase::play(TTL, "ahead, sealed and killed", &steps);
}

#[test]
fn small_steps_ahead_do_not_add_up() {
    let mut steps = vec![Seal(0)];
    for _ in 0..400 {
        steps.extend([Ahead(59 * (MINUTE / 60)), Run(MINUTE)]);
    }
    steps.push(Left(&[0], true));
    ClockCase::play(12 * HOUR, "a step of a minute each minute", &steps);
}

#[test]
fn brief_jump_ahead_does_not_block_expiry_for_ever() {
    let mut case = ClockCase::new(TTL);
    for (n, step) in [Seal(0), Ahead(40 * YEAR), Seal(1), Back(40 * YEAR)].into_iter().enumerate() {
        case.step(step, &format!("{n}"));
    }
    for day in 0..120 {
        case.step(Seal(10), &format!("day {day}"));
        case.step(Run(DAY), &format!("day {day}"));
        let segments = case.table.stats().segments;
        assert!(segments <= 33, "day {day}: {segments} segments");
    }
}

#[test]
fn repeated_clock_doubt_does_not_block_expiry_for_ever() {
    let mut case = ClockCase::new(2 * DAY);
    for hour in 0..24 * 8_u32 {
        // Untrusted for one hour of every two; a segment is sealed each hour.
        case.step(if hour % 2 == 0 { Ahead(YEAR) } else { Back(YEAR) }, "");
        case.step(Seal(1), "");
        case.step(Run(30 * MINUTE), "");
        case.step(Run(30 * MINUTE - 2 * MINUTE), "");
        if hour % 50 == 0 {
            case.step(Kill, "");
        }
        let segments = case.table.stats().segments;
        // 48 segments within the TTL; the state has no room for a time for each of them.
        assert!(segments <= 80, "hour {hour}: {segments} segments");
    }
}

#[test]
fn slow_table_is_sealed_by_age_on_the_monotonic_clock() {
    let steps = [
        Put(0),
        Back(NO_BATTERY),
        Run(DAY + HOUR),
        Put(1),
        Run(29 * DAY),
        Left(&[0, 1], true),
        Run(DAY),
        Left(&[1], true),
    ];
    ClockCase::play(TTL, "behind", &steps);
    let mut case = ClockCase::new(TTL);
    case.step(Put(0), "");
    for _ in 0..26 {
        // Short runs that together are longer than the age.
        case.step(Run(HOUR / 2), "");
        assert_eq!(case.table.stats().segments, 1);
        case.step(Stop(HOUR / 2), "");
        if case.table.stats().segments > 1 {
            break;
        }
        case.run_maintenance();
        if case.table.stats().segments > 1 {
            return;
        }
    }
    panic!("it is never sealed");
}

#[test]
fn implausible_clock_is_not_accepted() {
    for wall in [0, 86_400_000, 1_577_836_799_999, 253_402_300_800_000, u64::MAX] {
        let case = ClockCase::new(TTL);
        case.harness.clock.set(UnixMillis(wall));
        let refused = case.table.accept_clock().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        case.harness.clock.advance(2 * HOUR);
        assert!(case.table.run_gc().unwrap().held_for.is_some(), "{}", case.harness.clock.now());
    }
}
