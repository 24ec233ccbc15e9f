//! A cursor over consecutive little-endian fields.

pub(crate) struct Fields<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn int(&mut self, len: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(self.bytes(len));
        u64::from_le_bytes(wide)
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.int(1) as u8
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.int(2) as u16
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.int(4) as u32
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.int(8)
    }

    pub(crate) fn zeros(&mut self, len: usize) {
        assert!(self.bytes(len).iter().all(|byte| *byte == 0), "expected zeros");
    }

    /// A bool in a payload.
    pub(crate) fn bool(&mut self) -> bool {
        match self.u8() {
            0 => false,
            1 => true,
            other => panic!("expected a bool, found {other}"),
        }
    }

    /// An option in a payload.
    pub(crate) fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| value(self))
    }

    /// A list in a payload: its length as u64, then its elements.
    pub(crate) fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let len = self.u64();
        (0..len).map(|_| element(self)).collect()
    }
}
