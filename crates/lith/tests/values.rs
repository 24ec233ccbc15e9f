//! `lith put`, `get`, `scan`, `ls`, `info`: values are returned as they were put.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::json;
use support::{Fixture, Run, bare, lith, read, run};

#[test]
fn put_creates_only_what_was_requested() {
    let fixture = Fixture::new();
    let refused = fixture.lith_with(&["put", "t", "k"], b"v").failed();
    assert!(refused.contains("missing") && refused.contains("does not exist"), "{refused}");
    assert!(fixture.lith_with(&["put", "t", "k", "--create"], b"v").ok().contains("  k\n"));
    // The database exists now; `put` creates tables.
    fixture.lith_with(&["put", "other", "k"], b"w").ok();
    assert_eq!(fixture.lith(&["ls"]).ok(), "other\nt\n");
    assert_eq!(fixture.lith(&["ls", "--json"]).json(), json!({ "tables": ["other", "t"] }));
}

#[test]
fn get_returns_bytes_put_from_stdin_or_a_file() {
    let fixture = Fixture::new();
    let binary: Vec<u8> = (0..100_000u32).map(|i| (i % 253) as u8).collect();
    let file = fixture.write("value", &binary);
    let put =
        fixture.lith(&["put", "t", "from-file", file.to_str().unwrap(), "--create", "--json"]);
    let put = put.json();
    assert_eq!((&put["bytes"], &put["table"]), (&json!(100_000), &json!("t")));
    assert!(put["position"].as_str().unwrap().starts_with("1:"), "{put}");
    fixture.lith_with(&["put", "t", "from-input", "-"], &binary).ok();
    fixture.lith_with(&["put", "t", "empty"], b"").ok();
    for key in ["from-file", "from-input"] {
        assert_eq!(fixture.lith(&["get", "t", key]).output.stdout, binary);
    }
    assert_eq!(fixture.lith(&["get", "t", "empty"]).ok(), "");
    let out = fixture.path("out");
    let args = ["get", "t", "from-file", "--output", out.to_str().unwrap()];
    assert_eq!(fixture.lith(&args).ok(), "");
    assert_eq!(read(&out), binary);
    // Over an existing file.
    fixture.lith(&["get", "t", "empty", "-o", out.to_str().unwrap()]).ok();
    assert_eq!(read(&out), b"");
}

#[test]
fn get_supports_json() {
    let fixture =
        Fixture::with(&[("text", b"two\nlines"), ("binary", b"\xff\x00"), ("tricky", b"0x00")]);
    let value = |key: &str| fixture.lith(&["get", "t", key, "--json"]).json();
    let expected = json!({ "table": "t", "key": "text", "bytes": 9, "value": "two\nlines" });
    assert_eq!(value("text"), expected);
    assert_eq!(value("binary")["value"], "0xff00");
    assert_eq!(value("tricky")["value"], "0x30783030");
    let out = fixture.path("out");
    let answer = fixture.lith(&["get", "t", "text", "--json", "-o", out.to_str().unwrap()]).json();
    assert_eq!(answer["output"], out.to_str().unwrap());
    assert_eq!(read(&out), b"two\nlines");
}

#[test]
fn missing_key_has_its_own_exit_status_and_writes_no_file() {
    let fixture = Fixture::with(&[("k", b"v")]);
    let out = fixture.path("out");
    let error = fixture.lith(&["get", "t", "0x00ff", "-o", out.to_str().unwrap()]).no_such_key();
    assert_eq!(error, "lith: not found: key 0x00ff in table t\n");
    assert!(lithdb_env::Fs::metadata(&lithdb_env::OsFs, &out).is_err());
    let output = fixture.lith(&["get", "t", "absent", "--json"]).failed_in_json(3);
    assert_eq!(output["kind"], "no such key");
    let error = fixture.lith(&["get", "nothing", "k"]).failed();
    assert!(error.contains("table nothing"), "{error}");
}

#[test]
fn errors_are_json_with_the_json_flag() {
    let fixture = Fixture::with(&[("k", b"v")]);
    let output = fixture.lith(&["get", "nothing", "k", "--json"]).failed_in_json(1);
    assert_eq!(output["kind"], "missing");
    assert!(output["message"].as_str().unwrap().contains("table nothing"), "{output}");
    // Usage errors, too, wherever --json stands.
    for args in [&["--json", "get", "t"][..], &["scam", "--json"], &["get", "t", "0xz", "--json"]] {
        assert_eq!(fixture.lith(args).failed_in_json(2)["kind"], "usage", "{args:?}");
    }
    let mut command = lith();
    command.arg("--db").arg(fixture.db()).args(["get", "t", "--", "--json"]);
    assert!(run(command, b"").no_such_key().starts_with("lith: not found: key --json"));
    let damaged = fixture.db().join("t/segments/1.keys");
    support::flip(&damaged, 10);
    let output = fixture.lith(&["info", "--json"]).failed_in_json(1);
    assert_eq!(output["kind"], "corrupt");
    assert!(output["message"].as_str().unwrap().contains("1.keys"), "{output}");
}

#[test]
fn ids_are_strings_and_positions_have_one_format() {
    let fixture = Fixture::with(&[("k", b"v"), ("l", b"w")]);
    fixture.prepare(|db| db.existing_table("t").unwrap().seal().unwrap());
    let lines = fixture.lith(&["dump", "t", "--json"]).json_lines();
    let header = lines.iter().find(|line| line["line"] == "key_header").unwrap();
    for id in ["table_id", "salt"] {
        assert!(header[id].as_str().unwrap().parse::<u64>().is_ok(), "{id}: {header}");
    }
    let scanned = fixture.lith(&["scan", "t", "--json"]).json_lines();
    let to = ["rollback", "--through-key", "k", "--dry-run", "--json"];
    let plan = fixture.lith(&to).json();
    assert!(plan["plan"]["database_id"].is_string(), "{plan}");
    assert_eq!(plan["plan"]["tables"][0]["boundary"]["position"], scanned[0]["position"]);
}

#[test]
fn hex_and_text_keys_are_equivalent() {
    let fixture = Fixture::with(&[]);
    fixture.lith_with(&["put", "t", "0x6b6579"], b"v").ok();
    assert_eq!(fixture.lith(&["get", "t", "key"]).ok(), "v");
    fixture.lith_with(&["put", "t", "0x00ff"], b"w").ok();
    let keys = fixture.lith(&["scan", "t", "--json"]).json_lines();
    assert_eq!((&keys[0]["key"], &keys[1]["key"]), (&json!("key"), &json!("0x00ff")));
    for (bad, why) in [("0xabc", "even number"), ("0xzz", "hex digits"), ("", "1 to 65535")] {
        let error = fixture.lith(&["get", "t", bad]).usage();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn key_put_twice_has_the_newer_value_and_both_records() {
    let fixture = Fixture::with(&[("k", b"old"), ("other", b""), ("k", b"new")]);
    assert_eq!(fixture.lith(&["get", "t", "k"]).ok(), "new");
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 3);
}

fn keys(fixture: &Fixture, args: &[&str]) -> Vec<String> {
    let lines = fixture.lith(&[&["scan", "t", "--json"], args].concat()).json_lines();
    lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn scan_supports_direction_start_and_limit() {
    let fixture = Fixture::with(&[("d", b"1"), ("a", b"2"), ("c", b"3"), ("a", b"4"), ("b", b"5")]);
    assert_eq!(keys(&fixture, &[]), ["d", "a", "c", "a", "b"]);
    assert_eq!(keys(&fixture, &["--rev"]), ["b", "a", "c", "a", "d"]);
    assert_eq!(keys(&fixture, &["--limit", "2"]), ["d", "a"]);
    assert_eq!(keys(&fixture, &["--limit", "0"]), [""; 0]);
    assert_eq!(keys(&fixture, &["--from", "c"]), ["c", "a", "b"]);
    // From the newest record of a key.
    assert_eq!(keys(&fixture, &["--from", "a"]), ["a", "b"]);
    assert_eq!(keys(&fixture, &["--from", "a", "--rev"]), ["a", "c", "a", "d"]);
    assert_eq!(keys(&fixture, &["--from", "a", "--rev", "--limit", "2"]), ["a", "c"]);
    for rev in [&["--rev"][..], &[]] {
        let error =
            fixture.lith(&[&["scan", "t", "--from", "nowhere"], rev].concat()).no_such_key();
        assert!(error.contains("nowhere"), "{error}");
    }
}

#[test]
fn scan_shows_values_and_marks_aliases() {
    let fixture = Fixture::with(&[]);
    let long = "x".repeat(1000);
    fixture.prepare(|db| {
        let table = db.existing_table("t").unwrap();
        let alias = [lithdb::SecondaryKey::range(b"part", 1..3)];
        table.put_with(b"whole", b"abcd", &alias).unwrap();
        table.put(b"long", long.as_bytes()).unwrap();
        table.put(b"lines", b"1\n2").unwrap();
    });
    let text = fixture.lith(&["scan", "t", "--values"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].ends_with("4 B  whole = abcd"), "{text}");
    assert!(lines[1].ends_with("2 B ~part = bc"), "{text}");
    assert!(lines[2].ends_with('…') && lines[2].len() < 300, "{text}");
    assert!(lines[3].ends_with("lines = 1\\n2"), "{text}");
    let records = fixture.lith(&["scan", "t", "--values", "--json"]).json_lines();
    assert_eq!(records[1]["primary"], false);
    assert_eq!(records[2]["value"], long);
    assert_eq!(records[3]["value"], "1\n2");
}

#[test]
fn closed_pipe_ends_output_quietly() {
    let fixture = Fixture::with(&[]);
    fixture.prepare(|db| {
        let table = db.existing_table("t").unwrap();
        let value = vec![b'v'; 100];
        for n in 0..20_000u32 {
            table.put(format!("key-{n:06}").as_bytes(), &value).unwrap();
        }
    });
    let mut command = lith();
    command.args(["scan", "t", "--values", "--db"]).arg(fixture.db());
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
    let fixture = Fixture::with(&[("first", b"1"), ("0xlast", b"2")]);
    fixture.lith_with(&["put", "u", "k"], b"v").ok();
    let info = fixture.lith(&["info", "t", "--json"]).json();
    let table = &info["tables"][0];
    assert_eq!(
        (&table["keys"], &table["values"], &table["segments"], &table["ttl_seconds"]),
        (&json!(2), &json!(2), &json!(1), &json!(null))
    );
    assert_eq!(
        (&table["oldest_key"], &table["newest_key"]),
        (&json!("first"), &json!("0x30786c617374"))
    );
    let all = fixture.lith(&["info", "--json"]).json();
    assert_eq!(all["tables"].as_array().unwrap().len(), 2);
    assert_eq!(all["roots"].as_array().unwrap().len(), 1);
    let text = fixture.lith(&["info"]).ok();
    for part in ["table t", "table u", "2 for 2 values", "memory, 2 entries", "roots "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = fixture.lith(&["info", "nothing"]).failed();
    assert!(error.contains("table nothing"), "{error}");
}

#[test]
fn empty_table_and_empty_database_are_not_failures() {
    let fixture = Fixture::new();
    fixture.prepare(|_| {});
    assert_eq!(fixture.lith(&["ls"]).ok(), "");
    assert!(fixture.lith(&["info"]).ok().contains("no tables"));
    let fixture = Fixture::with(&[]);
    assert_eq!(fixture.lith(&["scan", "t"]).ok(), "");
    assert!(fixture.lith(&["info", "t"]).ok().contains("0 for 0 values"));
}

#[test]
fn two_root_database_opens_with_roots_in_any_order() {
    let fixture = Fixture::new();
    let roots = [fixture.path("a"), fixture.path("b")];
    let on = |args: &[&str], order: [usize; 2], input: &[u8]| {
        let mut command = lith();
        // One root before and one after the command.
        command.arg("--db").arg(&roots[order[0]]).args(args).arg("--db").arg(&roots[order[1]]);
        run(command, input)
    };
    let value = vec![b'v'; 10_000];
    on(&["put", "t", "k", "--create"], [0, 1], &value).ok();
    assert_eq!(on(&["get", "t", "k"], [1, 0], b"").output.stdout, value);
    let mut one = lith();
    one.args(["get", "t", "k", "--db"]).arg(&roots[0]);
    let error = run(one, b"").failed();
    assert!(error.contains("root 1"), "{error}");
}

#[test]
fn invalid_command_line_is_a_usage_error() {
    let fixture = Fixture::with(&[]);
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
        let error = bare(args).usage();
        assert!(error.contains(why), "{error}");
    }
    let error = fixture.lith(&["get", "no table", "k"]).usage();
    assert!(error.contains("no table"), "{error}");
    for args in [&["--help"][..], &["scan", "--help"], &["--version"]] {
        assert!(bare(args).ok().contains("lith"), "{args:?}");
    }
}

#[test]
fn help_says_what_each_command_does() {
    let help = bare(&["--help"]).ok();
    for does in ["List the tables", "Write one value to standard output", "Demonstrate LithDB"] {
        assert!(help.contains(does), "{does} in {help}");
    }
    let help = bare(&["repair", "--help"]).ok();
    assert!(help.starts_with("Repair a damaged database"), "{help}");
}

/// Runs `lith` with at most `kib` KiB of address space.
fn confined(fixture: &Fixture, kib: u64, args: &[&str]) -> Run {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -v \"$0\" && exec \"$@\""]).arg(kib.to_string());
    command.arg(env!("CARGO_BIN_EXE_lith")).env_remove("RUST_LOG");
    // One malloc arena: those of more threads would only reserve addresses.
    command.env("MALLOC_ARENA_MAX", "1").args(args).arg("--pread").arg("--db").arg(fixture.db());
    run(command, b"")
}

#[test]
fn long_values_stream_in_bounded_memory() {
    const MIB: u64 = 1 << 20;
    let fixture = Fixture::with(&[]);
    let long = fixture.write("tree/long", b"begin");
    let file = lithdb_env::Fs::open(&lithdb_env::OsFs, &long, lithdb_env::OpenMode::ReadWrite);
    lithdb_env::write_all_at(&*file.unwrap(), b"end", 200 * MIB).unwrap();
    let (long, out) = (long.to_str().unwrap(), fixture.path("out"));
    // Less than the length of the value, for the whole process.
    let kib = 190 << 10;
    let answer = confined(&fixture, kib, &["put", "t", "put", long, "--json"]).json();
    assert_eq!(answer["bytes"], 200 * MIB + 3);
    let tree = fixture.path("tree");
    confined(&fixture, kib, &["load", "t", tree.to_str().unwrap()]).ok();
    for key in ["put", "long"] {
        confined(&fixture, kib, &["get", "t", key, "-o", out.to_str().unwrap()]).ok();
        let same = std::process::Command::new("cmp").arg(long).arg(&out).status().unwrap();
        assert!(same.success());
    }
    let error = confined(&fixture, kib, &["get", "t", "put", "--json"]).failed();
    assert!(error.contains("--output"), "{error}");
}
