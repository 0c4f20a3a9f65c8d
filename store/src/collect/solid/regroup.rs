//! Moves frames that are alike into solid blocks.
//!
//! Frames are looked at in windows of up to 256 GiB at the default lengths, which bounds memory;
//! within a window they are ordered by likeness and cut into blocks. What is in a block already
//! stays there, so a run that is interrupted goes on where it was, and the next one takes what has
//! come since. Left alone are frames that were read lately (they are in memory), small ones (they
//! will become part of others), damaged ones, and such as neither compress nor have their like.
//!
//! **Space.** The old payloads go when the files that they are in are compacted, at the end. While
//! they are there the store is larger than before, so a window is no longer than what there is room
//! for, and where that makes several of one, each gives back what it left before the next begins:
//! frames of neighbouring ids lie in the same files, so little else is in these. If there is no
//! room for a window that is worth it, the run ends and says so: what it did stays.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::{
    FrameHeader, REFERENCE_LEN, SolidMembership, encode_reference, frame_key,
};
use vellum_core::solid::{SolidBlock, SolidMember, SolidPlace, solid_key};
use vellum_core::units::{ChunkId, SolidNumber};

use super::SolidUsage;
use super::likeness::{ChunkFeatures, LikenessForest, describe_chunk};
use super::reclaim::last_block;
use crate::chunks::share_of_block;
use crate::codec;
use crate::collect::sweep::{HeaderGroup, chunks_per_frame};
use crate::collect::{CollectionRun, LiveLengths, tight};
use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::records::Compression;
use crate::store::Store;
use crate::watch::{Progress, Watch, go_on};

/// Plain bytes of a block: one of 1 MiB decodes in about a millisecond, and four times as much
/// would save some three parts in a hundred more.
const BLOCK_LEN: u32 = 2 << 20;
/// Frames that are ordered together.
const WINDOW_FRAMES: usize = 1 << 21;
/// Compressed bytes of a window at most, in parts of the free space: it is written anew beside
/// them, and what is left of the files that it was in is, too.
const WINDOWS_PER_ROOM: u64 = 3;
/// Compressed bytes that a window has room for at least.
const WINDOW_LEN_MIN: u64 = 4 << 20;
/// Blocks that are compressed and then written together, for each core.
const BLOCKS_PER_CORE: usize = 4;
/// Parts in a hundred that a block must save to be made.
const GAIN_MIN: u64 = 3;
/// Blocks of a window that a forecast compresses.
const FORECAST_BLOCKS: usize = 32;
/// Bytes that a header grows by in a block.
const MEMBERSHIP_LEN: u64 = 12;

/// Options of a collection that moves frames into solid blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeepOptions {
    /// zstd's level, 1 to 22.
    pub level: u8,
}

/// Result of moving frames into solid blocks, or its forecast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeepReport {
    /// Frames that were moved.
    pub frames: u64,
    /// Blocks that were made of them.
    pub blocks: u64,
    /// Compressed bytes of those frames before.
    pub bytes_before: u64,
    /// Compressed bytes of the blocks.
    pub bytes_after: u64,
    /// True if it ended early, since there was no room to write more.
    pub lacks_room: bool,
}

/// A frame that may be moved.
#[derive(Clone, Copy)]
struct Candidate {
    first: ChunkId,
    plain_len: u32,
    is_compressible: bool,
}

/// Frames that are ordered together, cut into blocks.
struct SolidPlan {
    blocks: Vec<Vec<Candidate>>,
    /// Begin of the next window; `None` after the last.
    next: Option<ChunkId>,
}

/// Frames of a window, while it is looked through.
#[derive(Default)]
struct WindowFrames {
    candidates: Vec<Candidate>,
    forest: LikenessForest,
    /// Their compressed bytes.
    stored_len: u64,
}

/// A block that is ready to be written.
struct EncodedSolid {
    number: SolidNumber,
    record: Vec<u8>,
    members: Vec<MovedFrame>,
    bytes_before: u64,
}

struct MovedFrame {
    header: FrameHeader,
    reference: Vec<u8>,
    /// Bytes of the payload that it had.
    payload_len: u32,
}

/// Moves all frames below the horizon of `collection` that are worth it. `live` and `usage` are
/// what the sweep has counted, and follow.
pub(in crate::collect) fn regroup_frames(
    store: &Store,
    collection: &CollectionRun<'_>,
    options: DeepOptions,
    (live, usage): (&mut LiveLengths, &mut SolidUsage),
    watch: &dyn Watch,
) -> Result<DeepReport, StoreError> {
    let mut report = DeepReport::default();
    // Read once: a look at it reads the whole block, and new ones are counted in memory.
    let last = last_block(&store.inner.database)?;
    let mut next = Some(ChunkId(0));
    while let Some(from) = next {
        let Some(window_len) = window_len(store) else {
            report.lacks_room = true;
            break;
        };
        let plan = SolidPlan::plan_window(store, from, collection.horizon, window_len, watch)?;
        next = plan.next;
        let (mut done, total) = (0, plan.blocks.len() as u64);
        let per_batch = rayon::current_num_threads() * BLOCKS_PER_CORE;
        for blocks in plan.blocks.chunks(per_batch) {
            go_on(watch)?;
            watch.report_progress(Progress {
                done,
                total: Some(total),
            });
            if !has_room(store, collection, blocks.len() as u64, watch)? {
                report.lacks_room = true;
                return Ok(report);
            }
            let chunks = &store.inner.chunks;
            let first = chunks.reserve_solid_numbers(last, blocks.len() as u64);
            let encoded = encode_blocks(store, first, blocks, options)?;
            commit_blocks(store, collection, &encoded)?;
            for block in &encoded {
                report.count_block(block);
                block.note_moved(live, usage);
            }
            done += blocks.len() as u64;
        }
        if let Some(end) = next {
            store.inner.database.flush_bulk(collection.generation)?;
            tight::give_back(store, &(from..end), watch)?;
        }
    }
    store
        .inner
        .database
        .flush_bulk(collection.generation)
        .map(|()| report)
}

/// Compressed bytes that the next window may have; `None` if there is room for too few.
fn window_len(store: &Store) -> Option<u64> {
    let inner = &store.inner;
    let taken = inner.database.unflushed_len() + inner.sizes.import_margin;
    // If the file system does not say how full it is, writing finds it out.
    let free = inner.reserve.free_bytes().unwrap_or(u64::MAX);
    let room = free.saturating_sub(taken);
    let len = room / WINDOWS_PER_ROOM;
    (len >= WINDOW_LEN_MIN).then_some(len)
}

/// Result that [`regroup_frames`] would have: some blocks of each window are compressed, and stand
/// for the others.
pub(in crate::collect) fn forecast_regrouping(
    store: &Store,
    horizon: ChunkId,
    options: DeepOptions,
    watch: &dyn Watch,
) -> Result<DeepReport, StoreError> {
    let mut report = DeepReport::default();
    let mut next = Some(ChunkId(0));
    while let Some(from) = next {
        let plan = SolidPlan::plan_window(store, from, horizon, u64::MAX, watch)?;
        next = plan.next;
        let count = plan.blocks.len();
        let step = count.div_ceil(FORECAST_BLOCKS).max(1);
        let sample: Vec<_> = plan.blocks.iter().step_by(step).cloned().collect();
        let mut seen = DeepReport::default();
        for block in encode_blocks(store, SolidNumber(0), &sample, options)? {
            seen.count_block(&block);
        }
        let scaled = |value: u64| value * count as u64 / sample.len().max(1) as u64;
        report.frames += scaled(seen.frames);
        report.blocks += scaled(seen.blocks);
        report.bytes_before += scaled(seen.bytes_before);
        report.bytes_after += scaled(seen.bytes_after);
    }
    Ok(report)
}

impl DeepReport {
    fn count_block(&mut self, block: &EncodedSolid) {
        self.frames += block.members.len() as u64;
        self.blocks += 1;
        self.bytes_before += block.bytes_before;
        self.bytes_after += block.record.len() as u64;
    }
}

impl SolidPlan {
    /// Looks at the frames from `from` on, up to a window of them that has `window_len` compressed
    /// bytes, and plans their blocks.
    fn plan_window(
        store: &Store,
        from: ChunkId,
        horizon: ChunkId,
        window_len: u64,
        watch: &dyn Watch,
    ) -> Result<Self, StoreError> {
        let mut window = WindowFrames::default();
        let mut next = Some(from);
        let is_full = |window: &WindowFrames| {
            window.candidates.len() >= WINDOW_FRAMES || window.stored_len >= window_len
        };
        while let Some(from) = next.filter(|_| !is_full(&window)) {
            go_on(watch)?;
            watch.report_progress(Progress {
                done: from.0,
                total: Some(horizon.0),
            });
            let group = HeaderGroup::read_group(store, from, horizon)?;
            next = group.next;
            let mut headers: Vec<FrameHeader> = group
                .entries
                .into_iter()
                .filter_map(Result::ok)
                .map(|(header, _)| header)
                .filter(|header| is_candidate(store, header))
                .collect();
            let mut stored_len = window.stored_len;
            let behind = headers.iter().position(|header| {
                let is_behind = stored_len >= window_len;
                stored_len += u64::from(header.payload_len);
                is_behind
            });
            if let Some(count) = behind {
                next = Some(headers[count].first_id());
                headers.truncate(count);
            }
            window.add_frames(store, headers)?;
        }
        let WindowFrames {
            candidates, forest, ..
        } = window;
        let has_likes = forest.has_likes();
        let order = forest
            .walk_order()
            .into_iter()
            .map(|number| number as usize);
        let chosen = order
            .filter(|at| candidates[*at].is_compressible || has_likes[*at])
            .map(|at| candidates[at]);
        let blocks = cut_blocks(chosen);
        Ok(Self { blocks, next })
    }
}

impl WindowFrames {
    /// Reads and describes the frames of `headers`.
    fn add_frames(&mut self, store: &Store, headers: Vec<FrameHeader>) -> Result<(), StoreError> {
        let described: Vec<Result<_, StoreError>> = headers
            .into_par_iter()
            .map(|header| {
                let stored_len = header.payload_len;
                describe_frame(store, header).map(|described| (stored_len, described))
            })
            .collect();
        for described in described {
            let (stored_len, described) = described?;
            self.stored_len += u64::from(stored_len);
            if let Some((candidate, features)) = described {
                self.forest.push_frame(&features);
                self.candidates.push(candidate);
            }
        }
        Ok(())
    }
}

/// True if the frame of `header` may be moved, as far as its header tells.
fn is_candidate(store: &Store, header: &FrameHeader) -> bool {
    header.solid.is_none()
        && header.chunk_count() * 2 > chunks_per_frame(store)
        && !store.inner.chunks.is_cached(header.first_id())
}

/// The frame of `header` and the descriptions of its chunks; `None` if it is damaged.
fn describe_frame(
    store: &Store,
    header: FrameHeader,
) -> Result<Option<(Candidate, Vec<ChunkFeatures>)>, StoreError> {
    let frame = match store.inner.chunks.load_frame(header) {
        Ok(frame) if frame.is_whole() => frame,
        Ok(_) | Err(StoreError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let features = frame.plain_chunks().map(describe_chunk).collect();
    let plain_len = frame.plain_len() as u32;
    let candidate = Candidate {
        first: frame.header.first_id(),
        plain_len,
        is_compressible: frame.header.payload_len < plain_len,
    };
    Ok(Some((candidate, features)))
}

/// Cuts frames, in order, into blocks of about [`BLOCK_LEN`].
fn cut_blocks(candidates: impl Iterator<Item = Candidate>) -> Vec<Vec<Candidate>> {
    let (mut blocks, mut open, mut len) = (Vec::new(), Vec::new(), 0);
    for candidate in candidates {
        if len + candidate.plain_len > BLOCK_LEN && !open.is_empty() {
            blocks.push(std::mem::take(&mut open));
            len = 0;
        }
        len += candidate.plain_len;
        open.push(candidate);
    }
    blocks.push(open);
    // One alone gains nothing from others.
    blocks.retain(|block| block.len() > 1);
    blocks
}

/// Compresses blocks; those that are worth it. They get numbers from `first` on.
fn encode_blocks(
    store: &Store,
    first: SolidNumber,
    blocks: &[Vec<Candidate>],
    options: DeepOptions,
) -> Result<Vec<EncodedSolid>, StoreError> {
    let encoded: Vec<Result<Option<EncodedSolid>, StoreError>> = blocks
        .iter()
        .enumerate()
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(nth, block)| {
            let number = SolidNumber(first.0 + nth as u64);
            encode_block(store, number, block, options)
        })
        .collect();
    encoded.into_iter().filter_map(Result::transpose).collect()
}

fn encode_block(
    store: &Store,
    block: SolidNumber,
    candidates: &[Candidate],
    options: DeepOptions,
) -> Result<Option<EncodedSolid>, StoreError> {
    let (mut plain, mut headers) = (Vec::with_capacity(BLOCK_LEN as usize), Vec::new());
    for candidate in candidates {
        let Some(header) = store.inner.chunks.frame_header(candidate.first)? else {
            continue;
        };
        match store.inner.chunks.load_frame(header) {
            Ok(frame) if frame.is_whole() => {
                frame
                    .plain_chunks()
                    .for_each(|chunk| plain.extend_from_slice(chunk));
                headers.push((frame.plain_len() as u32, frame.header));
            }
            Ok(_) | Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if headers.len() < 2 {
        return Ok(None);
    }
    let (codec, compressed) = codec::compress_frame(Compression::Zstd(options.level), &plain);
    let member = |(plain_len, header): &(u32, FrameHeader)| SolidMember {
        first: header.first_id(),
        plain_len: *plain_len,
    };
    let record = SolidBlock {
        codec,
        members: headers.iter().map(member).collect(),
        compressed: &compressed,
    }
    .encode(block);
    let bytes_before: u64 = headers
        .iter()
        .map(|(_, header)| u64::from(header.payload_len))
        .sum();
    let bytes_after = record.len() as u64 + headers.len() as u64 * u64::from(REFERENCE_LEN);
    if bytes_after * 100 > bytes_before * (100 - GAIN_MIN) {
        return Ok(None);
    }
    let membership = SolidMembership {
        block,
        block_len: plain.len() as u32,
    };
    let mut offset = 0;
    let members = headers
        .into_iter()
        .map(|(plain_len, header)| {
            let place = SolidPlace { block, offset };
            offset += plain_len;
            let share_len = share_of_block(record.len(), membership.block_len, plain_len);
            MovedFrame {
                reference: encode_reference(header.first_id(), place, plain_len),
                payload_len: header.payload_len,
                header: header.in_solid_block(membership, REFERENCE_LEN + share_len),
            }
        })
        .collect();
    Ok(Some(EncodedSolid {
        number: block,
        record,
        members,
        bytes_before,
    }))
}

/// Writes blocks, and the headers and references of their members, as one batch.
fn commit_blocks(
    store: &Store,
    collection: &CollectionRun<'_>,
    blocks: &[EncodedSolid],
) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    for block in blocks {
        batch.put_record(Family::Frames, solid_key(block.number), &block.record);
        for moved in &block.members {
            let key = frame_key(moved.header.first_id());
            batch.put_record(Family::Headers, key, moved.header.encode());
            batch.put_record(Family::Frames, key, &moved.reference);
        }
    }
    let _index = store.inner.chunks.lock_index();
    let database = &store.inner.database;
    database.write_in(collection.generation, batch, Durability::Bulk)?;
    store.inner.chunks.note_rewritten();
    Ok(())
}

/// True if there is room for `blocks` more, by giving back first what moved frames have left, if
/// need be.
fn has_room(
    store: &Store,
    collection: &CollectionRun<'_>,
    blocks: u64,
    watch: &dyn Watch,
) -> Result<bool, StoreError> {
    let (reserve, database) = (&store.inner.reserve, &store.inner.database);
    let needed = || {
        let unflushed_len = database.unflushed_len();
        unflushed_len + blocks * u64::from(BLOCK_LEN) + store.inner.sizes.import_margin
    };
    if reserve.check_room(needed()).is_ok() {
        return Ok(true);
    }
    database.flush_bulk(collection.generation)?;
    tight::give_back(store, &(ChunkId(0)..collection.horizon), watch)?;
    Ok(reserve.check_room(needed()).is_ok())
}

impl EncodedSolid {
    /// Counts its members where they are now.
    fn note_moved(&self, live: &mut LiveLengths, usage: &mut SolidUsage) {
        for moved in &self.members {
            let first = moved.header.first_id();
            live.replace_payload(first, moved.payload_len.into(), REFERENCE_LEN.into());
            live.headers += MEMBERSHIP_LEN;
            usage.count_member(&moved.header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_by_length_and_none_has_one_frame() {
        let candidates = |lens: &[u32]| {
            let nth = |(nth, len): (usize, &u32)| Candidate {
                first: ChunkId(nth as u64),
                plain_len: *len,
                is_compressible: true,
            };
            lens.iter().enumerate().map(nth).collect::<Vec<_>>()
        };
        let counts = |lens: &[u32]| -> Vec<usize> {
            cut_blocks(candidates(lens).into_iter())
                .iter()
                .map(Vec::len)
                .collect()
        };
        let eighth = BLOCK_LEN / 8;
        assert_eq!(counts(&[eighth; 17]), [8, 8]);
        assert_eq!(counts(&[eighth; 3]), [3]);
        assert_eq!(counts(&[BLOCK_LEN, 1, BLOCK_LEN]), [0_usize; 0]);
        assert_eq!(counts(&[BLOCK_LEN - 1, 1, 1, 1]), [2, 2]);
        assert_eq!(counts(&[]), [0_usize; 0]);
    }
}
