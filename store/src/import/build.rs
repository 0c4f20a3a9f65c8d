//! Builds the pages of a layer from named pieces, in order: each chunk is the same as the parent's,
//! zero, known, or new.

use std::sync::Arc;

use vellum_core::page::{PAGE_SPAN, Page, Run, Slot, page_key};
use vellum_core::tree::{Layer, PageSet, page_of, page_start};
use vellum_core::units::{ChunkCount, ChunkId, ChunkIndex, ChunkLen, LayerId, PageIndex};

use super::prepare::{Hashed, Prepared, hash};
use crate::chunks::{Candidate, Session, SessionCounts};
use crate::database::{Batch, Database, Durability, Family};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::pieces::{Piece, SpareBuffers};

/// Bytes of pages that are gathered for one batch.
const BATCH_LEN: usize = 1 << 20;

/// Builds the map of one layer, from its first position to its last.
pub(super) struct Builder<'s> {
    database: Arc<Database>,
    chunk_len: ChunkLen,
    layer: LayerId,
    /// The disk that the layer is built on, if any.
    base: Option<Disk>,
    base_pages: PageSet,
    session: Session<'s>,
    spare: SpareBuffers,
    open: Option<OpenPage>,
    pages: PageSet,
    positions: Positions,
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
pub(super) struct Positions {
    pub(super) chunks: u64,
    pub(super) zeros: u64,
    /// Data that is as below.
    pub(super) same: u64,
    pub(super) read_bytes: u64,
}

/// A finished map.
pub(super) struct Built {
    pub(super) layer: Layer,
    pub(super) positions: Positions,
    pub(super) counts: SessionCounts,
}

/// Holds that a finished layer depends on until it is committed: its parent, and its claims on
/// chunks.
pub(super) struct Ties<'s> {
    _base: Option<Disk>,
    pub(super) session: Session<'s>,
}

impl<'s> Builder<'s> {
    pub(super) fn new(
        database: Arc<Database>,
        chunk_len: ChunkLen,
        layer: LayerId,
        base: Option<Disk>,
        session: Session<'s>,
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
            positions: Positions::default(),
            batch: Batch::default(),
            has_written: false,
        }
    }

    /// Adds the next piece; returns the first byte after it.
    pub(super) fn add(&mut self, prepared: Prepared) -> Result<u64, StoreError> {
        match prepared {
            Prepared::Data { start, hashed } => {
                let hashed = hashed.recv().expect("a hash job ends with its names");
                self.add_data(start, hashed?)
            }
            Prepared::Plain(Piece::Data {
                start,
                mut bytes,
                absent,
            }) => {
                for range in absent {
                    self.fill_from_base(&mut bytes[range.clone()], start + range.start as u64)?;
                }
                self.add_data(start, hash(bytes, self.chunk_len))
            }
            Prepared::Plain(Piece::Unread(unread)) => {
                let start = unread.start();
                self.add_data(start, hash(unread.read()?, self.chunk_len))
            }
            Prepared::Plain(Piece::Zero { start, len }) => {
                self.add_zeros(start, len)?;
                Ok(start + len)
            }
            // Absent in the source, absent in the layer.
            Prepared::Plain(Piece::Absent { start, len }) => Ok(start + len),
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

    fn add_data(&mut self, start: u64, hashed: Hashed) -> Result<u64, StoreError> {
        let first = self.chunk_len.index_at(start);
        let mut at = 0;
        while at < hashed.names.len() {
            let (index, position) = page_of(first.advance(at as u64));
            let count = usize::from(PAGE_SPAN - position).min(hashed.names.len() - at);
            self.open_page(index)?;
            self.add_chunks(position, &hashed, at..at + count)?;
            at += count;
        }
        let end = start + hashed.bytes.len() as u64;
        self.spare.put(hashed.bytes);
        Ok(end)
    }

    /// Adds chunks to the open page, from `position` on.
    fn add_chunks(
        &mut self,
        position: u16,
        hashed: &Hashed,
        range: std::ops::Range<usize>,
    ) -> Result<(), StoreError> {
        let open = self
            .open
            .as_mut()
            .expect("chunks are added to an open page");
        let below: Vec<Slot> = slots(&open.below, position, range.len());
        let chunk_len = self.chunk_len.as_usize();
        let candidates: Vec<Candidate<'_>> = range
            .clone()
            .zip(&below)
            .filter_map(|(at, below)| {
                let guess = if let Slot::Chunk(id) = below {
                    Some(*id)
                } else {
                    None
                };
                Some(Candidate {
                    hash: hashed.names[at]?,
                    plain: &hashed.bytes[at * chunk_len..][..chunk_len],
                    guess,
                })
            })
            .collect();
        self.positions.read_bytes += (candidates.len() * chunk_len) as u64;
        let mut ids = self.session.store(&candidates)?.into_iter();
        for ((at, below), place) in range.zip(&below).zip(position..) {
            let id = hashed.names[at].map(|_| ids.next().expect("every candidate got an id"));
            let slot = answer(id, *below);
            self.positions.same += u64::from(id.is_some() && slot == Slot::Absent);
            open.own.push(Run {
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
                .filter(|run| run.slot != Slot::Absent)
            {
                open.own.push(Run {
                    slot: Slot::Zero,
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
            Some(base) if self.base_pages.contains(index) => base.page(index)?,
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
        let (chunks, zeros) = open.own.counts();
        self.positions.chunks += chunks;
        self.positions.zeros += zeros;
        self.pages.insert(open.index);
        self.batch
            .put(Family::Pages, page_key(self.layer, open.index), bytes);
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
            .write(std::mem::take(&mut self.batch), Durability::Bulk)
    }

    /// Ends the map of a disk of `len` bytes. Its pages are written, and durable once the store is
    /// settled. The ties must live until the caller has committed the layer.
    pub(super) fn finish(
        mut self,
        len: u64,
        created_ms: u64,
    ) -> Result<(Built, Ties<'s>), StoreError> {
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
        let built = Built {
            layer,
            positions: self.positions,
            counts,
        };
        Ok((
            built,
            Ties {
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
fn answer(id: Option<ChunkId>, below: Slot) -> Slot {
    match (id, below) {
        (Some(id), Slot::Chunk(same)) if id == same => Slot::Absent,
        (Some(id), _) => Slot::Chunk(id),
        (None, Slot::Chunk(_)) => Slot::Zero,
        (None, _) => Slot::Absent,
    }
}

/// Entries of a resolved page at `count` positions from `start` on.
fn slots(page: &Page, start: u16, count: usize) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(count);
    for run in page.runs_in(start, start + count as u16) {
        slots.extend((0..run.len).map(|nth| run.slot.advance(nth)));
    }
    slots
}
