//! Blocks that get room in the order in which they get content, under one table: what dynamic and
//! differencing VDI, VHD and VHDX have in common.
//!
//! It knows no header. A format says where entries are and what they look like ([`BlockRules`]).

use super::flow::CellSink;
use super::table::OrderedTable;
use super::target::put_bytes;
use super::walk::CellGap;
use super::{ImageTarget, ImageWriteError, SECTOR_LEN};

/// A format's table.
pub(crate) trait BlockRules<const N: usize>: Send {
    /// Index of the block's entry in the table.
    fn entry_index(&self, block: u64) -> u64;

    /// The entry of a block whose bytes begin at `place` of the file.
    fn stored_entry(&self, place: u64) -> [u8; N];

    /// The entry of a block of zeros that hide a parent's; `None`: they are stored.
    fn zero_entry(&self) -> Option<[u8; N]>;
}

/// Placement of blocks in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockLayout {
    pub(crate) block_len: u64,
    /// The first block's place.
    pub(crate) data_offset: u64,
    /// Bytes before each block's data, with one bit a sector: VHD's.
    pub(crate) bitmap_len: u64,
    /// True if a bit that is not set asks the parent. Otherwise all are set.
    pub(crate) has_parent: bool,
}

/// The blocks of a new file.
pub(crate) struct BlockWriter<'t, R, const N: usize> {
    target: &'t mut dyn ImageTarget,
    rules: R,
    table: OrderedTable<N>,
    layout: BlockLayout,
    /// Place of the next block.
    next_place: u64,
    open: Option<OpenBlock>,
}

/// The block that is filling.
struct OpenBlock {
    number: u64,
    place: Option<u64>,
    has_zeros: bool,
    /// One bit a sector.
    bits: Vec<u8>,
}

impl<'t, R: BlockRules<N>, const N: usize> BlockWriter<'t, R, N> {
    pub(crate) fn new(
        target: &'t mut dyn ImageTarget,
        rules: R,
        table: OrderedTable<N>,
        layout: BlockLayout,
    ) -> Self {
        Self {
            target,
            rules,
            table,
            layout,
            next_place: layout.data_offset,
            open: None,
        }
    }

    /// Writes the rest of the table. The file's blocks end where it says.
    pub(crate) fn finish_table(mut self) -> Result<u64, ImageWriteError> {
        self.close_block()?;
        self.table.finish_entries(self.target)?;
        Ok(self.next_place)
    }

    /// The block of that number, which is the open one or comes after it.
    fn open_block(&mut self, number: u64) -> Result<&mut OpenBlock, ImageWriteError> {
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            self.close_block()?;
        }
        Ok(self.open.get_or_insert(OpenBlock {
            number,
            place: None,
            has_zeros: false,
            bits: Vec::new(),
        }))
    }

    fn close_block(&mut self) -> Result<(), ImageWriteError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let entry = match open.place {
            Some(place) => Some(self.rules.stored_entry(place)),
            None => open.has_zeros.then(|| self.rules.zero_entry()).flatten(),
        };
        if let Some(place) = open.place
            && !open.bits.is_empty()
        {
            put_bytes(self.target, &open.bits, place)?;
        }
        match entry {
            Some(entry) => {
                let index = self.rules.entry_index(open.number);
                self.table.write_entry(self.target, index, entry)
            }
            None => Ok(()),
        }
    }

    /// Gives `len` bytes from `within` the block on a place.
    fn allocate_block(
        &mut self,
        number: u64,
        within: u64,
        len: u64,
    ) -> Result<u64, ImageWriteError> {
        let (layout, next_place) = (self.layout, self.next_place);
        let open = self.open_block(number)?;
        let place = *open.place.get_or_insert(next_place);
        if open.bits.is_empty() && layout.bitmap_len > 0 {
            let start = if layout.has_parent { 0 } else { 0xff };
            open.bits = vec![start; layout.bitmap_len as usize];
        }
        if layout.has_parent {
            set_bits(&mut open.bits, within / SECTOR_LEN, len / SECTOR_LEN);
        }
        if place == next_place {
            self.next_place += layout.bitmap_len + layout.block_len;
        }
        Ok(place + layout.bitmap_len + within)
    }

    /// The parts of a range, block by block: number, offset in the block, length.
    fn block_parts(
        &self,
        start: u64,
        len: u64,
    ) -> impl Iterator<Item = (u64, u64, u64)> + use<R, N> {
        let block_len = self.layout.block_len;
        let (mut at, end) = (start, start + len);
        std::iter::from_fn(move || {
            let within = at % block_len;
            let part =
                (at < end).then(|| (at / block_len, within, (block_len - within).min(end - at)))?;
            at += part.2;
            Some(part)
        })
    }
}

impl<R: BlockRules<N>, const N: usize> CellSink for BlockWriter<'_, R, N> {
    fn write_gap(&mut self, start: u64, len: u64, gap: CellGap) -> Result<(), ImageWriteError> {
        if gap == CellGap::Absent {
            return Ok(());
        }
        for (number, within, len) in self.block_parts(start, len) {
            if self.rules.zero_entry().is_some() {
                self.open_block(number)?.has_zeros = true;
            } else {
                self.allocate_block(number, within, len)?;
            }
        }
        Ok(())
    }

    fn write_data(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        let mut rest = bytes;
        for (number, within, len) in self.block_parts(start, bytes.len() as u64) {
            let (part, after) = rest.split_at(len as usize);
            let place = self.allocate_block(number, within, len)?;
            put_bytes(self.target, part, place)?;
            rest = after;
        }
        Ok(())
    }
}

/// Sets `count` bits from `first` on; the highest bit of a byte comes first.
fn set_bits(bits: &mut [u8], first: u64, count: u64) {
    let mut at = first;
    while at < first + count {
        let Some(byte) = bits.get_mut((at / 8) as usize) else {
            return;
        };
        if at.is_multiple_of(8) && at + 8 <= first + count {
            *byte = 0xff;
            at += 8;
        } else {
            *byte |= 0x80 >> (at % 8);
            at += 1;
        }
    }
}

/// A disk's bytes as they are, from one place of the file on: raw and fixed images.
pub(crate) struct FlatWriter<'t> {
    pub(crate) target: &'t mut dyn ImageTarget,
    /// Offset of the disk in the file.
    pub(crate) offset: u64,
    /// End of the disk, as the disk's own byte: cells may reach over it.
    pub(crate) len: u64,
}

impl CellSink for FlatWriter<'_> {
    fn write_gap(&mut self, _: u64, _: u64, _: CellGap) -> Result<(), ImageWriteError> {
        Ok(())
    }

    fn write_data(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        let len = (self.len - start).min(bytes.len() as u64) as usize;
        let visible = bytes.get(..len).unwrap_or_default();
        put_bytes(self.target, visible, self.offset + start)
    }
}

#[cfg(test)]
mod tests {
    use super::set_bits;

    #[test]
    fn bits_are_set_from_the_highest_on() {
        for (first, count, expected) in [
            (0, 3, [0b1110_0000, 0, 0]),
            (6, 4, [0b11, 0b1100_0000, 0]),
            (4, 16, [0x0f, 0xff, 0xf0]),
            (20, 99, [0, 0, 0x0f]),
        ] {
            let mut bits = [0; 3];
            set_bits(&mut bits, first, count);
            assert_eq!(bits, expected, "{first} {count}");
        }
    }
}
