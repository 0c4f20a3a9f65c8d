//! Window of a parity group: a stretch of blocks of all its tables and of their parity, read and
//! held against their sums.

use std::fs::File;
use std::ops::Range;

use rayon::prelude::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use super::code::{ParityEncoder, StripeRemains};
use super::files::read_padded;
use super::group::{BLOCK_LEN, BlockSum, ParityGroup, block_sums, blocks_of};
use super::shape::TableFile;
use crate::error::StoreError;

/// Memory for one stretch of blocks of all tables.
const WINDOW_LEN: usize = 32 << 20;
const BLOCKS_MIN: usize = 16;
const BLOCKS_MAX: usize = 256;

/// Blocks that are read together: the same tables have one in all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WindowRange {
    pub(super) blocks: Range<usize>,
    /// The number of tables that have these blocks: the first ones.
    pub(super) table_count: usize,
}

impl WindowRange {
    pub(super) fn len(&self) -> usize {
        self.blocks.len() * BLOCK_LEN
    }

    /// Its offset in a table or a parity stretch.
    pub(super) fn start_offset(&self) -> u64 {
        (self.blocks.start * BLOCK_LEN) as u64
    }
}

/// The windows of tables of these lengths, the longest first, for the blocks in `wanted`.
pub(super) fn split_windows(members: &[TableFile], wanted: Range<usize>) -> Vec<WindowRange> {
    let block_count = members.first().map_or(0, |table| blocks_of(table.len));
    let blocks_max = (WINDOW_LEN / BLOCK_LEN / members.len().max(1)).clamp(BLOCKS_MIN, BLOCKS_MAX);
    let (mut all, mut at) = (Vec::new(), wanted.start);
    while at < block_count.min(wanted.end) {
        let table_count = members.partition_point(|table| blocks_of(table.len) > at);
        let end = blocks_of(members[table_count - 1].len)
            .min(at + blocks_max)
            .min(wanted.end);
        all.push(WindowRange {
            blocks: at..end,
            table_count,
        });
        at = end;
    }
    all
}

/// The blocks of one table in a window, and their sums. What cannot be read is zeros, and false.
pub(super) fn read_stretch(
    file: &File,
    table_len: u64,
    range: &WindowRange,
) -> (Vec<u8>, Vec<BlockSum>, bool) {
    let mut bytes = vec![0; range.len()];
    let is_read = read_padded(file, &mut bytes, range.start_offset(), table_len);
    let sums = block_sums(&bytes);
    (bytes, sums, is_read)
}

/// A window of a group, and which of its blocks are as they should be.
pub(super) struct ParityWindow<'g> {
    group: &'g ParityGroup,
    range: WindowRange,
    data: Vec<BlockStretch>,
    parity: Vec<BlockStretch>,
}

struct BlockStretch {
    bytes: Vec<u8>,
    /// For each block whether it is as it should be.
    sound: Vec<bool>,
}

/// A block that was lost, as it should be.
pub(super) struct RestoredBlock {
    /// Number of the table, or of the parity stretch.
    pub(super) place: usize,
    pub(super) block: usize,
    pub(super) bytes: Vec<u8>,
}

impl BlockStretch {
    fn read_blocks(file: Option<&File>, len: u64, range: &WindowRange, sums: &[BlockSum]) -> Self {
        let Some(file) = file else {
            return Self {
                bytes: vec![0; range.len()],
                sound: vec![false; range.blocks.len()],
            };
        };
        let (bytes, found, _) = read_stretch(file, len, range);
        let sound = found
            .iter()
            .zip(&sums[range.blocks.clone()])
            .map(|(a, b)| a == b)
            .collect();
        Self { bytes, sound }
    }

    fn sound_block(&self, nth: usize) -> Option<&[u8]> {
        self.sound[nth].then(|| &self.bytes[nth * BLOCK_LEN..][..BLOCK_LEN])
    }
}

impl<'g> ParityWindow<'g> {
    /// Reads the window from the group's tables (`None` is gone) and its own file.
    pub(super) fn read_window(
        group: &'g ParityGroup,
        range: WindowRange,
        tables: &[Option<File>],
        own: &File,
    ) -> Self {
        let head = group.group_head();
        let data = (0..range.table_count)
            .into_par_iter()
            .map(|at| {
                let (file, len) = (tables[at].as_ref(), group.members[at].len);
                BlockStretch::read_blocks(file, len, &range, &group.member_sums[at])
            })
            .collect();
        let parity = (0..group.parity_count)
            .into_par_iter()
            .map(|at| {
                let from = head.record_len() + head.parity_len() * at as u64;
                let mut bytes = vec![0; range.len()];
                read_padded(
                    own,
                    &mut bytes,
                    from + range.start_offset(),
                    head.file_len(),
                );
                let sums = &group.parity_sums[at][range.blocks.clone()];
                let sound = block_sums(&bytes)
                    .iter()
                    .zip(sums)
                    .map(|(a, b)| a == b)
                    .collect();
                BlockStretch { bytes, sound }
            })
            .collect();
        Self {
            group,
            range,
            data,
            parity,
        }
    }

    /// True if every block is as it should be.
    pub(super) fn is_sound(&self) -> bool {
        self.data
            .iter()
            .chain(&self.parity)
            .all(|stretch| stretch.sound.iter().all(|sound| *sound))
    }

    /// The blocks of tables that are not as they should be: which table, which block.
    pub(super) fn damaged_blocks(&self) -> Vec<(usize, usize)> {
        let blocks = |(at, stretch): (usize, &BlockStretch)| {
            let lost = stretch
                .sound
                .iter()
                .enumerate()
                .filter(|(_, sound)| !**sound);
            lost.map(|(nth, _)| (at, self.range.blocks.start + nth))
                .collect::<Vec<_>>()
        };
        self.data.iter().enumerate().flat_map(blocks).collect()
    }

    /// The lost blocks of tables that can be restored, each verified against its sum.
    pub(super) fn restore_blocks(&self) -> Result<Vec<RestoredBlock>, StoreError> {
        let columns: Vec<usize> = (0..self.range.blocks.len())
            .filter(|nth| self.data.iter().any(|stretch| !stretch.sound[*nth]))
            .collect();
        // Columns with the same losses next to each other are one piece for the code.
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for nth in columns {
            match pieces.last_mut() {
                Some(last) if last.end == nth && self.has_same_losses(last.start, nth) => {
                    last.end += 1;
                }
                _ => pieces.push(nth..nth + 1),
            }
        }
        let restored: Result<Vec<_>, _> = pieces
            .par_iter()
            .map(|piece| self.restore_piece(piece))
            .collect();
        Ok(restored?.into_iter().flatten().collect())
    }

    fn has_same_losses(&self, one: usize, other: usize) -> bool {
        self.data
            .iter()
            .chain(&self.parity)
            .all(|stretch| stretch.sound[one] == stretch.sound[other])
    }

    fn restore_piece(&self, piece: &Range<usize>) -> Result<Vec<RestoredBlock>, StoreError> {
        let part = |stretch: &BlockStretch| {
            let bytes = piece.start * BLOCK_LEN..piece.end * BLOCK_LEN;
            stretch.sound[piece.start].then_some(bytes)
        };
        let slices = |all: &'_ [BlockStretch]| -> Vec<Option<Range<usize>>> {
            all.iter().map(part).collect()
        };
        let (data, parity) = (slices(&self.data), slices(&self.parity));
        let cut = |(stretch, range): (&'_ BlockStretch, &Option<Range<usize>>)| {
            range.clone().map(|range| stretch.bytes[range].to_vec())
        };
        let data: Vec<Option<Vec<u8>>> = self.data.iter().zip(&data).map(cut).collect();
        let parity: Vec<Option<Vec<u8>>> = self.parity.iter().zip(&parity).map(cut).collect();
        let remains = StripeRemains {
            data: data.iter().map(Option::as_deref).collect(),
            parity: parity.iter().map(Option::as_deref).collect(),
        };
        let mut restored = Vec::new();
        for (place, bytes) in remains.restore_lost()?.unwrap_or_default() {
            let sums = block_sums(&bytes);
            for ((nth, block), sum) in bytes.chunks(BLOCK_LEN).enumerate().zip(sums) {
                let at = self.range.blocks.start + piece.start + nth;
                if self.group.member_sums[place][at] == sum {
                    restored.push(RestoredBlock {
                        place,
                        block: at,
                        bytes: block.to_vec(),
                    });
                }
            }
        }
        Ok(restored)
    }

    /// Puts what was restored into the window.
    pub(super) fn accept_blocks(&mut self, restored: &[RestoredBlock]) {
        for RestoredBlock {
            place,
            block,
            bytes,
        } in restored
        {
            let (stretch, nth) = (&mut self.data[*place], block - self.range.blocks.start);
            stretch.bytes[nth * BLOCK_LEN..][..BLOCK_LEN].copy_from_slice(bytes);
            stretch.sound[nth] = true;
        }
    }

    /// The lost blocks of the parity stretches, if all of their tables' blocks are there.
    pub(super) fn restore_parity(
        &self,
        encoder: &mut ParityEncoder,
    ) -> Result<Vec<RestoredBlock>, StoreError> {
        let mut restored = Vec::new();
        for nth in 0..self.range.blocks.len() {
            if self.parity.iter().all(|stretch| stretch.sound[nth]) {
                continue;
            }
            let data: Option<Vec<&[u8]>> = self
                .data
                .iter()
                .map(|stretch| stretch.sound_block(nth))
                .collect();
            let Some(data) = data else { continue };
            let block = self.range.blocks.start + nth;
            let parity = encoder.encode_parity(&data, self.parity.len())?;
            for (place, bytes) in parity.into_iter().enumerate() {
                if !self.parity[place].sound[nth]
                    && block_sums(&bytes) == [self.group.parity_sums[place][block]]
                {
                    restored.push(RestoredBlock {
                        place,
                        block,
                        bytes,
                    });
                }
            }
        }
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::TableClass;
    use super::*;

    #[test]
    fn windows_cover_every_block_once_with_the_tables_that_have_it() {
        let members: Vec<TableFile> = [3_000_000, 2_000_000, 2_000_000, 5000, 4096, 1]
            .into_iter()
            .zip(1..)
            .map(|(len, number)| TableFile {
                number,
                len,
                class: TableClass::Payloads,
            })
            .collect();
        let all = split_windows(&members, 0..usize::MAX);
        assert_eq!(
            all[0],
            WindowRange {
                blocks: 0..1,
                table_count: 6
            }
        );
        assert_eq!(
            all[1],
            WindowRange {
                blocks: 1..2,
                table_count: 4
            }
        );
        let mut at = 0;
        for window in &all {
            assert_eq!(window.blocks.start, at);
            at = window.blocks.end;
            for block in window.blocks.clone() {
                let have = members
                    .iter()
                    .filter(|table| blocks_of(table.len) > block)
                    .count();
                assert_eq!(window.table_count, have, "{block}");
            }
        }
        assert_eq!(at, blocks_of(3_000_000));
        let some = split_windows(&members, 100..101);
        assert_eq!(
            some,
            [WindowRange {
                blocks: 100..101,
                table_count: 3
            }]
        );
        assert_eq!(split_windows(&[], 0..9), []);
    }
}
