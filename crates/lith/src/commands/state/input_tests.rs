//! Lines that are versions, and lines that are not.

use super::*;

fn versions(input: &'static str) -> Versions {
    Versions::new("test".to_owned(), Box::new(input.as_bytes()))
}

fn read(input: &'static str) -> Result<Vec<(u64, usize, u64)>, Failure> {
    let mut versions = versions(input);
    let mut found = Vec::new();
    while let Some(version) = versions.next(&mut || Ok(()))? {
        let keys = version.changes.iter().map(ChangeSet::len).sum();
        found.push((version.number, keys, version.line));
    }
    Ok(found)
}

#[test]
fn lines_of_one_version_belong_together() {
    let input = concat!(
        r#"{"version":1,"store":"a","put":{"k":"v","0x00ff":""},"delete":["gone"]}"#,
        "\n\n",
        r#"{"version":1,"store":"b","put":{"k":"0x"}}"#,
        "\r\n",
        r#"{"version":2}"#,
        "\n",
        r#"{"version":"3","store":"a","delete":[]}"#,
    );
    assert_eq!(read(input).unwrap(), [(1, 4, 1), (2, 0, 4), (3, 0, 5)]);
    assert_eq!(read("").unwrap(), []);
    assert_eq!(read("\n \n").unwrap(), []);
}

#[test]
fn refused_line_is_named_with_the_reason() {
    for (input, why) in [
        ("{", "line 1: column 1: EOF"),
        ("\n[]", "line 2: column"),
        (r#"{"store":"a"}"#, "missing field `version`"),
        (r#"{"version":-1}"#, "expected a version"),
        (r#"{"version":"one"}"#, "found \"one\""),
        (r#"{"version":1,"put":{"a":"b"}}"#, "expected a store"),
        (r#"{"version":1,"store":"a/b","put":{}}"#, "found '/'"),
        (r#"{"version":1,"store":"a","put":{"a":1}}"#, "expected a string"),
        (r#"{"version":1,"store":"a","put":{"a":"0xz1"}}"#, "value of \"a\": expected hex"),
        (r#"{"version":1,"store":"a","put":{"":"x"}}"#, "found 0"),
        (r#"{"version":1,"store":"a","put":{"a":"b","0x61":"c"}}"#, "found a again"),
        (r#"{"version":1,"store":"a","put":{"a":"b"},"delete":["a"]}"#, "found a again"),
        (r#"{"version":1,"keys":1}"#, "unknown field `keys`"),
    ] {
        let message = read(input).unwrap_err().to_string();
        assert!(message.starts_with("test, line ") && message.contains(why), "{message}");
    }
}

#[test]
fn input_is_waited_for_only_after_the_call() {
    let mut versions = versions("{\"version\":1}\n{\"version\":2}\n{\"version\":3}\n");
    let mut calls = Vec::new();
    let mut next = |calls: &mut Vec<u64>| {
        let mut waits = 0;
        let version = versions.next(&mut || {
            waits += 1;
            Ok(())
        });
        calls.push(waits);
        version.unwrap().map(|version| version.number)
    };
    assert_eq!(next(&mut calls), Some(1));
    assert_eq!(next(&mut calls), Some(2));
    assert_eq!(next(&mut calls), Some(3));
    assert_eq!(next(&mut calls), None);
    // Before the first byte, and before each look behind the last line.
    assert_eq!(calls, [1, 0, 1, 1]);
}
