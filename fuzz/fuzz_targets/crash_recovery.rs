//! Puts, batches, flushes, seals, openings, failures and crashes chosen by the fuzzer, checked
//! against a model: everything acknowledged exists, what survives is a prefix of what was put, in
//! complete batches, and nothing else exists.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use lithdb::{Batch, Components, Db, DbOptions, Table, TableOptions};
use lithdb_sim::{BytesChoice, Choice, Fault, Pages, SimClock, SimFs, sim_env};

/// One batch: keys and values, in order.
type Puts = Vec<(Vec<u8>, Vec<u8>)>;

/// The batches put, and how many of them are known to be durable.
#[derive(Default)]
struct Model {
    batches: Vec<Puts>,
    acknowledged: usize,
}

impl Model {
    /// Checks that the table holds a prefix of the batches, at least the acknowledged ones;
    /// returns their number.
    fn check(&self, table: &Table) -> usize {
        let mut found = table.iter().unwrap().map(Result::unwrap);
        let mut whole = 0;
        'batches: for batch in &self.batches {
            for (n, (key, value)) in batch.iter().enumerate() {
                let Some(entry) = found.next() else {
                    assert_eq!(n, 0, "a batch is torn");
                    break 'batches;
                };
                assert_eq!((entry.key(), &*entry.value().unwrap()), (&key[..], &value[..]));
            }
            whole += 1;
        }
        assert!(found.next().is_none(), "a record that was never put");
        assert!(whole >= self.acknowledged, "{whole} of {} batches", self.acknowledged);
        let mut newest = BTreeMap::new();
        for (n, batch) in self.batches.iter().enumerate() {
            for (key, value) in batch {
                let value = (n < whole).then_some(value);
                if value.is_some() || !newest.contains_key(key) {
                    newest.insert(key, value);
                }
            }
        }
        for (key, value) in newest {
            assert_eq!(table.get(key).unwrap().as_deref(), value.map(|value| &value[..]));
        }
        whole
    }
}

fn open(fs: &SimFs) -> lithdb::Result<(Db, Table)> {
    let env = Some(sim_env(fs, &SimClock::new(1)));
    let components = Components { env, without_maintenance: true, ..Components::default() };
    let db = Db::open_with(DbOptions::new(["/a", "/b"]), components)?;
    let table = db.table("t", TableOptions::new().segment_keys(6).inline_max_bytes(8))?;
    Ok((db, table))
}

fn batch(choice: &mut dyn Choice) -> Puts {
    let len = if choice.choose(3) == 0 { 1 + choice.choose(4) } else { 1 };
    (0..len as u8)
        .map(|n| {
            let key = vec![b'k', choice.choose(20) as u8, n];
            (key, vec![choice.choose(256) as u8; choice.choose(24)])
        })
        .collect()
}

const FAULTS: [Fault; 6] = [
    Fault::Eio,
    Fault::NoSpace,
    Fault::ShortWrite,
    Fault::FailedSync { pages: Pages::Lost },
    Fault::FailedSync { pages: Pages::ReadableAndClean },
    Fault::FailedSync { pages: Pages::PartlyLost },
];

fuzz_target!(|data: &[u8]| {
    let mut choice = BytesChoice::new(data);
    let mut fs = SimFs::new();
    fs.make_dirs("/a");
    fs.make_dirs("/b");
    let mut model = Model::default();
    for _life in 0..1 + choice.choose(4) {
        if let Ok((db, table)) = open(&fs) {
            let whole = model.check(&table);
            model.batches.truncate(whole);
            model.acknowledged = whole;
            match choice.choose(4) {
                0 => fs.crash_after(choice.choose(120) as u64),
                1 => {
                    let at = 1 + choice.choose(60) as u64;
                    fs.fail_op(at, FAULTS[choice.choose(FAULTS.len())], choice.choose(2) == 1);
                }
                _ => {}
            }
            for _ in 0..choice.choose(30) {
                match choice.choose(8) {
                    0 if table.flush().is_ok() => model.acknowledged = model.batches.len(),
                    1 => drop(table.seal()),
                    _ => {
                        let puts = batch(&mut choice);
                        let mut batch = Batch::new();
                        for (key, value) in &puts {
                            batch.put(&key[..], &value[..]);
                        }
                        match table.put_batch(&batch) {
                            Ok(_) => model.batches.push(puts),
                            // It may still be in the log, and is then the last batch.
                            Err(_) if table.failure().is_some() || fs.is_dead() => {
                                model.batches.push(puts);
                                break;
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
            if choice.choose(3) == 0 && db.close().is_ok() {
                model.acknowledged = model.batches.len();
            }
        } else {
            panic!("the database does not open after a crash");
        }
        fs = fs.crash(&mut choice);
    }
    let (_db, table) = open(&fs).unwrap();
    model.check(&table);
});
