//! The operations on a state store, and the generator of histories.

use lithdb_sim::CrashImage;
use lithdb_state::{Durability, VerifyLevel};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// Stores whose names are prefixes of each other, or sort around `/`.
pub const STORES: [&str; 5] = ["a", "a-", "a-b", "a_b", "b"];
/// Keys that are prefixes of each other, and those of the ends of a range.
pub const KEYS: [&[u8]; 9] =
    [&[0], &[0, 0], b"-", b"/", b"a", b"a/", b"ab", &[0xff], &[0xff, 0xff]];

/// How a store works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Environment {
    pub initial_version: u64,
    pub durability: Durability,
    pub memtable_bytes: u64,
    pub snapshot_interval: u64,
    pub keep_snapshots: usize,
    /// Snapshots are pruned on request only.
    pub is_manual: bool,
    pub flush_on_close: bool,
    /// Versions in a segment of the log.
    pub segment_keys: u64,
    /// What a view may replay in memory.
    pub view_memory_bytes: u64,
}

/// A put, or with `None` a deletion. The value is one of a few, so that values repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub store: usize,
    pub key: usize,
    pub value: Option<u8>,
}

/// What is wrong with a call that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    EmptyKey,
    LongKey,
    Version,
}

/// One end of a range: a key, and whether it belongs to the range.
pub type End = Option<(usize, bool)>;

/// One step of a history. Versions are counted back from the one after the newest, modulo what
/// exists and a little more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Apply {
        items: Vec<Item>,
    },
    ApplyWrong {
        items: Vec<Item>,
        wrong: Wrong,
    },
    Commit,
    CommitBlock {
        items: Vec<Item>,
    },
    Discard,
    Flush,
    Snapshot,
    Prune {
        back: u64,
    },
    Close,
    /// The handle is dropped and not closed.
    Drop,
    /// The process or the machine crashes.
    Crash {
        image: CrashImage,
    },
    /// It will crash after so many more operations of the disk.
    CrashSoon {
        after: u64,
        image: CrashImage,
    },
    /// The working copy is lost while the store is closed.
    LoseWorking,
    /// A crash may be planned as in `CrashSoon`.
    Rollback {
        back: u64,
        crash: Option<(u64, CrashImage)>,
    },
    /// Of the closed store.
    StoppedRollback {
        back: u64,
        crash: Option<(u64, CrashImage)>,
    },
    /// A view is taken and kept, and iterators of which some rows have been read.
    Hold {
        front: usize,
        back: usize,
    },
    /// A view of a past version of the open store is taken and kept.
    View {
        back: u64,
    },
    /// Iterates from both ends, as the bits of `turns` say.
    Walk {
        store: usize,
        from: End,
        to: End,
        turns: u64,
        is_pending: bool,
    },
    /// A view beside the writer; `None` of the newest version.
    ViewOnly {
        back: Option<u64>,
    },
    Inspect,
    Verify {
        level: VerifyLevel,
    },
}

impl Op {
    /// The kind under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::ApplyWrong { .. } => "apply refused",
            Self::Commit => "commit",
            Self::CommitBlock { items } if items.is_empty() => "commit block without changes",
            Self::CommitBlock { .. } => "commit block",
            Self::Discard => "discard",
            Self::Flush => "flush",
            Self::Snapshot => "snapshot",
            Self::Prune { .. } => "prune",
            Self::Close => "close",
            Self::Drop => "drop",
            Self::Crash { image: CrashImage::Everything } => "kill",
            Self::Crash { .. } => "power loss",
            Self::CrashSoon { .. } => "crash soon",
            Self::LoseWorking => "lose the working copy",
            Self::Rollback { .. } => "rollback",
            Self::StoppedRollback { .. } => "stopped rollback",
            Self::Hold { .. } => "hold",
            Self::View { .. } => "view of a version",
            Self::Walk { is_pending: false, .. } => "iterate",
            Self::Walk { is_pending: true, .. } => "iterate pending changes",
            Self::ViewOnly { back: None } => "view beside",
            Self::ViewOnly { back: Some(_) } => "view of a version beside",
            Self::Inspect => "inspect",
            Self::Verify { .. } => "verify",
        }
    }
}

/// Every kind that [`Op::kind`] returns.
pub const KINDS: [&str; 25] = [
    "apply",
    "apply refused",
    "commit",
    "commit block without changes",
    "commit block",
    "discard",
    "flush",
    "snapshot",
    "prune",
    "close",
    "drop",
    "kill",
    "power loss",
    "crash soon",
    "lose the working copy",
    "rollback",
    "stopped rollback",
    "hold",
    "view of a version",
    "iterate",
    "iterate pending changes",
    "view beside",
    "view of a version beside",
    "inspect",
    "verify",
];

/// The generator's state: enough to avoid trivial histories.
#[derive(Debug, Clone)]
pub struct GeneratorState {
    pub environment: Environment,
    commits: u32,
}

/// Generates histories.
pub struct Histories;

fn item() -> impl Strategy<Value = Item> {
    let store = prop_oneof![3 => Just(0_usize), 4 => 1..STORES.len()];
    let value = option::weighted(0.7, 0..6_u8);
    (store, 0..KEYS.len(), value).prop_map(|(store, key, value)| Item { store, key, value })
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    prop_oneof![1 => Just(Vec::new()), 6 => vec(item(), 1..6), 2 => vec(item(), 6..25)]
}

fn image() -> impl Strategy<Value = CrashImage> {
    prop_oneof![
        2 => Just(CrashImage::Nothing),
        3 => Just(CrashImage::Everything),
        1 => Just(CrashImage::LengthWithoutData),
        2 => (0..60_usize).prop_map(CrashImage::Prefix),
        1 => (0..60_usize).prop_map(CrashImage::OnlyOne),
        4 => any::<u64>().prop_map(CrashImage::Seeded),
    ]
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![Just(Wrong::EmptyKey), Just(Wrong::LongKey), Just(Wrong::Version)]
}

fn end() -> impl Strategy<Value = End> {
    option::weighted(0.7, (0..KEYS.len(), any::<bool>()))
}

fn walk() -> impl Strategy<Value = Op> {
    let store = prop_oneof![3 => Just(0_usize), 4 => 0..STORES.len()];
    (store, end(), end(), any::<u64>(), any::<bool>()).prop_map(
        |(store, from, to, turns, is_pending)| Op::Walk { store, from, to, turns, is_pending },
    )
}

fn environment() -> impl Strategy<Value = Environment> {
    let durability = prop_oneof![Just(Durability::EveryCommit), Just(Durability::OnFlush)];
    let memtable_bytes = prop_oneof![Just(1_u64), Just(600), Just(64 << 20)];
    let snapshot_interval = prop_oneof![1 => Just(0_u64), 2 => 2..9_u64];
    (
        prop_oneof![Just(1_u64), Just(1_003)],
        durability,
        memtable_bytes,
        snapshot_interval,
        0..3_usize,
        prop::bool::weighted(0.25),
        any::<bool>(),
        1..7_u64,
        prop_oneof![Just(0_u64), Just(600), Just(64 << 20)],
    )
        .prop_map(
            |(
                initial_version,
                durability,
                memtable_bytes,
                snapshot_interval,
                keep_snapshots,
                is_manual,
                flush_on_close,
                segment_keys,
                view_memory_bytes,
            )| Environment {
                initial_version,
                durability,
                memtable_bytes,
                snapshot_interval,
                keep_snapshots,
                is_manual,
                flush_on_close,
                segment_keys,
                view_memory_bytes,
            },
        )
}

impl ReferenceStateMachine for Histories {
    type State = GeneratorState;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<GeneratorState> {
        let state = |environment| GeneratorState { environment, commits: 0 };
        environment().prop_map(state).boxed()
    }

    fn transitions(generator: &GeneratorState) -> BoxedStrategy<Op> {
        let rare = if generator.commits < 4 { 1 } else { 4 };
        let level = prop_oneof![
            Just(VerifyLevel::Light),
            Just(VerifyLevel::Files),
            Just(VerifyLevel::Content),
            Just(VerifyLevel::Replay)
        ];
        prop_oneof![
            24 => items().prop_map(|items| Op::CommitBlock { items }),
            14 => items().prop_map(|items| Op::Apply { items }),
            8 => Just(Op::Commit),
            2 => (items(), wrong()).prop_map(|(items, wrong)| Op::ApplyWrong { items, wrong }),
            1 => Just(Op::Discard),
            4 => Just(Op::Flush),
            2 * rare => Just(Op::Snapshot),
            rare => (0..16_u64).prop_map(|back| Op::Prune { back }),
            rare => Just(Op::Close),
            rare => Just(Op::Drop),
            1 => Just(Op::LoseWorking),
            rare => image().prop_map(|image| Op::Crash { image }),
            rare => (0..90_u64, image()).prop_map(|(after, image)| Op::CrashSoon { after, image }),
            rare => (0..24_u64, option::weighted(0.3, (0..60_u64, image())))
                .prop_map(|(back, crash)| Op::Rollback { back, crash }),
            rare / 2 + 1 => (0..24_u64, option::weighted(0.3, (0..60_u64, image())))
                .prop_map(|(back, crash)| Op::StoppedRollback { back, crash }),
            3 => (0..4_usize, 0..4_usize).prop_map(|(front, back)| Op::Hold { front, back }),
            4 => (0..16_u64).prop_map(|back| Op::View { back }),
            6 => walk(),
            3 => option::of(0..16_u64).prop_map(|back| Op::ViewOnly { back }),
            2 => Just(Op::Inspect),
            1 => level.prop_map(|level| Op::Verify { level }),
        ]
        .boxed()
    }

    fn apply(mut generator: GeneratorState, op: &Op) -> GeneratorState {
        generator.commits += u32::from(matches!(op, Op::Commit | Op::CommitBlock { .. }));
        generator
    }
}
