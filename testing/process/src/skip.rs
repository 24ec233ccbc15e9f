//! Tests that depend on tools or permissions of the machine.

use std::io::Write;

/// Reports, bypassing the test harness's output capture, that a test cannot run here and why.
/// Fails instead if the environment variable `required` is 1: where the tools are known to exist,
/// a test must not pass silently.
///
/// # Panics
/// If the test is required.
pub fn skip_or_fail(test: &str, why: &str, required: &str) {
    let is_required = std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!is_required, "{test} cannot run, and {required}=1 says that it must: {why}");
    let line = format!("\n*** SKIPPED: {test}: {why} ({required}=1 makes this a failure) ***\n");
    #[expect(clippy::let_underscore_must_use, reason = "nobody reads a closed stderr")]
    let _ = std::io::stderr().write_all(line.as_bytes());
}
