//! From a disk's extents to steps on a format's grid: which ranges a writer reads, and which it
//! need not. It reads nothing and looks for no zeros.

use super::SECTOR_LEN;
use vellum_core::source::{ExtentKind, ImageSource, SourceError};

/// Bytes that are read at once: enough that a call costs nothing, few enough for a cache.
const PIECE_LEN: u64 = 1 << 20;
/// So many neighbours of one kind are joined at most before a step is told, so that a step takes no
/// longer than a millisecond or so.
const JOINED_MAX: usize = 1 << 12;

/// The grid on which a format allocates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CellGrid {
    /// Bytes that are asked of the parent as a whole: a granule that is absent in part is read
    /// whole. A multiple of the cell.
    pub(crate) granule_len: u64,
    /// Bytes that are looked at for zeros as a whole. A power of two.
    pub(crate) cell_len: u64,
    /// True if zeros hide something.
    pub(crate) has_parent: bool,
}

/// The kinds of gap: ranges that are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellGap {
    /// The parent's bytes, or zeros without one.
    Absent,
    /// Zeros that hide a parent's bytes.
    Zero,
}

/// A range of whole cells; the last one may reach over the disk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalkStep {
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// `None`: read it.
    pub(crate) gap: Option<CellGap>,
}

/// A walk over a disk from front to back.
pub(crate) struct CellWalk<'a> {
    source: &'a dyn ImageSource,
    grid: CellGrid,
    /// The disk's length in whole cells.
    end: u64,
    position: u64,
    /// Up to here everything is to be read.
    read_end: u64,
}

impl CellGrid {
    /// A grid of cells that are asked of the parent one by one.
    pub(crate) fn single_cells(cell_len: u64, has_parent: bool) -> Self {
        Self {
            granule_len: cell_len,
            cell_len,
            has_parent,
        }
    }

    /// A grid of cells in blocks, which a child has whole or not at all.
    pub(crate) fn whole_blocks(block_len: u64, cell_len: u64, has_parent: bool) -> Self {
        Self {
            granule_len: if has_parent { block_len } else { cell_len },
            cell_len,
            has_parent,
        }
    }

    /// The kind of gap that cells of zeros are.
    pub(crate) fn zero_gap(&self) -> CellGap {
        if self.has_parent {
            CellGap::Zero
        } else {
            CellGap::Absent
        }
    }

    fn gap_of(&self, kind: ExtentKind) -> Option<CellGap> {
        match kind {
            ExtentKind::Data => None,
            ExtentKind::Absent => Some(CellGap::Absent),
            ExtentKind::Zero => Some(self.zero_gap()),
        }
    }
}

impl<'a> CellWalk<'a> {
    pub(crate) fn new(source: &'a dyn ImageSource, grid: CellGrid) -> Self {
        Self {
            source,
            grid,
            end: source.len().next_multiple_of(grid.cell_len),
            position: 0,
            read_end: 0,
        }
    }

    /// The next step, `None` behind the last.
    pub(crate) fn next_step(&mut self) -> Result<Option<WalkStep>, SourceError> {
        if self.position >= self.source.len() {
            return Ok(None);
        }
        if self.position >= self.read_end {
            let granule_len = self.grid.granule_len;
            let (gap, end) = self.gap_at_position()?;
            let whole_end = if end >= self.source.len() && !self.is_last_read() {
                self.end
            } else {
                end / granule_len * granule_len
            };
            if gap.is_some() && whole_end > self.position {
                return Ok(Some(self.advance_to(whole_end, gap)));
            }
            let data_end = if gap.is_none() {
                end
            } else {
                self.position + 1
            };
            self.read_end = data_end.next_multiple_of(granule_len).min(self.end);
        }
        let piece_len = PIECE_LEN.max(self.grid.cell_len);
        let end = self.read_end.min(self.position + piece_len);
        Ok(Some(self.advance_to(end, None)))
    }

    /// True if the last granule is read whatever it is: behind an odd length a child has zeros, not
    /// its parent's bytes.
    fn is_last_read(&self) -> bool {
        self.grid.has_parent && !self.source.len().is_multiple_of(SECTOR_LEN)
    }

    fn advance_to(&mut self, end: u64, gap: Option<CellGap>) -> WalkStep {
        let step = WalkStep {
            start: self.position,
            len: end - self.position,
            gap,
        };
        self.position = end;
        step
    }

    /// The kind of range at the position, and the byte up to which it reaches at least.
    fn gap_at_position(&self) -> Result<(Option<CellGap>, u64), SourceError> {
        let gap_at = |offset| {
            let extent = self.source.extent_at(offset)?;
            Ok::<_, SourceError>((self.grid.gap_of(extent.kind), extent.end_offset()))
        };
        let (gap, mut end) = gap_at(self.position)?;
        if gap.is_none() {
            return Ok((gap, end));
        }
        for _ in 0..JOINED_MAX {
            if end >= self.source.len() {
                break;
            }
            match gap_at(end)? {
                (next, next_end) if next == gap => end = next_end,
                _ => break,
            }
        }
        Ok((gap, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Patchwork;
    use ExtentKind::{Absent, Data, Zero};

    fn steps(source: &Patchwork, grid: CellGrid) -> Vec<(u64, u64, Option<CellGap>)> {
        let mut walk = CellWalk::new(source, grid);
        std::iter::from_fn(|| walk.next_step().expect("told"))
            .map(|step| (step.start, step.len, step.gap))
            .collect()
    }

    #[test]
    fn a_granule_that_is_absent_in_part_is_read_whole() {
        let source = Patchwork::new(&[
            (100, Absent),
            (10, Zero),
            (60, Absent),
            (90, Data),
            (5, Absent),
        ]);
        let absent = Some(CellGap::Absent);
        assert_eq!(
            steps(&source, CellGrid::single_cells(64, true)),
            [
                (0, 64, absent),
                (64, 64, None),
                (128, 64, None),
                (192, 128, None)
            ],
            "the last cells hold data and absent bytes"
        );
        assert_eq!(
            steps(&source, CellGrid::single_cells(64, false)),
            [(0, 128, absent), (128, 64, None), (192, 128, None)],
            "without a parent zero and absent are one"
        );
        assert_eq!(
            steps(&source, CellGrid::whole_blocks(128, 64, true)),
            [(0, 128, None), (128, 128, None), (256, 64, None)]
        );
    }

    #[test]
    fn a_gap_at_the_end_reaches_to_the_end_of_its_cell() {
        let source = Patchwork::new(&[(64, Data), (65, Zero)]);
        let steps_of = |has_parent| steps(&source, CellGrid::single_cells(64, has_parent));
        assert_eq!(
            steps_of(false),
            [(0, 64, None), (64, 128, Some(CellGap::Absent))]
        );
        assert_eq!(
            steps_of(true),
            [
                (0, 64, None),
                (64, 64, Some(CellGap::Zero)),
                (128, 64, None)
            ],
            "what follows an odd length is not the parent's"
        );
        assert!(steps(&Patchwork::new(&[]), CellGrid::single_cells(64, true)).is_empty());
    }
}
