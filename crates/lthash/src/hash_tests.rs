//! Tests of the set hash: vectors from elsewhere, and the laws of a sum.

use proptest::prelude::*;

use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn hash_of(pairs: &[(&[u8], &[u8])]) -> LtHash {
    let mut hash = LtHash::default();
    pairs.iter().for_each(|(key, value)| hash.add_pair(key, value));
    hash
}

fn sum<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> LtHash {
    let mut hash = LtHash::default();
    pairs.into_iter().for_each(|(key, value)| hash.add(&LtHash::of(key, value)));
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn expansion_agrees_with_the_official_vectors_of_blake3() {
    // https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json: the input
    // is 0, 1, …, 250 repeated; the output is `hash`, the first 131 bytes.
    for (input_len, expected) in [
        (
            0_usize,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262e00f03e7b69af26b7faaf0\
             9fcd333050338ddfe085b8cc869ca98b206c08243a26f5487789e8f660afe6c99ef9e0c52b92e7393024a8\
             0459cf91f476f9ffdbda7001c22e159b402631f277ca96f2defdf1078282314e763699a31c5363165421cc\
             e14d",
        ),
        (
            1,
            "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213c3a6cb8bf623e20cdb535f\
             8d1a5ffb86342d9c0b64aca3bce1d31f60adfa137b358ad4d79f97b47c3d5e79f179df87a3b9776ef8325f\
             8329886ba42f07fb138bb502f4081cbcec3195c5871e6c23e2cc97d3c69a613eba131e5f1351f3f1da7865\
             45e5",
        ),
        (
            1023,
            "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11a182d27a591b05592b1560\
             7500e1e8dd56bc6c7fc063715b7a1d737df5bad3339c56778957d870eb9717b57ea3d9fb68d1b55127bba6\
             a906a4a24bbd5acb2d123a37b28f9e9a81bbaae360d58f85e5fc9d75f7c370a0cc09b6522d9c8d822f2f28\
             f485",
        ),
        (
            1025,
            "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444f4c4a22b4b399155358a99\
             4e52bf255de60035742ec71bd08ac275a1b51cc6bfe332b0ef84b409108cda080e6269ed4b3e2c3f7d722a\
             a4cdc98d16deb554e5627be8f955c98e1d5f9565a9194cad0c4285f93700062d9595adb992ae68ff12800a\
             b67a",
        ),
        (
            5120,
            "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833acc61c8fdc114a2010ce80\
             38c853e121e1544985133fccdd0a2d507e8e615e611e9a0ba4f47915f49e53d721816a9198e8b30f12d20e\
             c3689989175f1bf7a300eee0d9321fad8da232ece6efb8e9fd81b42ad161f6b9550a069e66b11b40487a5f\
             5059",
        ),
    ] {
        let input: Vec<u8> = (0..input_len).map(|n| (n % 251) as u8).collect();
        let (front, back) = input.split_at(input_len / 3);
        let output = expand(&[front, back]);
        assert_eq!(hex(&output[..131]), expected, "{input_len} bytes");
    }
}

#[test]
fn vectors_and_digests_agree_with_solana_lattice_hash() {
    // https://github.com/anza-xyz/agave/blob/master/lattice-hash/src/lt_hash.rs, test_hello_world:
    // the first limbs and the last one; the digest covers all of them.
    for (input, first, last, digest) in [
        (
            "hello",
            [0x8fea, 0x3d16, 0x86b3, 0x9282, 0x445e, 0xc591, 0x8de5, 0xb34b],
            0x9924,
            [
                79, 156, 26, 184, 156, 205, 94, 208, 182, 235, 33, 147, 111, 153, 229, 152, 207,
                133, 75, 109, 182, 198, 119, 61, 11, 81, 41, 70, 24, 87, 100, 85,
            ],
        ),
        (
            "world!",
            [0x56dc, 0x1d98, 0x5420, 0x810d, 0x936f, 0x1011, 0xa2ff, 0x6681],
            0x171f,
            [
                171, 53, 185, 10, 179, 49, 48, 151, 87, 43, 141, 13, 43, 152, 121, 1, 144, 7, 120,
                188, 115, 248, 214, 220, 229, 210, 175, 134, 215, 231, 18, 245,
            ],
        ),
    ] {
        let hash = LtHash::from_bytes(&expand(&[input.as_bytes()]));
        assert_eq!(hash.limbs[..8], first, "{input}");
        assert_eq!(hash.limbs[LtHash::LIMBS - 1], last, "{input}");
        assert_eq!(hash.root().0, digest, "{input}");
    }
}

#[test]
fn roots_agree_with_an_independent_program() {
    let empty = "be2a8de3dcf46c94ce85cdc8e07ac308f4d8a95490d956c38d780fd610db0813";
    assert_eq!(LtHash::default().root().to_string(), empty);

    let a = LtHash::of(b"a", b"1");
    assert_eq!(a.limbs[..4], [63448, 19141, 49536, 43238]);
    let root = "4f8c528b195d4db509fdb2ad373b6a4f19d6803c12442e23f7da18d81c5bb045";
    assert_eq!(a.root().to_string(), root);

    let mut both = hash_of(&[(b"a", b"1"), (b"b", b"2")]);
    let root = "5166f2804357da48b038eadcfba59e1145bbe5b2c20de9771a2ce47463a67662";
    assert_eq!(both.root().to_string(), root);

    both.remove_pair(b"a", b"1");
    let root = "f1f1950ce049c55d108d0e185b80874c1066b0a5b909c6ef65da5be9cd6f2508";
    assert_eq!(both.root().to_string(), root);
}

#[test]
fn an_element_depends_on_where_the_key_ends() {
    let one = LtHash::of(b"ab", b"c");
    assert_ne!(one, LtHash::of(b"a", b"bc"));
    assert_ne!(one, LtHash::of(b"abc", b""));
    assert_ne!(LtHash::of(b"", b"abc"), LtHash::of(b"abc", b""));
    assert_ne!(LtHash::of(b"a", b""), LtHash::default());
}

#[test]
fn limbs_wrap_around() {
    let all = |byte| LtHash::from_bytes(&[byte; LtHash::LEN]);
    let mut hash = all(0xff);
    hash.add(&all(0x01));
    assert_eq!(hash, LtHash { limbs: Box::new([0x0100; LtHash::LIMBS]) });
    hash.subtract(&all(0x02));
    assert_eq!(hash, LtHash { limbs: Box::new([0xfefe; LtHash::LIMBS]) });
}

#[test]
fn one_limb_that_is_not_zero_is_not_empty() {
    for at in [0, LtHash::LEN / 2, LtHash::LEN - 1] {
        let mut bytes = [0; LtHash::LEN];
        assert!(LtHash::from_bytes(&bytes).is_empty());
        bytes[at] = 1;
        assert!(!LtHash::from_bytes(&bytes).is_empty());
    }
}

#[test]
fn debug_output_is_short() {
    assert_eq!(format!("{:?}", LtHash::default()), "LtHash(empty)");
    let shown = format!("{:?}", LtHash::of(b"a", b"1"));
    assert!(shown.starts_with("LtHash(4f8c528b") && shown.len() < 80, "{shown}");
}

fn pairs() -> impl Strategy<Value = Vec<Pair>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..90);
    prop::collection::vec((bytes(), bytes()), 0..12)
}

proptest! {
    #[test]
    fn the_order_of_additions_does_not_matter(
        (pairs, shuffled) in pairs()
            .prop_flat_map(|pairs| (Just(pairs.clone()), Just(pairs).prop_shuffle())),
    ) {
        prop_assert_eq!(sum(&pairs), sum(&shuffled));
    }

    #[test]
    fn what_is_added_and_removed_leaves_no_trace(pairs in pairs(), others in pairs()) {
        let mut hash = sum(&pairs);
        others.iter().for_each(|(key, value)| hash.add_pair(key, value));
        others.iter().rev().for_each(|(key, value)| hash.remove_pair(key, value));
        prop_assert_eq!(&hash, &sum(&pairs));
        hash.subtract(&sum(&pairs));
        prop_assert!(hash.is_empty());
    }

    #[test]
    fn the_hash_of_a_union_is_the_sum(pairs in pairs(), others in pairs()) {
        let mut hash = sum(&pairs);
        hash.add(&sum(&others));
        prop_assert_eq!(&hash, &sum(pairs.iter().chain(&others)));
        hash.subtract(&sum(&pairs));
        prop_assert_eq!(hash, sum(&others));
    }

    #[test]
    fn pairs_and_elements_are_added_alike(pairs in pairs()) {
        let (mut hash, mut by_pair) = (sum(&pairs), LtHash::default());
        pairs.iter().for_each(|(key, value)| by_pair.add_pair(key, value));
        prop_assert_eq!(&hash, &by_pair);
        for (key, value) in &pairs {
            hash.subtract(&LtHash::of(key, value));
            by_pair.remove_pair(key, value);
            prop_assert_eq!(&hash, &by_pair);
        }
    }

    #[test]
    fn bytes_and_vectors_are_converted_without_loss(pairs in pairs()) {
        let hash = sum(&pairs);
        prop_assert_eq!(&LtHash::from_bytes(&hash.to_bytes()), &hash);
        prop_assert_eq!(hash.root().0, *blake3::hash(&hash.to_bytes()).as_bytes());
    }
}
