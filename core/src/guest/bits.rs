//! Bitmaps whose set bits are what is in use, lowest bit first.

use std::ops::Range;

/// The next run of clear bits from `from` on, before `end`; empty, and ending there, if none is
/// left.
pub(super) fn next_clear(bitmap: &[u8], from: u64, end: u64) -> Range<u64> {
    let next = |mut bit: u64, wanted: bool| {
        // A byte that has no such bit is passed over at once.
        let passed = if wanted { 0x00 } else { 0xff };
        while bit < end {
            let byte = bitmap.get((bit / 8) as usize).copied().unwrap_or(0xff);
            if bit.is_multiple_of(8) && byte == passed {
                bit += 8;
            } else if (byte >> (bit % 8) & 1 == 1) == wanted {
                return bit;
            } else {
                bit += 1;
            }
        }
        end
    };
    let start = next(from, false);
    start..next(start, true)
}
