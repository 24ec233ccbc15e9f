//! Puts beside flushes.

use crate::harness::{Client, Crash, Harness, go, join_all, options};
use crate::search::{random_below, search};

#[test]
fn flush_captures_are_durable_and_puts_are_readable() {
    search("two putters and a flusher", 250, || {
        let harness = Harness::new();
        let options = options(4);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::any());
        let (a, b, f) = (client.clone(), client.clone(), client.clone());
        let other = client.clone();
        let threads = [
            go(move || a.put_all(["a-1", "a-2", "a-3"])),
            go(move || {
                b.put_all(["b-1", "b-2"]);
                b.flush();
            }),
            go(move || {
                f.flush();
                f.flush();
            }),
            go(move || {
                for key in other.returned().keys() {
                    other.assert_present(key);
                }
                other.walk();
            }),
        ];
        join_all(threads);
        client.walk();
        client.check_crashes(&options);
    });
}

/// A crash in the next flush may leave the mark, and any part of what precedes it.
#[test]
fn mark_covers_its_flush_and_not_later_puts() {
    search("a mark beside puts", 250, || {
        let harness = Harness::new();
        let options = options(100);
        let table = harness.create_and_open(&options);
        let client = Client::new(&harness, table, Crash::AtTheEnd);
        client.put_all(["z-0"]);
        client.flush();
        // The first flush makes four changes; the crash is in the second one, or right after it.
        harness.fs.crash_after(4 + random_below(5));
        let (a, b) = (client.clone(), client.clone());
        let threads = [
            go(move || {
                a.put_all(["a-1"]);
                a.flush();
                a.put_all(["a-2"]);
                a.flush();
            }),
            go(move || b.put_all(["b-1", "b-2", "b-3"])),
        ];
        join_all(threads);
        client.check_crashes(&options);
    });
}
