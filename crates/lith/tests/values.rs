//! put, get, scan, ls, info: what goes in comes out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::json;
use support::{Bench, Run, bare, lith, read, run};

#[test]
fn put_creates_only_what_it_was_asked_to() {
    let bench = Bench::new();
    let refused = bench.lith_with(&["put", "t", "k"], b"v").failed();
    assert!(refused.contains("missing") && refused.contains("does not exist"), "{refused}");
    assert!(bench.lith_with(&["put", "t", "k", "--create"], b"v").ok().contains("  k\n"));
    // The database is there now; tables come with the first value.
    bench.lith_with(&["put", "other", "k"], b"w").ok();
    assert_eq!(bench.lith(&["ls"]).ok(), "other\nt\n");
    assert_eq!(bench.lith(&["ls", "--json"]).json(), json!({ "tables": ["other", "t"] }));
}

#[test]
fn get_gives_the_bytes_that_put_took_from_input_or_a_file() {
    let bench = Bench::new();
    let binary: Vec<u8> = (0..100_000u32).map(|i| (i % 253) as u8).collect();
    let file = bench.write("value", &binary);
    let put = bench.lith(&["put", "t", "from-file", file.to_str().unwrap(), "--create", "--json"]);
    let put = put.json();
    assert_eq!((&put["bytes"], &put["table"]), (&json!(100_000), &json!("t")));
    assert!(put["position"].as_str().unwrap().starts_with("1:"), "{put}");
    bench.lith_with(&["put", "t", "from-input", "-"], &binary).ok();
    bench.lith_with(&["put", "t", "empty"], b"").ok();
    for key in ["from-file", "from-input"] {
        assert_eq!(bench.lith(&["get", "t", key]).output.stdout, binary);
    }
    assert_eq!(bench.lith(&["get", "t", "empty"]).ok(), "");
    let out = bench.path("out");
    let args = ["get", "t", "from-file", "--output", out.to_str().unwrap()];
    assert_eq!(bench.lith(&args).ok(), "");
    assert_eq!(read(&out), binary);
    // Once more, over what is there.
    bench.lith(&["get", "t", "empty", "-o", out.to_str().unwrap()]).ok();
    assert_eq!(read(&out), b"");
}

#[test]
fn get_answers_a_program_in_json() {
    let bench =
        Bench::with(&[("text", b"two\nlines"), ("binary", b"\xff\x00"), ("tricky", b"0x00")]);
    let value = |key: &str| bench.lith(&["get", "t", key, "--json"]).json();
    let expected = json!({ "table": "t", "key": "text", "bytes": 9, "value": "two\nlines" });
    assert_eq!(value("text"), expected);
    assert_eq!(value("binary")["value"], "0xff00");
    assert_eq!(value("tricky")["value"], "0x30783030");
    let out = bench.path("out");
    let answer = bench.lith(&["get", "t", "text", "--json", "-o", out.to_str().unwrap()]).json();
    assert_eq!(answer["output"], out.to_str().unwrap());
    assert_eq!(read(&out), b"two\nlines");
}

#[test]
fn absent_key_has_a_status_of_its_own_and_leaves_no_file() {
    let bench = Bench::with(&[("k", b"v")]);
    let out = bench.path("out");
    let said = bench.lith(&["get", "t", "0x00ff", "-o", out.to_str().unwrap()]).no_such_key();
    assert_eq!(said, "lith: not found: key 0x00ff in table t\n");
    assert!(lithdb::env::Fs::metadata(&lithdb::env::OsFs, &out).is_err());
    let told = bench.lith(&["get", "t", "absent", "--json"]).failed_in_json(3);
    assert_eq!(told["kind"], "no such key");
    let said = bench.lith(&["get", "nothing", "k"]).failed();
    assert!(said.contains("table nothing"), "{said}");
}

#[test]
fn failures_are_json_where_answers_are() {
    let bench = Bench::with(&[("k", b"v")]);
    let told = bench.lith(&["get", "nothing", "k", "--json"]).failed_in_json(1);
    assert_eq!(told["kind"], "missing");
    assert!(told["message"].as_str().unwrap().contains("table nothing"), "{told}");
    // A line that makes no sense, too, wherever it asks.
    for args in [&["--json", "get", "t"][..], &["scam", "--json"], &["get", "t", "0xz", "--json"]] {
        assert_eq!(bench.lith(args).failed_in_json(2)["kind"], "usage", "{args:?}");
    }
    let mut command = lith();
    command.arg("--db").arg(bench.db()).args(["get", "t", "--", "--json"]);
    assert!(run(command, b"").no_such_key().starts_with("lith: not found: key --json"));
    let damaged = bench.db().join("t/segments/1.keys");
    support::flip(&damaged, 10);
    let told = bench.lith(&["info", "--json"]).failed_in_json(1);
    assert_eq!(told["kind"], "corrupt");
    assert!(told["message"].as_str().unwrap().contains("1.keys"), "{told}");
}

#[test]
fn ids_are_strings_and_positions_have_one_form() {
    let bench = Bench::with(&[("k", b"v"), ("l", b"w")]);
    bench.prepare(|db| db.existing_table("t").unwrap().seal().unwrap());
    let lines = bench.lith(&["dump", "t", "--json"]).json_lines();
    let header = lines.iter().find(|line| line["line"] == "key_header").unwrap();
    for id in ["table_id", "salt"] {
        assert!(header[id].as_str().unwrap().parse::<u64>().is_ok(), "{id}: {header}");
    }
    let scanned = bench.lith(&["scan", "t", "--json"]).json_lines();
    let to = ["rollback", "--through-key", "k", "--dry-run", "--json"];
    let plan = bench.lith(&to).json();
    assert!(plan["plan"]["database_id"].is_string(), "{plan}");
    assert_eq!(plan["plan"]["tables"][0]["boundary"]["position"], scanned[0]["position"]);
}

#[test]
fn keys_in_hex_and_as_text_are_the_same_keys() {
    let bench = Bench::with(&[]);
    bench.lith_with(&["put", "t", "0x6b6579"], b"v").ok();
    assert_eq!(bench.lith(&["get", "t", "key"]).ok(), "v");
    bench.lith_with(&["put", "t", "0x00ff"], b"w").ok();
    let keys = bench.lith(&["scan", "t", "--json"]).json_lines();
    assert_eq!((&keys[0]["key"], &keys[1]["key"]), (&json!("key"), &json!("0x00ff")));
    for (bad, why) in [("0xabc", "even number"), ("0xzz", "hex digits"), ("", "1 to 65535")] {
        let said = bench.lith(&["get", "t", bad]).usage();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_key_put_twice_has_the_newer_value_and_both_records() {
    let bench = Bench::with(&[("k", b"old"), ("other", b""), ("k", b"new")]);
    assert_eq!(bench.lith(&["get", "t", "k"]).ok(), "new");
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 3);
}

fn keys(bench: &Bench, args: &[&str]) -> Vec<String> {
    let lines = bench.lith(&[&["scan", "t", "--json"], args].concat()).json_lines();
    lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn scan_goes_either_way_from_anywhere_up_to_a_limit() {
    let bench = Bench::with(&[("d", b"1"), ("a", b"2"), ("c", b"3"), ("a", b"4"), ("b", b"5")]);
    assert_eq!(keys(&bench, &[]), ["d", "a", "c", "a", "b"]);
    assert_eq!(keys(&bench, &["--rev"]), ["b", "a", "c", "a", "d"]);
    assert_eq!(keys(&bench, &["--limit", "2"]), ["d", "a"]);
    assert_eq!(keys(&bench, &["--limit", "0"]), [""; 0]);
    assert_eq!(keys(&bench, &["--from", "c"]), ["c", "a", "b"]);
    // From the newest record of a key.
    assert_eq!(keys(&bench, &["--from", "a"]), ["a", "b"]);
    assert_eq!(keys(&bench, &["--from", "a", "--rev"]), ["a", "c", "a", "d"]);
    assert_eq!(keys(&bench, &["--from", "a", "--rev", "--limit", "2"]), ["a", "c"]);
    for rev in [&["--rev"][..], &[]] {
        let said = bench.lith(&[&["scan", "t", "--from", "nowhere"], rev].concat()).no_such_key();
        assert!(said.contains("nowhere"), "{said}");
    }
}

#[test]
fn scan_shows_values_and_tells_aliases() {
    let bench = Bench::with(&[]);
    let long = "x".repeat(1000);
    bench.prepare(|db| {
        let table = db.existing_table("t").unwrap();
        let alias = [lithdb::SecondaryKey::range(b"part", 1..3)];
        table.put_with(b"whole", b"abcd", &alias).unwrap();
        table.put(b"long", long.as_bytes()).unwrap();
        table.put(b"lines", b"1\n2").unwrap();
    });
    let text = bench.lith(&["scan", "t", "--values"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].ends_with("4 B  whole = abcd"), "{text}");
    assert!(lines[1].ends_with("2 B ~part = bc"), "{text}");
    assert!(lines[2].ends_with('…') && lines[2].len() < 300, "{text}");
    assert!(lines[3].ends_with("lines = 1\\n2"), "{text}");
    let records = bench.lith(&["scan", "t", "--values", "--json"]).json_lines();
    assert_eq!(records[1]["primary"], false);
    assert_eq!(records[2]["value"], long);
    assert_eq!(records[3]["value"], "1\n2");
}

#[test]
fn output_that_nobody_reads_any_more_ends_quietly() {
    let bench = Bench::with(&[]);
    bench.prepare(|db| {
        let table = db.existing_table("t").unwrap();
        let value = vec![b'v'; 100];
        for n in 0..20_000u32 {
            table.put(format!("key-{n:06}").as_bytes(), &value).unwrap();
        }
    });
    let mut command = lith();
    command.args(["scan", "t", "--values", "--db"]).arg(bench.db());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    let mut reader = BufReader::with_capacity(64, child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    drop(reader);
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(first.contains("key-000000"), "{first}");
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn info_describes_one_table_or_all() {
    let bench = Bench::with(&[("first", b"1"), ("0xlast", b"2")]);
    bench.lith_with(&["put", "u", "k"], b"v").ok();
    let info = bench.lith(&["info", "t", "--json"]).json();
    let table = &info["tables"][0];
    assert_eq!(
        (&table["keys"], &table["values"], &table["segments"], &table["ttl_seconds"]),
        (&json!(2), &json!(2), &json!(1), &json!(null))
    );
    assert_eq!(
        (&table["oldest_key"], &table["newest_key"]),
        (&json!("first"), &json!("0x30786c617374"))
    );
    let all = bench.lith(&["info", "--json"]).json();
    assert_eq!(all["tables"].as_array().unwrap().len(), 2);
    assert_eq!(all["roots"].as_array().unwrap().len(), 1);
    let text = bench.lith(&["info"]).ok();
    for part in ["table t", "table u", "2 for 2 values", "memory, 2 entries", "roots "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = bench.lith(&["info", "nothing"]).failed();
    assert!(said.contains("table nothing"), "{said}");
}

#[test]
fn an_empty_table_and_an_empty_database_are_no_failure() {
    let bench = Bench::new();
    bench.prepare(|_| {});
    assert_eq!(bench.lith(&["ls"]).ok(), "");
    assert!(bench.lith(&["info"]).ok().contains("no tables"));
    let bench = Bench::with(&[]);
    assert_eq!(bench.lith(&["scan", "t"]).ok(), "");
    assert!(bench.lith(&["info", "t"]).ok().contains("0 for 0 values"));
}

#[test]
fn a_database_of_two_roots_is_found_by_both_in_any_order() {
    let bench = Bench::new();
    let roots = [bench.path("a"), bench.path("b")];
    let on = |args: &[&str], order: [usize; 2], input: &[u8]| {
        let mut command = lith();
        // One root on either side of the command.
        command.arg("--db").arg(&roots[order[0]]).args(args).arg("--db").arg(&roots[order[1]]);
        run(command, input)
    };
    let value = vec![b'v'; 10_000];
    on(&["put", "t", "k", "--create"], [0, 1], &value).ok();
    assert_eq!(on(&["get", "t", "k"], [1, 0], b"").output.stdout, value);
    let mut one = lith();
    one.args(["get", "t", "k", "--db"]).arg(&roots[0]);
    let said = run(one, b"").failed();
    assert!(said.contains("root 1"), "{said}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    let bench = Bench::with(&[]);
    for (args, why) in [
        (&["ls"][..], "--db"),
        (&[], "command"),
        (&["scam"], "scam"),
        (&["get", "t"], "<KEY>"),
        (&["scan", "t", "--limit", "many"], "many"),
        (&["tour", "--max-bytes", "lots"], "found \"lots\""),
        (&["tour", "--db", "x"], "--keep"),
        (&["dump", "t", "--segment", "-1"], "-1"),
    ] {
        let said = bare(args).usage();
        assert!(said.contains(why), "{said}");
    }
    let said = bench.lith(&["get", "no table", "k"]).usage();
    assert!(said.contains("no table"), "{said}");
    for args in [&["--help"][..], &["scan", "--help"], &["--version"]] {
        assert!(bare(args).ok().contains("lith"), "{args:?}");
    }
}

#[test]
fn help_says_what_each_command_does() {
    let help = bare(&["--help"]).ok();
    for does in ["List the tables", "Write one value to standard output", "A guided demonstration"]
    {
        assert!(help.contains(does), "{does} in {help}");
    }
    let help = bare(&["repair", "--help"]).ok();
    assert!(help.starts_with("Make a damaged database open again"), "{help}");
}

/// Runs `lith` with no more than so many KiB of addresses.
fn confined(bench: &Bench, kib: u64, args: &[&str]) -> Run {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -v \"$0\" && exec \"$@\""]).arg(kib.to_string());
    command.arg(env!("CARGO_BIN_EXE_lith")).env_remove("RUST_LOG");
    // Addresses that malloc sets aside for each thread are no memory.
    command.env("MALLOC_ARENA_MAX", "1").args(args).arg("--pread").arg("--db").arg(bench.db());
    run(command, b"")
}

#[test]
fn long_values_go_in_and_out_in_bounded_memory() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::with(&[]);
    let long = bench.write("tree/long", b"begin");
    let file = lithdb::env::Fs::open(&lithdb::env::OsFs, &long, lithdb::env::OpenMode::ReadWrite);
    lithdb::env::write_all_at(&*file.unwrap(), b"end", 200 * MIB).unwrap();
    let (long, out) = (long.to_str().unwrap(), bench.path("out"));
    // Less than the value has, for the program and everything that it does.
    let kib = 190 << 10;
    let answer = confined(&bench, kib, &["put", "t", "put", long, "--json"]).json();
    assert_eq!(answer["bytes"], 200 * MIB + 3);
    let tree = bench.path("tree");
    confined(&bench, kib, &["load", "t", tree.to_str().unwrap()]).ok();
    for key in ["put", "long"] {
        confined(&bench, kib, &["get", "t", key, "-o", out.to_str().unwrap()]).ok();
        let same = std::process::Command::new("cmp").arg(long).arg(&out).status().unwrap();
        assert!(same.success());
    }
    let said = confined(&bench, kib, &["get", "t", "put", "--json"]).failed();
    assert!(said.contains("--output"), "{said}");
}
