//! The inputs of opening a table besides its options: its directories and its components.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lithdb_env::{Env, Error};
use lithdb_segment::{
    Context, HandleCache, Leftovers, ReadMode, SEGMENTS_DIR, STATE_FILE, TableName,
};

use crate::event::EventListener;
use crate::gc::clock::TableClock;
use crate::gc::filter::GcFilter;
use crate::options::TableOptions;
use crate::state::TableState;

/// The inputs of opening a table besides its options.
#[derive(Debug, Clone)]
pub struct TableSetup {
    /// The table's name.
    pub name: TableName,
    /// Disk, clock and threads.
    pub env: Env,
    /// The table's directory on every root, in the order of the roots.
    pub dirs: Vec<PathBuf>,
    /// How files are read.
    pub read_mode: ReadMode,
    /// The limit on open files, shared by all tables.
    pub handles: Arc<HandleCache>,
    /// Receives the table's events.
    pub listener: EventListener,
    /// What may be collected, besides the TTL.
    pub filter: Option<GcFilter>,
    /// How far the wall clock may be ahead after downtime and still be trusted.
    pub clock_jump_limit: Duration,
    /// How long it must then run steadily to be followed again.
    pub clock_jump_hold: Duration,
}

impl TableSetup {
    /// A setup for reading the files of a table below these roots without serving it.
    pub fn for_files(name: TableName, env: &Env, roots: &[PathBuf]) -> Self {
        Self {
            dirs: roots.iter().map(|root| root.join(name.as_str())).collect(),
            name,
            env: env.clone(),
            read_mode: ReadMode::default(),
            handles: Arc::new(HandleCache::new(64)),
            listener: EventListener::default(),
            filter: None,
            clock_jump_limit: Duration::from_secs(24 * 3600),
            clock_jump_hold: Duration::MAX,
        }
    }

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
            leftovers: Leftovers::default(),
        })
    }

    /// Prefixes the error with the table's name, once.
    pub fn in_context(&self, error: &Error) -> Error {
        let context = format!("table {}", self.name);
        let rest = error.message().strip_prefix(&context);
        if rest.is_some_and(|rest| rest.starts_with(": ")) {
            return error.clone();
        }
        error.context(context)
    }
}
