//! Reads and writes of a live disk's view: copy what waits, read the rest from the base, put what
//! is new.
//!
//! Nothing is read from the store under the view's lock.

use std::ops::Range;
use std::sync::Arc;

use vellum_core::device::Allocation;
use vellum_core::page::Page;
use vellum_core::stretches::Stretches;
use vellum_core::units::{ChunkIndex, PageIndex};

use super::Shared;
use super::view::Base;
use crate::changes::Change;
use crate::clock::now_ns;
use crate::disk::Disk;
use crate::error::StoreError;

/// Limit of tries of a read while flushes change what it reads. Even one retry is rare: a
/// collection must have ended since the flush.
const ATTEMPTS_MAX: u32 = 8;

/// Parts of a read that the write buffer does not have.
enum Below {
    Nothing,
    All,
    Parts(Vec<Range<u64>>),
}

impl Shared {
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.attempt(|| {
            let (base, below) = self.copy_waiting(buffer, offset);
            let outcome = match below {
                Below::Nothing => Ok(()),
                Below::All => self.read_base(&base, buffer, offset),
                Below::Parts(parts) => parts.into_iter().try_for_each(|part| {
                    let place = (part.start - offset) as usize..(part.end - offset) as usize;
                    self.read_base(&base, &mut buffer[place], part.start)
                }),
            };
            (base, outcome)
        })
    }

    /// Tries again what failed on a base that is not the present one any more: its pages may be
    /// gone, and with them its chunks.
    fn attempt<T>(
        &self,
        mut attempt: impl FnMut() -> (Base, Result<T, StoreError>),
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
    fn is_outdated(&self, base: &Base) -> bool {
        let control = self.control();
        if control.is_flushing {
            drop(self.wait(control));
        }
        self.view().base.version != base.version
    }

    /// Copies what waits for a read into its buffer; what is left to be read, and where from.
    fn copy_waiting(&self, buffer: &mut [u8], offset: u64) -> (Base, Below) {
        let view = self.view();
        let base = view.base.clone();
        if view.is_clean() || buffer.is_empty() {
            return (base, Below::All);
        }
        let end = offset + buffer.len() as u64;
        let (first, last) = (
            self.chunk_len.index_at(offset).0,
            self.chunk_len.index_at(end - 1).0,
        );
        if first == last {
            let start = (offset - self.chunk_len.offset_of(ChunkIndex(first))) as usize;
            let below = match view.chunk(first) {
                Change::Absent => Below::All,
                Change::Zero => {
                    buffer.fill(0);
                    Below::Nothing
                }
                Change::Data(plain) => {
                    buffer.copy_from_slice(&plain[start..start + buffer.len()]);
                    Below::Nothing
                }
            };
            return (base, below);
        }
        let mut parts = Vec::new();
        for (positions, change) in view.pieces(first..last + 1) {
            let (start, part) = self.clip(&positions, &(offset..end));
            let out = &mut buffer[(part.start - offset) as usize..(part.end - offset) as usize];
            match change {
                Change::Absent => parts.push(part),
                Change::Zero => out.fill(0),
                Change::Data(plain) => {
                    out.copy_from_slice(&plain[(part.start - start) as usize..][..out.len()]);
                }
            }
        }
        (base, Below::Parts(parts))
    }

    /// The first byte of `positions`, and the bytes of `range` that they cover.
    fn clip(&self, positions: &Range<u64>, range: &Range<u64>) -> (u64, Range<u64>) {
        let place = |position: u64| self.chunk_len.offset_of(ChunkIndex(position));
        let clipped = place(positions.start).max(range.start)..place(positions.end).min(range.end);
        (place(positions.start), clipped)
    }

    fn read_base(&self, base: &Base, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        base.disk
            .read_through(&|index| self.page(base, index), buffer, offset)
    }

    /// Page `index` of `base`, or of a later one: see the module's comment on versions.
    pub(super) fn page(&self, base: &Base, index: PageIndex) -> Result<Arc<Page>, StoreError> {
        let pages = &self.store.inner.pages;
        if let Some(page) = pages.live(self.pages_serial, index) {
            return Ok(page);
        }
        let page = base.disk.page(index)?;
        let view = self.view();
        if view.base.version == base.version {
            pages.keep_live(self.pages_serial, index, &page);
        }
        Ok(page)
    }

    /// Walks over `range`, telling `describe` what waits for each part: nothing, zeros, or data.
    pub(super) fn describe<K: Copy + PartialEq>(
        &self,
        range: Range<u64>,
        count_max: usize,
        describe: impl Fn(
            &Disk,
            Range<u64>,
            Option<Allocation>,
            &mut Stretches<K>,
        ) -> Result<(), StoreError>,
    ) -> Result<Stretches<K>, StoreError> {
        self.attempt(|| {
            let (base, parts) = self.waiting_kinds(&range);
            let mut out = Stretches::new(count_max);
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
    fn waiting_kinds(&self, range: &Range<u64>) -> (Base, Vec<(Range<u64>, Option<Allocation>)>) {
        let view = self.view();
        let positions =
            self.chunk_len.index_at(range.start).0..self.chunk_len.count_for(range.end).0;
        let kinds = view
            .pieces(positions)
            .into_iter()
            .map(|(positions, change)| {
                let kind = match change {
                    Change::Absent => None,
                    Change::Zero => Some(Allocation::Zero),
                    Change::Data(_) => Some(Allocation::Data),
                };
                (self.clip(&positions, range).1, kind)
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
        self.change(|waiting| {
            (first..)
                .zip(chunks)
                .for_each(|(position, plain)| waiting.put(position, plain));
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
        let seen_len = (self.len - first).min(self.chunk_len.bytes()) as usize;
        let inside = (offset - first) as usize..(offset - first) as usize + bytes.len();
        let is_whole = inside == (0..seen_len);
        let mut under: Option<(u64, Box<[u8]>)> = None;
        let now_ns = now_ns();
        loop {
            let read_from = self.change_view(|view| {
                if let Some(plain) = view.filling.data_mut(position.0) {
                    plain[inside.clone()].copy_from_slice(bytes);
                    self.changed.advance(now_ns);
                    return None;
                }
                let mut plain: Box<[u8]> = match (view.chunk(position.0), under.take()) {
                    (Change::Data(plain), _) => plain.into(),
                    (Change::Absent, Some((version, plain))) if version == view.base.version => {
                        plain
                    }
                    (Change::Absent, _) if !is_whole => return Some(view.base.clone()),
                    _ => vec![0; self.chunk_len.as_usize()].into(),
                };
                plain[inside.clone()].copy_from_slice(bytes);
                view.filling.put(position.0, plain);
                self.changed.advance(now_ns);
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
