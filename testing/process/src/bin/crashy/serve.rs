//! Executes orders, one per line of standard input, and reports the results.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;

use lithdb::{Components, Db, DbOptions, Result, Table, TableOptions};

/// Orders: `table NAME`, `put NAME KEY`, `seal NAME`, `flush NAME`, `get NAME KEY`, `drop NAME`.
/// Answers: `ok`, or `refused KIND` (followed by `latched` if the table is latched) and the
/// message.
pub(crate) fn serve(roots: &[PathBuf]) {
    let components = Components { without_maintenance: true, ..Components::default() };
    let db = Db::open_with(DbOptions::new(roots), components).expect("open");
    let mut tables = BTreeMap::new();
    println!("open");
    for order in std::io::stdin().lock().lines() {
        let order = order.expect("an order");
        let mut words = order.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (verb, name, key) = (word(), word(), word());
        match act(&db, &mut tables, &verb, &name, &key) {
            Ok(()) => println!("ok"),
            Err(error) => {
                let has_failed = tables.get(&name).is_some_and(|table| table.failure().is_some());
                let latched = if has_failed { " latched" } else { "" };
                println!("refused {:?}{latched}: {error}", error.kind());
            }
        }
    }
    db.close().expect("close");
}

fn act(
    db: &Db,
    tables: &mut BTreeMap<String, Table>,
    verb: &str,
    name: &str,
    key: &str,
) -> Result<()> {
    match verb {
        "table" => {
            let table = db.table(name, TableOptions::new().shards(1))?;
            tables.insert(name.to_owned(), table);
            return Ok(());
        }
        "drop" => {
            tables.remove(name);
            return db.drop_table(name);
        }
        _ => {}
    }
    let table = tables.get(name).expect("a table that was opened");
    match verb {
        "put" => table.put(key.as_bytes(), value_of(key)).map(drop),
        "seal" => table.seal(),
        "flush" => table.flush(),
        "get" => {
            let found = table.get(key.as_bytes())?;
            assert_eq!(found.as_deref(), Some(&value_of(key)[..]), "{name}: {key}");
            Ok(())
        }
        other => panic!("unknown order {other:?}"),
    }
}

/// Too long to be inline.
fn value_of(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(3000).collect()
}
