//! Finds the layer that supplies each range of a disk.

use std::ops::Range;

use vellum_core::page::PageEntry;
use vellum_core::tree::{NodeRef, page_start, pages_for};
use vellum_core::units::{ChunkId, ChunkIndex, ChunkLen, LayerId, PageIndex};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::store::Store;

/// A range of an image, and where its content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// The supplying layer, and how many layers below the top it is. `None` where no layer has an
    /// entry.
    pub layer: Option<(u32, LayerId)>,
    /// The first chunk; `None` reads as zeros.
    pub first: Option<ChunkId>,
    /// True if every position shows that chunk; else each shows the one after the last.
    pub is_repeat: bool,
}

/// Consecutive positions with one answer.
#[derive(Clone, Debug)]
struct MapExtent {
    positions: Range<u64>,
    layer: Option<(u32, LayerId)>,
    first: Option<ChunkId>,
    is_repeat: bool,
}

/// Joins answers that go on where the last one ended, or repeat its one chunk, and hands them out
/// in bytes.
struct MapExtentJoiner<'v> {
    chunk_len: ChunkLen,
    disk_len: u64,
    pending: Option<MapExtent>,
    visit: &'v mut dyn FnMut(MapEntry) -> Result<(), StoreError>,
}

impl Store {
    /// Calls `visit` for each range of `node`, in order and gap-free. Memory does not grow with the
    /// disk, nor time with what no layer maps.
    pub fn map(
        &self,
        node: NodeRef,
        visit: &mut dyn FnMut(MapEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let disk = self.still_disk(node)?;
        let chunk_len = disk.chunk_len();
        let count = chunk_len.count_for(disk.len());
        let (end, mapped) = (
            count.0,
            disk.mapped_pages()
                .pages_within(PageIndex(0), PageIndex(pages_for(count))),
        );
        let mut out = MapExtentJoiner {
            chunk_len,
            disk_len: disk.len(),
            pending: None,
            visit,
        };
        let mut at = 0;
        for index in mapped.iter() {
            let start = page_start(index).0;
            out.add_extent(MapExtent {
                positions: at..start,
                layer: None,
                first: None,
                is_repeat: false,
            })?;
            at = page_start(PageIndex(index.0 + 1)).0.min(end);
            for answer in self.page_extents(&disk, index, (at - start) as u16)? {
                out.add_extent(answer)?;
            }
        }
        out.add_extent(MapExtent {
            positions: at..end,
            layer: None,
            first: None,
            is_repeat: false,
        })?;
        out.flush_pending()
    }

    /// Supplying layers of the positions before `end` on page `index`, in order and gap-free.
    fn page_extents(
        &self,
        disk: &Disk,
        index: PageIndex,
        end: u16,
    ) -> Result<Vec<MapExtent>, StoreError> {
        let first = page_start(index);
        let bytes = disk.chunk_len().offset_of(first)..disk.len();
        let (mut open, mut answers) = (vec![(0, end)], Vec::new());
        let place = |start: u16, end: u16| first.0 + u64::from(start)..first.0 + u64::from(end);
        let extent = |positions, layer, first| MapExtent {
            positions,
            layer,
            first,
            is_repeat: false,
        };
        for (depth, layer) in (0..).zip(disk.chain()) {
            if layer.pages.contains(index) {
                let own = self
                    .inner
                    .pages
                    .own_page(layer, index)
                    .map_err(|error| error.in_image(disk.name(), bytes.clone()))?;
                let mut still_open = Vec::new();
                for run in open
                    .iter()
                    .flat_map(|(start, end)| own.runs_in(*start, *end))
                {
                    let positions = place(run.start, run.end_position());
                    let from = Some((depth, layer.id));
                    match run.slot {
                        PageEntry::Absent => still_open.push((run.start, run.end_position())),
                        PageEntry::Zero => answers.push(extent(positions, from, None)),
                        PageEntry::Chunk(id) => answers.push(extent(positions, from, Some(id))),
                    }
                }
                open = still_open;
            }
            // Positions that this layer hides from those below have no supplier.
            let visible = layer.visible_in(index);
            let hidden = open
                .iter()
                .map(|(start, end)| (*start.max(&visible), *end))
                .filter(|(start, end)| start < end);
            answers.extend(hidden.map(|(start, end)| extent(place(start, end), None, None)));
            open = open
                .into_iter()
                .map(|(start, end)| (start, end.min(visible)))
                .filter(|(start, end)| start < end)
                .collect();
            if open.is_empty() {
                break;
            }
        }
        let unsupplied = open.into_iter();
        answers.extend(unsupplied.map(|(start, end)| extent(place(start, end), None, None)));
        answers.sort_unstable_by_key(|answer| answer.positions.start);
        Ok(answers)
    }
}

impl MapExtent {
    fn is_one(&self) -> bool {
        self.positions.end - self.positions.start == 1
    }

    /// True if `next` shows the chunks after these, or zeros after zeros.
    fn goes_on_in(&self, next: &Self) -> bool {
        let len = self.positions.end - self.positions.start;
        let follows = self.first.map(|id| id.advance_by(len)) == next.first;
        self.layer == next.layer && follows && !self.is_repeat
    }

    /// True if `next` shows the one chunk again that all of these show.
    fn is_repeated_by(&self, next: &Self) -> bool {
        let is_same = self.layer == next.layer && self.first.is_some() && self.first == next.first;
        is_same && (self.is_repeat || self.is_one()) && next.is_one()
    }
}

impl MapExtentJoiner<'_> {
    fn add_extent(&mut self, answer: MapExtent) -> Result<(), StoreError> {
        if answer.positions.is_empty() {
            return Ok(());
        }
        if let Some(pending) = &mut self.pending {
            let (goes_on, repeats) = (pending.goes_on_in(&answer), pending.is_repeated_by(&answer));
            if goes_on || repeats {
                pending.positions.end = answer.positions.end;
                pending.is_repeat = repeats;
                return Ok(());
            }
        }
        self.flush_pending()?;
        self.pending = Some(answer);
        Ok(())
    }

    /// Hands out what is pending.
    fn flush_pending(&mut self) -> Result<(), StoreError> {
        let Some(answer) = self.pending.take() else {
            return Ok(());
        };
        let start = self.chunk_len.offset_of(ChunkIndex(answer.positions.start));
        let end = self
            .chunk_len
            .offset_of(ChunkIndex(answer.positions.end))
            .min(self.disk_len);
        (self.visit)(MapEntry {
            start,
            len: end - start,
            layer: answer.layer,
            first: answer.first,
            is_repeat: answer.is_repeat,
        })
    }
}
