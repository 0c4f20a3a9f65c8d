//! Measures how well new chunks compress, in frames as a store makes them: filled in the order of
//! arrival, closed at the end of each input. The caller compresses: there may be several results
//! for each frame.
//!
//! The first frames are all compressed. The longer the stream gets, the fewer: one of each stretch
//! of neighbours, chosen by chance. So small inputs are measured exactly, and the cost grows with
//! the logarithm of large ones.

use super::estimate::{Guess, RatioSample};

/// Plain bytes of which every frame is compressed, whatever sample was asked for: 32 frames at the
/// default length.
const FIRST_LEN: u64 = 4 << 20;
/// Plain bytes up to which all is compressed if no sample was asked for; then one frame of two
/// until as much is compressed again, and so on.
const STAGE_LEN: u64 = 512 << 20;
/// Stages at most: 512 MiB times 2^32.
const STAGES_MAX: usize = 32;

/// Share of frames that are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameSampling {
    /// None.
    Exact,
    /// More and more: `factor` of which one is due, then twice as many, and so on; at least
    /// `least`.
    Sampled {
        /// Runs of which one was asked for.
        least: u64,
        /// Runs of which one is due because of the cost of a run.
        factor: u64,
        /// Plain bytes of a stage in which as much is compressed as in each other.
        stage_len: u64,
    },
}

impl FrameSampling {
    /// The same for runs that cost `factor` times as much.
    pub(super) fn for_cost(self, factor: u64) -> Self {
        let least = if let Self::Sampled { least, .. } = self {
            least
        } else {
            1
        };
        Self::Sampled {
            least,
            factor,
            stage_len: STAGE_LEN,
        }
    }

    /// The same for frames that are `times` as long as usual: a larger share, since there are fewer
    /// of them to tell of the others.
    pub(super) fn for_long_frames(self, times: u64) -> Self {
        let more = times.isqrt().max(1);
        match self {
            Self::Exact => Self::Exact,
            Self::Sampled {
                least,
                factor,
                stage_len,
            } => Self::Sampled {
                least: (least / more).max(1),
                factor,
                stage_len: stage_len * more,
            },
        }
    }

    /// The cheapest sample: one of `least`, and fewer later.
    pub(super) fn sampled_from(least: u64) -> Self {
        Self::Sampled {
            least,
            factor: 1,
            stage_len: STAGE_LEN,
        }
    }
}

/// A run of new chunks to be compressed, and in which stage.
pub(super) struct SampledRun {
    pub(super) stage: usize,
    pub(super) plain: Vec<u8>,
}

/// The stream of new chunks, cut into runs of which some are due.
pub(super) struct NewChunkStream {
    /// Plain bytes of a run at most.
    run_len: u64,
    chunk_len: u64,
    thrift: FrameSampling,
    /// The number of results for each run that is due.
    results: usize,
    /// Plain bytes in all complete runs.
    total_len: u64,
    stages: Vec<SamplingStage>,
    open: Option<OpenRun>,
    /// Complete runs.
    pub(super) runs: u64,
}

/// Runs of which the same share is compressed.
#[derive(Clone, Debug, Default)]
struct SamplingStage {
    runs: u64,
    plain_len: u64,
    /// For each kind of result: what it is held against, and the result.
    results: Vec<RatioSample>,
}

struct OpenRun {
    stage: usize,
    len: u64,
    /// The bytes, if they are due.
    plain: Option<Vec<u8>>,
}

impl NewChunkStream {
    /// A stream of chunks of `chunk_len` in runs of `run_len`, with this many `results` for each
    /// that is due.
    pub(super) fn new(chunk_len: u64, run_len: u64, thrift: FrameSampling, results: usize) -> Self {
        Self {
            run_len,
            chunk_len,
            thrift,
            results,
            total_len: 0,
            stages: Vec::new(),
            open: None,
            runs: 0,
        }
    }

    /// Adds the next new chunk; the run that it completes, if that is due.
    pub(super) fn push_chunk(&mut self, chunk: &[u8]) -> Option<SampledRun> {
        if self.open.is_none() {
            self.open = Some(self.begin_run());
        }
        let open = self.open.as_mut().expect("just made");
        open.len += self.chunk_len;
        if let Some(plain) = &mut open.plain {
            plain.extend_from_slice(chunk);
        }
        if open.len + self.chunk_len > self.run_len {
            self.close_run()
        } else {
            None
        }
    }

    /// Ends the run that is open: the input ends.
    pub(super) fn close_run(&mut self) -> Option<SampledRun> {
        let open = self.open.take()?;
        self.runs += 1;
        self.total_len += open.len;
        let stage = &mut self.stages[open.stage];
        stage.runs += 1;
        stage.plain_len += open.len;
        open.plain.map(|plain| SampledRun {
            stage: open.stage,
            plain,
        })
    }

    /// Notes what became of a run that was due.
    pub(super) fn note_results(&mut self, stage: usize, against: u64, results: &[u64]) {
        for (pairs, result) in self.stages[stage].results.iter_mut().zip(results) {
            pairs.add_pair(against, *result);
        }
    }

    fn begin_run(&mut self) -> OpenRun {
        let stage = stage_of(self.thrift, self.total_len);
        if self.stages.len() <= stage {
            let empty = SamplingStage {
                results: vec![RatioSample::default(); self.results],
                ..SamplingStage::default()
            };
            self.stages.resize(stage + 1, empty);
        }
        let of = one_of(self.thrift, stage);
        let nth = self.stages[stage].runs;
        let is_due = nth % of == pseudo_random(nth / of, stage as u64) % of;
        OpenRun {
            stage,
            len: 0,
            plain: is_due.then(|| Vec::with_capacity(self.run_len as usize)),
        }
    }

    /// The plain bytes of all complete runs.
    pub(super) fn plain_len(&self) -> u64 {
        self.total_len
    }

    /// The `nth` result by what it is held against, over the whole stream. `None` if nothing is
    /// known.
    pub(super) fn overall_ratio(&self, nth: usize) -> Option<Guess> {
        let mut sum = Guess::default();
        for (last, stage) in self
            .stages
            .iter()
            .enumerate()
            .filter(|(_, stage)| stage.runs > 0)
        {
            // A stage that has just begun is taken for a part of those before.
            let known = stage.results[nth]
                .estimate_ratio(stage.runs)
                .or_else(|| self.pooled_ratio(nth, last))?;
            sum = sum.plus(known.scaled(stage.plain_len as f64));
        }
        (self.total_len > 0).then(|| sum.scaled(1.0 / self.total_len as f64))
    }

    /// The ratio of all stages up to `last` taken together.
    fn pooled_ratio(&self, nth: usize, last: usize) -> Option<Guess> {
        let (mut all, mut runs) = (RatioSample::default(), 0);
        self.stages[..=last].iter().for_each(|stage| {
            all.merge_pairs(&stage.results[nth]);
            runs += stage.runs;
        });
        all.estimate_ratio(runs)
    }
}

/// The stage of a run that begins after `total_len` bytes.
fn stage_of(thrift: FrameSampling, total_len: u64) -> usize {
    match thrift {
        FrameSampling::Exact => 0,
        FrameSampling::Sampled { .. } if total_len < FIRST_LEN => 0,
        // Stage n + 1 begins after 2^n - 1 lengths: 0, 1, 3, 7 …
        FrameSampling::Sampled { stage_len, .. } => {
            ((total_len / stage_len + 1).ilog2() as usize + 1).min(STAGES_MAX)
        }
    }
}

/// The number of runs of which one is due.
fn one_of(thrift: FrameSampling, stage: usize) -> u64 {
    match (thrift, stage) {
        (FrameSampling::Exact, _) | (_, 0) => 1,
        (FrameSampling::Sampled { least, factor, .. }, stage) => least.max(factor << (stage - 1)),
    }
}

/// A number that has nothing to do with what is in the runs, the same in every measurement.
fn pseudo_random(block: u64, stage: u64) -> u64 {
    let mixed = (block + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (stage + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_filled_and_closed_as_a_store_does_it() {
        let mut stream = NewChunkStream::new(4, 10, FrameSampling::Exact, 1);
        let mut due: Vec<usize> = Vec::new();
        for nth in 0..7_u8 {
            due.extend(stream.push_chunk(&[nth; 4]).map(|due| due.plain.len()));
        }
        due.extend(stream.close_run().map(|due| due.plain.len()));
        assert_eq!(due, [8, 8, 8, 4]);
        assert!(stream.close_run().is_none());
        assert_eq!((stream.runs, stream.plain_len()), (4, 28));
    }

    #[test]
    fn the_longer_the_stream_the_smaller_the_share_that_is_compressed() {
        let sampled = FrameSampling::sampled_from(1);
        for (total_len, stage, of) in [
            (0, 0, 1),
            (FIRST_LEN, 1, 1),
            (STAGE_LEN - 1, 1, 1),
            (STAGE_LEN, 2, 2),
            (3 * STAGE_LEN, 3, 4),
            (7 * STAGE_LEN, 4, 8),
            (u64::MAX, 32, 1 << 31),
        ] {
            assert_eq!(
                (stage_of(sampled, total_len), one_of(sampled, stage)),
                (stage, of),
                "{total_len}"
            );
        }
        let asked = FrameSampling::sampled_from(20);
        assert_eq!([0, 1, 6].map(|stage| one_of(asked, stage)), [1, 20, 32]);
        assert_eq!(
            [0, 1, 2, 3].map(|stage| one_of(asked.for_cost(16), stage)),
            [1, 20, 32, 64]
        );
    }

    #[test]
    fn one_of_each_stretch_is_due_and_tells_of_all() {
        let mut stream = NewChunkStream::new(1 << 20, 1 << 20, FrameSampling::sampled_from(10), 1);
        let mut dues = 0;
        for nth in 0..504_u64 {
            if let Some(due) = stream.push_chunk(&[]) {
                dues += 1;
                stream.note_results(
                    due.stage,
                    1 << 20,
                    &[if due.stage == 0 {
                        1 << 20
                    } else {
                        (1 << 18) + nth % 2
                    }],
                );
            }
        }
        assert_eq!(dues, 4 + 50);
        let ratio = stream.overall_ratio(0).expect("enough was compressed").mean;
        assert!((ratio - (4.0 + 125.0) / 504.0).abs() < 1e-4, "{ratio}");
    }
}
