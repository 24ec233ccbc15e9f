//! The tour distinguishes a wrong answer from a file that changed on disk.

use lithdb::{Db, DbOptions, TableOptions};
use lithdb_env::OsFs;

use super::*;

#[test]
fn wrong_answer_is_distinguished_from_a_changed_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(DbOptions::new([dir.path().join("db")])).unwrap();
    let table = db.table("files", TableOptions::new()).unwrap();
    let item = |name: &str, loaded: &[u8], on_disk: Option<&[u8]>| {
        let path = dir.path().join(name);
        if let Some(content) = on_disk {
            lithdb_env::replace_file(&OsFs, &path, content).unwrap();
        }
        Item { path, key: name.to_owned(), digest: Digest::of(loaded) }
    };
    for (key, value) in [("same", "one"), ("changed", "one"), ("gone", "one"), ("wrong", "two")] {
        table.put(key.as_bytes(), value.as_bytes()).unwrap();
    }
    let items = [
        item("same", b"one", Some(b"one")),
        item("changed", b"one", Some(b"three")),
        item("gone", b"one", None),
        item("wrong", b"one", Some(b"one")),
        item("lost", b"one", Some(b"one")),
    ];
    let mut tally = Tally::default();
    tally.compare_all(&items, &table).unwrap();
    assert_eq!(tally.changed, ["changed", "gone"]);
    assert_eq!(tally.wrong.len(), 2, "{:?}", tally.wrong);
    assert!(tally.wrong[0].starts_with("wrong: ") && tally.wrong[1].starts_with("lost: "));
    assert_eq!((tally.compared, tally.bytes), (4, 12));
}
