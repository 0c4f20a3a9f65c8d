//! Counts the chunks of the inputs at one chunk length: finds out where each is already, and
//! measures the new ones.

use std::mem::take;

use vellum_core::page::PAGE_SPAN;

use super::cost::{Amounts, FRAME_LEN};
use super::estimate::Guess;
use super::frames::{FrameSampling, NewChunkStream, SampledRun};
use super::places::ParentPositions;
use super::seen::SeenNames;
use super::short_name::ShortName;

/// Names that are kept for each length: some 60 MB with what belongs to them. From a sample of that
/// many, counts are known to some tenths of a percent.
const KEPT_MAX: usize = 1 << 20;
/// Parts of a sample that are summed apart, so that their differences tell how sure the sum is.
const STRATA: usize = 16;
/// Times that a sample can be halved: it never has fewer names than half of what is kept, so this
/// is for 2^60 names.
const LEVELS: usize = 40;

/// Place where a chunk was found, and its effect on maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkOrigin {
    /// Nowhere: it is new.
    New,
    /// At the same position of the parent.
    SamePlace,
    /// Elsewhere in what came before.
    Content,
    /// In the store that is measured against.
    Stored,
    /// End of a run of the map, not a place: the chunk after it here does not follow it in the
    /// store.
    Break,
}

const KINDS: usize = 5;

/// A chunk of the inputs.
pub(super) struct InputChunk<'a> {
    /// Its position on its disk.
    pub(super) index: u64,
    pub(super) name: ShortName,
    pub(super) plain: &'a [u8],
    /// True if the store that is measured against has it.
    pub(super) is_stored: bool,
}

/// Runs of new chunks that are to be compressed.
#[derive(Default)]
pub(super) struct SampledRuns {
    /// Frames of the usual length.
    pub(super) frames: Vec<SampledRun>,
    /// Longer runs, to be compressed in every way.
    pub(super) trials: Vec<SampledRun>,
}

/// Counts at one chunk length.
pub(super) struct ChunkLenTally {
    /// Bytes of a chunk.
    pub(super) len: u64,
    seen: SeenNames,
    parent: ParentPositions,
    own: ParentPositions,
    /// Counts by level of the sample, stratum and kind.
    tally: Vec<[[u64; KINDS]; STRATA]>,
    /// Chunks that are not zero, a number.
    data: u64,
    /// Runs of maps that begin because nothing, or another page, is before them.
    starts: u64,
    pages: u64,
    last: Option<(u64, ShortName)>,
    /// Name of the chunk that got the last id.
    newest: Option<ShortName>,
    pub(super) frames: NewChunkStream,
    /// New chunks in longer runs, at the one length that is tried in every way.
    pub(super) trials: Option<NewChunkStream>,
}

impl ChunkLenTally {
    /// Chunks of `len` bytes, of inputs of `total_len` bytes. At longer chunks than 4 KiB a larger
    /// share is sampled: as much memory for each byte of input.
    pub(super) fn new(
        len: u64,
        total_len: u64,
        sample: f64,
        thrift: FrameSampling,
        trials: Option<NewChunkStream>,
    ) -> Self {
        let rate = (sample * (len >> 12) as f64).min(1.0);
        Self {
            len,
            seen: SeenNames::new(rate, KEPT_MAX, total_len / len),
            parent: ParentPositions::default(),
            own: ParentPositions::default(),
            tally: vec![[[0; KINDS]; STRATA]; LEVELS],
            data: 0,
            starts: 0,
            pages: 0,
            last: None,
            newest: None,
            frames: NewChunkStream::new(
                len,
                len.max(FRAME_LEN),
                thrift.for_long_frames(len.div_ceil(FRAME_LEN)),
                1,
            ),
            trials,
        }
    }

    /// Takes a chunk of the parent for known.
    pub(super) fn note_parent_chunk(&mut self, index: u64, name: ShortName) {
        let sighting = self.seen.meet_name(name);
        if sighting.is_new {
            self.assign_next_id(name);
        }
        if self.seen.is_kept(name) {
            self.own.add_position(index, name);
        }
    }

    /// Counts the next chunk of an input. They come in order.
    pub(super) fn count_chunk(&mut self, chunk: &InputChunk<'_>, dues: &mut SampledRuns) {
        let &InputChunk {
            index,
            name,
            plain,
            is_stored,
        } = chunk;
        let sighting = self.seen.meet_name(name);
        self.data += 1;
        self.add_to_map(index, name, sighting.is_new);
        if sighting.is_new {
            self.assign_next_id(name);
        }
        if self.seen.is_kept(name) {
            let kind = match () {
                () if self.parent.has_name_at(index, name) => ChunkOrigin::SamePlace,
                () if !sighting.is_new => ChunkOrigin::Content,
                () if is_stored => ChunkOrigin::Stored,
                () => ChunkOrigin::New,
            };
            self.tally_name(name, kind);
            self.own.add_position(index, name);
        }
        if sighting.is_new && !is_stored {
            dues.frames.extend(self.frames.push_chunk(plain));
            dues.trials.extend(
                self.trials
                    .as_mut()
                    .and_then(|trials| trials.push_chunk(plain)),
            );
        }
    }

    /// Ends an input: the next one has it as its parent.
    pub(super) fn end_input(&mut self, dues: &mut SampledRuns) {
        dues.frames.extend(self.frames.close_run());
        dues.trials
            .extend(self.trials.as_mut().and_then(NewChunkStream::close_run));
        self.parent = take(&mut self.own);
        let seen = &self.seen;
        self.parent.retain_names(|name| seen.is_kept(name));
        self.last = None;
    }

    fn tally_name(&mut self, name: ShortName, kind: ChunkOrigin) {
        // The first bits decide about the sample, so the last ones are free to make strata.
        let cell =
            &mut self.tally[self.seen.sample_level(name).min(LEVELS - 1)][name as usize % STRATA];
        cell[kind as usize] += 1;
    }

    /// Gives `name` the next id.
    fn assign_next_id(&mut self, name: ShortName) {
        if let Some(before) = self.newest.replace(name) {
            self.seen.note_follower(before, name);
        }
    }

    /// Counts the chunk in its disk's map. Whether it continues the run of the one before it is
    /// asked in that one's name: a name in the sample keeps its follower.
    fn add_to_map(&mut self, index: u64, name: ShortName, is_new: bool) {
        let before = self.last.replace((index, name));
        let page = |index: u64| index / u64::from(PAGE_SPAN);
        self.pages += u64::from(before.is_none_or(|(at, _)| page(at) != page(index)));
        match before.filter(|(at, _)| at + 1 == index && page(*at) == page(index)) {
            None => self.starts += 1,
            Some((_, before)) if self.seen.is_kept(before) => {
                let continues = if is_new {
                    self.newest == Some(before)
                } else {
                    self.seen.is_followed(before, name)
                };
                if !continues {
                    self.tally_name(before, ChunkOrigin::Break);
                }
            }
            Some(_) => {}
        }
    }

    /// The share of distinct chunks that was counted.
    pub(super) fn sampling_rate(&self) -> f64 {
        self.seen.sampling_rate()
    }

    /// Bytes of chunks that are not zero.
    pub(super) fn data_len(&self) -> u64 {
        self.data * self.len
    }

    fn sum_strata(&self, kind: ChunkOrigin) -> [u64; STRATA] {
        let levels = &self.tally[self.seen.first_level().min(LEVELS - 1)..];
        std::array::from_fn(|stratum| {
            levels
                .iter()
                .map(|level| level[stratum][kind as usize])
                .sum()
        })
    }

    fn estimate_count(&self, kind: ChunkOrigin) -> Guess {
        Guess::of_strata(&self.sum_strata(kind), self.sampling_rate())
    }

    /// Chunks that are as in the parent at the same position, a number.
    pub(super) fn same_place(&self) -> Guess {
        self.estimate_count(ChunkOrigin::SamePlace)
    }

    /// Chunks that are found elsewhere in what came before, a number.
    pub(super) fn by_content(&self) -> Guess {
        self.estimate_count(ChunkOrigin::Content)
    }

    /// Chunks that only the store has, a number.
    pub(super) fn in_store(&self) -> Guess {
        Guess::of_count(
            self.sum_strata(ChunkOrigin::Stored).iter().sum(),
            self.sampling_rate(),
        )
    }

    /// New chunks, a number.
    pub(super) fn unique_chunks(&self) -> Guess {
        Guess::of_count(
            self.sum_strata(ChunkOrigin::New).iter().sum(),
            self.sampling_rate(),
        )
    }

    /// Compressed bytes of the new chunks; `None` if too little was compressed.
    pub(super) fn compressed_bytes(&self) -> Option<Guess> {
        let unique = self.unique_chunks().scaled(self.len as f64);
        if self.frames.plain_len() == 0 {
            return (unique.mean == 0.0).then_some(unique);
        }
        Some(self.frames.overall_ratio(0)?.times(unique))
    }

    /// Amounts of metadata, in frames of `frame_len`.
    pub(super) fn metadata_amounts(&self, frame_len: u64) -> Amounts {
        let chunks = self.unique_chunks();
        // Each input ends with a frame that is not full.
        let usual = self.frames.plain_len().div_ceil(self.frame_len());
        let unfilled = self.frames.runs.saturating_sub(usual) as f64;
        let frames = Guess {
            mean: chunks.mean * self.len as f64 / frame_len as f64 + unfilled,
            ..chunks.scaled(self.len as f64 / frame_len as f64)
        };
        let runs = self
            .estimate_count(ChunkOrigin::Break)
            .plus(Guess::exact(self.starts as f64));
        Amounts {
            chunks,
            frames,
            runs,
            pages: self.pages,
        }
    }

    /// The usual length of a frame with these chunks.
    pub(super) fn frame_len(&self) -> u64 {
        self.len.max(FRAME_LEN)
    }
}
