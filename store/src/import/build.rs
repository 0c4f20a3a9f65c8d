//! Builds the pages of a layer from named pieces, in order: each chunk is the same as the parent's,
//! zero, known, or new.

use std::sync::Arc;

use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, page_key};
use vellum_core::tree::{Layer, PageSet, page_of, page_start};
use vellum_core::units::{ChunkCount, ChunkId, ChunkIndex, ChunkLen, LayerId, PageIndex};

use super::prepare::{HashedChunks, PreparedPiece, hash_piece};
use crate::chunks::{ChunkCandidate, DedupSession, SessionCounts};
use crate::database::{Batch, Database, Durability, Family};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::image_input::{Piece, SpareBuffers};

/// Bytes of pages that are gathered for one batch.
const BATCH_LEN: usize = 1 << 20;

/// Builds the map of one layer, from its first position to its last.
pub(super) struct LayerMapBuilder<'s> {
    database: Arc<Database>,
    chunk_len: ChunkLen,
    layer: LayerId,
    /// The disk that the layer is built on, if any.
    base: Option<Disk>,
    base_pages: PageSet,
    session: DedupSession<'s>,
    spare: SpareBuffers,
    open: Option<OpenPage>,
    pages: PageSet,
    positions: PositionTally,
    batch: Batch,
    has_written: bool,
}

/// The page that positions are being added to, and what can be seen below it.
struct OpenPage {
    index: PageIndex,
    own: Page,
    below: Arc<Page>,
}

/// Counts of the disk's positions by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PositionTally {
    pub(super) chunks: u64,
    pub(super) zeros: u64,
    /// Data that is as below.
    pub(super) same: u64,
    pub(super) read_bytes: u64,
}

/// A finished map.
pub(super) struct BuiltMap {
    pub(super) layer: Layer,
    pub(super) positions: PositionTally,
    pub(super) counts: SessionCounts,
}

/// Holds that a finished layer depends on until it is committed: its parent, and its claims on
/// chunks.
pub(super) struct LayerHolds<'s> {
    _base: Option<Disk>,
    pub(super) session: DedupSession<'s>,
}

impl<'s> LayerMapBuilder<'s> {
    pub(super) fn new(
        database: Arc<Database>,
        chunk_len: ChunkLen,
        layer: LayerId,
        base: Option<Disk>,
        session: DedupSession<'s>,
        spare: SpareBuffers,
    ) -> Self {
        let base_pages = base.as_ref().map(Disk::mapped_pages).unwrap_or_default();
        Self {
            database,
            chunk_len,
            layer,
            base,
            base_pages,
            session,
            spare,
            open: None,
            pages: PageSet::new(),
            positions: PositionTally::default(),
            batch: Batch::default(),
            has_written: false,
        }
    }

    /// Adds the next piece; returns the first byte after it.
    pub(super) fn add_piece(&mut self, prepared: PreparedPiece) -> Result<u64, StoreError> {
        match prepared {
            PreparedPiece::Data { start, hashed } => {
                let hashed = hashed.recv().expect("a hash job ends with its names");
                self.add_data(start, hashed?)
            }
            PreparedPiece::Plain(Piece::Data {
                start,
                mut bytes,
                absent,
            }) => {
                for range in absent {
                    self.fill_from_base(&mut bytes[range.clone()], start + range.start as u64)?;
                }
                self.add_data(start, hash_piece(bytes, self.chunk_len))
            }
            PreparedPiece::Plain(Piece::Unread(unread)) => {
                let start = unread.start();
                self.add_data(start, hash_piece(unread.read_bytes()?, self.chunk_len))
            }
            PreparedPiece::Plain(Piece::Zero { start, len }) => {
                self.add_zeros(start, len)?;
                Ok(start + len)
            }
            // Absent in the source, absent in the layer.
            PreparedPiece::Plain(Piece::Absent { start, len }) => Ok(start + len),
        }
    }

    /// Fills `buffer` with what the base has from `offset`; past its end it has zeros.
    fn fill_from_base(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let Some(base) = &self.base else {
            return Ok(());
        };
        let inside = base.len().saturating_sub(offset).min(buffer.len() as u64) as usize;
        if inside == 0 {
            Ok(())
        } else {
            base.read_at(&mut buffer[..inside], offset)
        }
    }

    fn add_data(&mut self, start: u64, hashed: HashedChunks) -> Result<u64, StoreError> {
        let first = self.chunk_len.index_at(start);
        let mut at = 0;
        while at < hashed.names.len() {
            let (index, position) = page_of(first.advance_by(at as u64));
            let count = usize::from(PAGE_SPAN - position).min(hashed.names.len() - at);
            self.open_page(index)?;
            self.add_chunks(position, &hashed, at..at + count)?;
            at += count;
        }
        let end = start + hashed.bytes.len() as u64;
        self.spare.put_back(hashed.bytes);
        Ok(end)
    }

    /// Adds chunks to the open page, from `position` on.
    fn add_chunks(
        &mut self,
        position: u16,
        hashed: &HashedChunks,
        range: std::ops::Range<usize>,
    ) -> Result<(), StoreError> {
        let open = self
            .open
            .as_mut()
            .expect("chunks are added to an open page");
        let below: Vec<PageEntry> = expand_slots(&open.below, position, range.len());
        let chunk_len = self.chunk_len.as_usize();
        let candidates: Vec<ChunkCandidate<'_>> = range
            .clone()
            .zip(&below)
            .filter_map(|(at, below)| {
                let guess = if let PageEntry::Chunk(id) = below {
                    Some(*id)
                } else {
                    None
                };
                Some(ChunkCandidate {
                    hash: hashed.names[at]?,
                    plain: &hashed.bytes[at * chunk_len..][..chunk_len],
                    guess,
                })
            })
            .collect();
        self.positions.read_bytes += (candidates.len() * chunk_len) as u64;
        let mut ids = self.session.store_chunks(&candidates)?.into_iter();
        for ((at, below), place) in range.zip(&below).zip(position..) {
            let id = hashed.names[at].map(|_| ids.next().expect("every candidate got an id"));
            let slot = slot_over(id, *below);
            self.positions.same += u64::from(id.is_some() && slot == PageEntry::Absent);
            open.own.push_run(Run {
                start: place,
                len: 1,
                slot,
            });
        }
        Ok(())
    }

    /// Adds zeros: explicit where something lies below, else nothing.
    fn add_zeros(&mut self, start: u64, len: u64) -> Result<(), StoreError> {
        let (first, end) = (
            self.chunk_len.index_at(start),
            ChunkIndex(self.chunk_len.count_for(start + len).0),
        );
        let mut next = page_of(first).0;
        while let Some(index) = self
            .base_pages
            .next_from(next)
            .filter(|index| page_start(*index) < end)
        {
            self.open_page(index)?;
            let from = page_of(first.max(page_start(index))).1;
            let to = (end.0 - page_start(index).0).min(PAGE_SPAN.into()) as u16;
            let open = self.open.as_mut().expect("just opened");
            for run in open
                .below
                .runs_in(from, to)
                .filter(|run| run.slot != PageEntry::Absent)
            {
                open.own.push_run(Run {
                    slot: PageEntry::Zero,
                    ..run
                });
            }
            next = PageIndex(index.0 + 1);
        }
        Ok(())
    }

    /// Makes page `index` the open one; those before it are done.
    fn open_page(&mut self, index: PageIndex) -> Result<(), StoreError> {
        if self.open.as_ref().is_some_and(|open| open.index == index) {
            return Ok(());
        }
        self.close_page()?;
        let below = match &self.base {
            Some(base) if self.base_pages.contains(index) => base.resolve_page(index)?,
            _ => Arc::new(Page::new()),
        };
        self.open = Some(OpenPage {
            index,
            own: Page::new(),
            below,
        });
        Ok(())
    }

    fn close_page(&mut self) -> Result<(), StoreError> {
        let Some(open) = self.open.take().filter(|open| !open.own.is_empty()) else {
            return Ok(());
        };
        let bytes = open.own.encode(self.layer, open.index);
        let (chunks, zeros) = open.own.count_entries();
        self.positions.chunks += chunks;
        self.positions.zeros += zeros;
        self.pages.insert(open.index);
        self.batch
            .put_record(Family::Pages, page_key(self.layer, open.index), bytes);
        if self.batch.len() >= BATCH_LEN {
            self.write_batch()
        } else {
            Ok(())
        }
    }

    fn write_batch(&mut self) -> Result<(), StoreError> {
        self.session.check_room(self.batch.len() as u64)?;
        self.has_written = true;
        self.database
            .write_batch(std::mem::take(&mut self.batch), Durability::Bulk)
    }

    /// Ends the map of a disk of `len` bytes. Its pages are written, and durable once the store is
    /// settled. The ties must live until the caller has committed the layer.
    pub(super) fn finish_map(
        mut self,
        len: u64,
        created_ms: u64,
    ) -> Result<(BuiltMap, LayerHolds<'s>), StoreError> {
        self.close_page()?;
        if !self.batch.is_empty() {
            self.write_batch()?;
        }
        let base = self.base.as_ref().and_then(|base| base.chain().first());
        let visible = base.map_or(0, |base| base.len.min(len));
        let layer = Layer {
            id: self.layer,
            parent: base.map(|base| base.id),
            sealed: false,
            len,
            parent_visible: if visible == 0 {
                ChunkCount(0)
            } else {
                self.chunk_len.count_for(visible)
            },
            pages: self.pages,
            chunks: self.positions.chunks,
            zeros: self.positions.zeros,
            created_ms,
            changed_ns: created_ms.saturating_mul(1_000_000),
            content: None,
        };
        let counts = self.session.counts;
        let built = BuiltMap {
            layer,
            positions: self.positions,
            counts,
        };
        Ok((
            built,
            LayerHolds {
                _base: self.base,
                session: self.session,
            },
        ))
    }

    /// True if pages were written that must be removed if the import fails.
    pub(super) fn has_written(&self) -> bool {
        self.has_written
    }
}

/// Entry of the layer at a position that holds chunk `id` (or zeros), given the entry below.
fn slot_over(id: Option<ChunkId>, below: PageEntry) -> PageEntry {
    match (id, below) {
        (Some(id), PageEntry::Chunk(same)) if id == same => PageEntry::Absent,
        (Some(id), _) => PageEntry::Chunk(id),
        (None, PageEntry::Chunk(_)) => PageEntry::Zero,
        (None, _) => PageEntry::Absent,
    }
}

/// Entries of a resolved page at `count` positions from `start` on.
fn expand_slots(page: &Page, start: u16, count: usize) -> Vec<PageEntry> {
    let mut slots = Vec::with_capacity(count);
    for run in page.runs_in(start, start + count as u16) {
        slots.extend((0..run.len).map(|nth| run.slot.advance_by(nth)));
    }
    slots
}
