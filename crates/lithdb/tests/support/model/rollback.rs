//! Rollbacks: the model alone determines what they must leave.

use std::sync::Arc;

use lithdb::rollback::{max_be_u64, through_key, written_before};
use lithdb::{
    Components, Db, ErrorKind, NoMatch, Position, RecordRef, Result, Rollback, RollbackPlan,
    UnixMillis, Verdict,
};
use lithdb_sim::sim_env;

use super::expect::{Expected, Found, Record, Written};
use super::op::{Crash, Interruption, OnNoMatch, RollbackTarget, TABLES};
use super::process::ProcessFs;
use super::run::{NAMES, Run, another_clock, count, options, plan_fault};

type AllFound = [Option<Found>; TABLES];

/// What is kept of a table: this many records; all if the rollback does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    First(usize),
}

impl Run {
    pub fn roll_back(
        &mut self,
        to: RollbackTarget,
        on_no_match: OnNoMatch,
        close: bool,
        interruption: Option<Interruption>,
    ) {
        if self.expected.iter().any(|expected| expected.in_doubt) {
            self.close();
            return self.open();
        }
        if close {
            self.close();
        } else {
            self.crash(Crash::Kill);
        }
        if self.disk.is_dead() {
            return self.open();
        }
        self.hits = self.disk.faults_hit();
        let found = self.predict_contents();
        let fs = ProcessFs::new(&self.disk);
        let plan = match self.plan(to, on_no_match, &found, &fs) {
            Some((plan, kept)) => (plan, self.rolled_back_to(&kept, &found)),
            None => return self.open(),
        };
        self.execute(plan.0, plan.1, &fs, interruption);
        self.open();
    }

    /// What the next open would find, read from a copy. Anything else never returns.
    fn predict_contents(&mut self) -> AllFound {
        let (disk, clock) = (self.disk.fork(), another_clock(self.now()));
        let components = Components {
            env: Some(sim_env(&disk, &clock)),
            without_maintenance: true,
            ..Components::default()
        };
        let db = Db::open_with(self.options(), components).unwrap();
        std::array::from_fn(|n| {
            let expected = &mut self.expected[n];
            if !expected.exists {
                return None;
            }
            let context = format!("{}: table {} in a copy", self.context, NAMES[n]);
            let found = Found::read(&db.table(NAMES[n], options(n)).unwrap(), &context);
            let range = expected.find(&found).unwrap_or_else(|why| panic!("{context}: {why}"));
            let acked = expected.acked.saturating_sub(range.start);
            expected.settle(range, &found);
            expected.acked = acked;
            Some(found)
        })
    }

    fn plan(
        &self,
        to: RollbackTarget,
        on_no_match: OnNoMatch,
        found: &AllFound,
        fs: &ProcessFs,
    ) -> Option<(RollbackPlan, [Kept; TABLES])> {
        let context = &self.context;
        let ops = self.disk.ops();
        let env = self.components(fs).env?;
        let no_match = match on_no_match {
            OnNoMatch::Refuse => NoMatch::Refuse,
            OnNoMatch::Keep => NoMatch::Keep,
            OnNoMatch::Clear => NoMatch::Clear,
        };
        let rollback = Rollback::new(self.roots()).env(env).on_no_match(no_match);
        let rollback = rollback.accept_out_of_order(true);
        let (planned, keep): (Result<RollbackPlan>, Option<Keep>) = match to {
            RollbackTarget::Key { table, back } => {
                let records = &found[table].as_ref()?.records;
                let at = records.len().checked_sub(1 + usize::from(back))?;
                let key = records[at].1.key.clone();
                let keep = Box::new({
                    let key = key.clone();
                    move |_: usize, _: Position, record: &Record| record.key == key
                });
                (rollback.plan(through_key(key)), Some(keep))
            }
            RollbackTarget::Height { below } => {
                let highest = self.expected.iter().map(|expected| expected.next).max()?;
                let max = highest.saturating_sub(1 + u64::from(below));
                let keep = move |_: usize, _: Position, record: &Record| {
                    let number = record.key.first_chunk::<8>().map(|n| u64::from_be_bytes(*n));
                    record.is_primary && number.is_some_and(|number| number <= max)
                };
                (rollback.plan(max_be_u64(0, max)), Some(Box::new(keep)))
            }
            RollbackTarget::Time { secs } => {
                let time = UnixMillis(self.now() - secs * 1000);
                (rollback.plan(written_before(time)), None)
            }
            RollbackTarget::Position { table, back } => {
                let records = &found[table].as_ref()?.records;
                let position = records[records.len().checked_sub(1 + usize::from(back))?].0;
                let filter = move |record: &RecordRef<'_>| {
                    let kept = record.table() != NAMES[table] || record.position() <= position;
                    Ok(if kept { Verdict::Keep } else { Verdict::Discard })
                };
                let keep = move |n: usize, at: Position, _: &Record| n != table || at <= position;
                (rollback.plan(filter), Some(Box::new(keep)))
            }
        };
        if self.disk.is_dead() {
            return None;
        }
        assert_eq!(self.disk.ops(), ops, "{context}: planning wrote something");
        count("rollbacks planned");
        let (kept, mut is_refused) = match (&planned, &keep) {
            (_, Some(keep)) => self.model(&**keep, on_no_match, found),
            // Only the files contain the times.
            (Ok(plan), None) => (self.as_planned(plan, to, found), false),
            (Err(_), None) => ([Kept::All; TABLES], on_no_match == OnNoMatch::Refuse),
        };
        is_refused &= on_no_match == OnNoMatch::Refuse;
        match planned {
            Ok(plan) => {
                assert!(!is_refused, "{context}: should have been refused");
                for table in &plan.tables {
                    let n = NAMES.iter().position(|name| *name == table.table.as_str())?;
                    let all = found[n].as_ref()?.records.len();
                    let left = if let Kept::First(left) = kept[n] { left } else { all };
                    let discarded = table.discarded.records as usize;
                    assert_eq!(discarded, all - left, "{context}: {plan}");
                    let Some((out_of_order, keep)) = table.out_of_order.as_ref().zip(keep.as_ref())
                    else {
                        continue;
                    };
                    let kept = found[n].as_ref()?.records[..left].iter();
                    let beyond =
                        kept.filter(|(at, record)| record.is_primary && !keep(n, *at, record));
                    assert_eq!(out_of_order.values, beyond.count() as u64, "{context}: {plan}");
                }
                Some((plan, kept))
            }
            Err(error) => {
                assert!(is_refused, "{context}: plan: {error}");
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{context}: {error}");
                count("rollbacks refused");
                None
            }
        }
    }

    /// What is kept of each table, and whether there is a table in which nothing is kept.
    fn model(
        &self,
        keep: &dyn Fn(usize, Position, &Record) -> bool,
        on_no_match: OnNoMatch,
        found: &AllFound,
    ) -> ([Kept; TABLES], bool) {
        let mut has_unmatched = false;
        let kept = std::array::from_fn(|n| {
            let Some(Found { records }) = &found[n] else { return Kept::All };
            let last = records.iter().rposition(|(at, record)| keep(n, *at, record));
            match last {
                Some(last) => through_group(records, last),
                None if records.is_empty() => Kept::All,
                None => {
                    has_unmatched = true;
                    if on_no_match == OnNoMatch::Clear { Kept::First(0) } else { Kept::All }
                }
            }
        });
        (kept, has_unmatched)
    }

    /// What is kept according to the boundaries of a plan. Checks that none of it was put too
    /// late.
    fn as_planned(
        &self,
        plan: &RollbackPlan,
        to: RollbackTarget,
        found: &AllFound,
    ) -> [Kept; TABLES] {
        let RollbackTarget::Time { secs } = to else { return [Kept::All; TABLES] };
        let time = self.now() - secs * 1000;
        std::array::from_fn(|n| {
            let planned = plan.tables.iter().find(|table| table.table.as_str() == NAMES[n]);
            let (Some(planned), Some(Found { records })) = (planned, &found[n]) else {
                return Kept::All;
            };
            let Some(boundary) = &planned.boundary else {
                let is_cleared = planned.action.as_str() == "clear";
                return if is_cleared { Kept::First(0) } else { Kept::All };
            };
            let last = records.iter().position(|(at, _)| *at == boundary.position).unwrap();
            let mut behind = last;
            let batches = self.expected[n].batches.iter();
            let batch = batches.skip_while(|batch| {
                let is_before = behind >= batch.records.len();
                behind = behind.saturating_sub(if is_before { batch.records.len() } else { 0 });
                is_before
            });
            let put_at = batch.map(|batch| batch.put_at).next().unwrap();
            // Those times are the table's, not those of a wrong clock.
            let is_right = put_at <= time || self.was_wrong;
            assert!(is_right, "{}: kept, and put after the time", self.context);
            through_group(records, last)
        })
    }

    /// What is expected after the rollback.
    fn rolled_back_to(&self, kept: &[Kept; TABLES], found: &AllFound) -> [Expected; TABLES] {
        std::array::from_fn(|n| {
            let mut expected = self.expected[n].clone();
            let all = found[n].as_ref().map_or(0, |found| found.records.len());
            let Kept::First(mut left) = kept[n] else { return expected };
            if left == all {
                return expected;
            }
            let mut batches = Vec::new();
            for batch in std::mem::take(&mut expected.batches) {
                let here = left.min(batch.records.len());
                left -= here;
                if here == batch.records.len() {
                    batches.push(batch);
                } else if here > 0 {
                    let records = Arc::new(batch.records[..here].to_vec());
                    batches.push(Written { records, at: None, ..batch });
                }
            }
            // All of it is in sealed segments, or is older.
            (expected.acked, expected.batches) = (batches.len(), batches);
            expected
        })
    }

    fn execute(
        &mut self,
        plan: RollbackPlan,
        new: [Expected; TABLES],
        fs: &ProcessFs,
        interruption: Option<Interruption>,
    ) {
        match interruption {
            Some(Interruption::Crash { after, crash, again }) => {
                match crash {
                    Crash::Kill => fs.kill_after(after),
                    Crash::Power(_) => self.disk.crash_after(after),
                }
                (self.soon, self.in_opening) = (Some(crash), again);
            }
            Some(Interruption::Fault { after, fault, sticky }) => {
                plan_fault(&self.disk, fs, after, fault, sticky);
            }
            None => {}
        }
        let hits = self.disk.faults_hit();
        let executed = plan.execute();
        let has_crashed = self.disk.is_dead() || fs.is_killed();
        let is_excused = has_crashed || self.disk.faults_hit() > hits;
        match executed {
            Ok(_) => {
                self.expected = new;
                count("rollbacks executed");
            }
            Err(error) => {
                assert!(is_excused, "{}: execute: {error}", self.context);
                self.assert_is_disk_error(&error);
                let message = error.to_string();
                if message.contains("was decided and is not finished") {
                    self.expected = new;
                    count("rollbacks left to the next open");
                } else if has_crashed || message.contains("outcome of the rollback is unknown") {
                    self.rolled_back = Some(new);
                    count("rollbacks interrupted");
                } else {
                    count("rollbacks that failed");
                }
            }
        }
        self.disk.clear_faults();
        // A crash that was planned for later happens right after it.
        if has_crashed || matches!(interruption, Some(Interruption::Crash { .. })) {
            let crash = self.soon.take().unwrap_or(Crash::Kill);
            self.crash(crash);
        }
    }
}

type Keep = Box<dyn Fn(usize, Position, &Record) -> bool>;

/// The records through this one and the rest of its group.
fn through_group(records: &[(Position, Record)], last: usize) -> Kept {
    let behind = records.iter().skip(last + 1).position(|(_, record)| record.is_primary);
    Kept::First(behind.map_or(records.len(), |behind| last + 1 + behind))
}
