//! The operations on a database, and the generator of histories.

use lithdb_sim::{CrashImage, Fault, Pages};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// The maximum number of tables.
pub const TABLES: usize = 3;

/// The environment of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Environment {
    pub roots: usize,
    /// Positional reads instead of mappings.
    pub pread: bool,
    /// Every transfer is shortened to a few bytes, and every fifth is interrupted.
    pub short_transfers: bool,
}

/// A value to put: under the next key of the table or, if `again` says how far back, under an
/// older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub again: Option<u8>,
    pub len: usize,
    /// 1: an alias for the whole value; 2: one for a part of it; 3: both.
    pub aliases: u8,
}

/// The time of the wall clock: the right one, or wrong by days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WallClock {
    Right,
    Off(i64),
}

/// How a process ends without closing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// It is killed; the page cache stays.
    Kill,
    /// The power fails.
    Power(CrashImage),
}

/// What a rollback goes back to. Numbers are taken modulo what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollbackTarget {
    /// The newest record of a key: of one of these tables, `skip` records from its end.
    Key { table: usize, back: u8 },
    /// A height: this much below the highest.
    Height { below: u8 },
    /// A time: this many seconds ago.
    Time { secs: u64 },
    /// A position: that of the record this far from the end of this table; other tables keep
    /// everything.
    Position { table: usize, back: u8 },
}

/// What a rollback does with tables in which it keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNoMatch {
    Refuse,
    Keep,
    Clear,
}

/// What fails while a rollback executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// A crash, and perhaps another one inside the open that finishes the rollback.
    Crash {
        after: u64,
        crash: Crash,
        again: Option<(u64, Crash)>,
    },
    Fault {
        after: u64,
        fault: Fault,
        sticky: bool,
    },
}

/// One step of a history. An operation that puts into a missing table creates it; all others skip
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        table: usize,
        item: Item,
    },
    Batch {
        table: usize,
        items: Vec<Item>,
    },
    Flush {
        table: usize,
    },
    FlushAll,
    WaitDurable {
        table: usize,
        back: u8,
    },
    Get {
        table: usize,
        back: u8,
    },
    /// Iterates from both ends, as the bits of `turns` say; from a key, if `from` names one.
    Walk {
        table: usize,
        from: Option<u8>,
        turns: u64,
    },
    Seal {
        table: usize,
    },
    Gc {
        table: usize,
    },
    Maintenance,
    Advance {
        secs: u64,
    },
    /// The wall clock jumps ahead by days; collection must hold. Then it is accepted, or set back.
    Jump {
        table: usize,
        accept: bool,
    },
    /// The wall clock jumps while everything runs.
    WallClock(WallClock),
    /// The process is stopped for a while, and its wall clock may be a different one afterwards.
    Stop {
        crash: Option<Crash>,
        secs: u64,
        wall: Option<WallClock>,
    },
    /// It runs for a while, with maintenance.
    Run {
        secs: u64,
    },
    Accept {
        table: usize,
    },
    Ttl {
        table: usize,
        secs: Option<u64>,
    },
    Shards {
        table: usize,
        shards: u16,
    },
    Create {
        table: usize,
    },
    Drop {
        table: usize,
    },
    /// Hard links to the files of sealed segments; of a stopped database, to those of the newest
    /// ones, too.
    Snapshot {
        stopped: bool,
    },
    /// A reading process: opened, refreshed, closed.
    Read,
    Refresh,
    EndRead,
    Reopen,
    Crash(Crash),
    /// The crash comes after so many more changes.
    CrashSoon {
        after: u64,
        crash: Crash,
    },
    /// And a second one inside the open that follows.
    CrashInOpening {
        first: Crash,
        after: u64,
        second: Crash,
    },
    FaultSoon {
        after: u64,
        fault: Fault,
        sticky: bool,
    },
    /// A read fails: one of a get, or one of an open.
    ReadFault {
        after: u64,
        in_opening: bool,
    },
    RollBack {
        to: RollbackTarget,
        on_no_match: OnNoMatch,
        close: bool,
        interruption: Option<Interruption>,
    },
}

impl Op {
    /// The kind under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Put { item, .. } if item.aliases > 0 => "put with secondary keys",
            Self::Put { .. } => "put",
            Self::Batch { .. } => "batch",
            Self::Flush { .. } | Self::FlushAll => "flush",
            Self::WaitDurable { .. } => "wait durable",
            Self::Get { .. } => "get",
            Self::Walk { from: None, .. } => "iterate",
            Self::Walk { from: Some(_), .. } => "iterate from a key",
            Self::Seal { .. } => "seal",
            Self::Gc { .. } => "gc",
            Self::Maintenance => "maintenance",
            Self::Advance { .. } => "clock advance",
            Self::Jump { .. } => "clock jump",
            Self::WallClock(_) => "another wall clock",
            Self::Stop { .. } => "stop",
            Self::Run { .. } => "run",
            Self::Accept { .. } => "accept the clock",
            Self::Ttl { .. } => "set ttl",
            Self::Shards { .. } => "set shards",
            Self::Create { .. } => "create",
            Self::Drop { .. } => "drop",
            Self::Snapshot { .. } => "snapshot",
            Self::Read => "open for reading",
            Self::Refresh => "refresh",
            Self::EndRead => "close the reader",
            Self::Reopen => "reopen",
            Self::Crash(Crash::Kill) => "kill",
            Self::Crash(Crash::Power(_)) => "power loss",
            Self::CrashSoon { .. } => "crash soon",
            Self::CrashInOpening { .. } => "crash in opening",
            Self::FaultSoon { .. } => "fault",
            Self::ReadFault { .. } => "read fault",
            Self::RollBack { interruption: None, .. } => "rollback",
            Self::RollBack { interruption: Some(Interruption::Crash { .. }), .. } => {
                "rollback with a crash"
            }
            Self::RollBack { interruption: Some(Interruption::Fault { .. }), .. } => {
                "rollback with a fault"
            }
        }
    }
}

/// Every kind that [`Op::kind`] returns.
pub const KINDS: [&str; 35] = [
    "put with secondary keys",
    "put",
    "batch",
    "flush",
    "wait durable",
    "get",
    "iterate",
    "iterate from a key",
    "seal",
    "gc",
    "maintenance",
    "clock advance",
    "clock jump",
    "another wall clock",
    "stop",
    "run",
    "accept the clock",
    "set ttl",
    "set shards",
    "create",
    "drop",
    "snapshot",
    "open for reading",
    "refresh",
    "close the reader",
    "reopen",
    "kill",
    "power loss",
    "crash soon",
    "crash in opening",
    "fault",
    "read fault",
    "rollback",
    "rollback with a crash",
    "rollback with a fault",
];

/// The generator's state: enough to avoid trivial histories.
#[derive(Debug, Clone)]
pub struct GeneratorState {
    pub environment: Environment,
    puts: [u32; TABLES],
    has_reader: bool,
    /// A fault or crash is planned or has happened that only an open clears.
    has_pending_fault: bool,
}

/// Generates histories.
pub struct Histories;

fn item() -> impl Strategy<Value = Item> {
    let len = prop_oneof![
        2 => Just(0_usize),
        6 => 1..17_usize,
        8 => 17..300_usize,
        2 => 300..6_000_usize,
        1 => Just(70_000_usize),
    ];
    let again = prop_oneof![4 => Just(None), 1 => (0..12_u8).prop_map(Some)];
    (again, len, prop_oneof![3 => Just(0_u8), 2 => 1..4_u8])
        .prop_map(|(again, len, aliases)| Item { again, len, aliases })
}

fn image() -> impl Strategy<Value = CrashImage> {
    prop_oneof![
        2 => Just(CrashImage::Nothing),
        1 => Just(CrashImage::Everything),
        1 => Just(CrashImage::LengthWithoutData),
        2 => (0..60_usize).prop_map(CrashImage::Prefix),
        1 => (0..60_usize).prop_map(CrashImage::OnlyOne),
        4 => any::<u64>().prop_map(CrashImage::Seeded),
    ]
}

fn wall() -> impl Strategy<Value = WallClock> {
    // The last one is that of a machine without a battery: before 2020.
    let off = prop_oneof![Just(400_i64), Just(800), Just(-400), Just(-18_000)];
    prop_oneof![1 => Just(WallClock::Right), 2 => off.prop_map(WallClock::Off)]
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![2 => Just(Crash::Kill), 3 => image().prop_map(Crash::Power)]
}

fn fault() -> impl Strategy<Value = (Fault, bool)> {
    let once = prop_oneof![
        Just(Fault::Eio),
        Just(Fault::NoSpace),
        Just(Fault::FailedSync { pages: Pages::Lost }),
        Just(Fault::FailedSync { pages: Pages::PartlyLost }),
        Just(Fault::FailedSync { pages: Pages::ReadableAndClean }),
        Just(Fault::FailedSync { pages: Pages::Unwritable }),
        Just(Fault::ShortWrite),
        Just(Fault::Interrupted),
        Just(Fault::TooManyFiles),
    ];
    let for_good = prop_oneof![Just(Fault::Eio), Just(Fault::NoSpace), Just(Fault::Interrupted)];
    prop_oneof![4 => once.prop_map(|f| (f, false)), 1 => for_good.prop_map(|f| (f, true))]
}

fn rollback() -> impl Strategy<Value = Op> {
    let table = 0..TABLES;
    let to = prop_oneof![
        2 => (table.clone(), 0..20_u8).prop_map(|(table, back)| RollbackTarget::Key { table, back }),
        3 => (0..20_u8).prop_map(|below| RollbackTarget::Height { below }),
        1 => (0..400_u64).prop_map(|secs| RollbackTarget::Time { secs }),
        1 => (table, 0..20_u8).prop_map(|(table, back)| RollbackTarget::Position { table, back }),
    ];
    let on_no_match = prop_oneof![
        1 => Just(OnNoMatch::Refuse),
        2 => Just(OnNoMatch::Keep),
        2 => Just(OnNoMatch::Clear),
    ];
    let interruption = prop_oneof![
        3 => (0..45_u64, crash(), option::of((0..30_u64, crash())))
            .prop_map(|(after, crash, again)| Interruption::Crash { after, crash, again }),
        1 => (1..45_u64, fault()).prop_map(|(after, (fault, sticky))| Interruption::Fault { after, fault, sticky }),
    ];
    (to, on_no_match, any::<bool>(), option::weighted(0.6, interruption)).prop_map(
        |(to, on_no_match, close, interruption)| Op::RollBack {
            to,
            on_no_match,
            close,
            interruption,
        },
    )
}

fn on_a_table(table: usize) -> BoxedStrategy<Op> {
    prop_oneof![
        30 => item().prop_map(move |item| Op::Put { table, item }),
        8 => vec(item(), 1..5).prop_map(move |items| Op::Batch { table, items }),
        3 => vec(item(), 5..20).prop_map(move |items| Op::Batch { table, items }),
        9 => Just(Op::Flush { table }),
        2 => (0..9_u8).prop_map(move |back| Op::WaitDurable { table, back }),
        4 => (0..40_u8).prop_map(move |back| Op::Get { table, back }),
        3 => (option::of(0..20_u8), any::<u64>())
            .prop_map(move |(from, turns)| Op::Walk { table, from, turns }),
        4 => Just(Op::Seal { table }),
        6 => Just(Op::Gc { table }),
        1 => any::<bool>().prop_map(move |accept| Op::Jump { table, accept }),
        1 => Just(Op::Accept { table }),
        3 => option::weighted(0.85, 1..120_u64).prop_map(move |secs| Op::Ttl { table, secs }),
        1 => (1..4_u16).prop_map(move |shards| Op::Shards { table, shards }),
        1 => Just(Op::Create { table }),
        1 => Just(Op::Drop { table }),
    ]
    .boxed()
}

impl ReferenceStateMachine for Histories {
    type State = GeneratorState;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<GeneratorState> {
        (1..=3_usize, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(roots, pread, short_transfers)| GeneratorState {
                environment: Environment { roots, pread, short_transfers },
                puts: [0; TABLES],
                has_reader: false,
                has_pending_fault: false,
            })
            .boxed()
    }

    fn transitions(generator: &GeneratorState) -> BoxedStrategy<Op> {
        // One table is busier than the others, and openings are more likely after a failure.
        let table = prop_oneof![3 => Just(0_usize), 2 => Just(1_usize), 1 => Just(2_usize)];
        let is_young = generator.puts.iter().sum::<u32>() < 4;
        let (rare, open, flush) = match (is_young, generator.has_pending_fault) {
            (true, _) => (1, 1, 2),
            (false, false) => (6, 3, 2),
            (false, true) => (1, 8, 12),
        };
        let read = if generator.has_reader {
            prop_oneof![5 => Just(Op::Refresh), 1 => Just(Op::EndRead)].boxed()
        } else {
            Just(Op::Read).boxed()
        };
        prop_oneof![
            80 => table.prop_flat_map(on_a_table),
            flush => Just(Op::FlushAll),
            2 => Just(Op::Maintenance),
            7 => (1..200_u64).prop_map(|secs| Op::Advance { secs }),
            2 => wall().prop_map(Op::WallClock),
            2 => (option::of(crash()), 1..3_600_u64, option::of(wall()))
                .prop_map(|(crash, secs, wall)| Op::Stop { crash, secs, wall }),
            1 => (1..7_200_u64).prop_map(|secs| Op::Run { secs }),
            2 => any::<bool>().prop_map(|stopped| Op::Snapshot { stopped }),
            6 => read,
            open => Just(Op::Reopen),
            2 * open => crash().prop_map(Op::Crash),
            rare => (0..40_u64, crash()).prop_map(|(after, crash)| Op::CrashSoon { after, crash }),
            open => (crash(), 0..40_u64, crash())
                .prop_map(|(first, after, second)| Op::CrashInOpening { first, after, second }),
            rare => (1..15_u64, fault())
                .prop_map(|(after, (fault, sticky))| Op::FaultSoon { after, fault, sticky }),
            1 => (1..20_u64, any::<bool>())
                .prop_map(|(after, in_opening)| Op::ReadFault { after, in_opening }),
            rare => rollback(),
        ]
        .boxed()
    }

    fn apply(mut generator: GeneratorState, op: &Op) -> GeneratorState {
        match op {
            Op::Put { table, .. } | Op::Batch { table, .. } => generator.puts[*table] += 1,
            Op::Drop { table } => (generator.puts[*table], generator.has_reader) = (0, false),
            Op::Read | Op::Refresh => generator.has_reader = true,
            Op::EndRead => generator.has_reader = false,
            Op::CrashSoon { .. } | Op::FaultSoon { .. } => generator.has_pending_fault = true,
            Op::Crash(Crash::Power(_)) => {
                (generator.has_reader, generator.has_pending_fault) = (false, false);
            }
            Op::Reopen
            | Op::Stop { .. }
            | Op::Crash(_)
            | Op::CrashInOpening { .. }
            | Op::RollBack { .. } => {
                generator.has_pending_fault = false;
            }
            _ => {}
        }
        generator
    }
}
