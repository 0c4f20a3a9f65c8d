//! Measures the space that some disks would take in a store, at every chunk length and in every way
//! of compressing, before anything is imported.
//!
//! One pass: a thread reads the inputs as windows of 4 MiB (`window`), all cores hash them, each
//! chunk length counts for itself (`length`), all cores compress the frames that are due
//! (`frames`). The order of the inputs is the order in which they would be imported. Names come
//! from 4 KiB leaves alone, hashed once for all lengths.
//!
//! Counts are exact as long as the names fit into bounded memory, then come from a sample of names
//! (`seen`); compressed lengths are exact for small inputs, then come from a sample of frames. An
//! inexact number has a range that holds the truth 95 times in 100 (`estimate`). Everything is
//! always read and hashed: only their content tells which chunks are the same.
//!
//! It changes nothing, and needs a store only to learn which chunks that has.

mod advice;
mod against;
mod cost;
mod estimate;
mod filter;
mod frames;
mod length;
mod places;
mod seen;
mod short_name;
#[cfg(test)]
mod tests;
mod window;

use std::sync::mpsc::{Receiver, sync_channel};

use rayon::prelude::{IntoParallelRefIterator, IntoParallelRefMutIterator, ParallelIterator};
use vellum_core::units::ChunkLen;

pub use advice::{Advice, AdviceReason};
pub use estimate::Estimate;

use crate::codec::compress_frame;
use crate::error::StoreError;
use crate::image_input::ImageInput;
use crate::records::{Compression, StoreParameters};
use crate::store::Store;
use crate::watch::{Progress, Watch};
use estimate::Guess;
use frames::{FrameSampling, NewChunkStream, SampledRun};
use length::{ChunkLenTally, InputChunk, SampledRuns};
use short_name::shortened;
use window::{LEAF_LEN, MeasureWindow, Names, ReaderEvent, WINDOW_LEN};

/// Windows that are hashed, counted and compressed at a time. With those being read, the frames
/// that are due at seven lengths and the trials this is some 200 MB of content at worst.
const WINDOWS_AT_ONCE: usize = 4;
/// Windows that may wait to be hashed.
const WINDOWS_AHEAD: usize = 4;
/// Plain bytes that are compressed in every way at once: the longest frame that is tried.
const TRIAL_LEN: u64 = 1 << 20;
/// Trials of which one is done at first: each is compressed some twenty times.
const TRIAL_COST: u64 = 16;
/// Frame lengths that are tried.
const FRAME_LENS: [u64; 5] = [16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20];
/// Compressions that are tried. Levels above cost minutes for each gigabyte.
const COMPRESSIONS: [Compression; 5] = [
    Compression::Lz4,
    Compression::Zstd(1),
    Compression::Zstd(3),
    Compression::Zstd(6),
    Compression::Zstd(9),
];

/// Options of a measurement.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// Chunk lengths: powers of two from 4 KiB to 4 MiB, rising.
    pub chunk_lens: Vec<u64>,
    /// The share of 4 KiB chunks to count and of frames to compress: more than 0, at most 1.
    pub sample: f64,
    /// True to compress every frame, not fewer and fewer.
    pub exact: bool,
    /// The compression of frames at every chunk length.
    pub compression: Compression,
    /// True to try every way of compressing as well, at the shortest chunk length.
    pub tries_all: bool,
}

/// Space that the inputs would take.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasureReport {
    /// The number of inputs.
    pub inputs: u64,
    /// Their lengths, in bytes.
    pub logical: u64,
    /// Bytes of the inputs that are not zero, in chunks of 4 KiB.
    pub non_zero: u64,
    /// For each chunk length, in frames of the usual length (128 KiB, or one chunk).
    pub lengths: Vec<LengthReport>,
    /// Every way of compressing, at the shortest chunk length.
    pub settings: Vec<SettingReport>,
    /// The advised parameters for a store of these inputs; `None` if there is nothing to store, or
    /// a store that has its parameters.
    pub advice: Option<Advice>,
}

/// Space that the inputs would take at one chunk length. All sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthReport {
    /// The length of a chunk.
    pub chunk_len: u64,
    /// The length of a frame.
    pub frame_len: u64,
    /// True if a store can have such chunks.
    pub is_possible: bool,
    /// The share of distinct chunks that was counted: 1 is exact.
    pub rate: f64,
    /// Chunks that are not zero.
    pub data: u64,
    /// Of those, chunks that are as in the parent at the same place.
    pub same_place: Estimate,
    /// Of those, chunks that are found elsewhere in earlier data.
    pub by_content: Estimate,
    /// Of those, chunks that only the store has, if the inputs were held against one with this
    /// chunk length.
    pub in_store: Option<Estimate>,
    /// New chunks, each once.
    pub unique: Estimate,
    /// That, compressed.
    pub compressed: Estimate,
    /// Names, index, maps, and whatever else is neither content nor in an empty store.
    pub metadata: Estimate,
    /// A new store with all that, as `du` counts, without the space that it reserves for a full
    /// disk; or only the growth, if a parent or a store counts as stored.
    pub on_disk: Estimate,
    /// Memory that an open store takes for finding these chunks.
    pub memory: Estimate,
}

/// Space that the inputs would take in one way of compressing. All sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingReport {
    /// The length of a chunk: the same in all.
    pub chunk_len: u64,
    /// The length of a frame.
    pub frame_len: u64,
    /// The compression.
    pub compression: Compression,
    /// New chunks, compressed.
    pub compressed: Estimate,
    /// Names, index, maps, and whatever else is neither content nor in an empty store.
    pub metadata: Estimate,
    /// A new store with that, or what it adds to what there is.
    pub on_disk: Estimate,
}

/// A measurement that is going on.
struct Measurement<'s> {
    lengths: Vec<ChunkLenTally>,
    store: Option<&'s Store>,
    compression: Compression,
    /// Ways of compressing that are tried.
    ways: Vec<(u64, Compression)>,
    inputs: u64,
    logical: u64,
    non_zero: u64,
    is_parent: bool,
    /// Bytes that the store takes without the inputs, if it is new as well.
    empty: Guess,
}

impl MeasureOptions {
    /// The lengths that are worth comparing, everything counted, at the usual compression.
    #[must_use]
    pub fn usual() -> Self {
        let chunk_lens = [4, 8, 16, 32, 64, 1024, 4096].map(|kib| kib << 10).into();
        Self {
            chunk_lens,
            sample: 1.0,
            exact: false,
            compression: StoreParameters::DEFAULT.compression,
            tries_all: true,
        }
    }

    fn check_options(&self) -> Result<(), StoreError> {
        let refuse = |text: &str| Err(StoreError::Parameter(text.to_owned()));
        let fits = |len: &u64| len.is_power_of_two() && (LEAF_LEN..=WINDOW_LEN).contains(len);
        if self.chunk_lens.is_empty()
            || !self.chunk_lens.iter().all(fits)
            || !self.chunk_lens.is_sorted_by(|a, b| a < b)
        {
            return refuse(
                "chunk sizes to measure are powers of two from 4K to 4M, each once, \
                 in rising order",
            );
        }
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            return refuse("a sample is more than nothing and at most everything");
        }
        StoreParameters {
            compression: self.compression,
            ..StoreParameters::DEFAULT
        }
        .check_valid()
    }

    fn frame_sampling(&self) -> FrameSampling {
        // One of 20 for 5 %.
        if self.exact {
            FrameSampling::Exact
        } else {
            FrameSampling::sampled_from((1.0 / self.sample).round() as u64)
        }
    }
}

/// Measures what storing `inputs` in this order would take, each with the one before as its parent.
/// With `parent`, that is the first one's, and everything in it counts as stored. With `store`,
/// what that has counts as stored at its own chunk length.
///
/// Fails if an input cannot be read, or changes meanwhile. Cost: reads and hashes everything once,
/// compresses a part (see [`MeasureOptions`]); some 700 MB of memory at most, however long the
/// inputs are.
pub fn measure(
    inputs: Vec<ImageInput>,
    parent: Option<ImageInput>,
    store: Option<&Store>,
    options: &MeasureOptions,
    watch: &dyn Watch,
) -> Result<MeasureReport, StoreError> {
    options.check_options()?;
    let mut measurement = Measurement::new(options, store, parent.is_some(), &inputs);
    let mut all: Vec<ImageInput> = parent.into_iter().chain(inputs).collect();
    let total: Option<u64> = all.iter().map(ImageInput::len).sum();
    std::thread::scope(|scope| {
        let (sender, events) = sync_channel(WINDOWS_AHEAD);
        scope.spawn(move || window::read_all(&mut all, &sender));
        measurement.take_all(&events, total, watch)
    })?;
    Ok(measurement.build_report())
}

impl<'s> Measurement<'s> {
    fn new(
        options: &MeasureOptions,
        store: Option<&'s Store>,
        has_parent: bool,
        inputs: &[ImageInput],
    ) -> Self {
        let total: u64 = inputs.iter().filter_map(ImageInput::len).sum();
        let first = options.chunk_lens[0];
        let ways = compression_ways(first, options.compression);
        let trials = NewChunkStream::new(
            first,
            first.max(TRIAL_LEN),
            options.frame_sampling().for_cost(TRIAL_COST),
            ways.len(),
        );
        let mut trials = Some(trials).filter(|_| options.tries_all);
        let length = |len: &u64| {
            ChunkLenTally::new(
                *len,
                total,
                options.sample,
                options.frame_sampling(),
                trials.take(),
            )
        };
        Self {
            lengths: options.chunk_lens.iter().map(length).collect(),
            store,
            compression: options.compression,
            ways,
            inputs: inputs.len() as u64,
            logical: 0,
            non_zero: 0,
            is_parent: has_parent,
            empty: Guess::exact(if has_parent || store.is_some() {
                0.0
            } else {
                cost::EMPTY_LEN
            }),
        }
    }

    /// Goes through everything that is read.
    fn take_all(
        &mut self,
        events: &Receiver<Result<ReaderEvent, StoreError>>,
        total: Option<u64>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let (mut windows, mut done) = (Vec::new(), 0);
        for event in events {
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
            match event? {
                ReaderEvent::Window(window) => {
                    watch.report_progress(Progress {
                        done: done + window.start,
                        total,
                    });
                    windows.push(window);
                    if windows.len() == WINDOWS_AT_ONCE {
                        self.take_windows(&std::mem::take(&mut windows))?;
                    }
                }
                ReaderEvent::End(len) => {
                    self.take_windows(&std::mem::take(&mut windows))?;
                    self.end_input(len);
                    done += len;
                }
            }
        }
        Ok(())
    }

    fn take_windows(&mut self, windows: &[MeasureWindow]) -> Result<(), StoreError> {
        let store_len = self.store.map(|store| store.parameters().chunk_len);
        let hashed: Vec<(Vec<Names>, Names)> = windows
            .par_iter()
            .map(|window| {
                (
                    window.chunk_names(),
                    store_len.map_or_else(Vec::new, |len| window.stored_names(len)),
                )
            })
            .collect();
        let stored = hashed
            .iter()
            .map(|(_, names)| self.find_stored(names))
            .collect::<Result<Vec<_>, _>>()?;
        let (is_parent, store_len) = (self.is_parent, store_len.map(ChunkLen::byte_len));
        if !is_parent {
            self.non_zero += hashed
                .iter()
                .map(|(levels, _)| levels[0].iter().flatten().count() as u64 * LEAF_LEN)
                .sum::<u64>();
        }
        let count = |length: &mut ChunkLenTally| {
            let mut dues = SampledRuns::default();
            for ((window, (levels, _)), stored) in windows.iter().zip(&hashed).zip(&stored) {
                let stored = if store_len == Some(length.len) {
                    stored.as_slice()
                } else {
                    &[]
                };
                length.add_window(
                    window,
                    &levels[(length.len / LEAF_LEN).ilog2() as usize],
                    stored,
                    is_parent,
                    &mut dues,
                );
            }
            dues
        };
        let dues: Vec<SampledRuns> = self.lengths.par_iter_mut().map(count).collect();
        self.compress_runs(dues);
        Ok(())
    }

    /// Tells for each of a window's chunks whether the store has it.
    fn find_stored(&self, names: &Names) -> Result<Vec<bool>, StoreError> {
        let Some(store) = self.store else {
            return Ok(Vec::new());
        };
        let hashes: Vec<_> = names.iter().flatten().copied().collect();
        let mut found = store.seem_stored(&hashes)?.into_iter();
        Ok(names
            .iter()
            .map(|name| name.is_some() && found.next().unwrap_or(false))
            .collect())
    }

    fn end_input(&mut self, len: u64) {
        let end = |length: &mut ChunkLenTally| {
            let mut dues = SampledRuns::default();
            length.end_input(&mut dues);
            dues
        };
        let dues = self.lengths.iter_mut().map(end).collect();
        self.compress_runs(dues);
        self.logical += if self.is_parent { 0 } else { len };
        self.is_parent = false;
    }

    /// Compresses what is due, of each length, on all cores.
    fn compress_runs(&mut self, dues: Vec<SampledRuns>) {
        for (length, dues) in self.lengths.iter_mut().zip(dues) {
            let compression = self.compression;
            let lens: Vec<u64> = dues
                .frames
                .par_iter()
                .map(|due| compressed_len(compression, &due.plain))
                .collect();
            for (due, len) in dues.frames.iter().zip(lens) {
                length
                    .frames
                    .note_results(due.stage, due.plain.len() as u64, &[len]);
            }
            let Some(trials) = &mut length.trials else {
                continue;
            };
            let usual = (length.len.max(cost::FRAME_LEN), compression);
            let tried: Vec<(u64, Vec<u64>)> = dues
                .trials
                .par_iter()
                .map(|due| try_all(due, usual, &self.ways))
                .collect();
            for (due, (against, results)) in dues.trials.iter().zip(tried) {
                trials.note_results(due.stage, against, &results);
            }
        }
    }

    fn build_report(&self) -> MeasureReport {
        let lengths: Vec<LengthReport> = self
            .lengths
            .iter()
            .map(|length| self.length_report(length))
            .collect();
        let settings = self.setting_reports();
        // A store that exists keeps its own parameters.
        let advice = if self.store.is_some() {
            None
        } else {
            advice::advise_parameters(&lengths, &settings)
        };
        MeasureReport {
            inputs: self.inputs,
            logical: self.logical,
            non_zero: self.non_zero,
            lengths,
            settings,
            advice,
        }
    }

    fn length_report(&self, length: &ChunkLenTally) -> LengthReport {
        let bytes = |count: Guess| count.scaled(length.len as f64).to_estimate();
        let amounts = length.metadata_amounts(length.frame_len());
        let (compressed, metadata) = (length.compressed_or_less(), amounts.on_disk());
        let has_names = self
            .store
            .is_some_and(|store| store.parameters().chunk_len.byte_len() == length.len);
        LengthReport {
            chunk_len: length.len,
            frame_len: length.frame_len(),
            is_possible: u32::try_from(length.len)
                .ok()
                .and_then(ChunkLen::new)
                .is_some(),
            rate: length.sampling_rate(),
            data: length.data_len(),
            same_place: bytes(length.same_place()),
            by_content: bytes(length.by_content()),
            in_store: has_names.then(|| bytes(length.in_store())),
            unique: bytes(length.unique_chunks()),
            compressed: compressed.to_estimate(),
            metadata: metadata.to_estimate(),
            on_disk: compressed.plus(metadata).plus(self.empty).to_estimate(),
            memory: amounts.in_memory().to_estimate(),
        }
    }

    /// Every way of compressing, at the shortest chunk length.
    fn setting_reports(&self) -> Vec<SettingReport> {
        let length = &self.lengths[0];
        let Some(trials) = &length.trials else {
            return Vec::new();
        };
        let usual = length.compressed_or_less();
        let setting = |(nth, (frame_len, compression)): (usize, &(u64, Compression))| {
            let compressed = usual.times(trials.overall_ratio(nth)?);
            let metadata = length.metadata_amounts(*frame_len).on_disk();
            Some(SettingReport {
                chunk_len: length.len,
                frame_len: *frame_len,
                compression: *compression,
                compressed: compressed.to_estimate(),
                metadata: metadata.to_estimate(),
                on_disk: compressed.plus(metadata).plus(self.empty).to_estimate(),
            })
        };
        self.ways.iter().enumerate().filter_map(setting).collect()
    }
}

impl ChunkLenTally {
    /// Counts the chunks of a window, or notes those of the parent's.
    fn add_window(
        &mut self,
        window: &MeasureWindow,
        names: &Names,
        stored: &[bool],
        is_parent: bool,
        dues: &mut SampledRuns,
    ) {
        let first = window.start / self.len;
        for (nth, name) in names.iter().enumerate() {
            let Some(name) = name.as_ref().map(shortened) else {
                continue;
            };
            let index = first + nth as u64;
            if is_parent {
                self.note_parent_chunk(index, name);
                continue;
            }
            let plain = &window.bytes[nth * self.len as usize..][..self.len as usize];
            self.count_chunk(
                &InputChunk {
                    index,
                    name,
                    plain,
                    is_stored: stored.get(nth).copied().unwrap_or(false),
                },
                dues,
            );
        }
    }

    /// Compressed bytes; where too little was compressed to know, anything up to the plain bytes.
    fn compressed_or_less(&self) -> Guess {
        let half = self.unique_chunks().scaled(self.len as f64 / 2.0);
        self.compressed_bytes().unwrap_or(Guess {
            variance: half.variance + (half.mean / 2.0).powi(2),
            ..half
        })
    }
}

/// The ways of compressing chunks of `chunk_len` that are worth trying.
fn compression_ways(chunk_len: u64, usual: Compression) -> Vec<(u64, Compression)> {
    let mut compressions = COMPRESSIONS.to_vec();
    if !compressions.contains(&usual) {
        compressions.push(usual);
    }
    let lens = FRAME_LENS.into_iter().filter(|len| *len >= chunk_len);
    let lens: Vec<u64> = if chunk_len > TRIAL_LEN {
        vec![chunk_len]
    } else {
        lens.collect()
    };
    lens.iter()
        .flat_map(|len| compressions.iter().map(|compression| (*len, *compression)))
        .collect()
}

fn compressed_len(compression: Compression, plain: &[u8]) -> u64 {
    compress_frame(compression, plain).1.len() as u64
}

/// Compressed lengths of a trial: in the usual way, and in each of `ways`.
fn try_all(
    due: &SampledRun,
    usual: (u64, Compression),
    ways: &[(u64, Compression)],
) -> (u64, Vec<u64>) {
    let one = |(frame_len, compression): &(u64, Compression)| {
        due.plain
            .chunks(*frame_len as usize)
            .map(|frame| compressed_len(*compression, frame))
            .sum()
    };
    (one(&usual), ways.par_iter().map(one).collect())
}
