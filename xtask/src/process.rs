//! Child processes with a time limit. A timeout or a signal to this program ends a child together
//! with all its descendants.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Result;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Makes signals end the children: they lead process groups of their own and would outlive this
/// program.
pub(crate) fn install_signal_handlers() -> Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED));
        registered.map_err(|e| format!("cannot wait for signal {signal}: {e}"))?;
    }
    Ok(())
}

/// Ends the child if a signal has arrived.
pub(crate) fn end_if_interrupted(child: &mut Child) -> Result<()> {
    if !INTERRUPTED.load(Ordering::Relaxed) {
        return Ok(());
    }
    end(child)?;
    Err("interrupted".to_owned())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Passed,
    /// With a nonzero exit status, or by a signal.
    Failed,
    /// Not within its time limit.
    Hung,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Hung => "timed out",
        })
    }
}

/// Runs the command in a process group of its own, for at most `limit`.
pub(crate) fn wait_at_most(command: &mut Command, limit: Duration) -> Result<Ended> {
    let child = command.process_group(0).spawn();
    let mut child =
        child.map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    let started = Instant::now();
    loop {
        if let Some(status) =
            child.try_wait().map_err(|e| format!("cannot wait for a child: {e}"))?
        {
            return Ok(if status.success() { Ended::Passed } else { Ended::Failed });
        }
        if started.elapsed() > limit {
            end(&mut child)?;
            return Ok(Ended::Hung);
        }
        end_if_interrupted(&mut child)?;
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Ends a child that leads a process group, and its descendants.
pub(crate) fn end(child: &mut Child) -> Result<()> {
    let killed = kill_process_group(Pid::from_child(child), Signal::KILL);
    killed.map_err(|e| format!("cannot end a child: {e}"))?;
    child.wait().map(drop).map_err(|e| format!("cannot wait for a child: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_exits_are_classified() {
        let run = |script: &str, limit: u64| {
            let mut command = Command::new("sh");
            wait_at_most(command.args(["-c", script]), Duration::from_secs(limit)).unwrap()
        };
        assert_eq!(run("exit 0", 60), Ended::Passed);
        assert_eq!(run("exit 3", 60), Ended::Failed);
        assert_eq!(run("kill -9 $$", 60), Ended::Failed);
        assert_eq!(run("sleep 60 & wait", 0), Ended::Hung);
    }
}
