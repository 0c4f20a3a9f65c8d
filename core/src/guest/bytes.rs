//! Integers in a block that was read. Past its end they are zero, as on a disk that was never
//! written.

/// A block.
#[derive(Clone, Copy)]
pub(super) struct ByteFields<'b>(pub(super) &'b [u8]);

impl<'b> ByteFields<'b> {
    fn array_at<const N: usize>(self, at: usize) -> [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or([0; N])
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// The bytes of `range`, as far as there are any.
    pub(super) fn slice_of(self, range: std::ops::Range<usize>) -> &'b [u8] {
        self.0
            .get(range.start..range.end.min(self.0.len()))
            .unwrap_or_default()
    }

    pub(super) fn le16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array_at(at))
    }

    pub(super) fn le32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array_at(at))
    }

    pub(super) fn le64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array_at(at))
    }

    pub(super) fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array_at(at))
    }

    pub(super) fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array_at(at))
    }

    pub(super) fn be64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array_at(at))
    }

    pub(super) fn starts_with(self, at: usize, magic: &[u8]) -> bool {
        self.0.get(at..).is_some_and(|rest| rest.starts_with(magic))
    }
}
