//! Finds the differences of two disks: the positions of two pages that differ, and the ranges of
//! bytes that makes.
//!
//! It compares resolved pages and the names of chunks, and does not know where either is kept, so a
//! store and a repository compare alike.

use std::borrow::Borrow;
use std::ops::Range;

use crate::hash::ChunkHash;
use crate::page::{Page, PageEntry, bytes_of};
use crate::page_grid::{PAGE_SPAN, page_of, pages_for};
use crate::tree::PageSet;
use crate::units::{ChunkId, ChunkLen, PageIndex};

/// A range in which two disks differ, or of which only one disk has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// True if the second disk reads as zeros there.
    pub becomes_zero: bool,
}

/// Takes a range in which two disks differ, and whether the second reads as zeros there.
pub type AddRange<'v, E> = dyn FnMut(Range<u64>, bool) -> Result<(), E> + 'v;

/// Takes a whole difference.
pub type VisitDifference<'v, E> = dyn FnMut(Difference) -> Result<(), E> + 'v;

/// Compares two resolved pages: lists the positions that differ, in order, with true if the second
/// page reads as zeros there; neighbours of one kind are not joined. `names` gives the names of as
/// many chunks from an id on: it is asked only where both have chunks under different ids, since
/// two ids may stand for one name.
pub fn differing_positions<E>(
    a: &Page,
    b: &Page,
    mut names: impl FnMut(ChunkId, u64) -> Result<Vec<ChunkHash>, E>,
) -> Result<Vec<(Range<u16>, bool)>, E> {
    let mut found = Vec::new();
    // The page relative to `a` has entries only where `b` differs; positions with a chunk in `a`
    // only are zeros.
    for run in b.relative_to(a, PAGE_SPAN).runs() {
        for before in a.runs_in(run.start, run.end_position()) {
            match (before.slot, run.slot.advance_by(before.start - run.start)) {
                (PageEntry::Chunk(old), PageEntry::Chunk(new)) => {
                    let (old, new) = (
                        names(old, before.len.into())?,
                        names(new, before.len.into())?,
                    );
                    let unequal = (before.start..)
                        .zip(old.iter().zip(&new))
                        .filter(|(_, (old, new))| old != new);
                    found.extend(unequal.map(|(at, _)| (at..at + 1, false)));
                }
                (_, after) => found.push((
                    before.start..before.end_position(),
                    after == PageEntry::Zero,
                )),
            }
        }
    }
    Ok(found)
}

/// Adds what only the longer of two disks has, which end at byte `a_len` and `b_len`. `pages` are
/// those outside of which the second reads as zeros, `page` gives one of them, resolved.
pub fn rest_of_longer<E, P: Borrow<Page>>(
    (a_len, b_len): (u64, u64),
    chunk_len: ChunkLen,
    pages: impl FnOnce() -> Result<PageSet, E>,
    page: impl Fn(PageIndex) -> Result<P, E>,
    add: &mut AddRange<'_, E>,
) -> Result<(), E> {
    if a_len >= b_len {
        return add(b_len..a_len, false);
    }
    let (first, end) = (
        page_of(chunk_len.index_at(a_len)).0,
        PageIndex(pages_for(chunk_len.count_for(b_len))),
    );
    let mut at = a_len;
    for index in pages()?.pages_within(first, end).iter() {
        for run in page(index)?
            .borrow()
            .runs()
            .iter()
            .filter(|run| matches!(run.slot, PageEntry::Chunk(_)))
        {
            let range = bytes_of(
                chunk_len,
                index,
                run.start..run.end_position(),
                &(at..b_len),
            );
            add(at..range.start, true)?;
            add(range.clone(), false)?;
            at = range.end;
        }
    }
    add(at..b_len, true)
}

/// Joins ranges that touch and are of one kind, and hands them out. They come in order; empty ones
/// are passed over.
pub struct DifferenceJoiner<'v, E> {
    pending: Option<(Range<u64>, bool)>,
    visit: &'v mut VisitDifference<'v, E>,
}

impl<'v, E> DifferenceJoiner<'v, E> {
    /// One that calls `visit` with each difference once nothing can be added to it.
    pub fn new(visit: &'v mut VisitDifference<'v, E>) -> Self {
        Self {
            pending: None,
            visit,
        }
    }

    /// Adds what comes next.
    pub fn add_range(&mut self, range: Range<u64>, becomes_zero: bool) -> Result<(), E> {
        match &mut self.pending {
            _ if range.is_empty() => {}
            Some((pending, zero)) if pending.end == range.start && *zero == becomes_zero => {
                pending.end = range.end;
            }
            _ => {
                self.flush_pending()?;
                self.pending = Some((range, becomes_zero));
            }
        }
        Ok(())
    }

    /// Hands out what is pending.
    pub fn flush_pending(&mut self) -> Result<(), E> {
        let Some((Range { start, end }, becomes_zero)) = self.pending.take() else {
            return Ok(());
        };
        (self.visit)(Difference {
            start,
            len: end - start,
            becomes_zero,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::page::Run;

    const CHUNK_LEN: u64 = 4096;
    /// The unit of all lengths here, in bytes, so that few places speak for all bytes.
    const CELL_LEN: u64 = 1024;
    const PAGES: u64 = 3;

    /// A disk as its resolved pages, and the plain list of its positions that it must agree with.
    #[derive(Clone)]
    struct Disk {
        len: u64,
        pages: Vec<Page>,
        slots: Vec<PageEntry>,
    }

    impl Disk {
        fn set(&mut self, random: &mut fastrand::Rng) {
            let (page, start) = (random.usize(..PAGES as usize), random.u16(..PAGE_SPAN));
            let slot = if random.u8(..3) == 0 {
                PageEntry::Absent
            } else {
                PageEntry::Chunk(ChunkId(random.u64(..120)))
            };
            let run = Run {
                start,
                len: random.u16(1..=PAGE_SPAN - start),
                slot,
            };
            self.pages[page].set_run(run);
            let first = page * usize::from(PAGE_SPAN) + usize::from(start);
            (0..run.len).for_each(|at| self.slots[first + usize::from(at)] = slot.advance_by(at));
        }

        /// The name of what byte `at` lies in, `None` if that reads as zeros.
        fn shows(&self, at: u64) -> Option<u64> {
            match self.slots[(at / CHUNK_LEN) as usize] {
                PageEntry::Chunk(id) => Some(name_of(id)),
                _ => None,
            }
        }
    }

    /// Many ids stand for one name, also for neighbours.
    fn name_of(id: ChunkId) -> u64 {
        id.0 / 2 % 20
    }

    /// Two relatives of any lengths.
    fn relatives(random: &mut fastrand::Rng) -> (Disk, Disk) {
        let count = PAGES as usize * usize::from(PAGE_SPAN);
        let cells_max = count as u64 * CHUNK_LEN / CELL_LEN;
        let mut a = Disk {
            len: random.u64(..=cells_max) * CELL_LEN,
            pages: vec![Page::new(); PAGES as usize],
            slots: vec![PageEntry::Absent; count],
        };
        (0..random.u8(..12)).for_each(|_| a.set(random));
        let mut b = a.clone();
        if random.bool() {
            b.len = random.u64(..=cells_max) * CELL_LEN;
        }
        (0..random.u8(..6)).for_each(|_| b.set(random));
        (a, b)
    }

    fn differences(a: &Disk, b: &Disk) -> Vec<Difference> {
        let chunk_len = ChunkLen::new(CHUNK_LEN as u32).expect("a chunk length");
        let both = 0..a.len.min(b.len);
        let names = |first: ChunkId, count| {
            let names = (0..count)
                .map(|at| ChunkHash::of_chunk(&name_of(first.advance_by(at)).to_le_bytes()));
            Ok::<_, Infallible>(names.collect())
        };
        let mut found = Vec::new();
        let visit = &mut |difference| {
            found.push(difference);
            Ok::<_, Infallible>(())
        };
        let mut out = DifferenceJoiner::new(visit);
        for index in (0..PAGES).map(PageIndex) {
            let Ok(positions) = differing_positions(
                &a.pages[index.0 as usize],
                &b.pages[index.0 as usize],
                names,
            );
            for (positions, becomes_zero) in positions {
                let Ok(()) =
                    out.add_range(bytes_of(chunk_len, index, positions, &both), becomes_zero);
            }
        }
        let mapped = (0..PAGES)
            .map(PageIndex)
            .filter(|index| !b.pages[index.0 as usize].is_empty());
        let mut pages = PageSet::new();
        mapped.for_each(|index| pages.insert(index));
        let add = &mut |range, becomes_zero| out.add_range(range, becomes_zero);
        let Ok(()) = rest_of_longer(
            (a.len, b.len),
            chunk_len,
            || Ok(pages),
            |index| Ok(&b.pages[index.0 as usize]),
            add,
        );
        let Ok(()) = out.flush_pending();
        found
    }

    #[test]
    fn any_two_disks_differ_where_what_they_show_does_and_what_touches_is_one() {
        let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
            |_| fastrand::u64(..),
            |text| text.parse().expect("a number"),
        );
        println!("VELLUM_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..100 {
            let (a, b) = relatives(&mut random);
            let mut found = vec![None; (a.len.max(b.len) / CELL_LEN) as usize];
            let mut last: Option<Difference> = None;
            for next in differences(&a, &b) {
                let end = last.map(|last| (last.start + last.len, last.becomes_zero));
                assert!(
                    next.len > 0
                        && end.is_none_or(
                            |end| end.0 < next.start || end == (next.start, !next.becomes_zero)
                        ),
                    "joined"
                );
                found[(next.start / CELL_LEN) as usize
                    ..((next.start + next.len) / CELL_LEN) as usize]
                    .fill(Some(next.becomes_zero));
                last = Some(next);
            }
            let expected = |at: u64| match (at < a.len, at < b.len) {
                (true, true) => (a.shows(at) != b.shows(at)).then_some(b.shows(at).is_none()),
                (_, is_in_b) => Some(is_in_b && b.shows(at).is_none()),
            };
            let at = (0..)
                .step_by(CELL_LEN as usize)
                .zip(&found)
                .find(|(at, found)| **found != expected(*at));
            assert!(
                at.is_none(),
                "round {round}: {at:?} of {} and {}",
                a.len,
                b.len
            );
        }
    }

    #[test]
    fn names_are_asked_for_only_where_two_ids_meet() {
        let page = |runs: &[(u16, u16, Option<u64>)]| {
            let mut page = Page::new();
            let slot = |first: Option<u64>| {
                first.map_or(PageEntry::Zero, |first| PageEntry::Chunk(ChunkId(first)))
            };
            runs.iter().for_each(|(start, len, first)| {
                page.push_run(Run {
                    start: *start,
                    len: *len,
                    slot: slot(*first),
                });
            });
            page.resolved_at_root()
        };
        let (a, b) = (
            page(&[(0, 9, Some(10)), (20, 5, Some(90))]),
            page(&[(0, 4, Some(10)), (4, 3, Some(50)), (24, 2, Some(94))]),
        );
        let mut asked = Vec::new();
        let differing = differing_positions(&a, &b, |first, count| {
            asked.push((first.0, count));
            Ok::<_, Infallible>(vec![ChunkHash::of_chunk(b"one name"); count as usize])
        });
        assert_eq!(asked, [(14, 3), (50, 3)]);
        assert_eq!(
            differing,
            Ok(vec![(7..9, true), (20..24, true), (25..26, false)])
        );
    }
}
