//! Opening a table for writing: read the state, make the plan, recover, build the keymap.
//!
//! The caller holds the exclusive lock of every root. Until the plan is made, nothing changes but
//! a leftover replacement of the state file; from then on every step may be repeated after a
//! crash.

pub mod chain;
pub(crate) mod index;
pub mod inventory;
pub mod recover;
pub mod sealed;
pub mod unsealed;

use std::sync::{Arc, Weak};
use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::{Error, Result, millis, remove_if_exists, replacement_path};
use lithdb_segment::{Position, UnlinkPermission};

use crate::event::{Event, RecoveryReport};
use crate::live::LiveView;
use crate::open::chain::{Access, OpenPlan};
use crate::open::index::{build_keymap, new_keymap};
use crate::open::recover::Recovery;
use crate::options::{TableOptions, Ttl};
use crate::segments::Segments;
use crate::setup::TableSetup;
use crate::shared::Shared;
use crate::state::{StateFile, TableState, read_writable};
use crate::table::{Role, Table};
use crate::write::commit::GroupCommit;
use crate::write::writer::{Log, Writer};

/// Parameters of a read-write open that are not table options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenForWriting {
    /// How long a flush waits for other flushes to share its sync.
    pub coalesce: Duration,
}

impl Table {
    /// Opens an existing table for writing. The caller holds the exclusive lock of every root.
    /// If anything is damaged, missing or foreign, the error names the file and the remedy, and
    /// nothing was destroyed.
    pub fn open(setup: &TableSetup, options: &TableOptions, how: OpenForWriting) -> Result<Self> {
        options.validate().map_err(|e| setup.in_context(&e))?;
        let opened = Self::open_valid(setup, options, how.coalesce);
        opened.map_err(|e| setup.in_context(&e))
    }

    fn open_valid(setup: &TableSetup, options: &TableOptions, coalesce: Duration) -> Result<Self> {
        let env = &setup.env;
        let fs = &*env.fs;
        let state_path = setup.state_path();
        let found = read_writable(fs, &state_path)?;
        remove_if_exists(fs, &replacement_path(&state_path))?;
        // Directory entries, too, may be only in the page cache.
        for dir in setup.dirs.iter().chain(&setup.segment_dirs()) {
            fs.sync_dir(dir).map_err(|e| Error::io("sync directory", dir, e))?;
        }
        let mut plan = OpenPlan::make(env, &setup.segment_dirs(), &found.state, Access::Write)?;
        // Nothing was refused: from here on the log may grow past the end that the last close
        // recorded.
        let state_file = StateFile::change(&env.fs, &state_path, found, |state| {
            state.closed_cleanly = false;
            record_settings(state, setup, options);
        })?;
        let state = state_file.get();
        let mut clock = setup.table_clock(&state);
        let now = clock.read(&*env.clock);
        let shards = options.shards.unwrap_or(setup.dirs.len().clamp(1, 256) as u16);
        let shared = Shared::new(setup, options, &state, shards);
        let recovery = Recovery {
            context: &shared.context,
            state: &state_file,
            inline_max: options.inline_max_bytes,
            shards,
            now,
        };
        let read = plan.take_key_files();
        let recovered = recovery.apply(plan)?;
        let keymap = new_keymap(options.keymap.unwrap_or_default());
        keymap.raise_watermark(state.watermark);
        let mut log = Log {
            newest: Position::default(),
            begun: None,
            opened: now.time,
            segment: recovered.writer,
        };
        let end = log.end();
        let segments: Segments = recovered.segments.into_iter().collect();
        log.newest = build_keymap(&env.pool, &keymap, state.hash_seed, &segments, end, read)?;
        log.begun = begun(&log).map(|age| (env.clock.monotonic(), age));
        let live = LiveView::new(keymap, segments, state_file.get().watermark);
        if let Some(segment) = &log.segment {
            live.set_counts(segment.totals());
        }
        let writer = Arc::new(Writer {
            shared,
            live,
            state: state_file,
            log: Mutex::new(log),
            commit: GroupCommit::new(end, coalesce),
            sealing: Default::default(),
            in_flight: Default::default(),
            clock: Mutex::new(clock),
            activity: Default::default(),
            state_changes: Mutex::new(UnlinkPermission::new()),
            filter_approved: Default::default(),
            shutdown: Default::default(),
            closing: Default::default(),
        });
        let idle: Weak<Writer> = Arc::downgrade(&writer);
        env.budgets.buffers.register_reclaim(idle);
        writer.record_time()?;
        if recovered.report != RecoveryReport::default() {
            let event = Event::Recovered { table: setup.name.clone(), report: recovered.report };
            setup.listener.emit(&event);
        }
        Ok(Self::new(Role::Writer(writer)))
    }
}

/// Records the settings that must be known without the application: the TTL, and that it collects
/// with a filter.
fn record_settings(state: &mut TableState, setup: &TableSetup, options: &TableOptions) {
    match options.ttl {
        Ttl::Recorded => {}
        Ttl::Never => state.ttl_ms = None,
        Ttl::After(ttl) => state.ttl_ms = Some(millis(ttl)),
    }
    state.has_gc_filter |= setup.filter.is_some();
}

/// The age of the recovered segment if it holds records: at least the time since its creation. A
/// creation time in the future means a wrong clock: the age is then maximal, so that the segment
/// is sealed.
fn begun(log: &Log) -> Option<Duration> {
    let segment = log.segment.as_ref().filter(|segment| segment.totals().records > 0)?;
    let created = segment.segment().header().created;
    let is_in_future = created > log.opened;
    Some(if is_in_future { Duration::MAX } else { log.opened.since(created) })
}
