//! An engine crate of LithDB, without any stability promise: use `lithdb-state`.
//!
//! The set hash of the state: [`LtHash`] is a hash of a set of pairs that is updated by adding and
//! removing pairs, whatever else is in the set and in whatever order; [`RootHash`] is its digest.
//!
//! # Construction
//! LtHash with 1,024 limbs of 16 bits: each pair is expanded by BLAKE3 to 2,048 bytes, and the hash
//! of a set is the sum of its elements, limb by limb, modulo 2^16. Bellare and Micciancio, "A New
//! Paradigm for Collision-free Hashing: Incrementality at Reduced Cost", EUROCRYPT 1997, describe
//! it; Lewi, Kim, Maykov and Weis, "Securing Update Propagation with Homomorphic Hashing", ePrint
//! 2019/227, choose these parameters, for at least 200 bits of security.
//!
//! What the functions return must never change: state stores on disk and other programs compare
//! with it.
//!
//! This crate does no I/O, and knows neither stores nor versions. `lithdb-state` alone uses it.
//!
//! ```
//! use lithdb_lthash::LtHash;
//!
//! let mut set = LtHash::default();
//! set.add_pair(b"alice", b"7");
//! set.add_pair(b"bob", b"8");
//! set.remove_pair(b"alice", b"7");
//! assert_eq!(set, LtHash::of(b"bob", b"8"));
//! assert_eq!(set.root().to_string().len(), 64);
//! ```

mod hash;
mod root;

pub use hash::LtHash;
pub use root::{ParseRootError, RootHash};
