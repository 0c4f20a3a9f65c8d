//! Reads and writes of a live disk's view: copy what waits, read the rest from the base, put what
//! is new.
//!
//! Nothing is read from the store under the view's lock.

use std::ops::Range;
use std::sync::Arc;

use vellum_core::device::AllocationStatus;
use vellum_core::page::Page;
use vellum_core::stretches::RangeCollector;
use vellum_core::units::{ChunkIndex, PageIndex};

use super::LiveDiskState;
use super::read_view::FlushedBase;
use crate::clock::now_ns;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::write_buffer::PendingChange;

/// Limit of tries of a read while flushes change what it reads. Even one retry is rare: a
/// collection must have ended since the flush.
const ATTEMPTS_MAX: u32 = 8;

/// Parts of a read that the write buffer does not have.
enum MissingParts {
    Nothing,
    All,
    Parts(Vec<Range<u64>>),
}

impl LiveDiskState {
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.retry_outdated(|| {
            let (base, below) = self.copy_waiting(buffer, offset);
            let outcome = match below {
                MissingParts::Nothing => Ok(()),
                MissingParts::All => self.read_base(&base, buffer, offset),
                MissingParts::Parts(parts) => parts.into_iter().try_for_each(|part| {
                    let place = (part.start - offset) as usize..(part.end - offset) as usize;
                    self.read_base(&base, &mut buffer[place], part.start)
                }),
            };
            (base, outcome)
        })
    }

    /// Tries again what failed on a base that is not the present one any more: its pages may be
    /// gone, and with them its chunks.
    fn retry_outdated<T>(
        &self,
        mut attempt: impl FnMut() -> (FlushedBase, Result<T, StoreError>),
    ) -> Result<T, StoreError> {
        for _ in 1..ATTEMPTS_MAX {
            let (base, outcome) = attempt();
            if outcome.is_ok() || !self.is_outdated(&base) {
                return outcome;
            }
        }
        attempt().1
    }

    /// True if another base has taken the place of this one, or does as soon as the flush has ended
    /// that is going on: its batch may be there already.
    fn is_outdated(&self, base: &FlushedBase) -> bool {
        let control = self.lock_control();
        if control.is_flushing {
            drop(self.wait_for_flush(control));
        }
        self.read_view().base.version != base.version
    }

    /// Copies what waits for a read into its buffer; what is left to be read, and where from.
    fn copy_waiting(&self, buffer: &mut [u8], offset: u64) -> (FlushedBase, MissingParts) {
        let view = self.read_view();
        let base = view.base.clone();
        if view.is_clean() || buffer.is_empty() {
            return (base, MissingParts::All);
        }
        let end = offset + buffer.len() as u64;
        let (first, last) = (
            self.chunk_len.index_at(offset).0,
            self.chunk_len.index_at(end - 1).0,
        );
        if first == last {
            let start = (offset - self.chunk_len.offset_of(ChunkIndex(first))) as usize;
            let below = match view.chunk_change(first) {
                PendingChange::Absent => MissingParts::All,
                PendingChange::Zero => {
                    buffer.fill(0);
                    MissingParts::Nothing
                }
                PendingChange::Data(plain) => {
                    buffer.copy_from_slice(&plain[start..start + buffer.len()]);
                    MissingParts::Nothing
                }
            };
            return (base, below);
        }
        let mut parts = Vec::new();
        for (positions, change) in view.changes_in(first..last + 1) {
            let (start, part) = self.clip_to_range(&positions, &(offset..end));
            let out = &mut buffer[(part.start - offset) as usize..(part.end - offset) as usize];
            match change {
                PendingChange::Absent => parts.push(part),
                PendingChange::Zero => out.fill(0),
                PendingChange::Data(plain) => {
                    out.copy_from_slice(&plain[(part.start - start) as usize..][..out.len()]);
                }
            }
        }
        (base, MissingParts::Parts(parts))
    }

    /// The first byte of `positions`, and the bytes of `range` that they cover.
    fn clip_to_range(&self, positions: &Range<u64>, range: &Range<u64>) -> (u64, Range<u64>) {
        let place = |position: u64| self.chunk_len.offset_of(ChunkIndex(position));
        let clipped = place(positions.start).max(range.start)..place(positions.end).min(range.end);
        (place(positions.start), clipped)
    }

    fn read_base(
        &self,
        base: &FlushedBase,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), StoreError> {
        base.disk
            .read_through(&|index| self.base_page(base, index), buffer, offset)
    }

    /// Page `index` of `base`, or of a later one: see the module's comment on versions.
    pub(super) fn base_page(
        &self,
        base: &FlushedBase,
        index: PageIndex,
    ) -> Result<Arc<Page>, StoreError> {
        let pages = &self.store.inner.pages;
        if let Some(page) = pages.cached_live_page(self.pages_serial, index) {
            return Ok(page);
        }
        let page = base.disk.resolve_page(index)?;
        let view = self.read_view();
        if view.base.version == base.version {
            pages.keep_live(self.pages_serial, index, &page);
        }
        Ok(page)
    }

    /// Walks over `range`, telling `describe` what waits for each part: nothing, zeros, or data.
    pub(super) fn describe_range<K: Copy + PartialEq>(
        &self,
        range: Range<u64>,
        count_max: usize,
        describe: impl Fn(
            &Disk,
            Range<u64>,
            Option<AllocationStatus>,
            &mut RangeCollector<K>,
        ) -> Result<(), StoreError>,
    ) -> Result<RangeCollector<K>, StoreError> {
        self.retry_outdated(|| {
            let (base, parts) = self.waiting_kinds(&range);
            let mut out = RangeCollector::new(count_max);
            let outcome = parts.into_iter().try_for_each(|(part, kind)| {
                if out.is_full() {
                    Ok(())
                } else {
                    describe(&base.disk, part, kind, &mut out)
                }
            });
            (base, outcome.map(|()| out))
        })
    }

    /// Kind of the unflushed change of each part of `range`: none, zeros, or data.
    fn waiting_kinds(
        &self,
        range: &Range<u64>,
    ) -> (FlushedBase, Vec<(Range<u64>, Option<AllocationStatus>)>) {
        let view = self.read_view();
        let positions =
            self.chunk_len.index_at(range.start).0..self.chunk_len.count_for(range.end).0;
        let kinds = view
            .changes_in(positions)
            .into_iter()
            .map(|(positions, change)| {
                let kind = match change {
                    PendingChange::Absent => None,
                    PendingChange::Zero => Some(AllocationStatus::Zero),
                    PendingChange::Data(_) => Some(AllocationStatus::Data),
                };
                (self.clip_to_range(&positions, range).1, kind)
            });
        (view.base.clone(), kinds.collect())
    }

    /// Writes whole chunks.
    pub(super) fn write_whole(&self, bytes: &[u8], offset: u64) {
        let first = self.chunk_len.index_at(offset).0;
        // Copied before the lock is taken: readers wait for as little as possible.
        let chunks: Vec<Box<[u8]>> = bytes
            .chunks_exact(self.chunk_len.as_usize())
            .map(Box::from)
            .collect();
        self.change_buffer(|waiting| {
            (first..)
                .zip(chunks)
                .for_each(|(position, plain)| waiting.put_chunk(position, plain));
        });
    }

    /// Zeros in `[start, end)`, which holds no whole chunk but may reach into two.
    pub(super) fn zero_parts(&self, start: u64, end: u64) -> Result<(), StoreError> {
        let mut at = start;
        while at < end {
            let next = self.part_end(at, end);
            self.write_part(&vec![0; (next - at) as usize], at)?;
            at = next;
        }
        Ok(())
    }

    /// Writes `bytes`, which lie inside one chunk. What the chunk holds beside them is read without
    /// a lock: if it may have changed by the time that the lock is taken, it is read again.
    pub(super) fn write_part(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let position = self.chunk_len.index_at(offset);
        let first = self.chunk_len.offset_of(position);
        // Past the disk's end the last chunk holds zeros, whatever was there: see `resize`.
        let seen_len = (self.len - first).min(self.chunk_len.byte_len()) as usize;
        let inside = (offset - first) as usize..(offset - first) as usize + bytes.len();
        let is_whole = inside == (0..seen_len);
        let mut under: Option<(u64, Box<[u8]>)> = None;
        let now_ns = now_ns();
        loop {
            let read_from = self.change_view(|view| {
                if let Some(plain) = view.filling.data_mut(position.0) {
                    plain[inside.clone()].copy_from_slice(bytes);
                    self.changed.advance_to(now_ns);
                    return None;
                }
                let mut plain: Box<[u8]> = match (view.chunk_change(position.0), under.take()) {
                    (PendingChange::Data(plain), _) => plain.into(),
                    (PendingChange::Absent, Some((version, plain)))
                        if version == view.base.version =>
                    {
                        plain
                    }
                    (PendingChange::Absent, _) if !is_whole => return Some(view.base.clone()),
                    _ => vec![0; self.chunk_len.as_usize()].into(),
                };
                plain[inside.clone()].copy_from_slice(bytes);
                view.filling.put_chunk(position.0, plain);
                self.changed.advance_to(now_ns);
                None
            });
            let Some(base) = read_from else { return Ok(()) };
            let mut plain = vec![0; self.chunk_len.as_usize()].into_boxed_slice();
            match self.read_base(&base, &mut plain[..seen_len], first) {
                Err(error) if !self.is_outdated(&base) => return Err(error),
                _ => under = Some((base.version, plain)),
            }
        }
    }
}
