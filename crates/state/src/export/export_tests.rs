use std::io;

use lithdb_env::ErrorKind;
use lithdb_lthash::LtHash;
use proptest::prelude::*;

use super::format::{FRAME_HEAD_LEN, HEADER_LEN, MAX_PAYLOAD_LEN};
use super::*;
use crate::store_name::StoreName;
use crate::totals::{MAX_STORES, Totals};

/// Store, key, version, value.
type Row<'a> = (&'a str, &'a [u8], u64, &'a [u8]);

const ROWS: [Row<'_>; 4] = [
    ("a", b"k", 9, b""),
    ("a", b"k1", 7, b"value"),
    ("a-", b"\0", 1, b"x"),
    ("bank", b"alice", 0, b"7"),
];

fn totals_of(rows: &[Row<'_>]) -> Totals {
    let mut totals = Totals::default();
    for (store, key, _, value) in rows {
        totals.add_row(&StoreName::new(store).unwrap(), key, value).unwrap();
    }
    totals
}

fn try_encode(version: u64, rows: &[Row<'_>]) -> Result<Vec<u8>> {
    let (totals, mut out) = (totals_of(rows), Vec::new());
    let mut writer = ExportWriter::new(&mut out, Header { version, root: totals.root() })?;
    for (store, key, modified_at, value) in rows {
        writer.put(&StoreName::new(store).unwrap(), key, *modified_at, value)?;
    }
    let len = writer.finish(&totals)?;
    assert_eq!(len, out.len() as u64);
    Ok(out)
}

fn encode(rows: &[Row<'_>]) -> Vec<u8> {
    try_encode(9, rows).unwrap()
}

/// An export with a sound header, frames and trailer around `content`, made as the format says.
/// `totals` are those that the trailer lists.
fn framed(version: u64, content: &[u8], cut: usize, totals: &Totals) -> Vec<u8> {
    let mut out = b"LITHSEXP\x01\0\0\0".to_vec();
    out.extend(version.to_le_bytes());
    out.extend(totals.root().0);
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
    for payload in content.chunks(cut) {
        frame(&mut out, 1, payload);
    }
    let stores: Vec<_> = totals.iter().collect();
    let (rows, bytes): (u64, u64) =
        stores.iter().fold((0, 0), |sum, (_, store)| (sum.0 + store.keys, sum.1 + store.bytes));
    let mut trailer = [rows, bytes].map(u64::to_le_bytes).concat();
    trailer.extend((stores.len() as u16).to_le_bytes());
    for (name, store) in stores {
        trailer.push(name.as_str().len() as u8);
        trailer.extend(name.as_str().as_bytes());
        trailer.extend([store.keys, store.bytes].map(u64::to_le_bytes).as_flattened());
        trailer.extend(blake3::hash(&store.vector.to_bytes()).as_bytes());
    }
    let hash = blake3::hash(&[&out[..], &trailer].concat());
    trailer.extend(hash.as_bytes());
    frame(&mut out, 2, &trailer);
    out
}

/// The bytes of rows, as the format says.
fn content(rows: &[Row<'_>]) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), None);
    for (store, key, modified_at, value) in rows {
        if last != Some(store) {
            out.extend([1, store.len() as u8]);
            out.extend(store.as_bytes());
            last = Some(store);
        }
        out.push(2);
        out.extend((key.len() as u16).to_le_bytes());
        out.extend(*key);
        out.extend(modified_at.to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(*value);
    }
    out
}

/// The message of the error with which a reader refuses an export.
fn refusal(mut export: &[u8]) -> String {
    let read = ExportReader::open(&mut export).and_then(|mut reader| {
        while reader.next_row()?.is_some() {}
        reader.finish()
    });
    let error = read.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
    error.to_string()
}

#[test]
fn an_export_has_the_bytes_of_the_format() {
    let totals = totals_of(&ROWS);
    assert_eq!(encode(&ROWS), framed(9, &content(&ROWS), MAX_PAYLOAD_LEN, &totals));
    let empty = framed(0, &[], MAX_PAYLOAD_LEN, &Totals::default());
    assert_eq!(try_encode(0, &[]).unwrap(), empty);
    assert_eq!(empty.len(), HEADER_LEN + FRAME_HEAD_LEN + 18 + 32);
    assert_eq!(empty[20..52], LtHash::default().root().0);
}

#[test]
fn what_is_read_is_written_again() {
    let long = vec![7; 3 * MAX_PAYLOAD_LEN + 11];
    // The rows end where a frame ends.
    let whole = vec![8; MAX_PAYLOAD_LEN - content(&[("s", b"k", 1, b"")]).len()];
    for rows in [
        &ROWS[..],
        &[],
        &[("s", b"k", 1, &long), ("s", b"l", 2, b"after"), ("t", b"k", 3, &long)],
        &[("s", b"k", 1, &whole)],
        &[("s", b"k", 1, &whole), ("s", b"l", 2, b"")],
    ] {
        let export = encode(rows);
        assert!(reencode_export(&export).unwrap() == export);
        assert!(export == framed(9, &content(rows), MAX_PAYLOAD_LEN, &totals_of(rows)));
        let mut source = &export[..];
        let mut reader = ExportReader::open(&mut source).unwrap();
        for (store, key, modified_at, value) in rows {
            let row = reader.next_row().unwrap().unwrap();
            assert_eq!(
                (row.store.as_str(), row.key, row.modified_at),
                (*store, *key, *modified_at)
            );
            assert!(row.value == *value);
        }
        assert_eq!(reader.finish().unwrap(), totals_of(rows));
    }
}

#[test]
fn every_flipped_bit_of_an_export_is_refused() {
    let export = encode(&ROWS);
    for bit in 0..export.len() * 8 {
        let mut flipped = export.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refusal(&flipped);
    }
}

#[test]
fn an_export_that_is_cut_off_or_goes_on_is_refused() {
    let export = encode(&ROWS);
    for len in 0..export.len() {
        refusal(&export[..len]);
    }
    let longer = [&export[..], b"\0"].concat();
    assert!(refusal(&longer).contains("expected the end, found more bytes"));
}

#[test]
fn frames_of_another_cut_are_refused() {
    let totals = totals_of(&ROWS);
    let message = refusal(&framed(9, &content(&ROWS), 20, &totals));
    assert!(message.contains("a frame that is not full, found more rows"), "{message}");
    // A frame twice, and two frames in another order.
    let (one, other) = (vec![1; MAX_PAYLOAD_LEN], vec![2; MAX_PAYLOAD_LEN]);
    let export = encode(&[("s", b"k", 1, &one), ("s", b"l", 1, &other), ("s", b"m", 1, &one)]);
    let frame_len = FRAME_HEAD_LEN + MAX_PAYLOAD_LEN;
    let frame = |n: usize| &export[HEADER_LEN + n * frame_len..][..frame_len];
    let header = &export[..HEADER_LEN];
    for frames in [[frame(0), frame(0)], [frame(1), frame(0)]] {
        let message = refusal(&[header, frames[0], frames[1], frame(2)].concat());
        assert!(message.contains("with checksum"), "{message}");
    }
}

#[test]
fn lengths_are_refused_before_their_bytes_are_awaited() {
    let header = &encode(&ROWS)[..HEADER_LEN];
    for (kind, len) in [(1, 0), (1, MAX_PAYLOAD_LEN as u32 + 1), (2, u32::MAX), (3, 5)] {
        let head = [kind, len, 0_u32].map(u32::to_le_bytes).concat();
        let message = refusal(&[header, &head].concat());
        assert!(message.contains("expected a frame of"), "{message}");
    }
    let rows: [&[u8]; 4] = [
        b"\x01\x01s\x02\0\0",
        b"\x01\x01s\x02\xff\xff",
        b"\x01\x01s\x02\x01\0k\x01\0\0\0\0\0\0\0\x01\0\0\x10",
        b"\x01\x01s\x02\x01\0k\x01\0\0\0\0\0\0\0\xff\xff\xff\xff",
    ];
    for (rows, what) in rows.into_iter().zip(["a key of", "a key of", "a value of", "a value of"]) {
        let message = refusal(&framed(9, rows, MAX_PAYLOAD_LEN, &Totals::default()));
        assert!(message.contains(&format!("expected {what}")), "{message}");
    }
}

#[test]
fn rows_that_no_writer_makes_are_refused() {
    let sound = totals_of(&ROWS);
    let check = |version: u64, rows: &[u8], what: &str| {
        let message = refusal(&framed(version, rows, MAX_PAYLOAD_LEN, &sound));
        assert!(message.contains(what), "{what}: {message}");
    };
    check(9, &content(&[ROWS[1], ROWS[0]]), "keys in ascending order");
    check(9, &content(&[ROWS[0], ROWS[0]]), "keys in ascending order");
    check(9, &content(&[ROWS[2], ROWS[0]]), "a store after a-");
    check(9, &content(&[ROWS[0], ROWS[2], ROWS[1]]), "a store after a-");
    check(8, &content(&ROWS), "a version of at most 8, found 9");
    check(9, b"\x03", "a store or a row, found tag 3");
    check(9, &content(&ROWS)[3..], "a store before its rows");
    check(9, b"\x01\x01a", "a row of the store, found none");
    check(9, b"\x01\x01a\x01\x01b", "a row of the store, found none");
    check(9, b"\x01\x00\x02", "the name of a store");
    check(9, b"\x01\x01/\x02", "the name of a store");
    check(9, b"\x01\x01\xff\x02", "the name of a store");
    let cut = &content(&ROWS)[..content(&ROWS).len() - 1];
    check(9, cut, "bytes of a store or a row");
    check(9, &[1, 9], "bytes of a store or a row");
    // Sound rows that are not those of the trailer.
    check(9, &content(&ROWS[..3]), "the totals of the rows and the hash of the stream");
    check(9, &[], "the totals of the rows and the hash of the stream");
}

#[test]
fn a_root_that_is_not_that_of_the_rows_is_refused() {
    let export = encode(&ROWS);
    let (totals, mut header) = (totals_of(&ROWS), export[..52].to_vec());
    header[20] ^= 1;
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    // The trailer's hash is that of the false header.
    let rows_end =
        export.len() - (FRAME_HEAD_LEN + format::trailer(&totals, &blake3::Hasher::new()).len());
    let before = [&header[..], &export[HEADER_LEN..rows_end]].concat();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before);
    let trailer = format::trailer(&totals, &hasher);
    let head = format::frame_head(format::FrameKind::Trailer, 1, &trailer);
    let message = refusal(&[&before[..], &head, &trailer].concat());
    assert!(message.contains("expected the root"), "{message}");
}

#[test]
fn more_stores_than_there_can_be_are_refused() {
    let names: Vec<String> = (0..=MAX_STORES).map(|n| format!("{n:04}")).collect();
    let rows: Vec<Row<'_>> = names.iter().map(|name| (&name[..], &b"k"[..], 1, &b""[..])).collect();
    let all = content(&rows);
    let message = refusal(&framed(9, &all, MAX_PAYLOAD_LEN, &Totals::default()));
    assert!(message.contains("at most 4096 stores"), "{message}");
    let export = encode(&rows[..MAX_STORES]);
    assert!(reencode_export(&export).unwrap() == export);
}

#[test]
fn another_format_or_magic_is_named() {
    let mut export = encode(&ROWS);
    export[8] = 2;
    let error = reencode_export(&export).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let message = refusal(&[b"PK".to_vec(), encode(&ROWS)].concat());
    assert!(message.contains("this is no export of a state store"), "{message}");
}

#[test]
fn a_writer_refuses_rows_that_are_not_those_of_its_version() {
    for rows in [&[ROWS[1], ROWS[0]][..], &[ROWS[2], ROWS[1]], &[ROWS[0], ROWS[0]]] {
        let error = try_encode(9, rows).unwrap_err();
        assert!(error.to_string().contains("in ascending order"), "{error}");
    }
    let error = try_encode(8, &ROWS).unwrap_err();
    assert!(error.to_string().contains("expected a row of version 8, found 9"), "{error}");
    let (totals, mut out) = (totals_of(&ROWS), Vec::new());
    let header = Header { version: 9, root: totals.root() };
    let mut writer = ExportWriter::new(&mut out, header).unwrap();
    writer.put(&StoreName::new("a").unwrap(), b"k", 1, b"another").unwrap();
    let error = writer.finish(&totals).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("store a of version 9"), "{error}");
}

/// A writer and a reader that fail after some bytes.
struct Failing {
    left: usize,
    export: Vec<u8>,
}

impl io::Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.left);
        self.left -= len;
        match len {
            0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(len),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Failing {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = room.len().min(self.left).min(3);
        self.left -= len;
        let rest: Vec<u8> = self.export.split_off(len);
        let now = std::mem::replace(&mut self.export, rest);
        room[..len].copy_from_slice(&now);
        match len {
            0 => Err(io::Error::other("unplugged")),
            _ => Ok(len),
        }
    }
}

#[test]
fn a_failed_write_or_read_is_an_error_of_the_system() {
    let export = encode(&ROWS);
    for left in 0..export.len() {
        let totals = totals_of(&ROWS);
        let mut out = Failing { left, export: Vec::new() };
        let header = Header { version: 9, root: totals.root() };
        let written = ExportWriter::new(&mut out, header).and_then(|mut writer| {
            for (store, key, modified_at, value) in ROWS {
                writer.put(&StoreName::new(store)?, key, modified_at, value)?;
            }
            writer.finish(&totals)
        });
        assert_eq!(written.unwrap_err().kind(), ErrorKind::StorageFull, "{left}");
        let mut source = Failing { left, export: export.clone() };
        let read = ExportReader::open(&mut source).and_then(|mut reader| {
            while reader.next_row()?.is_some() {}
            reader.finish()
        });
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{left}");
        assert!(error.to_string().contains("read the export: unplugged"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes in sound frames are refused, or are the one encoding of their rows.
    #[test]
    fn arbitrary_rows_are_refused_or_written_again(
        rows in prop::collection::vec(any::<u8>(), 0..60),
        at in any::<prop::sample::Index>(),
        cut in 0_usize..8,
    ) {
        let mut changed = content(&ROWS);
        let at = at.index(changed.len());
        let end = (at + cut).min(changed.len());
        changed.splice(at..end, rows.iter().copied());
        for content in [rows, changed] {
            let export = framed(9, &content, MAX_PAYLOAD_LEN, &totals_of(&ROWS));
            if let Ok(again) = reencode_export(&export) {
                prop_assert!(again == export);
            }
        }
    }
}
