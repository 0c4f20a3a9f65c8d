//! The virtio block device in bytes, after "Virtual I/O Device (VIRTIO) Version 1.2", 5.2. Decides
//! nothing, and never panics on any bytes.
//!
//! A request's header, which the guest writes:
//!
//! ```text
//! offset  size  meaning
//! 0       4     type: 0 read, 1 write, 4 flush, 8 identify, 11 discard, 13 write zeroes
//! 4       4     unused
//! 8       8     first sector, of 512 bytes, of a read or write
//! ```
//!
//! Behind it come the bytes of a write, or segments of a discard or of zeroes:
//!
//! ```text
//! offset  size  meaning
//! 0       8     first sector
//! 8       4     sectors
//! 12      4     flags: bit 0 unmap (of zeroes only)
//! ```
//!
//! The answer is the bytes of a read or the serial number, and one byte of result: 0 done,
//! 1 failed, 2 not supported. The configuration space, of which a front end reads any part:
//!
//! ```text
//! offset  size  meaning
//! 0       8     sectors
//! 8       4     longest segment (none)
//! 12      4     most segments of a request
//! 16      4     geometry (none)
//! 20      4     length of a block
//! 24      1     binary logarithm of the blocks of a physical block
//! 25      1     first aligned block
//! 26      2     blocks of the least request that costs nothing more
//! 28      4     blocks of the best request
//! 32      1     writeback: 1 if a write is durable after a flush only; the guest may write it
//! 34      2     queues
//! 36      4     most sectors of a discard
//! 40      4     most segments of a discard
//! 44      4     sectors to which a discard is aligned at best
//! 48      4     most sectors of zeroes
//! 52      4     most segments of zeroes
//! 56      1     1 if zeroes may free what was there
//! ```

use std::ops::Range;

/// Bytes of a sector.
pub(super) const SECTOR_LEN: u64 = 512;
/// Queues of a device: as many as a guest has processors, up to this.
pub const QUEUES_MAX: usize = 4;
/// Requests of a queue.
pub(super) const QUEUE_SIZE: usize = 256;
/// Bytes of a request's header.
pub(super) const HEADER_LEN: usize = 16;
/// Bytes of a segment of a discard.
pub(super) const SEGMENT_LEN: usize = 16;
/// Segments of a discard.
pub(super) const SEGMENTS_MAX: u32 = 32;
/// Sectors of a discard's segment: 1 GiB.
const SEGMENT_SECTORS_MAX: u32 = 1 << 21;
/// Bytes of a serial number.
pub(super) const SERIAL_LEN: usize = 20;
/// Bytes of the configuration space.
const CONFIG_LEN: usize = 60;
/// The place of `writeback` in it.
const WRITEBACK_AT: usize = 32;
const UNMAP: u32 = 1;

/// Bits of the features of 5.2.3.
pub(super) mod feature {
    pub(in super::super) const SEG_MAX: u64 = 1 << 2;
    pub(in super::super) const READ_ONLY: u64 = 1 << 5;
    pub(in super::super) const BLK_SIZE: u64 = 1 << 6;
    pub(in super::super) const FLUSH: u64 = 1 << 9;
    pub(in super::super) const TOPOLOGY: u64 = 1 << 10;
    pub(in super::super) const CONFIG_WCE: u64 = 1 << 11;
    pub(in super::super) const MULTI_QUEUE: u64 = 1 << 12;
    pub(in super::super) const DISCARD: u64 = 1 << 13;
    pub(in super::super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// The work that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockOperation {
    /// Bytes from this offset.
    Read(u64),
    /// Bytes from this offset.
    Write(u64),
    Flush,
    /// The serial number.
    Identify,
    Discard,
    WriteZeroes,
    /// A type that is not known, or an offset that no disk has.
    Unknown,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockStatus {
    Done = 0,
    Failed = 1,
    Unsupported = 2,
}

/// The facts of a disk that its configuration space tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskConfig {
    pub(super) len: u64,
    /// Bytes of the requests that cost least: a power of two.
    pub(super) preferred_len: u32,
    pub(super) is_writeback: bool,
}

impl BlockOperation {
    pub(super) fn parse_header(bytes: [u8; HEADER_LEN]) -> Self {
        let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (_, sector) = bytes.split_at(8);
        let sector = sector.try_into().map_or(0, u64::from_le_bytes);
        let offset = sector.checked_mul(SECTOR_LEN);
        match (kind, offset) {
            (0, Some(offset)) => Self::Read(offset),
            (1, Some(offset)) => Self::Write(offset),
            (4, _) => Self::Flush,
            (8, _) => Self::Identify,
            (11, _) => Self::Discard,
            (13, _) => Self::WriteZeroes,
            _ => Self::Unknown,
        }
    }
}

/// The bytes that the segments of a discard, or of zeroes, are about; or the result of a request
/// that is none.
pub(super) fn parse_segments(
    bytes: &[u8],
    may_unmap: bool,
) -> Result<Vec<Range<u64>>, BlockStatus> {
    let (segments, rest) = bytes.as_chunks::<SEGMENT_LEN>();
    if segments.is_empty() || !rest.is_empty() || segments.len() > SEGMENTS_MAX as usize {
        return Err(BlockStatus::Failed);
    }
    segments
        .iter()
        .map(|segment| parse_segment(segment, may_unmap))
        .collect()
}

fn parse_segment(bytes: &[u8; SEGMENT_LEN], may_unmap: bool) -> Result<Range<u64>, BlockStatus> {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (sectors, flags) = (word(8), word(12));
    if flags & !UNMAP != 0 || (flags == UNMAP && !may_unmap) {
        return Err(BlockStatus::Unsupported);
    }
    let start = sector.checked_mul(SECTOR_LEN);
    let end = sector
        .checked_add(u64::from(sectors))
        .and_then(|end| end.checked_mul(SECTOR_LEN));
    match (start, end) {
        (Some(start), Some(end)) if sectors <= SEGMENT_SECTORS_MAX => Ok(start..end),
        _ => Err(BlockStatus::Failed),
    }
}

impl DiskConfig {
    /// The configuration space from `offset` on, at most `len` bytes; what lies behind it is not
    /// there.
    pub(super) fn read_space(&self, offset: u32, len: u32) -> Vec<u8> {
        let space = self.space();
        let start = space.len().min(offset as usize);
        let end = space.len().min(start.saturating_add(len as usize));
        let mut found = space[start..end].to_vec();
        // A front end that asks for more than there is, as QEMU does for later versions' fields,
        // wants as many bytes as it asked for.
        found.resize((len as usize).min(4096), 0);
        found
    }

    fn space(&self) -> [u8; CONFIG_LEN] {
        let mut space = [0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        let block_len = SECTOR_LEN as u32;
        let best = (self.preferred_len / block_len).max(1);
        put(0, &(self.len / SECTOR_LEN).to_le_bytes());
        put(12, &(QUEUE_SIZE as u32 - 2).to_le_bytes());
        put(20, &block_len.to_le_bytes());
        put(24, &[best.ilog2() as u8]);
        put(26, &(best.min(u32::from(u16::MAX)) as u16).to_le_bytes());
        put(28, &best.to_le_bytes());
        put(WRITEBACK_AT, &[u8::from(self.is_writeback)]);
        put(34, &(QUEUES_MAX as u16).to_le_bytes());
        put(36, &SEGMENT_SECTORS_MAX.to_le_bytes());
        put(40, &SEGMENTS_MAX.to_le_bytes());
        put(44, &best.to_le_bytes());
        put(48, &SEGMENT_SECTORS_MAX.to_le_bytes());
        put(52, &SEGMENTS_MAX.to_le_bytes());
        put(56, &[1]);
        space
    }
}

/// The value of `writeback` that a guest writes into the configuration space; none if it writes
/// anything else.
pub(super) fn parse_writeback(offset: u32, bytes: &[u8]) -> Option<bool> {
    match bytes {
        [value] if offset as usize == WRITEBACK_AT => Some(*value != 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_specification_says() {
        let header = |kind: u8, sector: u64| {
            let mut bytes = [0; HEADER_LEN];
            bytes[0] = kind;
            bytes[8..].copy_from_slice(&sector.to_le_bytes());
            BlockOperation::parse_header(bytes)
        };
        assert_eq!(header(0, 3), BlockOperation::Read(1536));
        assert_eq!(header(1, 1 << 40), BlockOperation::Write(1 << 49));
        assert_eq!(header(4, u64::MAX), BlockOperation::Flush);
        assert_eq!(header(8, 0), BlockOperation::Identify);
        assert_eq!(header(11, 0), BlockOperation::Discard);
        assert_eq!(header(13, 0), BlockOperation::WriteZeroes);
        for (kind, sector) in [(0, u64::MAX), (1, 1 << 55), (2, 0), (14, 0), (255, 0)] {
            assert_eq!(header(kind, sector), BlockOperation::Unknown, "{kind}");
        }
    }

    #[test]
    fn segments_are_whole_bounded_and_of_known_flags() {
        let segment = |sector: u64, sectors: u32, flags: u32| {
            let mut bytes = sector.to_le_bytes().to_vec();
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes
        };
        let two = [segment(1, 2, 0), segment(8, 1, 0)].concat();
        assert_eq!(parse_segments(&two, false), Ok(vec![512..1536, 4096..4608]));
        let unmapped = parse_segments(&segment(0, 1, 1), true).expect("it may unmap");
        assert_eq!((unmapped.len(), unmapped[0].clone()), (1, 0..512));
        for (bytes, may_unmap, expected) in [
            (Vec::new(), true, BlockStatus::Failed),
            (two[..31].to_vec(), true, BlockStatus::Failed),
            (two.repeat(17), true, BlockStatus::Failed),
            (segment(0, 1, 1), false, BlockStatus::Unsupported),
            (segment(0, 1, 2), true, BlockStatus::Unsupported),
            (segment(u64::MAX, 1, 0), true, BlockStatus::Failed),
            (segment(1 << 55, 1, 0), true, BlockStatus::Failed),
            (segment(0, u32::MAX, 0), true, BlockStatus::Failed),
        ] {
            assert_eq!(
                parse_segments(&bytes, may_unmap),
                Err(expected),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn any_part_of_the_configuration_space_can_be_read() {
        let config = DiskConfig {
            len: (1 << 30) + 100,
            preferred_len: 4096,
            is_writeback: true,
        };
        let space = config.space();
        assert_eq!(space[..8], (1_u64 << 21).to_le_bytes());
        assert_eq!(
            (space[24], space[26], space[WRITEBACK_AT], space[34]),
            (3, 8, 1, QUEUES_MAX as u8)
        );
        for (offset, len) in [(0, 60), (0, 8), (59, 1), (20, 16)] {
            let end = (offset + len) as usize;
            assert_eq!(config.read_space(offset, len), space[offset as usize..end]);
        }
        for (offset, len) in [(0, 96), (60, 4), (u32::MAX, 8)] {
            let found = config.read_space(offset, len);
            let there = space.get(offset as usize..).unwrap_or_default();
            assert_eq!(found.len(), len as usize);
            assert_eq!(found[..there.len()], *there);
            assert!(found[there.len()..].iter().all(|byte| *byte == 0));
        }
        assert!(config.read_space(0, u32::MAX).len() <= 4096);
        assert_eq!(parse_writeback(32, &[0]), Some(false));
        assert_eq!(parse_writeback(33, &[0]), None);
        assert_eq!(parse_writeback(32, &[0, 1]), None);
    }
}
