//! Runs a model under many schedules and counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lithdb_sim::{Effort, Tally};
use shuttle::rand::Rng as _;
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler, UrwRandomScheduler,
};
use shuttle::{Config, Runner};

/// Prints the number of schedules, also if the last one failed.
struct Count<'a> {
    tally: &'a mut Tally,
    what: &'static str,
    seen: Arc<AtomicU64>,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.tally.add(self.what, self.seen.load(Ordering::Relaxed));
    }
}

/// Runs `model` under `quick` schedules of each kind, more in a deep run. The name of a test
/// identifies it.
pub(crate) fn search(name: &str, quick: u64, model: impl Fn() + Send + Sync + 'static) {
    let effort = Effort::from_env();
    let (seed, count) = (effort.seed(name), effort.times(quick) as usize);
    let model = Arc::new(model);
    let mut tally = Tally::new(format!("threads: {name}"));
    let mut run = |what: &'static str, scheduler: Box<dyn Scheduler + Send>| {
        let seen = Arc::new(AtomicU64::new(0));
        let count = Count { tally: &mut tally, what, seen: Arc::clone(&seen) };
        let model = Arc::clone(&model);
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(move || {
            seen.fetch_add(1, Ordering::Relaxed);
            model();
        });
        drop(count);
        assert!(tally.get(what) > 0, "no schedule of {what}");
    };
    if let Ok(schedule) = std::env::var("LITHDB_SCHEDULE") {
        return run("schedules again", Box::new(ReplayScheduler::new_from_encoded(&schedule)));
    }
    // The kinds: a random thread at each step; few changes of priority; each interleaving about
    // equally likely.
    run("random schedules", Box::new(RandomScheduler::new_from_seed(seed, count)));
    run("PCT schedules", Box::new(PctScheduler::new_from_seed(seed, 4, count)));
    run("uniform schedules", Box::new(UrwRandomScheduler::new_from_seed(seed, count)));
}

/// A number below `end` that the schedule determines.
pub(crate) fn random_below(end: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..end)
}
