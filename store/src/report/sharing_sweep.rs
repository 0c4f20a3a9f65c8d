//! Finds the nodes that see each entry of one page of each layer: a sweep over the page's
//! positions, pure.
//!
//! A layer's entry is seen by the nodes that stand on it, but not through another layer between
//! that has an entry for the position itself, or sees only the beginning of the layers below.
//! Layers are in depth-first order, so those that cover a part of the nodes on a layer follow it
//! directly, and one pass with a stack finds them.

use std::ops::Range;

use vellum_core::page::{PAGE_SPAN, Page, PageEntry};
use vellum_core::units::ChunkId;

use super::forest::LayerTree;
use super::sets::{NodeSets, Span};

/// Range of positions on which one layer has an entry, or hides those below.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cover {
    start: u16,
    end: u16,
    /// Its place in the forest.
    layer: u32,
    /// `Absent` only hides what lies below.
    slot: PageEntry,
}

/// Receiver of a sweep's results.
pub(super) trait SweepSink {
    /// The `count` chunks from `first` on are referred to once more, from position `start` of the
    /// page on, by a layer of which the nodes of `spans` see that.
    fn add_chunks(
        &mut self,
        start: u16,
        first: ChunkId,
        count: u16,
        spans: &[Span],
        sets: &mut NodeSets,
    );

    /// The nodes of `span` see `count` positions of chunks, or of explicit zeros.
    fn add_seen(&mut self, span: Span, count: u16, is_zero: bool);
}

/// A layer whose holders are being gathered.
struct OpenLayer {
    cover: Cover,
    layer_end: usize,
    /// Nodes from here on are not decided about yet.
    from: u32,
    to: u32,
    spans: Vec<Span>,
}

/// Room for sweeps, used again and again.
#[derive(Default)]
pub(super) struct SharingSweeper {
    covers: Vec<Cover>,
    bounds: Vec<u16>,
    /// Places in `covers` of those at the present position, in the order of layers.
    active: Vec<u32>,
    stack: Vec<OpenLayer>,
    spare: Vec<Vec<Span>>,
}

impl SharingSweeper {
    /// Forgets all covers.
    pub(super) fn clear_covers(&mut self) {
        self.covers.clear();
    }

    /// The number of covers.
    pub(super) fn len(&self) -> usize {
        self.covers.len()
    }

    /// Adds what the layer at place `layer`, which sees `visible` positions of what lies below,
    /// says in `range`.
    pub(super) fn add_page(&mut self, layer: u32, page: &Page, visible: u16, range: Range<u16>) {
        for run in page.runs_in(range.start, range.end) {
            let (start, end) = (run.start, run.end_position());
            if run.slot != PageEntry::Absent {
                self.covers.push(Cover {
                    start,
                    end,
                    layer,
                    slot: run.slot,
                });
            } else if visible < end {
                self.covers.push(Cover {
                    start: start.max(visible),
                    end,
                    layer,
                    slot: PageEntry::Absent,
                });
            }
        }
    }

    /// Tells `sink` who sees what. Cost: the covers of every position at which some cover begins or
    /// ends.
    pub(super) fn sweep_covers(
        &mut self,
        forest: &LayerTree,
        sets: &mut NodeSets,
        sink: &mut dyn SweepSink,
    ) {
        self.covers
            .sort_unstable_by_key(|cover| (cover.start, cover.layer));
        self.bounds.clear();
        self.bounds.extend(
            self.covers
                .iter()
                .flat_map(|cover| [cover.start, cover.end]),
        );
        self.bounds.sort_unstable();
        self.bounds.dedup();
        self.active.clear();
        let mut next = 0;
        for at in 0..self.bounds.len().saturating_sub(1) {
            let (start, end) = (self.bounds[at], self.bounds[at + 1]);
            let covers = &self.covers;
            self.active
                .retain(|active| covers[*active as usize].end > start);
            let kept = self.active.len();
            while let Some(cover) = self.covers.get(next).filter(|cover| cover.start == start) {
                debug_assert!(cover.end <= PAGE_SPAN);
                self.active.push(next as u32);
                next += 1;
            }
            if self.active.len() > kept {
                self.active
                    .sort_by_key(|active| covers[*active as usize].layer);
            }
            self.sweep_segment(start, end - start, forest, sets, sink);
        }
    }

    /// One stretch of positions over which the same covers are active.
    fn sweep_segment(
        &mut self,
        start: u16,
        count: u16,
        forest: &LayerTree,
        sets: &mut NodeSets,
        sink: &mut dyn SweepSink,
    ) {
        for at in 0..self.active.len() {
            let cover = self.covers[self.active[at] as usize];
            let spot = &forest.layers[cover.layer as usize];
            while self
                .stack
                .last()
                .is_some_and(|open| open.layer_end <= cover.layer as usize)
            {
                self.close_layer(start, count, sets, sink);
            }
            if let Some(below) = self.stack.last_mut() {
                below.skip_hidden(&spot.nodes);
            }
            let spans = self.spare.pop().unwrap_or_default();
            self.stack.push(OpenLayer {
                cover,
                layer_end: spot.end,
                from: spot.nodes.start,
                to: spot.nodes.end,
                spans,
            });
        }
        while !self.stack.is_empty() {
            self.close_layer(start, count, sets, sink);
        }
    }

    /// The holders of the layer on top of the stack are known.
    fn close_layer(
        &mut self,
        start: u16,
        count: u16,
        sets: &mut NodeSets,
        sink: &mut dyn SweepSink,
    ) {
        let Some(mut open) = self.stack.pop() else {
            return;
        };
        open.finish_spans();
        match open.cover.slot {
            PageEntry::Absent => {}
            PageEntry::Zero => open
                .spans
                .iter()
                .for_each(|span| sink.add_seen(*span, count, true)),
            PageEntry::Chunk(first) => {
                open.spans
                    .iter()
                    .for_each(|span| sink.add_seen(*span, count, false));
                sink.add_chunks(
                    start,
                    first.advance_by(u64::from(start - open.cover.start)),
                    count,
                    &open.spans,
                    sets,
                );
            }
        }
        open.spans.clear();
        self.spare.push(open.spans);
    }
}

impl OpenLayer {
    /// The nodes up to `hidden` see this layer, those in it do not.
    fn skip_hidden(&mut self, hidden: &Range<u32>) {
        if hidden.is_empty() {
            return;
        }
        if self.from < hidden.start {
            self.spans.push((self.from, hidden.start));
        }
        self.from = hidden.end;
    }

    /// All that is left sees this layer.
    fn finish_spans(&mut self) {
        if self.from < self.to {
            self.spans.push((self.from, self.to));
        }
    }
}
