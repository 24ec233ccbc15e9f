//! A table that is open for reading only, beside a writer in another process.
//!
//! What a reader sees is a view of one moment, at least everything that had been flushed when it was taken;
//! [`Table::refresh`] takes another. The writer changes files while the reader looks, so nothing is concluded from one
//! look: a finding that would be an error is reported when a complete second look repeats it.

use std::sync::Arc;
use std::time::Duration;

use lithdb_env::sync::Mutex;
use lithdb_env::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use lithdb_env::{Error, ErrorKind, Result, exists};
use lithdb_segment::scan::Totals;
use lithdb_segment::{Position, Segment, SegmentId};

use crate::cut::INTENT_FILE;
use crate::fill::Fill;
use crate::inventory::missing;
use crate::open::new_keymap;
use crate::options::TableOptions;
use crate::plan::{Access, Plan};
use crate::state::{TableState, read_state};
use crate::table::{Inner, Mode, Table, TableSetup};

/// How often a reader looks again before it believes that something is wrong.
const LOOKS: usize = 8;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// What only a reader has.
#[derive(Debug)]
pub(crate) struct ReadSide {
    setup: TableSetup,
    /// The end of what is seen. Held while a new view is taken.
    end: Mutex<Position>,
    /// How often a view was begun to be taken, and taken: odd while segments and keymap may not fit together.
    views: AtomicU64,
    /// Whether the keymap may lack older values of keys, because something that was seen is gone and it could not be filled
    /// anew since. Taken with `end`.
    refill: Mutex<bool>,
    /// The newest primary record that is seen, the default if there is none.
    newest: Mutex<Position>,
    /// What the unsealed segment held when the view was taken.
    tail: Mutex<Totals>,
    /// The floor of segment ids when the view was taken: it rises when segments are given up.
    floor: AtomicU32,
}

/// One look at the files.
struct Look {
    state: TableState,
    plan: Plan,
}

fn look(setup: &TableSetup) -> Result<Look> {
    refuse_rollback(setup)?;
    let state = read_state(&*setup.env.fs, &setup.state_path())?.state;
    if state.dropping {
        let message = format!("table {}: it is being dropped", setup.name);
        return Err(Error::new(ErrorKind::Missing, message));
    }
    let plan = Plan::make(&setup.env, &setup.segment_dirs(), &state, Access::Read)?;
    // What was seen while one began may be neither the old state nor the new one.
    refuse_rollback(setup)?;
    Ok(Look { state, plan })
}

/// Refuses a database that is being rolled back by another process, or was by one that is gone.
fn refuse_rollback(setup: &TableSetup) -> Result<()> {
    let root = setup.dirs.first().and_then(|dir| dir.parent());
    let Some(path) = root.map(|root| root.join(INTENT_FILE)) else { return Ok(()) };
    if !exists(&*setup.env.fs, &path).map_err(|e| Error::io("look for", &path, e))? {
        return Ok(());
    }
    let message = format!(
        "{}: a rollback is under way, or was interrupted; if no process is at it, open the database for writing, or `lith rollback --finish`",
        path.display()
    );
    Err(Error::new(ErrorKind::RollbackPending, message))
}

/// Tries `attempt` until it succeeds, or fails in the same way twice with nothing changed in between.
fn until_certain<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut before: Option<Error> = None;
    for _ in 0..LOOKS {
        let error = match attempt() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let repeats = before.as_ref().is_some_and(|before| before.to_string() == error.to_string());
        if repeats && error.kind() != ErrorKind::Missing {
            return Err(error);
        }
        before = Some(error);
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let never = || Error::new(ErrorKind::Io, "the files do not hold still");
    Err(before.unwrap_or_else(never))
}

impl Table {
    /// Opens a table that is there, for reading. The caller holds the shared lock of every root; a writer may be
    /// at work. Nothing is written.
    ///
    /// # Errors
    /// Whatever is not as it must be, named with its file and the remedy.
    pub fn open_read_only(setup: &TableSetup, options: &TableOptions) -> Result<Self> {
        options.validate().map_err(|e| setup.in_context(&e))?;
        until_certain(|| open_once(setup, options)).map_err(|e| setup.in_context(&e))
    }

    /// Takes a new view of the files: sees at least everything that the writer has flushed by now. Values and iterators that
    /// are held stay as they are. A table that is open for writing has nothing to refresh.
    ///
    /// # Errors
    /// As [`open_read_only`](Self::open_read_only); what the old view showed is still found, unless it is gone.
    pub fn refresh(&self) -> Result<()> {
        self.inner.enter()?;
        match &self.inner.mode {
            Mode::Write(_) => Ok(()),
            Mode::Read(side) => until_certain(|| side.refresh_once(&self.inner))
                .map_err(|e| self.inner.in_context(&e)),
        }
    }
}

fn open_once(setup: &TableSetup, options: &TableOptions) -> Result<Table> {
    let Look { state, plan } = look(setup)?;
    let context = setup.context(&state, options);
    let keymap = new_keymap(options.keymap.unwrap_or_default());
    let side = ReadSide {
        setup: setup.clone(),
        end: Mutex::default(),
        views: AtomicU64::default(),
        refill: Mutex::default(),
        newest: Mutex::default(),
        tail: Mutex::default(),
        floor: AtomicU32::default(),
    };
    let table =
        Table::assemble(setup, options, context, &state, keymap, Mode::Read(Box::new(side)));
    if let Mode::Read(side) = &table.inner.mode {
        side.take(&table.inner, &state, plan, &mut side.end.lock())?;
    }
    Ok(table)
}

impl Plan {
    /// Whether a segment that was seen up to `end` is gone or shorter, and not collected.
    fn has_cut(&self, seen: &Segment, watermark: SegmentId, end: Position) -> bool {
        let id = seen.id();
        let seen_end = if id == end.segment { u64::from(end.offset) } else { seen.key_end() };
        let now = self.sealed.iter().find(|found| found.metadata.segment == id);
        let is_whole = match (now, &self.tail) {
            (Some(now), _) => now.metadata.key_end >= seen_end,
            (None, Some(tail)) => {
                tail.header.identity.segment == id && tail.keep.key_end >= seen_end
            }
            (None, None) => false,
        };
        id >= watermark && !is_whole
    }
}

impl ReadSide {
    pub(crate) fn snapshot(&self, inner: &Inner) -> (Vec<Arc<Segment>>, Position) {
        let end = self.end.lock();
        (inner.segments.read().clone(), *end)
    }

    /// Which view is seen. Two equal ones with an answer between them: the answer is that of one view.
    pub(crate) fn view(&self) -> u64 {
        self.views.load(Ordering::Acquire)
    }

    /// Waits while another thread takes a new view.
    pub(crate) fn wait_for_view(&self) {
        drop(self.end.lock());
    }

    pub(crate) fn newest(&self) -> Position {
        let _view = self.end.lock();
        *self.newest.lock()
    }

    pub(crate) fn tail_counts(&self) -> Totals {
        self.tail.lock().clone()
    }

    fn refresh_once(&self, inner: &Inner) -> Result<()> {
        let mut end = self.end.lock();
        let Look { state, plan } = look(&self.setup)?;
        self.refuse_another(inner, &state)?;
        self.take(inner, &state, plan, &mut end)
    }

    /// A table of the same name that was created after this one had been dropped is another table.
    fn refuse_another(&self, inner: &Inner, state: &TableState) -> Result<()> {
        if state.table_id == inner.context.table_id {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Closed,
            "the table was dropped, and another one was created with its name: open that",
        ))
    }

    /// Whether files that are gone, or not what they were, have been collected: raises the watermark if they have. If a
    /// rollback took them, there is nothing left of the view that could be held on to: a new one is taken.
    pub(crate) fn catch_up(&self, inner: &Inner) -> Result<()> {
        let state = read_state(&*self.setup.env.fs, &self.setup.state_path())?.state;
        self.refuse_another(inner, &state)?;
        if state.next_id_floor.0 > self.floor.load(Ordering::Acquire) {
            return until_certain(|| self.refresh_once(inner));
        }
        if state.watermark > inner.watermark() {
            // Another thread may be taking a new view: what was put again since is found when it is there.
            let end = self.end.lock();
            self.raise(inner, state.watermark);
            drop(end);
            return Ok(());
        }
        // Neither says why. A view that was taken while a rollback was at work knows the floor, but not yet what went.
        until_certain(|| self.refresh_if_cut(inner))
    }

    fn refresh_if_cut(&self, inner: &Inner) -> Result<()> {
        let mut end = self.end.lock();
        let Look { state, plan } = look(&self.setup)?;
        self.refuse_another(inner, &state)?;
        let seen = inner.segments.read().clone();
        if seen.iter().any(|segment| plan.has_cut(segment, state.watermark, *end)) {
            return self.take(inner, &state, plan, &mut end);
        }
        Ok(())
    }

    fn raise(&self, inner: &Inner, watermark: SegmentId) {
        inner.watermark.fetch_max(watermark.0, Ordering::AcqRel);
        inner.keymap.raise_watermark(watermark);
        inner.segments.write().retain(|segment| segment.id() >= watermark);
    }

    /// Makes what a look found the view of the table.
    fn take(
        &self,
        inner: &Inner,
        state: &TableState,
        plan: Plan,
        end: &mut Position,
    ) -> Result<()> {
        let seen = inner.segments.read().clone();
        let is_cut = seen.iter().any(|s| plan.has_cut(s, state.watermark, *end));
        let known = |id: SegmentId, revision: u32| {
            let same = |s: &&Arc<Segment>| {
                s.id() == id && s.metadata().is_some_and(|m| m.revision == revision)
            };
            seen.iter().find(same).map(Arc::clone)
        };
        let mut segments = Vec::with_capacity(plan.sealed.len() + 1);
        for found in plan.sealed {
            let (id, revision) = (found.metadata.segment, found.metadata.revision);
            segments.push(known(id, revision).unwrap_or_else(|| {
                let (paths, header) = (found.paths, found.header);
                Arc::new(Segment::sealed(&inner.context, paths, header, found.metadata))
            }));
        }
        let mut new_end = Position::default();
        let tail_totals = plan.tail.as_ref().map(|tail| tail.keep.clone()).unwrap_or_default();
        if let Some(tail) = plan.tail {
            let ends = (tail.keep.key_end, &*tail.keep.value_ends);
            let durable = (tail.promised.key_end, &*tail.promised.value_ends);
            let context = &inner.context;
            let segment = Segment::foreign_tail(
                context,
                tail.paths,
                tail.header,
                ends,
                durable,
                &tail.epochs,
            );
            new_end = Position::new(segment.id(), tail.keep.key_end as u32);
            segments.push(Arc::new(segment));
        }
        if segments.is_empty() && !state.empty {
            return Err(missing(&self.setup.state_path()));
        }
        // The segments first: a position that the keymap gets below must be one that can be read, and those that it has
        // stay good: what has been collected, too, until the keymap knows where its keys were put again. If the writer has
        // given up some of what was seen, the keymap names places behind the end; readers pass over them (see `find`).
        let is_collected = |segment: &&Arc<Segment>| !is_cut && segment.id() < state.watermark;
        let collected = seen.iter().filter(is_collected).map(Arc::clone);
        let mut refill = self.refill.lock();
        *refill |= is_cut;
        self.views.fetch_add(1, Ordering::AcqRel);
        *inner.segments.write() = collected.chain(segments.iter().map(Arc::clone)).collect();
        // If something that was seen is gone, older values of its keys show again: all keys are put in anew. What the
        // keymap has of the lost ones stays, and readers pass over it, too.
        let from = if *refill { Position::default() } else { (*end).min(new_end) };
        let fill = Fill {
            keymap: &inner.keymap,
            hash_seed: inner.hash_seed,
            segments: &segments,
            from,
            end: new_end,
        };
        let filled = fill.run(&inner.env.pool);
        self.views.fetch_add(1, Ordering::AcqRel);
        let newest = filled?;
        let is_new = !is_cut && !*refill;
        let mut seen = self.newest.lock();
        *seen = if is_new { newest.max(*seen) } else { newest };
        drop(seen);
        *refill = false;
        *end = new_end;
        *self.tail.lock() = tail_totals;
        self.floor.store(state.next_id_floor.0, Ordering::Release);
        self.raise(inner, state.watermark);
        Ok(())
    }
}
