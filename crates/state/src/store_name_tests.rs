//! Tests of store names.

use super::*;

#[test]
fn bad_names_are_refused_with_the_reason() {
    for (name, says) in [
        ("", "1 to 64 characters, found 0"),
        ("a/b", "'/'"),
        ("..", "'.'"),
        ("a b", "' '"),
        ("käse", "'ä'"),
        ("a\0", "'\\0'"),
    ] {
        let error = StoreName::new(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(says), "{error}");
        assert!(name.parse::<StoreName>().is_err());
    }
    assert!(StoreName::new(&"x".repeat(64)).is_ok());
    let error = StoreName::new(&"x".repeat(65)).unwrap_err();
    assert!(error.to_string().contains("1 to 64 characters, found 65"), "{error}");
}

#[test]
fn every_allowed_character_is_accepted() {
    let allowed: String =
        (0..=255_u8).map(char::from).filter(|c| StoreName::new(&c.to_string()).is_ok()).collect();
    let expected = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
    assert_eq!(allowed, expected);
}

#[test]
fn a_name_in_json_is_checked_text() {
    let name = StoreName::new("evm").unwrap();
    assert_eq!(serde_json::to_string(&name).unwrap(), "\"evm\"");
    assert_eq!(serde_json::from_str::<StoreName>("\"evm\"").unwrap(), name);
    assert!(serde_json::from_str::<StoreName>("\"e/vm\"").is_err());
    assert_eq!((name.to_string(), format!("{name:?}")), ("evm".to_owned(), "\"evm\"".to_owned()));
}
