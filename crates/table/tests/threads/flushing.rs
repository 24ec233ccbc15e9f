//! Puts beside flushes.

use crate::search::{any, search};
use crate::world::{Client, Crash, World, go, join_all, options};

#[test]
fn what_a_returned_flush_captured_is_durable_and_what_a_put_returned_is_read() {
    search("two putters and a flusher", 250, || {
        let world = World::new();
        let options = options(4);
        let client = Client::new(&world, world.create_and_open(&options), Crash::any());
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
                    other.must_have(key);
                }
                other.walk();
            }),
        ];
        join_all(threads);
        client.walk();
        client.check_crashes(&options);
    });
}

/// A crash in the next flush may leave the mark, and of what came before it whatever it likes.
#[test]
fn a_mark_promises_what_its_flush_captured_and_not_what_was_put_meanwhile() {
    search("a mark beside puts", 250, || {
        let world = World::new();
        let options = options(100);
        let table = world.create_and_open(&options);
        let client = Client::new(&world, table, Crash::AtTheEnd);
        client.put_all(["z-0"]);
        client.flush();
        // Four changes are the first flush; the crash is in the second one, or right after it.
        world.fs.crash_after(4 + any(5));
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
