//! Puts beside flushes.

use crate::search::search;
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
