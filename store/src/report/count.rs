//! Counts the holders of every chunk, in one walk over all pages of all layers, page by page of the
//! disks.
//!
//! The walk takes a page of every layer that has one there and lets `sharing_sweep` find the nodes
//! that see it. The holders of a chunk so far take four bytes for each chunk, its references four
//! more; where that would be too much, the walk is made several times, for one range of chunks
//! each. The result is runs of neighbouring chunks with the same holders.
//!
//! Memory: 8 bytes for each of at most [`PASS_CHUNKS`] chunks, 2 bits for each id in use, 16 bytes
//! for each frame, 8 for each run (at the worst one for each chunk), and the sets of holders. At
//! 100 million chunks in full frames that is about 0.4 GiB, and 0.8 more where no two neighbours
//! have the same holders.

use std::collections::BTreeMap;
use std::ops::Range;

use vellum_core::hash::ChunkHash;
use vellum_core::page::PAGE_SPAN;
use vellum_core::tree::page_start;
use vellum_core::units::{ChunkId, ChunkIndex, PageIndex};

use super::forest::LayerTree;
use super::frames::{ChunkRanks, FrameSummary};
use super::scan_point_in_time::{FileSpace, Losses, ScanPointInTime};
use super::sets::{NodeSetId, NodeSets, Span};
use super::sharing_sweep::{SharingSweeper, SweepSink};
use super::{HistogramBucket, UncountedItem};
use crate::collect::REGION_IDS;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Progress, Watch, go_on};

/// Chunks whose holders are worked out in one walk: 256 MiB.
const PASS_CHUNKS: u64 = 32 << 20;
/// Covers of one page that are swept at a time: 64 MiB. A page with more is swept in parts.
const COVERS_MAX: usize = 4 << 20;
/// Pages between two looks at whether to go on.
const PAGES_PER_LOOK: u64 = 256;
/// Most-shared chunks that are remembered.
pub(super) const MOST_SHARED_MAX: usize = 100;

/// Limits on the memory of a census.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanLimits {
    pub(super) pass_chunks: u64,
    pub(super) covers: usize,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            pass_chunks: PASS_CHUNKS,
            covers: COVERS_MAX,
        }
    }
}

/// Count of all chunks at one point in time.
pub(super) struct ChunkCounts {
    pub(super) frames: Vec<FrameSummary>,
    /// Chunks in a row, in the order of ids, and who holds them.
    pub(super) runs: Vec<(u32, NodeSetId)>,
    pub(super) sets: NodeSets,
    /// For each set how many chunks it holds, and their share of their frames' payloads.
    pub(super) totals: Vec<Holdings>,
    /// Positions that each node sees as chunks, and as explicit zeros.
    pub(super) seen: Vec<(u64, u64)>,
    pub(super) references: Vec<HistogramBucket>,
    pub(super) compressibility: Vec<HistogramBucket>,
    pub(super) most_shared: Vec<CommonChunk>,
    /// For each layer in its place: bytes of its pages.
    pub(super) page_bytes: Vec<u64>,
    pub(super) space: FileSpace,
    pub(super) uncounted: Vec<UncountedItem>,
}

/// Holdings of one set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// A chunk that much refers to.
#[derive(Clone, Debug)]
pub(super) struct CommonChunk {
    id: ChunkId,
    pub(super) hash: Option<ChunkHash>,
    pub(super) references: u64,
    pub(super) set: NodeSetId,
    /// A node that shows it, and where.
    pub(super) example: Option<(u32, ChunkIndex)>,
}

/// Count of the chunks of one range of ranks, in one walk.
struct CountPass<'r> {
    ranks: &'r ChunkRanks,
    range: Range<u64>,
    sets: Vec<NodeSetId>,
    references: Vec<u32>,
    /// The last union: neighbours often ask for the same.
    last: (NodeSetId, NodeSetId, NodeSetId),
    /// References to chunks that are not there. Counted in the first walk only, as all below.
    missing: u64,
    is_first: bool,
    /// Positions that each node sees more than the one before.
    chunks_seen: Vec<u64>,
    zeros_seen: Vec<u64>,
}

/// Finds a place for each of some chunks.
struct ChunkFinder {
    wanted: BTreeMap<ChunkId, Option<(u32, ChunkIndex)>>,
    left: usize,
    page: PageIndex,
}

impl ChunkCounts {
    /// Counts everything there is at `moment`.
    pub(super) fn count_all(
        store: &Store,
        moment: &mut ScanPointInTime<'_>,
        forest: &LayerTree,
        limits: ScanLimits,
        watch: &dyn Watch,
    ) -> Result<Self, StoreError> {
        let mut losses = Losses::default();
        let (mut frames, mut ranks, mut regions) = (Vec::new(), ChunkRanks::default(), Vec::new());
        moment.visit_headers(&mut losses, &mut |header| {
            frames.push(FrameSummary::from_header(&header));
            ranks.push_frame(&header);
            let region = header.first_id().0 / REGION_IDS;
            if regions.last() != Some(&region) {
                regions.push(region);
            }
            if frames.len().is_multiple_of(4096) {
                go_on(watch)
            } else {
                Ok(())
            }
        })?;
        ranks.finish_counts();
        let horizon = frames.last().map_or(ChunkId(0), FrameSummary::end_id);
        let mut space = FileSpace::measure_files(store, regions.into_iter(), horizon)?;
        space.count_unflushed(&frames);
        let mut counted = Self {
            frames,
            runs: Vec::new(),
            sets: NodeSets::default(),
            totals: Vec::new(),
            seen: Vec::new(),
            references: Vec::new(),
            compressibility: Vec::new(),
            most_shared: Vec::new(),
            page_bytes: vec![0; forest.layers.len()],
            space,
            uncounted: Vec::new(),
        };
        counted.count_passes(
            store,
            moment,
            (forest, &ranks),
            &mut losses,
            (limits, watch),
        )?;
        counted.find_examples(moment, forest, limits, watch)?;
        counted.sets.drop_index();
        counted.uncounted = losses.into_uncounted();
        Ok(counted)
    }

    /// Walks over all pages, once for each range of chunks.
    fn count_passes(
        &mut self,
        store: &Store,
        moment: &mut ScanPointInTime<'_>,
        (forest, ranks): (&LayerTree, &ChunkRanks),
        losses: &mut Losses,
        (limits, watch): (ScanLimits, &dyn Watch),
    ) -> Result<(), StoreError> {
        let ends = pass_ends(&self.frames, limits.pass_chunks);
        let pages: u64 = forest
            .layers
            .iter()
            .map(|spot| spot.layer.pages.len())
            .sum();
        let (mut from, mut from_frame) = (0, 0);
        for (nth, (end, end_frame)) in ends.iter().copied().enumerate() {
            let mut pass = CountPass::new(ranks, from..end, nth == 0, forest.nodes.len());
            let done = nth as u64 * pages;
            let progress = |walked: u64| Progress {
                done: done + walked,
                total: Some(ends.len() as u64 * pages),
            };
            // Losses and page bytes are noted in the first walk only: the others would note them
            // again.
            let (mut again, mut bytes_again) = (Losses::default(), vec![0; forest.layers.len()]);
            let (losses_now, page_bytes) = if nth == 0 {
                (&mut *losses, &mut self.page_bytes)
            } else {
                (&mut again, &mut bytes_again)
            };
            let mut look = WalkOptions {
                losses: losses_now,
                page_bytes,
                limits,
                watch,
                progress: &progress,
            };
            walk_pages(moment, forest, &mut self.sets, &mut pass, &mut look)?;
            if pass.missing > 0 {
                losses.note_loss(
                    format!("{} references to chunks", pass.missing),
                    "no frame holds what they lead to".to_owned(),
                );
            }
            self.add_pass(&pass, from_frame..end_frame, store)?;
            if pass.is_first {
                self.seen = pass.seen_positions();
            }
            (from, from_frame) = (end, end_frame);
        }
        Ok(())
    }

    /// Adds up what a walk found about the chunks of `frames`.
    fn add_pass(
        &mut self,
        pass: &CountPass<'_>,
        frames: Range<usize>,
        store: &Store,
    ) -> Result<(), StoreError> {
        self.totals.resize(self.sets.len(), Holdings::default());
        let plain_len = store.parameters().chunk_len.byte_len();
        let mut at = 0;
        for frame in frames {
            let frame = self.frames[frame];
            let tenth = u64::from(frame.payload_len) * 10 / (plain_len * u64::from(frame.count));
            add_to_bucket(
                &mut self.compressibility,
                tenth.min(10) as usize,
                frame.count.into(),
                frame.payload_len.into(),
            );
            for nth in 0..frame.count {
                let (set, references, bytes) =
                    (pass.sets[at], pass.references[at], frame.chunk_share(nth));
                let held = &mut self.totals[set.0 as usize];
                *held = Holdings {
                    chunks: held.chunks + 1,
                    bytes: held.bytes + bytes,
                };
                add_to_bucket(
                    &mut self.references,
                    (32 - references.leading_zeros()) as usize,
                    1,
                    bytes,
                );
                match self.runs.last_mut() {
                    Some(last) if last.1 == set && last.0 < u32::MAX => last.0 += 1,
                    _ => self.runs.push((1, set)),
                }
                self.note_common(&frame, nth, references, set);
                at += 1;
            }
        }
        self.name_common(store)
    }

    /// Remembers chunk `nth` of `frame` if it is among those that most refer to. Until they are
    /// named, ids are only nearly known: the place in the frame stands for the place among its ids.
    fn note_common(&mut self, frame: &FrameSummary, nth: u16, references: u32, set: NodeSetId) {
        let least = self.most_shared.last().map_or(0, |last| last.references);
        let is_full = self.most_shared.len() == MOST_SHARED_MAX;
        if references < 2 || is_full && u64::from(references) <= least {
            return;
        }
        if is_full {
            self.most_shared.pop();
        }
        let common = CommonChunk {
            id: frame.first.advance_by(nth.into()),
            hash: None,
            references: references.into(),
            set,
            example: None,
        };
        let place = self
            .most_shared
            .partition_point(|other| other.references >= common.references);
        self.most_shared.insert(place, common);
    }

    /// Finds names and ids of the chunks that were remembered since the last time.
    fn name_common(&mut self, store: &Store) -> Result<(), StoreError> {
        for common in self
            .most_shared
            .iter_mut()
            .filter(|common| common.hash.is_none())
        {
            let at = self
                .frames
                .partition_point(|frame| frame.first <= common.id)
                - 1;
            let frame = &self.frames[at];
            let nth = (common.id.0 - frame.first.0) as usize;
            // A collection may have put it elsewhere meanwhile: then it has no name here.
            let header = store
                .inner
                .chunks
                .frame_header(frame.first)?
                .filter(|header| header.chunk_count() == usize::from(frame.count));
            let chunk = header
                .as_ref()
                .and_then(|header| header.chunk_hashes().nth(nth));
            if let Some((id, hash)) = chunk {
                (common.id, common.hash) = (id, Some(*hash));
            }
        }
        self.most_shared.retain(|common| common.hash.is_some());
        Ok(())
    }

    /// Looks for one place of each of the most-shared chunks, from the front until all are found.
    fn find_examples(
        &mut self,
        moment: &mut ScanPointInTime<'_>,
        forest: &LayerTree,
        limits: ScanLimits,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let held = self
            .most_shared
            .iter()
            .filter(|common| common.set != NodeSetId::EMPTY);
        let wanted: BTreeMap<ChunkId, _> = held.map(|common| (common.id, None)).collect();
        let mut finder = ChunkFinder {
            left: wanted.len(),
            wanted,
            page: PageIndex(0),
        };
        if finder.left > 0 {
            let silent = |_| Progress {
                done: 0,
                total: None,
            };
            let mut page_bytes = vec![0; forest.layers.len()];
            let mut look = WalkOptions {
                losses: &mut Losses::default(),
                page_bytes: &mut page_bytes,
                limits,
                watch,
                progress: &silent,
            };
            walk_pages(
                moment,
                forest,
                &mut NodeSets::default(),
                &mut finder,
                &mut look,
            )?;
        }
        for common in &mut self.most_shared {
            common.example = finder.wanted.get(&common.id).copied().flatten();
        }
        Ok(())
    }
}

/// Options of a walk, and the losses and page lengths that it notes.
struct WalkOptions<'l> {
    losses: &'l mut Losses,
    page_bytes: &'l mut [u64],
    limits: ScanLimits,
    watch: &'l dyn Watch,
    progress: &'l dyn Fn(u64) -> Progress,
}

/// Visitor of the pages of a walk.
trait PageVisitor: SweepSink {
    /// A page begins; whether to go on.
    fn enter_page(&mut self, index: PageIndex) -> bool;
}

/// Takes `visitor` over all pages of all layers, in the order of the disks.
fn walk_pages(
    moment: &mut ScanPointInTime<'_>,
    forest: &LayerTree,
    sets: &mut NodeSets,
    visitor: &mut dyn PageVisitor,
    look: &mut WalkOptions<'_>,
) -> Result<(), StoreError> {
    let (mut sweeper, mut stretches, mut walked) =
        (SharingSweeper::default(), forest.page_stretches(), 0);
    let mut next_look = 0;
    while let Some((pages, layers)) = stretches.next() {
        // Pages that no layer has are skipped: there is nothing to hide either.
        if !layers
            .iter()
            .any(|at| forest.layers[*at as usize].has_page(PageIndex(pages.start)))
        {
            continue;
        }
        for index in pages.map(PageIndex) {
            if !visitor.enter_page(index) {
                return Ok(());
            }
            let mut parts = Vec::from([(0, PAGE_SPAN)]);
            while let Some((start, end)) = parts.pop() {
                let is_whole = gather_entries(
                    moment,
                    forest,
                    layers,
                    index,
                    start..end,
                    &mut sweeper,
                    look,
                )?;
                let middle = start.midpoint(end);
                if is_whole || middle == start {
                    sweeper.sweep_covers(forest, sets, visitor);
                } else {
                    parts.extend([(middle, end), (start, middle)]);
                }
            }
            walked += layers.len() as u64;
            if walked >= next_look {
                next_look = walked + PAGES_PER_LOOK;
                go_on(look.watch)?;
                look.watch.report_progress((look.progress)(walked));
            }
        }
    }
    Ok(())
}

/// Adds to `sweeper` the entries of all `layers` at the positions `part` of page `index`; `false`
/// if that is too much at a time.
fn gather_entries(
    moment: &mut ScanPointInTime<'_>,
    forest: &LayerTree,
    layers: &[u32],
    index: PageIndex,
    part: Range<u16>,
    sweeper: &mut SharingSweeper,
    look: &mut WalkOptions<'_>,
) -> Result<bool, StoreError> {
    sweeper.clear_covers();
    let mut before = None;
    for at in layers
        .iter()
        .copied()
        .filter(|at| before.replace(*at) != Some(*at))
    {
        let layer = &forest.layers[at as usize].layer;
        let page = if layer.pages.contains(index) {
            moment.read_page(layer, index, look.losses)?
        } else {
            None
        };
        let (page, len) = page.unwrap_or_default();
        look.page_bytes[at as usize] += if part.len() == usize::from(PAGE_SPAN) {
            len
        } else {
            0
        };
        let visible = if layer.parent.is_some() {
            layer.visible_in(index)
        } else {
            PAGE_SPAN
        };
        sweeper.add_page(at, &page, visible, part.clone());
        if sweeper.len() > look.limits.covers && part.len() > 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends of the passes over all chunks, each at the end of a frame: ranks and frames.
fn pass_ends(frames: &[FrameSummary], chunks_max: u64) -> Vec<(u64, usize)> {
    let (mut ends, mut begin, mut rank) = (Vec::new(), 0, 0);
    for (at, frame) in frames.iter().enumerate() {
        if rank - begin + u64::from(frame.count) > chunks_max {
            ends.push((rank, at));
            begin = rank;
        }
        rank += u64::from(frame.count);
    }
    // One at least: maps are walked even where there is no chunk.
    ends.push((rank, frames.len()));
    ends
}

/// Counts `chunks` of `bytes` in bucket `at`. Buckets get their bounds later.
fn add_to_bucket(buckets: &mut Vec<HistogramBucket>, at: usize, chunks: u64, bytes: u64) {
    while buckets.len() <= at {
        buckets.push(HistogramBucket {
            from: 0,
            to: None,
            chunks: 0,
            bytes: 0,
        });
    }
    buckets[at].chunks += chunks;
    buckets[at].bytes += bytes;
}

impl<'r> CountPass<'r> {
    fn new(ranks: &'r ChunkRanks, range: Range<u64>, is_first: bool, nodes: usize) -> Self {
        let count = usize::try_from(range.end - range.start).expect("a pass fits memory");
        Self {
            ranks,
            range,
            sets: vec![NodeSetId::EMPTY; count],
            references: vec![0; count],
            last: Default::default(),
            missing: 0,
            is_first,
            chunks_seen: vec![0; nodes + 1],
            zeros_seen: vec![0; nodes + 1],
        }
    }

    /// The number of positions that each node sees, as chunks and as zeros.
    fn seen_positions(&self) -> Vec<(u64, u64)> {
        let (mut chunks, mut zeros) = (0_u64, 0_u64);
        let both = self.chunks_seen.iter().zip(&self.zeros_seen);
        let sums = both.map(|(more_chunks, more_zeros)| {
            (chunks, zeros) = (
                chunks.wrapping_add(*more_chunks),
                zeros.wrapping_add(*more_zeros),
            );
            (chunks, zeros)
        });
        sums.take(self.chunks_seen.len() - 1).collect()
    }
}

impl SweepSink for CountPass<'_> {
    fn add_chunks(
        &mut self,
        _: u16,
        first: ChunkId,
        count: u16,
        spans: &[Span],
        sets: &mut NodeSets,
    ) {
        let (own, ranks, set) = (self.range.clone(), self.ranks, sets.intern_set(spans));
        let missing = ranks.visit_ranks(first, count, |range| {
            let range = range.start.max(own.start)..range.end.min(own.end);
            for at in range.map(|rank| (rank - own.start) as usize) {
                self.references[at] = self.references[at].saturating_add(1);
                let before = self.sets[at];
                if before == set {
                    continue;
                }
                if (self.last.0, self.last.1) != (before, set) {
                    self.last = (before, set, sets.union_sets(before, set));
                }
                self.sets[at] = self.last.2;
            }
        });
        if self.is_first {
            self.missing += missing;
        }
    }

    fn add_seen(&mut self, span: Span, count: u16, is_zero: bool) {
        let seen = if is_zero {
            &mut self.zeros_seen
        } else {
            &mut self.chunks_seen
        };
        // Sums of differences: they wrap to what is right.
        seen[span.0 as usize] = seen[span.0 as usize].wrapping_add(count.into());
        seen[span.1 as usize] = seen[span.1 as usize].wrapping_sub(count.into());
    }
}

impl PageVisitor for CountPass<'_> {
    fn enter_page(&mut self, _: PageIndex) -> bool {
        true
    }
}

impl SweepSink for ChunkFinder {
    fn add_chunks(
        &mut self,
        start: u16,
        first: ChunkId,
        count: u16,
        spans: &[Span],
        _: &mut NodeSets,
    ) {
        let Some((node, _)) = spans.first() else {
            return;
        };
        let end = ChunkId(first.0.saturating_add(count.into()));
        for (id, place) in self
            .wanted
            .range_mut(first..end)
            .filter(|(_, place)| place.is_none())
        {
            *place = Some((
                *node,
                page_start(self.page).advance_by(u64::from(start) + id.0 - first.0),
            ));
            self.left -= 1;
        }
    }

    fn add_seen(&mut self, _: Span, _: u16, _: bool) {}
}

impl PageVisitor for ChunkFinder {
    fn enter_page(&mut self, index: PageIndex) -> bool {
        self.page = index;
        self.left > 0
    }
}
