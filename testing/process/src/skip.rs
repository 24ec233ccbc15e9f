//! Tests that need something of the machine.

use std::io::Write;

/// Says loudly, past the test harness's capture, that a test cannot run here and why. With the environment variable
/// `required` set to 1 it fails instead: where the tools are known to be there, a test must not silently pass.
///
/// # Panics
/// If the test is required.
pub fn skip_or_fail(test: &str, why: &str, required: &str) {
    let is_required = std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!is_required, "{test} cannot run, and {required}=1 says that it must: {why}");
    let line = format!("\n*** SKIPPED: {test}: {why} ({required}=1 makes this a failure) ***\n");
    #[expect(clippy::let_underscore_must_use, reason = "who closed it does not want to know")]
    let _ = std::io::stderr().write_all(line.as_bytes());
}
