//! The bytes of a value, as they are handed to the caller.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// The bytes of a value: dereferences to `&[u8]`, cheap to clone and to send, and keeps alive what it points
/// into, a mapped segment where it can be. Holding one never blocks anything; a collected segment's disk
/// space is given back when the last of its values is gone.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Value {
    bytes: Bytes,
}

impl Value {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// The same bytes as a [`Bytes`] handle, without copying.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq<[u8]> for Value {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialEq<&[u8]> for Value {
    fn eq(&self, other: &&[u8]) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Value {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.bytes.len())
    }
}
