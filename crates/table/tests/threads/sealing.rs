//! Segments that are sealed, by a roll-over and by a call, beside puts and reads.

use crate::harness::{Client, Crash, Harness, go, join_all, options};
use crate::search::search;

#[test]
fn no_key_is_lost_or_seen_twice_while_segments_end() {
    search("seals beside puts and reads", 200, || {
        let harness = Harness::new();
        let options = options(2);
        let client = Client::new(&harness, harness.create_and_open(&options), Crash::any());
        let (a, b, seal, read) = (client.clone(), client.clone(), client.clone(), client.clone());
        let threads = [
            go(move || a.put_all(["a-1", "a-2", "a-3"])),
            go(move || {
                b.put_all(["b-1", "b-2"]);
                b.flush();
            }),
            go(move || {
                seal.seal();
                seal.seal();
            }),
            go(move || {
                for _ in 0..2 {
                    for key in read.returned().keys() {
                        read.assert_present(key);
                    }
                    read.walk();
                }
            }),
        ];
        join_all(threads);
        client.walk();
        client.check_crashes(&options);
    });
}
