//! Threads: named threads for long-running work, and a small pool for syncs and seals.
//!
//! A pool of zero threads runs every task synchronously in the caller. A simulated file system
//! uses that to get the same order of operations in every run.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

type Task = Box<dyn FnOnce() + Send>;

/// Limit on threads for memory-bound work: more do not help.
const MAX_PARALLEL: usize = 8;

/// Starts a named thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    #[allow(clippy::disallowed_methods)] // threads are started here alone
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// A few threads that run short blocking tasks in the order of submission.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    closed: bool,
    threads: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.shared.queue.lock().threads).finish()
    }
}

impl Pool {
    /// A pool with `threads` threads. With 0, tasks run in the caller.
    pub fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.queue.lock().threads = threads;
        let pool = Self { shared, workers: Mutex::new(Vec::new()) };
        for n in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = spawn(&format!("lithdb-io-{n}"), move || shared.work())?;
            pool.workers.lock().push(worker);
        }
        Ok(pool)
    }

    /// Runs `task` on a thread of the pool, or at once if the pool has none.
    pub fn submit(&self, task: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if queue.threads == 0 || queue.closed {
            drop(queue);
            task();
            return;
        }
        queue.tasks.push_back(Box::new(task));
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Runs all `tasks` concurrently, on the caller's thread too, and waits for all of them.
    /// Returns the first error in task order. A task that panics counts as failed. The caller runs
    /// tasks that no thread has started, so a pool busy with long work delays nothing, and a pool
    /// task may call this without waiting for itself.
    pub fn run_all<T>(&self, tasks: Vec<T>) -> Result<()>
    where
        T: FnOnce() -> Result<()> + Send + 'static,
    {
        let helpers = tasks.len().saturating_sub(1);
        let round = Arc::new(TaskGroup::new(tasks));
        for _ in 0..helpers {
            let round = Arc::clone(&round);
            self.submit(move || {
                round.run_next();
            });
        }
        while round.run_next() {}
        round.wait()
    }

    /// Runs `work` on several threads, the caller's included, and waits for them. Each iterator
    /// yields numbers below `count`, every number to exactly one thread.
    pub fn parallel_for<W>(&self, count: usize, work: W) -> Result<()>
    where
        W: Fn(&mut dyn Iterator<Item = usize>) -> Result<()> + Send + Sync + 'static,
    {
        let threads = self.shared.queue.lock().threads + 1;
        let shared = Arc::new((work, AtomicUsize::new(0)));
        let worker_task = || {
            let shared = Arc::clone(&shared);
            move || {
                let (work, next) = &*shared;
                let numbers = iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                work(&mut numbers.take_while(|number| *number < count))
            }
        };
        self.run_all((0..threads.min(MAX_PARALLEL).min(count)).map(|_| worker_task()).collect())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
        let this = thread::current().id();
        for worker in self.workers.lock().drain(..) {
            // The last handle of a database may be dropped by a task of its own pool.
            if worker.thread().id() != this {
                #[expect(clippy::let_underscore_must_use, reason = "a worker catches all panics")]
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                drop(queue);
                #[expect(clippy::let_underscore_must_use, reason = "`catch_panic` reports it")]
                let _ = catch_unwind(AssertUnwindSafe(task));
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                self.wake.wait(&mut queue);
            }
        }
    }
}

fn catch_panic(task: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(task)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        // How much the task has done is unknown.
        Err(Error::new(ErrorKind::Io, format!("a background task panicked: {what}")).latching())
    })
}

/// Tasks of one `run_all` call, each run by whichever thread is free, and their first error.
struct TaskGroup<T> {
    state: Mutex<TaskGroupState<T>>,
    done: Condvar,
}

struct TaskGroupState<T> {
    waiting: std::iter::Enumerate<std::vec::IntoIter<T>>,
    unfinished: usize,
    first_error: Option<(usize, Error)>,
}

impl<T: FnOnce() -> Result<()>> TaskGroup<T> {
    fn new(tasks: Vec<T>) -> Self {
        let unfinished = tasks.len();
        let waiting = tasks.into_iter().enumerate();
        let state = TaskGroupState { waiting, unfinished, first_error: None };
        Self { state: Mutex::new(state), done: Condvar::new() }
    }

    /// Runs one task that has not been started; returns `false` if there is none.
    fn run_next(&self) -> bool {
        let next = self.state.lock().waiting.next();
        let Some((n, task)) = next else { return false };
        let result = catch_panic(task);
        let mut state = self.state.lock();
        if let Err(error) = result
            && state.first_error.as_ref().is_none_or(|(first, _)| n < *first)
        {
            state.first_error = Some((n, error));
        }
        state.unfinished -= 1;
        self.done.notify_all();
        true
    }

    fn wait(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.unfinished > 0 {
            self.done.wait(&mut state);
        }
        state.first_error.take().map_or(Ok(()), |(_, error)| Err(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn round(pool: &Pool) -> (Result<()>, usize) {
        let ran = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let ran = Arc::clone(&ran);
                move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                    match n {
                        2 => Err(Error::new(ErrorKind::Io, "two failed")),
                        3 => panic!("three panicked"),
                        _ => Ok(()),
                    }
                }
            })
            .collect();
        let result = pool.run_all(tasks);
        (result, ran.load(Ordering::SeqCst))
    }

    #[test]
    fn every_task_runs_and_the_first_error_is_returned() {
        for threads in [0, 1, 3] {
            let (result, ran) = round(&Pool::new(threads).unwrap());
            assert_eq!(ran, 5);
            assert!(result.unwrap_err().to_string().contains("two failed"));
        }
    }

    #[test]
    fn task_panic_is_an_error_and_the_pool_survives() {
        let pool = Pool::new(1).unwrap();
        let boom: fn() -> Result<()> = || panic!("boom");
        assert!(pool.run_all(vec![boom, boom]).unwrap_err().to_string().contains("boom"));
        let fine: fn() -> Result<()> = || Ok(());
        assert!(pool.run_all(vec![fine, fine]).is_ok());
    }

    #[test]
    fn pool_task_may_wait_for_a_nested_task_group() {
        let pool = Arc::new(Pool::new(1).unwrap());
        let outer: Vec<_> = (0..3)
            .map(|_| {
                let pool = Arc::clone(&pool);
                move || {
                    let fine: fn() -> Result<()> = || Ok(());
                    pool.run_all(vec![fine; 4])
                }
            })
            .collect();
        assert!(pool.run_all(outer).is_ok());
    }

    #[test]
    fn closing_a_pool_runs_all_submitted_tasks() {
        let ran = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(1).unwrap();
        for _ in 0..100 {
            let ran = Arc::clone(&ran);
            pool.submit(move || {
                ran.fetch_add(1, Ordering::SeqCst);
            });
        }
        drop(pool);
        assert_eq!(ran.load(Ordering::SeqCst), 100);
    }
}
