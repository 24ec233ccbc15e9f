//! The bytes of a value, as returned to the caller: borrowed from a mapping where possible,
//! otherwise copied. They never change.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// The bytes of a value: dereferences to `&[u8]`, is cheap to clone and send, and keeps the memory
/// it points into alive, if possible a mapped segment. Holding one never blocks anything; the disk
/// space of a collected segment is freed when the last of its values is dropped.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Value {
    bytes: Bytes,
}

impl Value {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Converts into a [`Bytes`] handle, without copying.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Without copying.
impl From<Value> for Bytes {
    fn from(value: Value) -> Self {
        value.bytes
    }
}

/// Copies mapped bytes, and those that another clone holds.
impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        value.bytes.into()
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
