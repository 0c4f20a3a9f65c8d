//! Reads an image or snapshot: first a plan of runs (pure look-ups in maps), then the chunks.

use std::ops::Range;
use std::sync::Arc;

use vellum_core::hash::ChunkHash;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, bytes_of};
use vellum_core::tree::{Layer, NodeRef, PageSet, PlanError, Tree, page_of, page_start};
use vellum_core::units::{ChunkId, ChunkIndex, ChunkLen, ImageId, LayerId, PageIndex};

use crate::clock::now_ms;
use crate::database::Batch;
use crate::error::StoreError;
use crate::store::Store;
use crate::store::holds::LayerHold;

/// The content of an image or snapshot as it was when this was opened, if no [`crate::LiveDisk`]
/// was writing the image then: see [`Store::still_disk`]. Keeps maintenance away from its layers
/// while it lives.
pub struct Disk {
    store: Store,
    /// Its display name, for errors.
    name: String,
    /// Its layers, top first.
    chain: Vec<Arc<Layer>>,
    /// None if whoever made it holds its layers.
    _hold: Option<LayerHold>,
}

/// Consecutive positions that read as zeros, or as chunks with rising ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRun {
    /// The first position.
    pub start: ChunkIndex,
    /// The number of positions.
    pub count: u64,
    /// The first chunk; `None` reads as zeros.
    pub first: Option<ChunkId>,
}

/// A range of a disk that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Its bytes.
    pub range: Range<u64>,
    /// The record that should have them, and what is wrong with it.
    pub reason: String,
}

/// Source of a disk's resolved pages.
pub(crate) type PageSource<'p> = dyn Fn(PageIndex) -> Result<Arc<Page>, StoreError> + 'p;

impl Store {
    /// Opens an image or snapshot for reading.
    pub fn open_disk(&self, node: NodeRef) -> Result<Disk, StoreError> {
        let mut tree = self.tree_mut();
        let layer = tree.layer_of(node).ok_or(PlanError::Gone)?.id;
        let name = tree.display_name(node);
        Ok(self.disk_at(&mut tree, layer, name))
    }

    /// Opens an image or snapshot as it is now, for a long look: what guests write meanwhile does
    /// not show. Under a guest this costs a commit, which puts a new layer on top of what is looked
    /// at.
    pub fn still_disk(&self, node: NodeRef) -> Result<Disk, StoreError> {
        let is_written =
            matches!(node, NodeRef::Image(image) if self.busy_images().contains(&image));
        if is_written {
            self.sealed_base(node)
        } else {
            self.open_disk(node)
        }
    }

    /// Puts a new layer on top of what somebody looks at already, before `image` is written.
    pub(crate) fn leave_to_readers(&self, image: ImageId) -> Result<(), StoreError> {
        let mut tree = self.tree_mut();
        let node = NodeRef::Image(image);
        if tree.is_held(tree.layer_of(node).ok_or(PlanError::Gone)?.id) {
            let (_, edits) = tree.plan_base(node, now_ms())?;
            self.commit_batch(&mut tree, &edits, Batch::default())?;
        }
        Ok(())
    }

    /// Opens the content of `layer`, which is in `tree`; errors call it `name`. Found and held
    /// under one lock of the tree: in between, maintenance could take the layer away.
    pub(crate) fn disk_at(&self, tree: &mut Tree, layer: LayerId, name: String) -> Disk {
        let chain = tree.chain_from(layer).map(Arc::clone).collect();
        Disk {
            store: self.clone(),
            name,
            chain,
            _hold: Some(self.hold_layers(tree, layer)),
        }
    }
}

impl Hole {
    fn new(range: Range<u64>, error: &StoreError) -> Self {
        let reason = match error {
            StoreError::Damaged(damage) => format!("{}: {}", damage.record, damage.reason),
            other => other.to_string(),
        };
        Self { range, reason }
    }

    /// The part of it inside `range`.
    pub(crate) fn clip_to(self, range: &Range<u64>) -> Option<Self> {
        let part = self.range.start.max(range.start)..self.range.end.min(range.end);
        (!part.is_empty()).then_some(Self {
            range: part,
            reason: self.reason,
        })
    }

    /// Joins those of `holes` that touch each other and have one reason, in the order of the disk.
    pub(crate) fn join_adjacent(mut holes: Vec<Self>) -> Vec<Self> {
        holes.sort_by_key(|hole| hole.range.start);
        let mut joined: Vec<Self> = Vec::new();
        for hole in holes {
            match joined.last_mut() {
                Some(last) if last.range.end == hole.range.start && last.reason == hole.reason => {
                    last.range.end = hole.range.end;
                }
                _ => joined.push(hole),
            }
        }
        joined
    }
}

impl Disk {
    /// A disk of layers, top first, that the caller holds, or that have no names yet; errors call
    /// it `name`.
    pub(crate) fn of_chain(store: &Store, name: String, chain: Vec<Arc<Layer>>) -> Self {
        Self {
            store: store.clone(),
            name,
            chain,
            _hold: None,
        }
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chain.first().map_or(0, |top| top.len)
    }

    /// True if its length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its display name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its layers, top first.
    #[must_use]
    pub fn chain(&self) -> &[Arc<Layer>] {
        &self.chain
    }

    pub(crate) fn chunk_len(&self) -> ChunkLen {
        self.store.parameters().chunk_len
    }

    /// Page `index` of the whole chain, with explicit zeros kept, unlike [`Disk::resolve_page`].
    /// Cost: the layers that have something there, if one of them may have a zero.
    pub(crate) fn seen_page(&self, index: PageIndex) -> Result<Arc<Page>, StoreError> {
        if !self
            .chain
            .iter()
            .any(|layer| layer.zeros > 0 && layer.pages.contains(index))
        {
            return self.resolve_page(index);
        }
        let seen = self.store.inner.pages.overlay_pages(&self.chain, index);
        seen.map(Arc::new)
            .map_err(|error| error.in_image(&self.name, self.bytes_of_page(index)))
    }

    /// Page `index` as data: chunks only, clipped to the disk's length; gaps read as zeros.
    pub fn resolve_page(&self, index: PageIndex) -> Result<Arc<Page>, StoreError> {
        self.store
            .inner
            .pages
            .resolve_page(&self.chain, index)
            .map_err(|error| error.in_image(&self.name, self.bytes_of_page(index)))
    }

    /// Resolves a page as [`Disk::resolve_page`], as far as it can be read: unknown positions read
    /// as zeros, and are returned as holes with the reason.
    pub(crate) fn readable_page(
        &self,
        index: PageIndex,
    ) -> Result<(Arc<Page>, Vec<Hole>), StoreError> {
        match self.resolve_page(index) {
            Ok(page) => return Ok((page, Vec::new())),
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let pages = &self.store.inner.pages;
        let (seen, unreadable) = pages.seen_as_far_as_readable(&self.chain, index)?;
        let holes = unreadable.map(|(error, open)| {
            let inside = 0..self.len();
            open.into_iter()
                .map(|positions| bytes_of(self.chunk_len(), index, positions, &inside))
                .filter(|range| !range.is_empty())
                .map(|range| Hole::new(range, &error))
                .collect()
        });
        Ok((Arc::new(seen.resolved_at_root()), holes.unwrap_or_default()))
    }

    /// Reads as [`Disk::read_at`], through `pages`, as far as chunks can be read: damaged ones read
    /// as zeros, and are returned as holes with the reason.
    pub(crate) fn read_readable(
        &self,
        pages: &PageSource<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<Vec<Hole>, StoreError> {
        match self.read_through(pages, buffer, offset) {
            Ok(()) => return Ok(Vec::new()),
            Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let step = self.chunk_len().byte_len();
        let end = offset + buffer.len() as u64;
        let (mut holes, mut at) = (Vec::new(), offset);
        while at < end {
            let next = (at - at % step + step).min(end);
            let part = &mut buffer[(at - offset) as usize..(next - offset) as usize];
            match self.read_through(pages, part, at) {
                Ok(()) => {}
                Err(error @ StoreError::Damaged(_)) => {
                    part.fill(0);
                    holes.push(Hole::new(at..next, &error));
                }
                Err(error) => return Err(error),
            }
            at = next;
        }
        Ok(holes)
    }

    /// The bytes that page `index` answers for.
    pub(crate) fn bytes_of_page(&self, index: PageIndex) -> Range<u64> {
        bytes_of(self.chunk_len(), index, 0..PAGE_SPAN, &(0..u64::MAX))
    }

    /// The names of `count` chunks from `first` on.
    pub(crate) fn chunk_names(
        &self,
        first: ChunkId,
        count: u64,
    ) -> Result<Vec<ChunkHash>, StoreError> {
        let mut names = Vec::new();
        while (names.len() as u64) < count {
            let done = names.len() as u64;
            names.extend(
                self.store
                    .chunk_hashes(first.advance_by(done), count - done)?,
            );
        }
        Ok(names)
    }

    /// The pages outside of which everything reads as zeros.
    #[must_use]
    pub fn mapped_pages(&self) -> PageSet {
        PageSet::union_of(self.chain.iter().map(|layer| &layer.pages))
    }

    /// Fills `buffer` with the bytes from `offset`. The range must lie inside the disk.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.read_through(&|index| self.resolve_page(index), buffer, offset)
    }

    /// Reads as [`Disk::read_at`], through pages that the caller resolves. Without an allocation,
    /// if the pages and frames are cached.
    pub(crate) fn read_through(
        &self,
        pages: &PageSource<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), StoreError> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .filter(|end| *end <= self.len())
            .expect("a read lies inside the disk");
        self.each_run(pages, offset..end, &mut |run, range| {
            let out = &mut buffer[(range.start - offset) as usize..(range.end - offset) as usize];
            match run.first {
                None => out.fill(0),
                Some(first) => {
                    self.read_chunks(first, self.chunk_len().offset_of(run.start), range, out)?;
                }
            }
            Ok(())
        })
    }

    /// Reads ahead: has the frames that hold the bytes of `range` decoded in the background.
    pub(crate) fn prefetch_range(
        &self,
        pages: &PageSource<'_>,
        range: Range<u64>,
    ) -> Result<(), StoreError> {
        let chunks = &self.store.inner.chunks;
        self.each_run(pages, range, &mut |run, _| {
            run.first
                .into_iter()
                .for_each(|first| chunks.read_ahead(first, run.count));
            Ok(())
        })
    }

    /// Visits the runs that make up `range`, each with the bytes of the range that it covers.
    fn each_run(
        &self,
        pages: &PageSource<'_>,
        range: Range<u64>,
        visit: &mut dyn FnMut(DiskRun, Range<u64>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let chunk_len = self.chunk_len();
        let mut at = range.start;
        while at < range.end {
            let (index, position) = page_of(chunk_len.index_at(at));
            let end = chunk_len
                .offset_of(page_start(PageIndex(index.0 + 1)))
                .min(range.end);
            let last = page_of(chunk_len.index_at(end - 1)).1;
            for run in pages(index)?.runs_in(position, last + 1) {
                let run = disk_run(index, run);
                let start = chunk_len.offset_of(run.start).max(at);
                visit(
                    run,
                    start
                        ..chunk_len
                            .offset_of(run.start.advance_by(run.count))
                            .min(end),
                )?;
            }
            at = end;
        }
        Ok(())
    }

    /// Fills `out`, which is `range` of the disk, from the chunks that begin with `first` at byte
    /// `start`.
    fn read_chunks(
        &self,
        first: ChunkId,
        start: u64,
        range: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        let chunk_len = self.chunk_len();
        let mut at = range.start;
        let mut frame: Option<Arc<crate::chunks::DecodedFrame>> = None;
        let (nth, end) = (
            (at - start) / chunk_len.byte_len(),
            (range.end - start).div_ceil(chunk_len.byte_len()),
        );
        self.store
            .inner
            .chunks
            .read_ahead_rest(first.advance_by(nth), end - nth);
        while at < range.end {
            let nth = (at - start) / chunk_len.byte_len();
            let chunk_start = start + nth * chunk_len.byte_len();
            let end = (chunk_start + chunk_len.byte_len()).min(range.end);
            let id = first.advance_by(nth);
            let named = |error: StoreError| {
                error.in_image(
                    &self.name,
                    chunk_start..(chunk_start + chunk_len.byte_len()).min(self.len()),
                )
            };
            let frame = match &mut frame {
                Some(frame) if frame.header.payload_index(id).is_some() => frame,
                slot => slot.insert(self.store.inner.chunks.verified_frame(id).map_err(named)?),
            };
            let plain = frame.chunk_bytes(id).map_err(named)?;
            out[(at - range.start) as usize..(end - range.start) as usize]
                .copy_from_slice(&plain[(at - chunk_start) as usize..(end - chunk_start) as usize]);
            at = end;
        }
        Ok(())
    }
}

/// The runs of the positions `[start, end)` on `page`, which is page `index` of a disk, zeros
/// included, gap-free.
pub(crate) fn disk_runs(page: &Page, index: PageIndex, start: u16, end: u16) -> Vec<DiskRun> {
    page.runs_in(start, end)
        .map(|run| disk_run(index, run))
        .collect()
}

/// A run of page `index` as positions of the disk.
fn disk_run(index: PageIndex, run: Run) -> DiskRun {
    DiskRun {
        start: page_start(index).advance_by(run.start.into()),
        count: run.len.into(),
        first: if let PageEntry::Chunk(id) = run.slot {
            Some(id)
        } else {
            None
        },
    }
}
