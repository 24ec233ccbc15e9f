//! Progress bars and spinners on standard error: only on a terminal, and only after one second.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::{duration, per_second, throughput};

const SHOW_AFTER: Duration = Duration::from_secs(1);

/// A progress bar that counts bytes, or items.
pub(crate) struct Progress {
    label: &'static str,
    counts_bytes: bool,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar that appears after one second and is removed on drop.
    pub(crate) fn new(label: &'static str) -> Self {
        Self { label, counts_bytes: true, started: Instant::now(), bar: None }
    }

    /// As [`new`](Self::new), for a number of items.
    pub(crate) fn counting(label: &'static str) -> Self {
        Self { label, counts_bytes: false, started: Instant::now(), bar: None }
    }

    /// A progress callback for lithdb.
    pub(crate) fn follow(&mut self) -> impl FnMut(lithdb::inspect::Progress) {
        move |progress: lithdb::inspect::Progress| {
            self.set(progress.bytes_done, Some(progress.bytes_total))
        }
    }

    /// Sets the position, and the total if it is known.
    pub(crate) fn set(&mut self, done: u64, total: Option<u64>) {
        let elapsed = self.started.elapsed();
        if elapsed < SHOW_AFTER {
            return;
        }
        let template = match total {
            _ if !self.counts_bytes => "{msg} {human_pos}",
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {rate} {left}",
            None => "{msg} {bytes} {rate}",
        };
        let bar = self.bar.get_or_insert_with(|| bar(self.label, template, total, elapsed));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar for work that began `elapsed` ago. On anything but a terminal it draws nothing.
fn bar(label: &'static str, template: &str, total: Option<u64>, elapsed: Duration) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
        .with_elapsed(elapsed)
        .with_message(label);
    if let Ok(style) = ProgressStyle::with_template(template) {
        // indicatif's own rate starts with the bar: it would count the bytes before that as done
        // at once.
        bar.set_style(style.with_key("rate", show_rate).with_key("left", show_left));
    }
    bar
}

#[expect(clippy::let_underscore_must_use, reason = "the rate is not essential")]
fn show_rate(state: &ProgressState, line: &mut dyn Write) {
    let _ = line.write_str(&throughput(state.pos(), state.elapsed()));
}

#[expect(clippy::let_underscore_must_use, reason = "the time left is not essential")]
fn show_left(state: &ProgressState, line: &mut dyn Write) {
    let left = state.len().unwrap_or_default().saturating_sub(state.pos());
    let secs = left as f64 / per_second(state.pos(), state.elapsed()).max(1.0);
    let _ = write!(line, "{} left", duration(Duration::from_secs(secs.ceil() as u64)));
}

/// Shows that work of unknown length is in progress.
pub(crate) struct Spinner {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// A spinner that appears after one second and is removed on drop.
    pub(crate) fn new(label: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = channel::<()>();
        let body = move || {
            if stopped.recv_timeout(SHOW_AFTER) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let spinner = ProgressBar::new_spinner().with_message(label);
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout)
            {
                spinner.tick();
            }
            spinner.finish_and_clear();
        };
        #[expect(clippy::disallowed_methods, reason = "the work does not need a spinner")]
        let thread = lithdb_env::spawn("lith-spinner", body).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            #[expect(clippy::let_underscore_must_use, reason = "the work does not need a spinner")]
            let _ = thread.join();
        }
    }
}
