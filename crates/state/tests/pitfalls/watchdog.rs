//! A limit for tests that, if what they test is broken, would wait for ever.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use lithdb_env::spawn;

/// Far more than the tests take on a busy machine.
const LIMIT: Duration = Duration::from_secs(100);

/// Runs `body` and fails if it does not end.
pub fn must_end(body: impl FnOnce() + Send + 'static) {
    let (ends, ended) = channel();
    let thread = spawn("must end", move || {
        body();
        ends.send(()).unwrap();
    });
    let has_ended = ended.recv_timeout(LIMIT);
    assert_ne!(has_ended, Err(RecvTimeoutError::Timeout), "somebody waits for ever");
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}
