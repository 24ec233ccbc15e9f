//! A failed sync in one thread, beside others that flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lithdb_sim::{Fault, Pages};
use lithdb_table::Table;

use crate::harness::{Client, Crash, Harness, go, join_all, options};
use crate::search::{random_below, search};

#[test]
fn after_a_failed_sync_nobody_acknowledges() {
    search("a failed sync beside flushes", 300, || {
        let harness = Harness::new();
        let options = options(3);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::AtTheEnd);
        // Known only to this test, not to the model checker: set when a call has failed.
        let failed = Arc::new(AtomicBool::new(false));
        let pages = [Pages::Lost, Pages::PartlyLost, Pages::ReadableAndClean, Pages::Unwritable]
            [random_below(4) as usize];
        harness.fs.fail_op(1 + random_below(30), Fault::FailedSync { pages }, false);
        let flush = |client: &Client, failed: &AtomicBool| {
            let had_failed = failed.load(Ordering::SeqCst);
            match client.acknowledge(Table::flush) {
                Ok(()) => assert!(!had_failed, "a flush acknowledged after a failed sync"),
                Err(_) => failed.store(true, Ordering::SeqCst),
            }
        };
        let mut threads = Vec::new();
        for keys in [["a-1", "a-2"], ["b-1", "b-2"]] {
            let (client, failed) = (client.clone(), Arc::clone(&failed));
            threads.push(go(move || {
                for key in keys {
                    let had_failed = failed.load(Ordering::SeqCst);
                    let stored = client.put(key);
                    assert!(!(had_failed && stored), "a put after a failed sync");
                    flush(&client, &failed);
                }
            }));
        }
        join_all(threads);
        client.assert_acknowledged_present();
        assert_eq!(client.table.failure().is_some(), failed.load(Ordering::SeqCst));
        client.check_crashes(&options);
    });
}
