//! The way from a disk to a format's writer: read, look for zeros, compress on all cores; hand over
//! in order, while the next batch is made.
//!
//! Two batches are in memory: one that fills, one that is written. Order and content of the calls
//! depend on the disk alone.

use rayon::prelude::{IntoParallelRefMutIterator, ParallelIterator, ParallelSlice};

use super::walk::{CellGap, CellGrid, CellWalk, WalkStep};
use super::{ClusterEncoder, ImageWriteError};
use vellum_core::hash::is_zero;
use vellum_core::source::{ClusterCodec, ImageSource};

/// Bytes of a batch: pieces for every core, and two batches below a quarter of the 64 MiB that a
/// writer may take.
pub(crate) const BATCH_LEN: u64 = 8 << 20;
/// Steps of a batch that are not read cost nothing; this bounds their list.
const STEPS_MAX: usize = 4096;

/// A format's writer, called in the order of the disk.
pub(crate) trait CellSink: Send {
    /// Takes a range without content: whole cells.
    fn write_gap(&mut self, start: u64, len: u64, gap: CellGap) -> Result<(), ImageWriteError>;

    /// Takes cells of which each has a byte that is not zero; behind the disk's end they are zero.
    fn write_data(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError>;

    /// Takes one compressed cell. Called only if there is a [`CellPacking`].
    fn write_packed(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        let _ = (start, bytes);
        Err(ImageWriteError::Encoder("nobody asked for it".to_owned()))
    }
}

/// Compression of cells.
#[derive(Clone, Copy)]
pub(crate) struct CellPacking<'a> {
    pub(crate) codec: ClusterCodec,
    pub(crate) encoder: &'a dyn ClusterEncoder,
    /// True if a cell that does not shrink is compressed nevertheless.
    pub(crate) is_always: bool,
}

/// Content of a cell, after it was examined.
enum CellContent {
    Zero,
    Data,
    Packed(Vec<u8>),
}

/// A step, with what was read for it.
struct PreparedStep {
    step: WalkStep,
    bytes: Vec<u8>,
    cells: Vec<CellContent>,
}

/// Steps that are prepared together.
#[derive(Default)]
struct StepBatch {
    steps: Vec<PreparedStep>,
    /// Buffers of earlier batches: fresh memory costs as much as reading into it.
    spare: Vec<Vec<u8>>,
}

/// A disk, the grid on which it is looked at, and how its cells are compressed.
pub(crate) struct CellFlow<'a> {
    pub(crate) source: &'a dyn ImageSource,
    pub(crate) grid: CellGrid,
    pub(crate) packing: Option<CellPacking<'a>>,
}

impl CellFlow<'_> {
    /// Takes the whole disk to `sink`.
    pub(crate) fn copy_to(&self, sink: &mut dyn CellSink) -> Result<(), ImageWriteError> {
        let mut walk = CellWalk::new(self.source, self.grid);
        let (mut ready, mut next) = (StepBatch::default(), StepBatch::default());
        loop {
            let (filled, drained) = rayon::join(
                || self.fill_batch(&mut walk, &mut next),
                || self.drain_batch(&mut ready, sink),
            );
            drained?;
            filled?;
            if next.steps.is_empty() {
                return Ok(());
            }
            std::mem::swap(&mut ready, &mut next);
        }
    }

    fn fill_batch(
        &self,
        walk: &mut CellWalk,
        batch: &mut StepBatch,
    ) -> Result<(), ImageWriteError> {
        let mut read_len = 0;
        while read_len < BATCH_LEN && batch.steps.len() < STEPS_MAX {
            let Some(step) = walk.next_step()? else {
                break;
            };
            let mut bytes = Vec::new();
            if step.gap.is_none() {
                read_len += step.len;
                bytes = batch.spare.pop().unwrap_or_default();
            }
            batch.steps.push(PreparedStep {
                step,
                bytes,
                cells: Vec::new(),
            });
        }
        let to_read = batch.steps.par_iter_mut();
        to_read
            .filter(|prepared| prepared.step.gap.is_none())
            .try_for_each(|prepared| self.prepare_step(prepared))
    }

    fn prepare_step(&self, prepared: &mut PreparedStep) -> Result<(), ImageWriteError> {
        let PreparedStep { step, bytes, cells } = prepared;
        bytes.resize(step.len as usize, 0);
        let visible_len = (self.source.len() - step.start).min(step.len) as usize;
        let (visible, behind) = bytes.split_at_mut(visible_len);
        behind.fill(0);
        self.source.read_at(visible, step.start)?;
        let cell_len = self.grid.cell_len as usize;
        *cells = match self.packing {
            None => bytes.chunks(cell_len).map(plain_content).collect(),
            Some(packing) => bytes
                .par_chunks(cell_len)
                .map(|cell| packing.pack_cell(cell))
                .collect::<Result<_, _>>()?,
        };
        Ok(())
    }

    fn drain_batch(
        &self,
        batch: &mut StepBatch,
        sink: &mut dyn CellSink,
    ) -> Result<(), ImageWriteError> {
        for prepared in batch.steps.drain(..) {
            let step = prepared.step;
            if let Some(gap) = step.gap {
                sink.write_gap(step.start, step.len, gap)?;
            } else {
                self.hand_over(&prepared, sink)?;
                batch.spare.push(prepared.bytes);
            }
        }
        Ok(())
    }

    /// Neighbouring cells of one kind go in one call.
    fn hand_over(
        &self,
        prepared: &PreparedStep,
        sink: &mut dyn CellSink,
    ) -> Result<(), ImageWriteError> {
        let cell_len = self.grid.cell_len as usize;
        let mut at = 0;
        for run in prepared.cells.chunk_by(CellContent::is_like) {
            let (start, len) = (prepared.step.start + at as u64, run.len() * cell_len);
            match run.first() {
                Some(CellContent::Zero) => {
                    sink.write_gap(start, len as u64, self.grid.zero_gap())?;
                }
                Some(CellContent::Packed(packed)) => sink.write_packed(start, packed)?,
                _ => {
                    sink.write_data(start, prepared.bytes.get(at..at + len).unwrap_or_default())?;
                }
            }
            at += len;
        }
        Ok(())
    }
}

impl CellPacking<'_> {
    fn pack_cell(&self, cell: &[u8]) -> Result<CellContent, ImageWriteError> {
        if is_zero(cell) {
            return Ok(CellContent::Zero);
        }
        let packed = self.encoder.encode_cluster(self.codec, cell);
        let packed = packed.map_err(ImageWriteError::Encoder)?;
        Ok(if self.is_always || packed.len() < cell.len() {
            CellContent::Packed(packed)
        } else {
            CellContent::Data
        })
    }
}

impl CellContent {
    /// True if both go in one call.
    fn is_like(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Zero, Self::Zero) | (Self::Data, Self::Data)
        )
    }
}

fn plain_content(cell: &[u8]) -> CellContent {
    if is_zero(cell) {
        CellContent::Zero
    } else {
        CellContent::Data
    }
}
