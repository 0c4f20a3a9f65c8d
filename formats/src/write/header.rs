//! A header under construction: bytes of a fixed length, zero where nothing was put.

/// The bytes of a header, a descriptor, a table that is made at once.
pub(crate) struct HeaderBytes(Vec<u8>);

impl HeaderBytes {
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Puts `field` at `at`. A field that leaves the header is our mistake.
    pub(crate) fn put_field(&mut self, at: usize, field: &[u8]) -> &mut Self {
        let place = self.0.get_mut(at..at + field.len());
        let place = place.expect("a field lies inside its header");
        place.copy_from_slice(field);
        self
    }

    pub(crate) fn le_u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.put_field(at, &value.to_le_bytes())
    }

    pub(crate) fn le_u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put_field(at, &value.to_le_bytes())
    }

    pub(crate) fn le_u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put_field(at, &value.to_le_bytes())
    }

    pub(crate) fn be_u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put_field(at, &value.to_be_bytes())
    }

    pub(crate) fn be_u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put_field(at, &value.to_be_bytes())
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}
