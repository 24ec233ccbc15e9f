//! The reader of a state store's exports, on arbitrary bytes, on arbitrary bytes as its rows, and
//! on sound rows with arbitrary bytes in them, the last two in frames with valid checksums and
//! hashes: no panic, no allocation for lengths beyond the input; an accepted export is written
//! again as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lithdb_state::reencode_export;

const VERSION: u64 = 9;
/// The longest frame.
const MAX_PAYLOAD_LEN: usize = 1 << 20;

fn check(export: &[u8]) {
    if let Ok(again) = reencode_export(export) {
        assert!(again == export);
    }
}

/// An export of these rows with the trailer `totals`, written here as the format says.
fn framed(rows: &[u8], root: [u8; 32], totals: &[u8]) -> Vec<u8> {
    let mut out = b"LITHSEXP\x01\0\0\0".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(root);
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    let mut frames = 0_u64;
    let mut frame = |out: &mut Vec<u8>, kind: u32, payload: &[u8]| {
        let head = [kind, payload.len() as u32].map(u32::to_le_bytes).concat();
        let covered = [&frames.to_le_bytes()[..], &head, payload].concat();
        frames += 1;
        out.extend(head);
        out.extend(crc32c::crc32c(&covered).to_le_bytes());
        out.extend(payload);
    };
    for payload in rows.chunks(MAX_PAYLOAD_LEN) {
        frame(&mut out, 1, payload);
    }
    let hash = blake3::hash(&[&out[..], totals].concat());
    frame(&mut out, 2, &[totals, hash.as_bytes()].concat());
    out
}

/// The element of a row in the set hash.
fn element(key: &[u8], value: &[u8]) -> [u8; 2048] {
    let mut hasher = blake3::Hasher::new();
    for part in [key, value] {
        hasher.update(&(part.len() as u32).to_le_bytes());
        hasher.update(part);
    }
    let mut element = [0; 2048];
    hasher.finalize_xof().fill(&mut element);
    element
}

/// Rows of one store, a root and totals that agree with them.
fn sound(value: &[u8]) -> (Vec<u8>, [u8; 32], Vec<u8>) {
    let mut rows = b"\x01\x04bank\x02\x03\0key\x07\0\0\0\0\0\0\0".to_vec();
    rows.extend((value.len() as u32).to_le_bytes());
    rows.extend(value);
    let digest = *blake3::hash(&element(b"bank/key", value)).as_bytes();
    let bytes = 3 + value.len() as u64;
    let mut totals = [1, bytes].map(u64::to_le_bytes).concat();
    totals.extend(b"\x01\0\x04bank");
    totals.extend([1, bytes].map(u64::to_le_bytes).as_flattened());
    totals.extend(digest);
    (rows, digest, totals)
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&framed(data, [1; 32], data));
    let [at, cut, rest @ ..] = data else { return };
    let (mut rows, root, totals) = sound(rest);
    let export = framed(&rows, root, &totals);
    assert!(reencode_export(&export).expect("a sound export") == export);
    let at = usize::from(*at) % rows.len();
    let end = (at + usize::from(*cut % 16)).min(rows.len());
    rows.splice(at..end, rest.iter().copied());
    check(&framed(&rows, root, &totals));
});
