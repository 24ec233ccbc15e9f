//! Keys and values on the command line and in output: text, or `0x` and hex digits.
//!
//! A printed key can be typed again: a text key that begins with `0x` is printed in hex, too.

use lithdb_env::human::{hex, is_invisible};
use serde_json::Value as Json;

/// A key from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<u8>);

const MAX_KEY_LEN: usize = 65_535;

/// Parses a key.
pub(crate) fn parse(typed: &str) -> Result<Key, String> {
    let key = parse_value(typed)?;
    if (1..=MAX_KEY_LEN).contains(&key.len()) {
        return Ok(Key(key));
    }
    Err(format!("expected a key of 1 to {MAX_KEY_LEN} bytes, found {}", key.len()))
}

/// Parses a value: text, or `0x` and hex digits. Inverts [`show_value`].
pub(crate) fn parse_value(typed: &str) -> Result<Vec<u8>, String> {
    match typed.strip_prefix("0x") {
        Some(digits) => parse_hex(digits.as_bytes()),
        None => Ok(typed.as_bytes().to_vec()),
    }
}

fn parse_hex(digits: &[u8]) -> Result<Vec<u8>, String> {
    if !digits.len().is_multiple_of(2) {
        return Err(format!(
            "expected an even number of hex digits after 0x, found {}",
            digits.len()
        ));
    }
    let mut key = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let byte = pair
            .iter()
            .try_fold(0, |byte, digit| Some(byte << 4 | char::from(*digit).to_digit(16)?));
        let Some(byte) = byte else {
            let pair = String::from_utf8_lossy(pair);
            return Err(format!("expected hex digits after 0x, found {pair:?}"));
        };
        key.push(byte as u8);
    }
    Ok(key)
}

pub(crate) use lithdb_env::human::readable as show;

/// A value in JSON: text, or hex if it is not UTF-8 or begins with `0x`.
pub(crate) fn show_value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("0x") => text.to_owned(),
        _ => hex(bytes),
    }
}

/// The first `limit` bytes of a value as text, on one line whatever they are.
pub(crate) fn show_prefix(bytes: &[u8], limit: usize) -> String {
    let head = bytes.get(..limit).unwrap_or(bytes);
    let dots = if head.len() < bytes.len() { "…" } else { "" };
    // A character that the limit splits is left out; the rest is still text.
    let whole = match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() && !dots.is_empty() => {
            head.get(..error.valid_up_to()).unwrap_or(head)
        }
        Ok(_) | Err(_) => head,
    };
    let Ok(text) = std::str::from_utf8(whole) else { return hex(head) + dots };
    let mut shown = String::with_capacity(text.len() + dots.len());
    for c in text.chars() {
        if is_invisible(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown + dots
}

/// Rewrites the keys in a report of verify, dump or repair to the format of [`show`], so that a
/// program can join them with other output. The reports cut a key above 64 bytes and append `…`.
pub(crate) fn normalize_keys(mut document: Json) -> Json {
    rewrite(&mut document, false);
    document
}

fn rewrite(document: &mut Json, is_key: bool) {
    match document {
        Json::String(shown) if is_key => {
            if let Some(key) = reformat_key(shown) {
                *shown = key;
            }
        }
        Json::Array(elements) => elements.iter_mut().for_each(|element| rewrite(element, is_key)),
        Json::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                rewrite(value, matches!(name.as_str(), "key" | "sample_keys"));
            }
        }
        _ => {}
    }
}

/// Converts from the format of `lithdb_table::show_key` to that of [`show`]; `None` if it is not
/// in the former.
fn reformat_key(shown: &str) -> Option<String> {
    let (shown, dots) = match shown.strip_suffix('…') {
        Some(head) if head.ends_with('"') || head.starts_with("0x") => (head, "…"),
        _ => (shown, ""),
    };
    let key = match shown.strip_prefix("0x") {
        Some(digits) => match parse_hex(digits.as_bytes()) {
            Ok(key) => key,
            Err(_) => return None,
        },
        None => unescape(shown.strip_prefix('"')?.strip_suffix('"')?)?.into_bytes(),
    };
    Some(show(&key) + dots)
}

/// Undoes the escapes of the `Debug` format of a string (given without its quotes).
fn unescape(escaped: &str) -> Option<String> {
    let mut text = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let digits: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let Ok(code) = u32::from_str_radix(digits.strip_prefix('{')?, 16) else {
                    return None;
                };
                char::from_u32(code)?
            }
            same => same,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_reports_use_the_common_format() {
        let keys: [&[u8]; 8] = [
            b"plain",
            b"a \"quoted\" \\ key",
            "größe\u{301} \u{200b}\u{202e}".as_bytes(),
            b"0xfeed",
            b"\x00\xff",
            b"tab\t",
            b"it's",
            b"ends with \xe2\x80\xa6",
        ];
        for key in keys {
            let shown = lithdb_table::show_key(key);
            let expected = serde_json::json!({ "key": show(key), "what": shown });
            let document = serde_json::json!({ "key": shown, "what": shown });
            assert_eq!(normalize_keys(document), expected);
        }
        // A long key is cut, and marked: it cannot be taken for a whole key.
        for long in [vec![b'k'; 65], vec![0xff; 65]] {
            let key = reformat_key(&lithdb_table::show_key(&long)).unwrap();
            assert_eq!(key, show(&long[..64]) + "…");
        }
        let samples = serde_json::json!({ "tables": [{ "sample_keys": ["\"a\"", "0x00"] }] });
        assert_eq!(normalize_keys(samples)["tables"][0]["sample_keys"][0], "a");
    }

    #[test]
    fn printed_keys_parse_back() {
        let keys: [&[u8]; 7] =
            [b"plain", b"a key", "größe".as_bytes(), b"0xfeed", b"\x00\xff", b"tab\t", b"0x"];
        for key in keys {
            assert_eq!(parse(&show(key)), Ok(Key(key.to_vec())), "{}", show(key));
        }
        assert_eq!(show(b"plain"), "plain");
        assert_eq!(show(b"0xfeed"), "0x307866656564");
        assert_eq!(show("a\u{202e}b".as_bytes()), "0x61e280ae62");
    }

    #[test]
    fn invalid_key_is_refused_with_a_reason() {
        let bad = [("", "found 0"), ("0x", "found 0"), ("0xabc", "found 3"), ("0xzz", "\"zz\"")];
        for (typed, why) in bad.into_iter().chain([("0x+1", "\"+1\""), ("0xéa", "expected")]) {
            let message = parse(typed).unwrap_err();
            assert!(message.contains(why), "{typed}: {message}");
        }
        assert!(parse(&"k".repeat(65_535)).is_ok());
        assert!(parse(&"k".repeat(65_536)).unwrap_err().contains("65536"));
    }

    #[test]
    fn value_prefix_is_one_line_of_whole_characters() {
        assert_eq!(show_prefix("aé".as_bytes(), 2), "a…");
        assert_eq!(show_prefix(b"ab", 2), "ab");
        assert_eq!(show_prefix(b"a\nb", 9), "a\\nb");
        assert_eq!(show_prefix(b"\xff\xff\xff", 2), "0xffff…");
    }

    #[test]
    fn json_value_is_text_unless_ambiguous() {
        let values = [&b"two\nlines"[..], b"", b"0xab", b"\xff"];
        let shown = values.map(show_value);
        assert_eq!(shown.each_ref().map(|shown| parse_value(shown).unwrap()), values);
        assert_eq!(shown, ["two\nlines", "", "0x30786162", "0xff"]);
    }
}
