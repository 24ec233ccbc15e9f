//! Little-endian fields at fixed offsets, for the decoders of this crate.
//!
//! Nothing here panics: a field outside the slice is `None`.

macro_rules! field {
    ($name:ident, $int:ty) => {
        pub(crate) fn $name(bytes: &[u8], offset: usize) -> Option<$int> {
            let field = bytes.get(offset..)?.first_chunk()?;
            Some(<$int>::from_le_bytes(*field))
        }
    };
}

field!(u16_at, u16);
field!(u32_at, u32);
field!(u64_at, u64);
