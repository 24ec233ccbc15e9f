//! load: a tree of files becomes a table.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use lithdb::env::{Fs, OsFs};
use serde_json::json;
use support::{Bench, read};

#[test]
fn every_file_below_the_path_is_stored_byte_for_byte() {
    let bench = Bench::new();
    let mut expected = Vec::new();
    for n in 0..40usize {
        let name = format!("tree/{}/sub dir/größe-{n}", n % 4);
        let content: Vec<u8> = (0..n * n * 50).map(|i| (i * 7 + n) as u8).collect();
        bench.write(&name, &content);
        expected.push((name.strip_prefix("tree/").unwrap().to_owned(), content));
    }
    let tree = bench.path("tree");
    let refused = bench.lith(&["load", "t", tree.to_str().unwrap()]).failed();
    assert!(refused.contains("missing"), "{refused}");
    let loaded = bench.lith(&["load", "t", tree.to_str().unwrap(), "--create", "--json"]).json();
    let bytes: usize = expected.iter().map(|(_, content)| content.len()).sum();
    assert_eq!((&loaded["files"], &loaded["bytes"]), (&json!(40), &json!(bytes)));
    assert_eq!(loaded["refused"], json!([]));
    for (key, content) in &expected {
        let got = bench.lith(&["get", "t", key]);
        assert!(got.output.stdout == *content, "{key}");
    }
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 40);
    // Loading again stores newer values of the same keys.
    let text = bench.lith(&["load", "t", tree.to_str().unwrap()]).ok();
    assert!(text.contains("40 files") && text.contains("MB/s"), "{text}");
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 80);
}

#[test]
fn links_special_files_and_the_database_itself_are_passed_by() {
    let bench = Bench::with(&[]);
    bench.write("a/file", b"1");
    std::os::unix::fs::symlink("file", bench.path("a/link")).unwrap();
    std::os::unix::fs::symlink("/", bench.path("a/everything")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("a/socket")).unwrap();
    // The database lies below the path.
    let whole = bench.dir.path().to_str().unwrap();
    let loaded = bench.lith(&["load", "t", whole, "--json"]).json();
    assert_eq!(loaded["files"], 1);
    assert_eq!(loaded["skipped"], json!({ "symlinks": 2, "special": 1, "own": 1, "vanished": 0 }));
    assert_eq!(bench.lith(&["get", "t", "a/file"]).ok(), "1");
    let text = bench.lith(&["load", "t", whole]).ok();
    assert!(text.contains("passed by: 2 symbolic links, 1 special file, 1 directory"), "{text}");
}

#[test]
fn one_file_is_stored_under_its_name() {
    let bench = Bench::with(&[]);
    let file = bench.write("dir/name.txt", b"content");
    bench.lith(&["load", "t", file.to_str().unwrap()]).ok();
    assert_eq!(bench.lith(&["get", "t", "name.txt"]).ok(), "content");
}

#[test]
fn what_cannot_be_stored_is_named_and_the_rest_is_stored() {
    let bench = Bench::with(&[]);
    bench.write("tree/a", b"1");
    bench.write("tree/z", b"2");
    // Longer than a value can be, and not a byte of it on the disk.
    OsFs.create_new(&bench.path("tree/huge")).unwrap().set_len((1 << 32) - 1).unwrap();
    let odd = std::os::unix::ffi::OsStrExt::as_bytes(bench.path("tree/").as_os_str()).to_vec();
    let odd = [&odd[..], b"odd-\xff"].concat();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&odd);
    OsFs.create_new(std::path::Path::new(odd)).unwrap();
    let tree = bench.path("tree");
    let run = bench.lith(&["load", "t", tree.to_str().unwrap(), "--json"]);
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let errors = run.errors();
    assert!(errors.contains("huge: longer than a value can be"), "{errors}");
    assert!(errors.contains("its name is not UTF-8"), "{errors}");
    let said: Vec<serde_json::Value> =
        errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(said[..2].iter().all(|line| line["note"].is_string()), "{errors}");
    assert_eq!(said[2]["error"]["message"], "2 files could not be stored, 2 files stored");
    let loaded: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&loaded["files"], loaded["refused"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(bench.lith(&["get", "t", "z"]).ok(), "2");
}

#[test]
fn a_path_that_is_not_there_creates_nothing() {
    let bench = Bench::new();
    let said = bench.lith(&["load", "t", "/nowhere/at/all", "--create"]).failed();
    assert!(said.contains("/nowhere/at/all"), "{said}");
    assert!(OsFs.metadata(&bench.db()).is_err());
    let said = bench.lith(&["load", "t", "/dev/null", "--create"]).failed();
    assert!(said.contains("expected a directory"), "{said}");
}

#[test]
fn more_than_one_flush_and_more_than_one_buffer_is_loaded() {
    let bench = Bench::new();
    let large: Vec<u8> = (0..70u32 << 20).map(|i| (i >> 3) as u8).collect();
    bench.write("tree/large", &large);
    bench.write("tree/small", b"s");
    bench.lith(&["load", "t", bench.path("tree").to_str().unwrap(), "--create"]).ok();
    let out = bench.path("out");
    bench.lith(&["get", "t", "large", "-o", out.to_str().unwrap()]).ok();
    assert!(read(&out) == large);
    assert_eq!(bench.lith(&["get", "t", "small", "--pread"]).ok(), "s");
}

#[test]
fn a_path_inside_the_database_is_refused_and_nothing_of_it_is_stored() {
    let bench = Bench::with(&[("k", b"v")]);
    for inside in ["db", "db/t", "db/t/segments", "db/lith.lock"] {
        let path = bench.path(inside);
        let said = bench.lith(&["load", "t", path.to_str().unwrap()]).failed();
        assert!(said.contains("the database itself"), "{said}");
    }
    // Nor by a link.
    std::os::unix::fs::symlink("db/t", bench.path("link")).unwrap();
    bench.lith(&["load", "t", bench.path("link").to_str().unwrap()]).failed();
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 1);
}

#[test]
fn a_name_that_is_not_utf8_never_gives_another_files_content() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::with(&[]);
    bench.write("tree/n\u{fffd}", b"the real one");
    let odd = |name: &[u8]| bench.path("tree").join(std::ffi::OsStr::from_bytes(name));
    let file = OsFs.create_new(&odd(b"n\xff")).unwrap();
    lithdb::env::write_all_at(&*file, b"the odd one", 0).unwrap();
    OsFs.create_dir(&odd(b"d\xff")).unwrap();
    OsFs.create_new(&odd(b"d\xff/below")).unwrap();
    let run = bench.lith(&["load", "t", bench.path("tree").to_str().unwrap()]);
    let errors = run.errors();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert!(errors.ends_with("lith: 2 files could not be stored, 1 file stored\n"), "{errors}");
    assert_eq!(errors.matches("its name is not UTF-8").count(), 2, "{errors}");
    assert_eq!(bench.lith(&["scan", "t"]).ok().lines().count(), 1);
    assert_eq!(bench.lith(&["get", "t", "n\u{fffd}"]).ok(), "the real one");
    // Nor when it is named itself.
    let mut command = support::lith();
    command.args(["load", "t"]).arg(odd(b"n\xff")).arg("--db").arg(bench.db());
    let said = support::run(command, b"").failed();
    assert!(said.contains("its name is not UTF-8"), "{said}");
}

#[test]
fn a_link_that_is_named_is_stored_under_its_own_name() {
    let bench = Bench::with(&[]);
    bench.write("dir/target", b"content");
    std::os::unix::fs::symlink("dir/target", bench.path("link")).unwrap();
    bench.lith(&["load", "t", bench.path("link").to_str().unwrap()]).ok();
    assert_eq!(bench.lith(&["get", "t", "link"]).ok(), "content");
    bench.lith(&["get", "t", "target"]).no_such_key();
}
