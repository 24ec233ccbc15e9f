//! Lines that are versions, and lines that are not.

use super::*;

fn changes(input: &'static str) -> Changes {
    Changes::new("test".to_owned(), Box::new(input.as_bytes()))
}

/// Of each line: the version, the number of changes, and where it is.
fn read(input: &'static str) -> Result<Vec<(u64, Option<usize>, u64)>, Failure> {
    let mut input = changes(input);
    let mut found = Vec::new();
    while let Some(Change { version, set, line }) = input.next(&mut || Ok(()))? {
        found.push((version, set.as_ref().map(ChangeSet::len), line));
    }
    Ok(found)
}

#[test]
fn each_line_has_its_version_and_changes() {
    let input = concat!(
        r#"{"version":1,"store":"a","put":{"k":"v","0x00ff":""},"delete":["gone"]}"#,
        "\n\n",
        r#"{"version":1,"store":"b","put":{"k":"0x"}}"#,
        "\r\n",
        r#"{"version":2}"#,
        "\n",
        r#"{"version":"3","store":"a","delete":[]}"#,
    );
    let expected = [(1, Some(3), 1), (1, Some(1), 3), (2, None, 4), (3, Some(0), 5)];
    assert_eq!(read(input).unwrap(), expected);
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
    let mut input = changes("{\"version\":1}\n{\"version\":2}\n{\"version\":3}\n");
    let mut calls = Vec::new();
    let mut next = |calls: &mut Vec<u64>| {
        let mut waits = 0;
        let change = input.next(&mut || {
            waits += 1;
            Ok(())
        });
        calls.push(waits);
        change.unwrap().map(|change| change.version)
    };
    assert_eq!(next(&mut calls), Some(1));
    assert_eq!(next(&mut calls), Some(2));
    assert_eq!(next(&mut calls), Some(3));
    assert_eq!(next(&mut calls), None);
    // Before the first byte, and before it looks behind the last line.
    assert_eq!(calls, [1, 0, 0, 1]);
}
