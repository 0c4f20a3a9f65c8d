//! Forecasts the space that a collection would leave on the disk if some nodes were deleted: the
//! collector's own decisions, on counts instead of frames.
//!
//! The payload that is left of a frame of which a part is dead is an estimate: the live chunks'
//! share of it. Maps count as they are: the effect of merging is not foreseen, only that of
//! dropping layers that no node sees.

use std::collections::BTreeMap;
use std::ops::Range;

use vellum_core::units::{ChunkId, SolidNumber};

use super::attribution::compressed_bytes;
use super::count::ChunkCounts;
use super::frames::FrameSummary;
use super::sets::NodeSetId;
use crate::collect::{
    CHUNKS_PER_GROUP, DeadRange, Fate, LIVE_PART_MIN, LiveLengths, Packable, Packer, REGION_IDS,
    goes_along, is_worth_it, plan_rewrites,
};

/// Bytes that the deletion of an index entry takes: key, number of the write, and its part of a
/// block.
const INDEX_DELETION_LEN: u64 = 19;
/// Bytes that a frame takes in a file beside its payload, at most: its key, twice, and its part of
/// blocks and filters.
const FRAME_OVERHEAD_LEN: u64 = 64;
/// Bytes that a header takes in a file beside itself, at most.
const HEADER_OVERHEAD_LEN: u64 = 32;
/// Bytes of a header beside its chunks' names and its bitmap, and of a name.
const HEADER_LEN: u64 = 15;
const NAME_LEN: u64 = 32;

/// A frame, and how much of it would be live.
struct ThinnedFrame<'f> {
    frame: &'f FrameSummary,
    live: u16,
}

/// Bytes of files that a collection would leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReclaimForecast {
    pub(super) frames: u64,
    pub(super) headers: u64,
    pub(super) index: u64,
    pub(super) pages: u64,
    /// Solid blocks.
    pub(super) solid: u64,
}

/// Frames after a collection.
#[derive(Default)]
struct SweptFrames {
    live: LiveLengths,
    /// Frames that are left, for each region of ids.
    frames: BTreeMap<u64, u64>,
    /// Bytes of headers that are written anew.
    headers_written: u64,
    /// Ids in a row that are dead, where whole files are asked for.
    gaps: Vec<Range<ChunkId>>,
    /// Chunks whose index entries go.
    dropped: u64,
    kept: u64,
    /// Solid blocks that there are.
    blocks: BTreeMap<SolidNumber, BlockForecast>,
}

/// A solid block, and how much of it would be live.
#[derive(Default)]
struct BlockForecast {
    live_chunks: u64,
    all_chunks: u64,
    stored_len: u64,
    /// Bytes of it that live frames take.
    live_len: u64,
}

impl Packable for ThinnedFrame<'_> {
    fn id_range(&self) -> Range<ChunkId> {
        self.frame.first..self.frame.end_id()
    }

    fn chunk_count(&self) -> usize {
        self.frame.count.into()
    }

    fn live_count(&self) -> usize {
        self.live.into()
    }

    fn payload_len(&self) -> u64 {
        self.frame.payload_len.into()
    }
}

impl ReclaimForecast {
    /// Outlook if the chunks of the sets that `is_dead` names were dead, and `pages_len` bytes of
    /// maps were left.
    pub(super) fn for_dead_sets(
        counted: &ChunkCounts,
        chunks_per_frame: usize,
        is_dead: &dyn Fn(NodeSetId) -> bool,
        pages_len: u64,
    ) -> Self {
        let swept = simulate_sweep(counted, chunks_per_frame, is_dead);
        let space = &counted.space;
        let (frames, is_rewriting) = frames_left(counted, &swept);
        let (headers, index) = (
            headers_left(counted, &swept, is_rewriting),
            index_left(counted, &swept, is_rewriting),
        );
        let pages = if is_worth_it(space.pages, pages_len) {
            pages_len
        } else {
            space.pages
        };
        Self {
            frames,
            headers,
            index,
            pages,
            solid: swept.blocks.values().map(BlockForecast::bytes_left).sum(),
        }
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.frames + self.headers + self.index + self.pages + self.solid
    }
}

/// Walks over all frames as a sweep does.
fn simulate_sweep(
    counted: &ChunkCounts,
    chunks_per_frame: usize,
    is_dead: &dyn Fn(NodeSetId) -> bool,
) -> SweptFrames {
    let (mut swept, mut packer) = (SweptFrames::default(), Packer::new(chunks_per_frame));
    let mut runs = counted
        .runs
        .iter()
        .map(|(count, set)| (*count, is_dead(*set)));
    let (mut run, mut gap, mut in_group) = ((0, false), DeadRange::default(), 0);
    for frame in &counted.frames {
        if in_group >= CHUNKS_PER_GROUP {
            swept.gaps.extend(gap.up_to(frame.first));
            in_group = 0;
        }
        in_group += usize::from(frame.count);
        let (mut left, mut live) = (u32::from(frame.count), 0);
        while left > 0 {
            if run.0 == 0 {
                let Some(next) = runs.next() else { break };
                run = next;
            }
            let taken = left.min(run.0);
            (left, run.0) = (left - taken, run.0 - taken);
            live += if run.1 { 0 } else { taken as u16 };
        }
        swept.count_block(frame);
        let thinned = ThinnedFrame { frame, live };
        if thinned.decide_fate(chunks_per_frame) == Fate::Drop {
            swept.dropped += u64::from(frame.count);
            swept.live.note_change(frame.first, 0);
            gap.add_frame(frame.own_payload_len.into());
            continue;
        }
        swept.gaps.extend(gap.close_gap(frame.first));
        packer
            .push_frame(thinned)
            .iter()
            .for_each(|pack| swept.add_frames(&pack.frames, pack.is_worth_it()));
    }
    packer
        .close_pack()
        .iter()
        .for_each(|pack| swept.add_frames(&pack.frames, pack.is_worth_it()));
    swept.gaps.extend(gap.up_to(end_of_chunks(counted)));
    swept
}

/// The id after the last chunk.
fn end_of_chunks(counted: &ChunkCounts) -> ChunkId {
    counted
        .frames
        .last()
        .map_or(ChunkId(0), FrameSummary::end_id)
}

impl BlockForecast {
    /// Bytes that a collection leaves of it, as a block or as frames.
    fn bytes_left(&self) -> u64 {
        if self.live_chunks * LIVE_PART_MIN < self.all_chunks {
            self.live_len
        } else {
            self.stored_len
        }
    }
}

impl SweptFrames {
    /// Counts a frame that is there, if it is in a block.
    fn count_block(&mut self, frame: &FrameSummary) {
        if let Some(solid) = frame.solid {
            let block = self.blocks.entry(solid.block).or_default();
            block.all_chunks += u64::from(frame.count);
            block.stored_len += u64::from(frame.payload_len - frame.own_payload_len);
        }
    }

    /// Counts frames that stay as they are, or become one.
    fn add_frames(&mut self, frames: &[ThinnedFrame<'_>], is_rewritten: bool) {
        let (first, end) = (
            frames[0].frame.first,
            frames[frames.len() - 1].frame.end_id(),
        );
        if !is_rewritten {
            for thinned in frames {
                let frame = thinned.frame;
                if let Some(solid) = frame.solid {
                    let block = self.blocks.entry(solid.block).or_default();
                    block.live_chunks += u64::from(frame.count);
                    block.live_len += u64::from(frame.payload_len - frame.own_payload_len);
                }
                self.live.add_frame(
                    frame.first,
                    frame.own_payload_len.into(),
                    header_len(frame.span.into(), frame.count.into()),
                );
                self.kept += u64::from(frame.count);
                *self.frames.entry(frame.first.0 / REGION_IDS).or_default() += 1;
            }
            return;
        }
        let left: u64 = frames
            .iter()
            .map(|thinned| {
                u64::from(thinned.frame.payload_len) * u64::from(thinned.live)
                    / u64::from(thinned.frame.count)
            })
            .sum();
        let chunks: u64 = frames.iter().map(|thinned| u64::from(thinned.live)).sum();
        let all: u64 = frames
            .iter()
            .map(|thinned| u64::from(thinned.frame.count))
            .sum();
        let header_len = header_len(end.0 - first.0, chunks);
        self.live.add_frame(first, left, header_len);
        self.live.note_change(first, left);
        self.headers_written += header_len as u64;
        *self.frames.entry(first.0 / REGION_IDS).or_default() += 1;
        self.dropped += all - chunks;
        self.kept += chunks;
    }
}

fn header_len(span: u64, chunks: u64) -> usize {
    (HEADER_LEN + span.div_ceil(8) + chunks * NAME_LEN) as usize
}

/// Bytes of files that hold frames afterwards. Ranges that are rewritten shrink to what lives
/// there; elsewhere what is dead stays, and what was written anew comes on top. And whether any
/// range is.
fn frames_left(counted: &ChunkCounts, swept: &SweptFrames) -> (u64, bool) {
    let stored = &counted.space.stored;
    let is_gone = |first: ChunkId, last: ChunkId| {
        swept
            .gaps
            .iter()
            .any(|gap| gap.start <= first && last < gap.end)
    };
    let gone: Vec<_> = counted
        .space
        .files
        .iter()
        .filter(|(first, last, _)| is_gone(*first, *last))
        .collect();
    let stored_len = |from: ChunkId, to: ChunkId| -> u64 {
        let at = stored.partition_point(|(_, end, _)| *end <= from.0);
        let within = stored[at..]
            .iter()
            .take_while(|(start, ..)| *start < to.0)
            .map(|(.., len)| *len);
        let gone: u64 = gone.iter().map(|file| share_of(file, from, to)).sum();
        within.sum::<u64>().saturating_sub(gone) + sum_regions(&swept.live.written, from, to)
    };
    let horizon = end_of_chunks(counted);
    let slack = counted
        .space
        .frames
        .saturating_sub(compressed_bytes(counted))
        / (counted.frames.len() as u64).max(1);
    let slack = slack.min(FRAME_OVERHEAD_LEN);
    let all = stored_len(ChunkId(0), horizon);
    let ranges = plan_rewrites(&swept.live, horizon, &stored_len);
    let is_rewriting = !ranges.is_empty();
    let left = ranges.into_iter().fold(all, |all, (from, to, live_len)| {
        let after = live_len + sum_regions(&swept.frames, from, to) * slack;
        all - stored_len(from, to).saturating_sub(after)
    });
    (left, is_rewriting)
}

/// Bytes of a file between two ids, as if its frames were all the same.
fn share_of((first, last, len): &(ChunkId, ChunkId, u64), from: ChunkId, to: ChunkId) -> u64 {
    let (start, end) = (first.0.max(from.0), last.0.saturating_add(1).min(to.0));
    let share = u128::from(end.saturating_sub(start)) * u128::from(*len)
        / (u128::from(last.0 - first.0) + 1);
    share as u64
}

/// The sum of what `of_region` has for the regions of a range of ids.
fn sum_regions(of_region: &BTreeMap<u64, u64>, from: ChunkId, to: ChunkId) -> u64 {
    of_region
        .range(from.0 / REGION_IDS..to.0.div_ceil(REGION_IDS).max(from.0 / REGION_IDS))
        .map(|(_, len)| *len)
        .sum()
}

fn headers_left(counted: &ChunkCounts, swept: &SweptFrames, is_rewriting: bool) -> u64 {
    let stored = counted.space.headers + swept.headers_written;
    if !is_worth_it(stored, swept.live.headers) && !goes_along(is_rewriting, stored) {
        return stored;
    }
    let plain: u64 = counted
        .frames
        .iter()
        .map(|frame| header_len(frame.span.into(), frame.count.into()) as u64)
        .sum();
    let slack = counted.space.headers.saturating_sub(plain) / (counted.frames.len() as u64).max(1);
    swept.live.headers + swept.frames.values().sum::<u64>() * slack.min(HEADER_OVERHEAD_LEN)
}

fn index_left(counted: &ChunkCounts, swept: &SweptFrames, is_rewriting: bool) -> u64 {
    let table_len = counted.space.index + swept.dropped * INDEX_DELETION_LEN;
    let entries = swept.kept + 2 * swept.dropped;
    let dead_len = (table_len * 2 * swept.dropped)
        .checked_div(entries)
        .unwrap_or(0)
        .min(table_len);
    let live_len = counted.space.index * swept.kept / (swept.kept + swept.dropped).max(1);
    if is_worth_it(table_len, table_len - dead_len) || goes_along(is_rewriting, table_len) {
        live_len
    } else {
        table_len
    }
}
