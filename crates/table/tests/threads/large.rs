//! A large value that stalls in flight, while others put, flush, seal and iterate.

use std::sync::Arc;

use crate::harness::{Client, Crash, Harness, go, join_all, options};
use crate::search::search;

#[test]
fn stalled_large_value_blocks_only_acknowledgements() {
    search("a large value stalls beside flushes", 200, || {
        let harness = Harness::new();
        let options = options(100);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::any());
        harness.gate.shut();
        let (large, small, flush, walk) =
            (client.clone(), client.clone(), client.clone(), client.clone());
        let gate = Arc::clone(&harness.gate);
        let threads = [
            go(move || large.put_all(["L-1"])),
            go(move || {
                // Puts and gets do not wait for it: otherwise nobody would open the gate.
                small.put_all(["s-1", "s-2"]);
                gate.open();
            }),
            go(move || {
                flush.flush();
                flush.flush();
            }),
            go(move || walk.walk()),
        ];
        join_all(threads);
        client.walk();
        client.check_crashes(&options);
    });
}

#[test]
fn seal_waits_for_a_stalled_large_value() {
    search("a large value stalls beside a seal", 200, || {
        let harness = Harness::new();
        let options = options(100);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::any());
        harness.gate.shut();
        let (large, small, seal) = (client.clone(), client.clone(), client.clone());
        let gate = Arc::clone(&harness.gate);
        let threads = [
            go(move || large.put_all(["L-1"])),
            go(move || {
                small.put_all(["s-1"]);
                gate.open();
                small.put_all(["s-2"]);
                small.flush();
            }),
            go(move || seal.seal()),
        ];
        join_all(threads);
        client.check_crashes(&options);
    });
}
