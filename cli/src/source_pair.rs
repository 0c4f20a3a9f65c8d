//! Two disks of whatever origin, compared by their bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use vellum_core::difference::{Difference, DifferenceJoiner};
use vellum_core::hash::is_zero;
use vellum_core::source::{ExtentKind, SourceError};
use vellum_store::{Progress, StoreError, Watch};

use crate::disk_argument::ReadDisk;

/// The bytes that are compared at once.
const STEP_LEN: u64 = 1 << 20;
/// The unit in which differences are told: a chunk of most stores, a page of most file systems.
const BLOCK_LEN: usize = 4096;
/// The greatest number of threads: more would wait for each other's reads.
const THREADS_MAX: usize = 16;

/// Two disks that are compared.
pub(crate) struct SourcePair<'a> {
    first: &'a ReadDisk,
    second: &'a ReadDisk,
    /// The place where the next step begins.
    next: AtomicU64,
    /// The first difference so far.
    found: AtomicU64,
}

/// The same bytes of both.
#[derive(Default)]
struct StepBytes {
    first: Vec<u8>,
    second: Vec<u8>,
}

impl<'a> SourcePair<'a> {
    pub(crate) fn new(first: &'a ReadDisk, second: &'a ReadDisk) -> Self {
        Self {
            first,
            second,
            next: AtomicU64::new(0),
            found: AtomicU64::new(u64::MAX),
        }
    }

    /// The end of what both have.
    fn common_len(&self) -> u64 {
        self.first.source.len().min(self.second.source.len())
    }

    /// The first byte that differs, or that only one has.
    pub(crate) fn first_difference(&self, watch: &dyn Watch) -> Result<Option<u64>, StoreError> {
        let end = self.common_len();
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(THREADS_MAX);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.take_steps(end, watch)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("a worker ends with a result"))
        })?;
        let found = self.found.load(Ordering::Relaxed);
        let cut = (self.first.source.len() != self.second.source.len()).then_some(end);
        Ok(if found == u64::MAX { cut } else { Some(found) })
    }

    /// Takes steps until there is none left before the end or the first difference. Steps are taken
    /// in order, so all before a difference are taken by somebody who finishes them.
    fn take_steps(&self, end: u64, watch: &dyn Watch) -> Result<(), StoreError> {
        let mut bytes = StepBytes::default();
        loop {
            let start = self.next.fetch_add(STEP_LEN, Ordering::Relaxed);
            if start >= end.min(self.found.load(Ordering::Relaxed)) {
                return Ok(());
            }
            go_on(watch, start, end)?;
            let step_end = end.min(start + STEP_LEN);
            let zeros_end = self.zeros_end(start)?;
            if zeros_end >= step_end {
                self.next
                    .fetch_max(zeros_end - zeros_end % STEP_LEN, Ordering::Relaxed);
                continue;
            }
            self.read_step(start..step_end, &mut bytes)?;
            if let Some(nth) = first_mismatch(&bytes.first, &bytes.second) {
                self.found.fetch_min(start + nth as u64, Ordering::Relaxed);
            }
        }
    }

    /// Visits every range in which they differ, in blocks of 4 KiB, and what only the longer one
    /// has.
    pub(crate) fn visit_differences(
        &self,
        watch: &dyn Watch,
        visit: &mut dyn FnMut(Difference) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut joiner = DifferenceJoiner::new(visit);
        let (end, mut bytes, mut at) = (self.common_len(), StepBytes::default(), 0);
        while at < end {
            go_on(watch, at, end)?;
            let zeros_end = self.zeros_end(at)?.min(end);
            if zeros_end >= end.min(at + STEP_LEN) {
                at = if zeros_end == end {
                    end
                } else {
                    zeros_end - zeros_end % STEP_LEN
                };
                continue;
            }
            let step_end = end.min(at + STEP_LEN);
            self.read_step(at..step_end, &mut bytes)?;
            for (first, second) in bytes
                .first
                .chunks(BLOCK_LEN)
                .zip(bytes.second.chunks(BLOCK_LEN))
            {
                let block_end = at + first.len() as u64;
                if first != second {
                    joiner.add_range(at..block_end, is_zero(second))?;
                }
                at = block_end;
            }
        }
        self.visit_rest(end, watch, &mut joiner)?;
        joiner.flush_pending()
    }

    /// Visits what only the longer one has, from `end` on.
    fn visit_rest(
        &self,
        end: u64,
        watch: &dyn Watch,
        joiner: &mut DifferenceJoiner<'_, StoreError>,
    ) -> Result<(), StoreError> {
        let (first_len, second_len) = (self.first.source.len(), self.second.source.len());
        if first_len >= second_len {
            return joiner.add_range(end..first_len, false);
        }
        let (mut at, mut bytes) = (end, Vec::new());
        while at < second_len {
            go_on(watch, at, second_len)?;
            let hole_end = hole_end(self.second, at)?.min(second_len);
            if hole_end > at {
                joiner.add_range(at..hole_end, true)?;
                at = hole_end;
                continue;
            }
            let block_end = (at + BLOCK_LEN as u64).min(second_len);
            bytes.resize((block_end - at) as usize, 0);
            read_source(self.second, &mut bytes, at)?;
            joiner.add_range(at..block_end, is_zero(&bytes))?;
            at = block_end;
        }
        Ok(())
    }

    fn read_step(&self, range: Range<u64>, bytes: &mut StepBytes) -> Result<(), StoreError> {
        let len = (range.end - range.start) as usize;
        bytes.first.resize(len, 0);
        bytes.second.resize(len, 0);
        read_source(self.first, &mut bytes.first, range.start)?;
        read_source(self.second, &mut bytes.second, range.start)
    }

    /// The end of the range from `start` on in which both are known to be zero without reading: a
    /// sparse disk is mostly that.
    fn zeros_end(&self, start: u64) -> Result<u64, StoreError> {
        let first = hole_end(self.first, start)?;
        if first == start {
            return Ok(start);
        }
        Ok(first.min(hole_end(self.second, start)?))
    }
}

/// The end of the hole at `start`, which is `start` where there is none.
fn hole_end(disk: &ReadDisk, start: u64) -> Result<u64, StoreError> {
    let extent = disk.source.extent_at(start);
    let extent = extent.map_err(|error| read_failure(disk, error))?;
    Ok(if extent.kind == ExtentKind::Data {
        start
    } else {
        extent.end_offset()
    })
}

fn read_source(disk: &ReadDisk, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
    let read = disk.source.read_at(buffer, offset);
    read.map_err(|error| read_failure(disk, error))
}

fn read_failure(disk: &ReadDisk, error: SourceError) -> StoreError {
    StoreError::of_source(&disk.name, error)
}

fn go_on(watch: &dyn Watch, done: u64, total: u64) -> Result<(), StoreError> {
    watch.report_progress(Progress {
        done,
        total: Some(total),
    });
    if watch.is_cancelled() {
        Err(StoreError::Interrupted)
    } else {
        Ok(())
    }
}

/// Compares as memory does, and looks for the byte only once there is one.
fn first_mismatch(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    if ours == theirs {
        None
    } else {
        ours.iter()
            .zip(theirs)
            .position(|(our, their)| our != their)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vellum_formats::input::{InputChoice, InputFormat};
    use vellum_formats::{Format, NoCompanions};
    use vellum_store::Unwatched;
    use vellum_store::codec::ClusterCodecs;

    use super::*;

    fn disk(bytes: Vec<u8>) -> ReadDisk {
        let raw = InputFormat::Image(Format::Raw);
        let codecs = Arc::new(ClusterCodecs);
        let opened = raw.open_disk(
            Arc::new(bytes),
            InputChoice::default(),
            codecs,
            &NoCompanions,
        );
        ReadDisk {
            name: "disk".to_owned(),
            source: opened.expect("every file is a raw disk").source.into(),
        }
    }

    #[test]
    fn every_block_that_differs_is_told_once() {
        let (mut first, mut second) = (vec![0; 3 << 20], vec![0; (3 << 20) + 5000]);
        first[100] = 1;
        second[4096] = 1;
        second[8191 + 4096] = 1;
        second[2 << 20] = 1;
        (first[9 << 18], second[9 << 18]) = (7, 7);
        *second.last_mut().expect("bytes") = 1;
        let (first, second) = (disk(first), disk(second));
        let mut told = Vec::new();
        let pair = SourcePair::new(&first, &second);
        let done = pair.visit_differences(&Unwatched, &mut |difference| {
            told.push((difference.start, difference.len, difference.becomes_zero));
            Ok(())
        });
        done.expect("memory reads");
        let end = 3 << 20;
        assert_eq!(
            told,
            [
                (0, 4096, true),
                (4096, 8192, false),
                (2 << 20, 4096, false),
                (end, 4096, true),
                (end + 4096, 904, false)
            ]
        );
        assert_eq!(pair.first_difference(&Unwatched).expect("read"), Some(100));
        let same = SourcePair::new(&first, &first);
        assert_eq!(same.first_difference(&Unwatched).expect("read"), None);
    }
}
