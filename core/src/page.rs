//! A map page: one span of a layer's map, with an entry for each chunk position that the layer
//! answers for.
//!
//! A page knows neither its layer's parent nor where it is kept. A chain of layers is read by
//! overlaying its pages, so resolving works the same whether one layer or a thousand lie below.
//!
//! ```text
//! Encoding, version 1. Key in the store: layer id, page index (big-endian), which the checksum
//! covers.
//!
//! offset  size    meaning                                            guards against
//! 0       1       version                                            a newer program's page
//! 1       varint  number of runs, 0 to PAGE_SPAN
//! …       per run:
//!         varint  positions skipped since the last run's end,        runs out of order,
//!                 shifted left by one; bit 0: 0 = explicit zero,     overlapping
//!                 1 = chunks
//!         varint  run length minus one                               runs past the page
//!         varint  chunks only: first chunk id minus the id after     (sequential imports:
//!                 the last chunk run's last, zigzag; the first run   always 0)
//!                 counts from 0
//! end-8   8       checksum over key and all bytes before             damage, a page in another's
//!                                                                    place
//! ```

use std::ops::Range;

use crate::page_grid::page_start;
use crate::positions::PositionSet;
use crate::units::{ChunkId, ChunkLen, LayerId, PageIndex};
use crate::wire::{
    DecodeError, WireReader, append_checksum, put_varint, verify_checksum, zigzag_decode,
    zigzag_encode,
};

pub use crate::page_grid::PAGE_SPAN;

const VERSION: u8 = 1;
const CONTEXT: &str = "vellum 2026-11 layer page v1";

/// The entry of a layer's map for one chunk position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEntry {
    /// No entry: the parent decides. At the root, zeros.
    Absent,
    /// Zeros, whatever the parent holds.
    Zero,
    /// A chunk with this id.
    Chunk(ChunkId),
}

impl PageEntry {
    /// The answer for the position `count` further on in the same run.
    #[must_use]
    pub fn advance_by(self, count: u16) -> Self {
        match self {
            Self::Chunk(id) => Self::Chunk(id.advance_by(u64::from(count))),
            same => same,
        }
    }
}

/// Consecutive positions with one kind of answer; a chunk run names its first chunk, and the ids
/// rise by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first position, within the page.
    pub start: u16,
    /// The number of positions, never zero.
    pub len: u16,
    /// The answer for the first position.
    pub slot: PageEntry,
}

impl Run {
    /// The first position after the run.
    #[must_use]
    pub fn end_position(&self) -> u16 {
        self.start + self.len
    }

    /// The part of the run inside `[start, end)`.
    #[must_use]
    pub fn clip_to(&self, start: u16, end: u16) -> Option<Self> {
        let first = self.start.max(start);
        let len = self
            .end_position()
            .min(end)
            .checked_sub(first)
            .filter(|len| *len > 0)?;
        Some(Self {
            start: first,
            len,
            slot: self.slot.advance_by(first - self.start),
        })
    }

    /// True if `next` goes on where this run ends, so that both are one.
    fn continues_into(&self, next: &Self) -> bool {
        self.end_position() == next.start && self.slot.advance_by(self.len) == next.slot
    }
}

/// The answers of one layer for [`PAGE_SPAN`] positions. Canonical: equal answers are equal values
/// and equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order, not overlapping, never absent, merged where they touch.
    runs: Vec<Run>,
}

impl Page {
    /// A page without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True if it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The positions it answers for, in order.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Every position in `[start, end)`, absent ones included, in order and gap-free.
    pub fn runs_in(&self, start: u16, end: u16) -> impl Iterator<Item = Run> + '_ {
        let first = self.runs.partition_point(|run| run.end_position() <= start);
        let mut next = start;
        let mut rest = self.runs[first..]
            .iter()
            .filter_map(move |run| run.clip_to(start, end))
            .peekable();
        std::iter::from_fn(move || {
            let run = match rest.peek() {
                Some(run) if run.start == next => rest.next()?,
                Some(run) => Run {
                    start: next,
                    len: run.start - next,
                    slot: PageEntry::Absent,
                },
                None if next < end => Run {
                    start: next,
                    len: end - next,
                    slot: PageEntry::Absent,
                },
                None => return None,
            };
            next = run.end_position();
            Some(run)
        })
    }

    /// The answer for one position.
    #[must_use]
    pub fn entry_at(&self, position: u16) -> PageEntry {
        self.runs_in(position, position + 1)
            .next()
            .map_or(PageEntry::Absent, |run| run.slot)
    }

    /// Adds a run after all that are there; absent runs are passed over. Panics if it would overlap
    /// or leave the page.
    pub fn push_run(&mut self, run: Run) {
        if run.slot == PageEntry::Absent {
            return;
        }
        assert!(
            run.len > 0 && run.end_position() <= PAGE_SPAN,
            "a run lies inside its page"
        );
        if let Some(last) = self.runs.last_mut() {
            assert!(last.end_position() <= run.start, "runs come in order");
            if last.continues_into(&run) {
                last.len += run.len;
                return;
            }
        }
        self.runs.push(run);
    }

    /// Sets the run's positions to `slot`, whatever they were before. Cost: the length of the page.
    pub fn set_run(&mut self, run: Run) {
        *self = self.with_changes(&[run]);
    }

    /// The page with the entries of `changes` in place of its own. They come in order and do not
    /// overlap; absent ones count, too: they remove an entry. Cost: the length of both.
    #[must_use]
    pub fn with_changes(&self, changes: &[Run]) -> Self {
        let (mut result, mut kept) = (Self::new(), 0);
        for change in changes {
            assert!(
                kept <= change.start && change.len > 0 && change.end_position() <= PAGE_SPAN,
                "changes come in order, inside the page"
            );
            self.runs_in(kept, change.start)
                .for_each(|own| result.push_run(own));
            result.push_run(*change);
            kept = change.end_position();
        }
        self.runs_in(kept, PAGE_SPAN)
            .for_each(|own| result.push_run(own));
        result
    }

    /// Overlays this page on `below`: its own entries, and where it is absent those of `below`, of
    /// which only the positions before `visible` are seen (from there on this page says zero by
    /// being absent: see `Layer::parent_visible`).
    #[must_use]
    pub fn overlay_on(&self, below: &Self, visible: u16) -> Self {
        let mut result = Self::new();
        for run in self.runs_in(0, PAGE_SPAN) {
            if run.slot == PageEntry::Absent {
                below
                    .runs_in(run.start, run.end_position())
                    .filter_map(|seen| seen.clip_to(0, visible))
                    .for_each(|seen| result.push_run(seen));
            } else {
                result.push_run(run);
            }
        }
        result
    }

    /// The entries that a layer needs so that this (resolved) page is seen over `below`, of which
    /// the positions before `visible` are seen: the inverse of [`Page::overlay_on`].
    #[must_use]
    pub fn relative_to(&self, below: &Self, visible: u16) -> Self {
        let below = below.clipped_to(visible).resolved_at_root();
        let mut result = Self::new();
        for own in self.runs_in(0, PAGE_SPAN) {
            for seen in below.runs_in(own.start, own.end_position()) {
                let wanted = Run {
                    slot: own.slot.advance_by(seen.start - own.start),
                    ..seen
                };
                let slot = match wanted.slot {
                    same if same == seen.slot => PageEntry::Absent,
                    PageEntry::Absent => PageEntry::Zero,
                    other => other,
                };
                result.push_run(Run { slot, ..wanted });
            }
        }
        result
    }

    /// The page with an explicit zero in place of every absent position before `end`.
    #[must_use]
    pub fn with_zeros(&self, end: u16) -> Self {
        let mut result = Self::new();
        for run in self.runs_in(0, PAGE_SPAN) {
            if run.slot != PageEntry::Absent {
                result.push_run(run);
            } else if let Some(gap) = run.clip_to(0, end) {
                result.push_run(Run {
                    slot: PageEntry::Zero,
                    ..gap
                });
            }
        }
        result
    }

    /// The same answers in other chunk ids: `translate` gives the id that stands for one, and for
    /// how many after it the same distance holds (at least one; more than asked for counts as that
    /// many). `None` if it knows one of them not.
    #[must_use]
    pub fn with_translated_ids(
        &self,
        mut translate: impl FnMut(ChunkId, u64) -> Option<(ChunkId, u64)>,
    ) -> Option<Self> {
        let mut result = Self::new();
        for run in &self.runs {
            let PageEntry::Chunk(mut id) = run.slot else {
                result.push_run(*run);
                continue;
            };
            let (mut start, mut left) = (run.start, u64::from(run.len));
            while left > 0 {
                let (to, count) = translate(id, left)?;
                let count = count.clamp(1, left);
                result.push_run(Run {
                    start,
                    len: count as u16,
                    slot: PageEntry::Chunk(to),
                });
                (id, start, left) = (id.advance_by(count), start + count as u16, left - count);
            }
        }
        Some(result)
    }

    /// The page at the root of a chain, with nothing below: absent and explicit zero are the same
    /// there, and both are absent in the result. Resolved pages of equal content differ only where
    /// two chunk ids stand for one name.
    #[must_use]
    pub fn resolved_at_root(&self) -> Self {
        Self {
            runs: self
                .runs
                .iter()
                .copied()
                .filter(|run| run.slot != PageEntry::Zero)
                .collect(),
        }
    }

    /// The answers for positions before `end` only.
    #[must_use]
    pub fn clipped_to(&self, end: u16) -> Self {
        Self {
            runs: self
                .runs
                .iter()
                .filter_map(|run| run.clip_to(0, end))
                .collect(),
        }
    }

    /// True if it has an entry for every position before `end`, so that nothing below can be seen.
    #[must_use]
    pub fn covers_up_to(&self, end: u16) -> bool {
        self.runs_in(0, end)
            .all(|run| run.slot != PageEntry::Absent)
    }

    /// The positions that it answers for.
    #[must_use]
    pub fn mapped_positions(&self) -> PositionSet {
        let mut positions = PositionSet::NONE;
        self.runs
            .iter()
            .for_each(|run| positions.insert(run.start..run.end_position()));
        positions
    }

    /// The answers for `positions` only.
    #[must_use]
    pub fn restricted_to(&self, positions: &PositionSet) -> Self {
        let mut result = Self::new();
        for run in &self.runs {
            positions
                .ranges_in(run.start..run.end_position())
                .filter_map(|part| run.clip_to(part.start, part.end))
                .for_each(|part| result.push_run(part));
        }
        result
    }

    /// The number of positions with a chunk, and of those with an explicit zero.
    #[must_use]
    pub fn count_entries(&self) -> (u64, u64) {
        self.runs
            .iter()
            .fold((0, 0), |(chunks, zeros), run| match run.slot {
                PageEntry::Chunk(_) => (chunks + u64::from(run.len), zeros),
                _ => (chunks, zeros + u64::from(run.len)),
            })
    }

    /// The bytes under which the store keeps it.
    #[must_use]
    pub fn encode(&self, layer: LayerId, index: PageIndex) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put_varint(&mut bytes, self.runs.len() as u64);
        let (mut position, mut next_id) = (0, 0_u64);
        for run in &self.runs {
            let is_chunk = matches!(run.slot, PageEntry::Chunk(_));
            put_varint(
                &mut bytes,
                u64::from(run.start - position) << 1 | u64::from(is_chunk),
            );
            put_varint(&mut bytes, u64::from(run.len - 1));
            if let PageEntry::Chunk(id) = run.slot {
                put_varint(
                    &mut bytes,
                    zigzag_encode(id.0.wrapping_sub(next_id).cast_signed()),
                );
                next_id = id.0 + u64::from(run.len);
            }
            position = run.end_position();
        }
        append_checksum(CONTEXT, &[&page_key(layer, index)], &mut bytes);
        bytes
    }

    /// The page that `bytes` hold, if they are whole and belong to this place.
    pub fn decode(layer: LayerId, index: PageIndex, bytes: &[u8]) -> Result<Self, DecodeError> {
        let body = verify_checksum(CONTEXT, &[&page_key(layer, index)], bytes)?;
        Self::decode_body(body)
    }

    /// The inside of [`Page::decode`], without the checksum, so that a fuzzer reaches it.
    pub fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(body);
        reader.read_version(VERSION)?;
        let count = reader.read_varint()?;
        if count > u64::from(PAGE_SPAN) {
            return Err(DecodeError::Invalid("run count"));
        }
        let (mut page, mut next_id) = (Self::new(), 0_u64);
        for _ in 0..count {
            let run = decode_run(&mut reader, page.runs.last(), &mut next_id)?;
            page.runs.push(run);
        }
        reader.expect_end()?;
        Ok(page)
    }
}

fn decode_run(
    reader: &mut WireReader<'_>,
    last: Option<&Run>,
    next_id: &mut u64,
) -> Result<Run, DecodeError> {
    let head = reader.read_varint()?;
    let len = reader
        .read_varint()?
        .checked_add(1)
        .ok_or(DecodeError::Invalid("run length"))?;
    let start = (head >> 1)
        .checked_add(last.map_or(0, |run| u64::from(run.end_position())))
        .ok_or(DecodeError::Invalid("run position"))?;
    let end = start
        .checked_add(len)
        .filter(|end| *end <= u64::from(PAGE_SPAN))
        .ok_or(DecodeError::Invalid("run length"))?;
    let slot = if head & 1 == 0 {
        PageEntry::Zero
    } else {
        let first = next_id.wrapping_add(zigzag_decode(reader.read_varint()?).cast_unsigned());
        *next_id = first
            .checked_add(len)
            .ok_or(DecodeError::Invalid("chunk id"))?;
        PageEntry::Chunk(ChunkId(first))
    };
    let run = Run {
        start: start as u16,
        len: (end - start) as u16,
        slot,
    };
    if last.is_some_and(|last| last.continues_into(&run)) {
        return Err(DecodeError::Invalid("run that should be one with the last"));
    }
    Ok(run)
}

/// The bytes of a disk that positions on page `index` answer for, as far as they lie inside
/// `limits`.
#[must_use]
pub fn bytes_of(
    chunk_len: ChunkLen,
    index: PageIndex,
    positions: Range<u16>,
    limits: &Range<u64>,
) -> Range<u64> {
    let place = |at: u16| {
        chunk_len
            .offset_of(page_start(index).advance_by(at.into()))
            .clamp(limits.start, limits.end)
    };
    place(positions.start)..place(positions.end)
}

/// The key under which the store keeps a page.
#[must_use]
pub fn page_key(layer: LayerId, index: PageIndex) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&layer.0.to_be_bytes());
    key[8..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// The layer and page that a key names.
pub fn parse_page_key(key: &[u8]) -> Result<(LayerId, PageIndex), DecodeError> {
    let (layer, index) = key.split_at_checked(8).ok_or(DecodeError::Truncated)?;
    let number = |bytes: &[u8]| {
        bytes
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| DecodeError::Invalid("page key"))
    };
    Ok((LayerId(number(layer)?), PageIndex(number(index)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_slot(random: &mut fastrand::Rng) -> PageEntry {
        match random.u8(..5) {
            0 => PageEntry::Absent,
            1 => PageEntry::Zero,
            2 => PageEntry::Chunk(ChunkId(random.u64(..1 << 60))),
            _ => PageEntry::Chunk(ChunkId(random.u64(..2000))),
        }
    }

    /// A page and the plain array that it must agree with, after `count` random settings.
    fn random_page(random: &mut fastrand::Rng, count: usize) -> (Page, Vec<PageEntry>) {
        let (mut page, mut model) = (Page::new(), vec![PageEntry::Absent; PAGE_SPAN.into()]);
        for _ in 0..count {
            let start = random.u16(..PAGE_SPAN);
            let run = Run {
                start,
                len: random.u16(1..=PAGE_SPAN - start),
                slot: random_slot(random),
            };
            page.set_run(run);
            (run.start..run.end_position())
                .for_each(|at| model[usize::from(at)] = run.slot.advance_by(at - run.start));
        }
        (page, model)
    }

    fn slots(page: &Page) -> Vec<PageEntry> {
        (0..PAGE_SPAN).map(|at| page.entry_at(at)).collect()
    }

    #[test]
    fn random_pages_agree_with_an_array_and_come_back_from_bytes() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            let (page, model) = random_page(&mut random, round % 12);
            assert_eq!(slots(&page), model);
            let bytes = page.encode(LayerId(3), PageIndex(9));
            assert_eq!(Page::decode(LayerId(3), PageIndex(9), &bytes), Ok(page));
        }
    }

    #[test]
    fn changes_in_order_are_as_settings_one_by_one() {
        let mut random = fastrand::Rng::with_seed(10);
        for _ in 0..100 {
            let (page, mut model) = random_page(&mut random, 6);
            let (mut changes, mut next) = (Vec::new(), 0);
            while next < PAGE_SPAN {
                let start = random.u16(next..PAGE_SPAN);
                let run = Run {
                    start,
                    len: random.u16(1..=PAGE_SPAN - start),
                    slot: random_slot(&mut random),
                };
                (run.start..run.end_position())
                    .for_each(|at| model[usize::from(at)] = run.slot.advance_by(at - run.start));
                changes.push(run);
                next = run.end_position();
            }
            assert_eq!(slots(&page.with_changes(&changes)), model);
        }
    }

    #[test]
    fn overlaying_takes_the_upper_answer_and_hides_what_is_out_of_sight() {
        let mut random = fastrand::Rng::with_seed(8);
        for _ in 0..100 {
            let (upper, upper_model) = random_page(&mut random, 5);
            let (lower, lower_model) = random_page(&mut random, 5);
            let visible = random.u16(..=PAGE_SPAN);
            let expected: Vec<PageEntry> = (0..usize::from(PAGE_SPAN))
                .map(|at| match upper_model[at] {
                    PageEntry::Absent if at < visible.into() => lower_model[at],
                    own => own,
                })
                .collect();
            assert_eq!(slots(&upper.overlay_on(&lower, visible)), expected);
        }
    }

    #[test]
    fn a_page_relative_to_another_gives_itself_over_it() {
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..200 {
            let (page, _) = random_page(&mut random, 5);
            let (other, _) = random_page(&mut random, 5);
            let visible = random.u16(..=PAGE_SPAN);
            // Near relatives are the case that matters: most of it is the same.
            for below in [
                other.clone(),
                page.overlay_on(&other, PAGE_SPAN),
                other.overlay_on(&page, visible),
            ] {
                let page = page.resolved_at_root();
                let relative = page.relative_to(&below, visible);
                assert_eq!(
                    relative.overlay_on(&below, visible).resolved_at_root(),
                    page
                );
                assert_eq!(
                    page.relative_to(&page, PAGE_SPAN),
                    Page::new(),
                    "nothing to say"
                );
            }
        }
    }

    #[test]
    fn a_page_in_another_place_or_with_a_flipped_bit_is_refused() {
        let (page, _) = random_page(&mut fastrand::Rng::with_seed(9), 8);
        let bytes = page.encode(LayerId(1), PageIndex(2));
        assert_eq!(
            Page::decode(LayerId(1), PageIndex(3), &bytes),
            Err(DecodeError::Checksum)
        );
        assert_eq!(
            Page::decode(LayerId(2), PageIndex(2), &bytes),
            Err(DecodeError::Checksum)
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Page::decode(LayerId(1), PageIndex(2), &damaged).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_sequential_page_costs_a_few_bytes() {
        let mut page = Page::new();
        page.push_run(Run {
            start: 0,
            len: PAGE_SPAN,
            slot: PageEntry::Chunk(ChunkId(1 << 30)),
        });
        assert!(page.encode(LayerId(1), PageIndex(0)).len() <= 20);
    }
}
