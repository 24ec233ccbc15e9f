//! Opening a table for writing: read the state, make the plan, recover, build the keymap.
//!
//! The caller holds the exclusive lock of every root. Until the plan is made, an opening changes
//! nothing but a leftover replacement of the state file; from then on every step may be repeated
//! after a crash.

pub mod chain;
pub(crate) mod index;
pub mod inventory;
pub mod recover;
pub mod sealed;
pub mod unsealed;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lithdb_env::sync::atomic::AtomicBool;
use lithdb_env::sync::{Mutex, RwLock};
use lithdb_env::{Error, Latch, Result, millis, remove_if_exists, replacement_path};
use lithdb_keymap::{Keymap, MemoryKeymap};
use lithdb_segment::{Context, Position, SEGMENTS_DIR, STATE_FILE, UnlinkPermission};

use crate::counters::Counters;
use crate::event::Event;
use crate::gc::clock::TableClock;
use crate::open::chain::{Access, OpenPlan};
use crate::open::index::build_keymap;
use crate::open::recover::{Recovery, RecoveryReport};
use crate::options::{KeymapKind, TableOptions, Ttl};
use crate::segments::Segments;
use crate::state::{StateFile, TableState, read_writable};
use crate::table::{Inner, Mode, Settings, Table, TableSetup, TableWriter, WriteSide, in_context};
use crate::write::commit::GroupCommit;

/// Parameters of an opening for writing that are not table options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenForWriting {
    /// How long a flush waits for other flushes to share its sync.
    pub coalesce: Duration,
}

impl TableSetup {
    /// The path of `table.state`.
    pub fn state_path(&self) -> PathBuf {
        let [first, ..] = &*self.dirs else { unreachable!("a table has at least one root") };
        first.join(STATE_FILE)
    }

    /// The `segments` directories, in the order of the roots.
    pub fn segment_dirs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(SEGMENTS_DIR)).collect()
    }

    pub(crate) fn table_clock(&self, state: &TableState) -> TableClock {
        TableClock::new(state, self.clock_jump_limit, self.clock_jump_hold, &*self.env.clock)
    }

    /// The context that all segments of this table share.
    pub fn context(&self, state: &TableState, options: &TableOptions) -> Arc<Context> {
        Arc::new(Context {
            env: self.env.clone(),
            table_id: state.table_id,
            dirs: self.segment_dirs(),
            read_mode: self.read_mode,
            verify: options.verify,
            handles: Arc::clone(&self.handles),
        })
    }

    /// Prefixes the error with the table's name, once.
    pub fn in_context(&self, error: &Error) -> Error {
        in_context(&self.name, error)
    }
}

pub(crate) fn new_keymap(kind: KeymapKind) -> Arc<dyn Keymap> {
    match kind {
        KeymapKind::Memory => Arc::new(MemoryKeymap::new()),
    }
}

impl Table {
    /// Opens an existing table for writing. The caller holds the exclusive lock of every root.
    /// If anything is damaged, missing or foreign, the error names the file and the remedy, and
    /// nothing was destroyed.
    pub fn open(setup: &TableSetup, options: &TableOptions, how: OpenForWriting) -> Result<Self> {
        options.validate().map_err(|e| setup.in_context(&e))?;
        let opened = Self::open_checked(setup, options, how.coalesce);
        opened.map_err(|e| setup.in_context(&e))
    }

    fn open_checked(
        setup: &TableSetup,
        options: &TableOptions,
        coalesce: Duration,
    ) -> Result<Self> {
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
        let context = setup.context(&state, options);
        let shards = options.shards.unwrap_or(setup.dirs.len().clamp(1, 256) as u16);
        let recovery = Recovery {
            context: &context,
            state: &state_file,
            inline_max: options.inline_max_bytes,
            shards,
            now,
        };
        let read = plan.take_key_files();
        let recovered = recovery.apply(plan)?;
        let keymap = new_keymap(options.keymap.unwrap_or_default());
        keymap.raise_watermark(state.watermark);
        let writer = TableWriter {
            newest: Position::default(),
            begun: None,
            opened: now.time,
            segment: recovered.writer,
        };
        let end = writer.log_end();
        let segments: Segments = recovered.segments.into_iter().collect();
        let newest = build_keymap(&env.pool, &keymap, state.hash_seed, &segments, end, read)?;
        let begun = begun(&writer).map(|age| (env.clock.monotonic(), age));
        let side = WriteSide {
            keymap,
            segments: RwLock::new(segments),
            watermark: state_file.get().watermark.0.into(),
            unlink_permission: UnlinkPermission::new(),
            commit: GroupCommit::new(end, coalesce),
            writer: Mutex::new(TableWriter { newest, begun, ..writer }),
            sealing: Default::default(),
            in_flight: Default::default(),
            gc_lock: Default::default(),
            clock: Mutex::new(clock),
            activity: Default::default(),
            filter_approved: Default::default(),
            shutdown_lock: Default::default(),
            counts: Default::default(),
            state: state_file,
        };
        if let Some(segment) = &side.writer.lock().segment {
            side.counts.set(segment.totals());
        }
        let state = side.state.get();
        let table = Self::assemble(setup, options, context, &state, Mode::Write(Box::new(side)));
        table.inner.settings.lock().shards = shards;
        let idle: Weak<Inner> = Arc::downgrade(&table.inner);
        env.budgets.buffers.register_reclaim(idle);
        table.inner.record_time(table.inner.write_side()?)?;
        if recovered.report != RecoveryReport::default() {
            let event = Event::Recovered { table: setup.name.clone(), report: recovered.report };
            setup.listener.emit(&event);
        }
        Ok(table)
    }

    pub(crate) fn assemble(
        setup: &TableSetup,
        options: &TableOptions,
        context: Arc<Context>,
        state: &TableState,
        mode: Mode,
    ) -> Self {
        let ttl = state.ttl_ms.map(Duration::from_millis);
        Self {
            inner: Arc::new(Inner {
                name: setup.name.clone(),
                env: setup.env.clone(),
                context,
                options: options.clone(),
                settings: Mutex::new(Settings { ttl, shards: options.shards.unwrap_or(1) }),
                hash_seed: state.hash_seed,
                created: state.created,
                mode,
                latch: Latch::default(),
                closed: AtomicBool::new(false),
                closing: AtomicBool::new(false),
                listener: setup.listener.clone(),
                filter: setup.filter.clone(),
                counters: Counters::new(&setup.name),
                has_gc_filter: state.has_gc_filter,
            }),
        }
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
/// segment created in the future was created under a wrong clock: its age is the maximum, so that
/// it is sealed and does not stay for ever.
fn begun(writer: &TableWriter) -> Option<Duration> {
    let segment = writer.segment.as_ref().filter(|segment| segment.totals().records > 0)?;
    let created = segment.segment().header().created;
    let is_in_future = created > writer.opened;
    Some(if is_in_future { Duration::MAX } else { writer.opened.since(created) })
}
