//! A real table with corrupt files: opening and reading return the right bytes or an error. After
//! a clean close, no key ever becomes absent.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use lithdb_segment::{HandleCache, ReadMode, TableName};
use lithdb_sim::{SimClock, SimFs, sim_env};
use lithdb_table::{EventListener, OpenForWriting, SecondaryKey, Table, TableOptions, TableSetup};

const KEYS: u8 = 12;

fn setup(fs: &SimFs) -> TableSetup {
    TableSetup {
        name: TableName::new("t").unwrap(),
        env: sim_env(fs, &SimClock::new(1)),
        dirs: vec![PathBuf::from("/a/t"), PathBuf::from("/b/t")],
        read_mode: ReadMode::Map,
        handles: Arc::new(HandleCache::new(8)),
        listener: EventListener::default(),
        filter: None,
        clock_jump_limit: Duration::from_secs(86_400),
        clock_jump_hold: Duration::from_secs(3600),
    }
}

fn options() -> TableOptions {
    TableOptions::new().segment_keys(5).inline_max_bytes(8)
}

fn value(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 3]
}

fn open(fs: &SimFs) -> lithdb_env::Result<Table> {
    Table::open(&setup(fs), &options(), OpenForWriting::default())
}

/// A table that was closed cleanly.
static INTACT: LazyLock<SimFs> = LazyLock::new(|| {
    let fs = SimFs::new();
    fs.make_dirs("/a");
    fs.make_dirs("/b");
    Table::create(&setup(&fs)).unwrap();
    let table = open(&fs).unwrap();
    for n in 0..KEYS {
        let alias = [b'a', n];
        table.put_with(&[b'k', n], &value(n), &[SecondaryKey::whole(&alias)]).unwrap();
        if n % 4 == 0 {
            table.flush().unwrap();
        }
    }
    table.close().unwrap();
    fs.release_locks();
    fs
});

fuzz_target!(|data: &[u8]| {
    let fs = INTACT.fork();
    let paths = fs.file_paths();
    // One place in one file: any number of its bytes, or its end.
    let [file, at @ .., last] = data else { return };
    let path = &paths[usize::from(*file) % paths.len()];
    let mut bytes = fs.read_raw(path);
    let Some((offset, patch)) = at.split_first_chunk::<2>() else { return };
    let offset = usize::from(u16::from_le_bytes(*offset)) % (bytes.len() + 1);
    if patch.is_empty() {
        bytes.truncate(offset);
    } else {
        for (byte, patch) in bytes.iter_mut().skip(offset).zip(patch) {
            *byte ^= patch;
        }
    }
    if *last == 255 {
        fs.remove_raw(path);
    } else {
        fs.write_raw(path, bytes);
    }
    let Ok(table) = open(&fs) else { return };
    for n in 0..KEYS {
        for kind in *b"ka" {
            match table.get(&[kind, n]) {
                Ok(Some(found)) => assert_eq!(&*found, &value(n)[..]),
                Ok(None) => panic!("key {n} has become absent after {} was corrupted", path.display()),
                Err(_) => {}
            }
        }
    }
});
