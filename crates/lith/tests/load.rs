//! `lith load`: stores a directory tree in a table.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they fail")]

mod support;

use lithdb_env::{Fs, OsFs};
use serde_json::json;
use support::{Fixture, read};

#[test]
fn every_file_below_the_path_is_stored_byte_for_byte() {
    let fixture = Fixture::new();
    let mut expected = Vec::new();
    for n in 0..40usize {
        let name = format!("tree/{}/sub dir/größe-{n}", n % 4);
        let content: Vec<u8> = (0..n * n * 50).map(|i| (i * 7 + n) as u8).collect();
        fixture.write(&name, &content);
        expected.push((name.strip_prefix("tree/").unwrap().to_owned(), content));
    }
    let tree = fixture.path("tree");
    let refused = fixture.lith(&["load", "t", tree.to_str().unwrap()]).failed();
    assert!(refused.contains("missing"), "{refused}");
    let loaded = fixture.lith(&["load", "t", tree.to_str().unwrap(), "--create", "--json"]).json();
    let bytes: usize = expected.iter().map(|(_, content)| content.len()).sum();
    assert_eq!((&loaded["files"], &loaded["bytes"]), (&json!(40), &json!(bytes)));
    assert_eq!(loaded["refused"], json!([]));
    for (key, content) in &expected {
        let got = fixture.lith(&["get", "t", key]);
        assert!(got.output.stdout == *content, "{key}");
    }
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 40);
    // Loading again stores newer values of the same keys.
    let text = fixture.lith(&["load", "t", tree.to_str().unwrap()]).ok();
    assert!(text.contains("40 files") && text.contains("MB/s"), "{text}");
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 80);
}

#[test]
fn load_skips_links_special_files_and_the_database() {
    let fixture = Fixture::with(&[]);
    fixture.write("a/file", b"1");
    std::os::unix::fs::symlink("file", fixture.path("a/link")).unwrap();
    std::os::unix::fs::symlink("/", fixture.path("a/everything")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.path("a/socket")).unwrap();
    // The database lies below the path.
    let whole = fixture.dir.path().to_str().unwrap();
    let loaded = fixture.lith(&["load", "t", whole, "--json"]).json();
    assert_eq!(loaded["files"], 1);
    assert_eq!(loaded["skipped"], json!({ "symlinks": 2, "special": 1, "own": 1, "vanished": 0 }));
    assert_eq!(fixture.lith(&["get", "t", "a/file"]).ok(), "1");
    let text = fixture.lith(&["load", "t", whole]).ok();
    assert!(
        text.contains("skipped symbolic links: 2, special files: 1, directories of this"),
        "{text}"
    );
}

#[test]
fn one_file_is_stored_under_its_name() {
    let fixture = Fixture::with(&[]);
    let file = fixture.write("dir/name.txt", b"content");
    fixture.lith(&["load", "t", file.to_str().unwrap()]).ok();
    assert_eq!(fixture.lith(&["get", "t", "name.txt"]).ok(), "content");
}

#[test]
fn load_names_what_it_cannot_store_and_stores_the_rest() {
    let fixture = Fixture::with(&[]);
    fixture.write("tree/a", b"1");
    fixture.write("tree/z", b"2");
    // Longer than the longest value; sparse.
    OsFs.create_new(&fixture.path("tree/huge")).unwrap().set_len((1 << 32) - 1).unwrap();
    let path = std::os::unix::ffi::OsStrExt::as_bytes(fixture.path("tree/").as_os_str()).to_vec();
    let path = [&path[..], b"name-\xff"].concat();
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&path);
    OsFs.create_new(std::path::Path::new(path)).unwrap();
    let tree = fixture.path("tree");
    let run = fixture.lith(&["load", "t", tree.to_str().unwrap(), "--json"]);
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let errors = run.errors();
    assert!(errors.contains("huge: longer than the longest value"), "{errors}");
    assert!(errors.contains("its name is not UTF-8"), "{errors}");
    let error: Vec<serde_json::Value> =
        errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(error[..2].iter().all(|line| line["note"].is_string()), "{errors}");
    assert_eq!(error[2]["error"]["message"], "2 files could not be stored, 2 files stored");
    let loaded: serde_json::Value = serde_json::from_str(&run.text()).unwrap();
    assert_eq!((&loaded["files"], loaded["refused"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(fixture.lith(&["get", "t", "z"]).ok(), "2");
}

#[test]
fn missing_path_creates_nothing() {
    let fixture = Fixture::new();
    let error = fixture.lith(&["load", "t", "/nowhere/at/all", "--create"]).failed();
    assert!(error.contains("/nowhere/at/all"), "{error}");
    assert!(OsFs.metadata(&fixture.db()).is_err());
    let error = fixture.lith(&["load", "t", "/dev/null", "--create"]).failed();
    assert!(error.contains("expected a directory"), "{error}");
}

#[test]
fn load_spans_several_flushes_and_buffers() {
    let fixture = Fixture::new();
    let large: Vec<u8> = (0..70u32 << 20).map(|i| (i >> 3) as u8).collect();
    fixture.write("tree/large", &large);
    fixture.write("tree/small", b"s");
    fixture.lith(&["load", "t", fixture.path("tree").to_str().unwrap(), "--create"]).ok();
    let out = fixture.path("out");
    fixture.lith(&["get", "t", "large", "-o", out.to_str().unwrap()]).ok();
    assert!(read(&out) == large);
    assert_eq!(fixture.lith(&["get", "t", "small", "--pread"]).ok(), "s");
}

#[test]
fn path_inside_the_database_is_refused() {
    let fixture = Fixture::with(&[("k", b"v")]);
    for inside in ["db", "db/t", "db/t/segments", "db/lith.lock"] {
        let path = fixture.path(inside);
        let error = fixture.lith(&["load", "t", path.to_str().unwrap()]).failed();
        assert!(error.contains("outside the database"), "{error}");
    }
    // A link to it is refused, too.
    std::os::unix::fs::symlink("db/t", fixture.path("link")).unwrap();
    fixture.lith(&["load", "t", fixture.path("link").to_str().unwrap()]).failed();
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 1);
}

#[test]
fn non_utf8_name_never_yields_another_files_content() {
    use std::os::unix::ffi::OsStrExt;
    let fixture = Fixture::with(&[]);
    fixture.write("tree/n\u{fffd}", b"the real one");
    let non_utf8 = |name: &[u8]| fixture.path("tree").join(std::ffi::OsStr::from_bytes(name));
    let file = OsFs.create_new(&non_utf8(b"n\xff")).unwrap();
    lithdb_env::write_all_at(&*file, b"the other one", 0).unwrap();
    OsFs.create_dir(&non_utf8(b"d\xff")).unwrap();
    OsFs.create_new(&non_utf8(b"d\xff/below")).unwrap();
    let run = fixture.lith(&["load", "t", fixture.path("tree").to_str().unwrap()]);
    let errors = run.errors();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert!(errors.ends_with("lith: 2 files could not be stored, 1 file stored\n"), "{errors}");
    assert_eq!(errors.matches("its name is not UTF-8").count(), 2, "{errors}");
    assert_eq!(fixture.lith(&["scan", "t"]).ok().lines().count(), 1);
    assert_eq!(fixture.lith(&["get", "t", "n\u{fffd}"]).ok(), "the real one");
    // The same if the path is given directly.
    let mut command = support::lith();
    command.args(["load", "t"]).arg(non_utf8(b"n\xff")).arg("--db").arg(fixture.db());
    let error = support::run(command, b"").failed();
    assert!(error.contains("its name is not UTF-8"), "{error}");
}

#[test]
fn named_symlink_is_stored_under_its_own_name() {
    let fixture = Fixture::with(&[]);
    fixture.write("dir/target", b"content");
    std::os::unix::fs::symlink("dir/target", fixture.path("link")).unwrap();
    fixture.lith(&["load", "t", fixture.path("link").to_str().unwrap()]).ok();
    assert_eq!(fixture.lith(&["get", "t", "link"]).ok(), "content");
    fixture.lith(&["get", "t", "target"]).no_such_key();
}
