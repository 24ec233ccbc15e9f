//! The decoders and the scanner of key files on arbitrary bytes: no panic, no hang, no allocation
//! for lengths beyond the input; an accepted record re-encodes to the same bytes.
#![no_main]

use std::path::Path;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use lithdb_env::{Result, UnixMillis};
use lithdb_segment::record::{Encoder, Flags, KeyRecord, Mark};
use lithdb_segment::scan::{Scanner, Verdict};
use lithdb_segment::{HEADER_LEN, Identity, KeyHeader, SegmentId, ShardId, ValueHeader};

const IDENTITY: Identity = Identity { table_id: 1, segment: SegmentId(2), salt: 3 };

/// A valid key file into which the fuzzer's bytes are written at an offset of its choice:
/// arbitrary bytes alone would never pass a checksum.
fn sound_file() -> Vec<u8> {
    let header = KeyHeader {
        identity: IDENTITY,
        predecessor: SegmentId::NONE,
        created: UnixMillis(4),
        shards: 2,
    };
    let mut file = header.encode();
    let mut encoder = Encoder {
        buffer: &mut file,
        identity: IDENTITY,
        epoch: IDENTITY.salt,
        running: 0,
        offset: HEADER_LEN as u64,
    };
    for n in 0..4_u8 {
        let record = KeyRecord {
            flags: Flags::PRIMARY.with(Flags::END_OF_GROUP).with(Flags::END_OF_BATCH),
            key: &[b'k', n],
            shard: ShardId(u16::from(n % 2)),
            offset: 64,
            stored_len: 10,
            raw_len: 10,
            value_checksum: 0,
            codec: 0,
        };
        encoder.key(&record);
        let mark = Mark {
            through: encoder.offset as u32,
            time: UnixMillis(5),
            records: u64::from(n) + 1,
            value_ends: vec![74, 74],
        };
        if n == 2 {
            encoder.mark(&mark);
            encoder.epoch(7, UnixMillis(6));
        }
    }
    file
}

fuzz_target!(|data: &[u8]| {
    let path = Path::new("1.keys");
    let _ = KeyHeader::decode(path, data);
    let _ = ValueHeader::decode(path, data);
    let _ = lithdb_segment::record::decode(&IDENTITY, 3, 64, data);
    let mut file = sound_file();
    let sound_len = file.len();
    if let [at, cut, rest @ ..] = data {
        let at = HEADER_LEN + usize::from(*at) % (sound_len - HEADER_LEN);
        file.truncate(sound_len.max(at) - usize::from(*cut) % (sound_len - HEADER_LEN));
        file.resize(file.len().max(at), 0);
        file.splice(at..(at + rest.len()).min(file.len()), rest.iter().copied());
    }
    let Ok(header) = KeyHeader::decode(path, &file) else { return };
    let bytes = Bytes::from(file);
    let source = |offset: u64, len: usize| -> Result<Bytes> {
        let start = (offset as usize).min(bytes.len());
        Ok(bytes.slice(start..(start + len).min(bytes.len())))
    };
    let mut scanner = Scanner::new(source, path, header, bytes.len() as u64);
    let mut records = 0;
    let verdict = scanner.run(|_| {
        records += 1;
        Ok(())
    });
    if let Ok(Verdict::Clean) = verdict {
        assert_eq!(scanner.totals().records, records);
        assert_eq!(scanner.totals().key_end, bytes.len() as u64);
    }
});
