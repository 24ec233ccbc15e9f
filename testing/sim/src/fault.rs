//! Fault injection: which operation fails and how, and when the file system crashes.
//!
//! Every operation passes [`Faults::op`] or [`Faults::read`] before it does anything. A failed
//! operation counts like any other, so that "the n-th" means the same in every run.

use std::io;

use crate::errno::{EACCES, EINTR, EIO, EMFILE, ENOMEM, ENOSPC, EOPNOTSUPP, crashed, errno};
use crate::trace::OpKind;

/// What happens to the pages that a failed sync could not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// The kernel discards them: reads see the durable bytes again, and zeros where there are
    /// none. The length stays. (Of a directory: nothing is lost, a later sync may succeed.)
    Lost,
    /// Like `Lost`, but a part had reached the disk before the device failed: every other sector
    /// of 512 bytes, the odd or the even ones, depending on the write's place in the order of
    /// issue. (Of a directory: as `Lost`.)
    PartlyLost,
    /// The kernel marks them clean: reads still see them, a later sync succeeds without writing
    /// them, and a crash loses them. (Of a directory: all later syncs succeed without doing
    /// anything, and a crash may lose the operations they should have made durable.)
    ReadableAndClean,
    /// Like `ReadableAndClean`, and blocks that were never durable accept no more writes: later
    /// writes to them can be read, a sync of them succeeds, and a crash loses them. ext4 behaves
    /// this way when the write-back of an unwritten extent fails: the extent is never converted.
    /// (Of a directory: as `Lost`.)
    Unwritable,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device fails (`EIO`). Applies to every operation; a failed sync leaves everything
    /// unsynced and may be retried.
    Eio,
    /// No space (`ENOSPC`). Applies to every mutating operation except removals.
    NoSpace,
    /// A signal arrived (`EINTR`). Applies to `read_at` and `write_at`; a sticky one hits every
    /// other call.
    Interrupted,
    /// A short transfer: half of the bytes, at least one. Applies to `read_at` and `write_at` of
    /// more than one byte.
    ShortWrite,
    /// The device returns stale bytes: the sectors as they were durable before the newest sync
    /// that changed any of those read. Once only: the disk itself holds the newer ones. Applies to
    /// `read_at` where earlier contents exist.
    StaleRead,
    /// The process has too many open files (`EMFILE`). Applies to create, open, list, locks and
    /// directory syncs.
    TooManyFiles,
    /// Out of memory, or no room for a mapping (`ENOMEM`). Applies to create, open, list, locks,
    /// mappings and reservations.
    OutOfMemory,
    /// The file system does not support the call (`EOPNOTSUPP`). Applies to reservations.
    Unsupported,
    /// Permission denied (`EACCES`). Applies to create, open, list, locks and directory syncs.
    Denied,
    /// A sync reports an error and changes the state of the pages (see [`Pages`]). Applies to the
    /// three syncs.
    FailedSync {
        /// What happens to the unwritten pages.
        pages: Pages,
    },
}

/// An operation that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadKind {
    Open,
    List,
    Metadata,
    Lock,
    ReadAt { has_older: bool },
    Map,
    Other,
}

/// How an operation that no fault has failed continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultAction {
    Go,
    /// Transfer at most this many bytes.
    AtMost(usize),
    /// Return stale bytes.
    Stale,
    /// Fail this sync.
    FailSync(Pages),
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    at: u64,
    fault: Fault,
    sticky: bool,
    interrupted_last: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    ops: u64,
    reads: u64,
    hits: u64,
    dead: bool,
    crash_at: Option<u64>,
    op_plans: Vec<Planned>,
    read_plans: Vec<Planned>,
    short: bool,
    transfers: usize,
}

const SHORT_BYTES: [usize; 6] = [1, 512, 7, 100, 3, 256];

impl Fault {
    fn applies_to_op(self, kind: OpKind, len: usize) -> bool {
        match self {
            Self::Eio => true,
            Self::NoSpace => !matches!(kind, OpKind::RemoveFile | OpKind::RemoveDir),
            Self::Interrupted => kind == OpKind::Write,
            Self::StaleRead => false,
            Self::ShortWrite => kind == OpKind::Write && len > 1,
            Self::TooManyFiles | Self::Denied => {
                matches!(kind, OpKind::CreateNew | OpKind::SyncDir)
            }
            Self::OutOfMemory => matches!(kind, OpKind::CreateNew | OpKind::Allocate),
            Self::Unsupported => kind == OpKind::Allocate,
            Self::FailedSync { .. } => {
                matches!(kind, OpKind::SyncData | OpKind::SyncAll | OpKind::SyncDir)
            }
        }
    }

    fn applies_to_read(self, kind: ReadKind, len: usize) -> bool {
        match self {
            Self::Eio => true,
            Self::NoSpace | Self::Unsupported | Self::FailedSync { .. } => false,
            Self::Interrupted => matches!(kind, ReadKind::ReadAt { .. }),
            Self::ShortWrite => matches!(kind, ReadKind::ReadAt { .. }) && len > 1,
            Self::StaleRead => kind == ReadKind::ReadAt { has_older: true },
            Self::TooManyFiles | Self::Denied => {
                matches!(kind, ReadKind::Open | ReadKind::List | ReadKind::Lock)
            }
            Self::OutOfMemory => {
                matches!(kind, ReadKind::Open | ReadKind::List | ReadKind::Lock | ReadKind::Map)
            }
        }
    }

    fn inject(self, len: usize) -> io::Result<FaultAction> {
        match self {
            Self::Eio => Err(errno(EIO)),
            Self::NoSpace => Err(errno(ENOSPC)),
            Self::Interrupted => Err(errno(EINTR)),
            Self::TooManyFiles => Err(errno(EMFILE)),
            Self::OutOfMemory => Err(errno(ENOMEM)),
            Self::Unsupported => Err(errno(EOPNOTSUPP)),
            Self::Denied => Err(errno(EACCES)),
            Self::StaleRead => Ok(FaultAction::Stale),
            Self::ShortWrite => Ok(FaultAction::AtMost((len / 2).max(1))),
            Self::FailedSync { pages } => Ok(FaultAction::FailSync(pages)),
        }
    }
}

/// The fault that triggers now; removed from the plan unless it is sticky.
fn next_fault(
    plans: &mut Vec<Planned>,
    now: u64,
    applies: impl Fn(Fault) -> bool,
) -> Option<Fault> {
    for (n, plan) in plans.iter_mut().enumerate() {
        if plan.at > now || !applies(plan.fault) {
            continue;
        }
        let fault = plan.fault;
        if !plan.sticky {
            plans.remove(n);
        } else if fault == Fault::Interrupted {
            plan.interrupted_last = !plan.interrupted_last;
            if !plan.interrupted_last {
                continue;
            }
        }
        return Some(fault);
    }
    None
}

impl Faults {
    /// The settings that a file system inherits across a crash: short transfers.
    pub(crate) fn after_crash(&self) -> Self {
        Self { short: self.short, ..Self::default() }
    }

    pub(crate) fn alive(&self) -> io::Result<()> {
        let reached = self.crash_at.is_some_and(|at| self.ops >= at);
        if self.dead || reached { Err(crashed()) } else { Ok(()) }
    }

    pub(crate) fn die(&mut self) {
        self.dead = true;
    }

    /// Decides whether a mutating operation proceeds. `len` is the number of bytes of a write.
    pub(crate) fn op(&mut self, kind: OpKind, len: usize) -> io::Result<FaultAction> {
        self.alive()?;
        self.ops += 1;
        if let Some(fault) =
            next_fault(&mut self.op_plans, self.ops, |f| f.applies_to_op(kind, len))
        {
            self.hits += 1;
            return fault.inject(len);
        }
        if kind == OpKind::Write { self.transfer(len) } else { Ok(FaultAction::Go) }
    }

    /// Decides whether a reading operation proceeds.
    pub(crate) fn read(&mut self, kind: ReadKind, len: usize) -> io::Result<FaultAction> {
        self.alive()?;
        self.reads += 1;
        if let Some(fault) =
            next_fault(&mut self.read_plans, self.reads, |f| f.applies_to_read(kind, len))
        {
            self.hits += 1;
            return fault.inject(len);
        }
        if matches!(kind, ReadKind::ReadAt { .. }) {
            self.transfer(len)
        } else {
            Ok(FaultAction::Go)
        }
    }

    fn transfer(&mut self, len: usize) -> io::Result<FaultAction> {
        if !self.short || len == 0 {
            return Ok(FaultAction::Go);
        }
        self.transfers += 1;
        if self.transfers.is_multiple_of(5) {
            return Err(errno(EINTR));
        }
        let at_most = SHORT_BYTES.get(self.transfers % SHORT_BYTES.len()).copied().unwrap_or(1);
        Ok(FaultAction::AtMost(at_most))
    }

    pub(crate) fn ops(&self) -> u64 {
        self.ops
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits
    }

    pub(crate) fn crash_after(&mut self, n: u64) {
        self.crash_at = Some(self.ops.saturating_add(n));
    }

    pub(crate) fn fail_op(&mut self, n: u64, fault: Fault, sticky: bool) {
        let at = self.ops.saturating_add(n.max(1));
        self.op_plans.push(Planned { at, fault, sticky, interrupted_last: false });
    }

    pub(crate) fn fail_read(&mut self, n: u64, fault: Fault, sticky: bool) {
        let at = self.reads.saturating_add(n.max(1));
        self.read_plans.push(Planned { at, fault, sticky, interrupted_last: false });
    }

    pub(crate) fn clear(&mut self) {
        self.op_plans.clear();
        self.read_plans.clear();
    }

    pub(crate) fn set_short(&mut self, on: bool) {
        self.short = on;
    }
}
