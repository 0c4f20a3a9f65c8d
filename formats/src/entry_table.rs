//! A table of fixed-length entries in an image file, read page by page and kept within a budget.
//!
//! Its place and length come from a header, so the table must lie inside the file before anything
//! is read, and memory for it never depends on how long it claims to be.

use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::source::{ReadAt, SourceError};

use crate::claims::BlockClaims;
use crate::{lies_inside, read_up_to};

/// Bytes of one page of a table. With 4-byte entries for 1 MiB blocks a page maps 16 GiB.
const PAGE_LEN: u64 = 64 << 10;
/// Pages that are kept: 2 MiB a table.
const PAGE_SLOTS: u64 = 32;

/// The entries of a table, as bytes.
pub(crate) struct EntryTable {
    offset: u64,
    entry_len: u64,
    count: u64,
    /// The claims of its entries on the file, and the test of an entry that claims.
    claims: Option<(BlockClaims, fn(&[u8]) -> bool)>,
    /// A page has one slot that it can be in.
    slots: Mutex<Vec<Option<(u64, Arc<Vec<u8>>)>>>,
}

impl EntryTable {
    /// The table of `count` entries of `entry_len` bytes at `offset` of a file of `file_len` bytes;
    /// `None` if it does not lie inside.
    pub(crate) fn new(offset: u64, entry_len: u64, count: u64, file_len: u64) -> Option<Self> {
        let len = count.checked_mul(entry_len)?;
        let slot_count = len.div_ceil(PAGE_LEN).min(PAGE_SLOTS);
        lies_inside(offset, len, file_len).then(|| Self {
            offset,
            entry_len,
            count,
            claims: None,
            slots: Mutex::new((0..slot_count).map(|_| None).collect()),
        })
    }

    /// The same, held to the room that the file has: of its entries those claim a block that
    /// `is_stored` says.
    pub(crate) fn with_claims(self, claims: BlockClaims, is_stored: fn(&[u8]) -> bool) -> Self {
        Self {
            claims: Some((claims, is_stored)),
            ..self
        }
    }

    /// The number of entries.
    pub(crate) fn entry_count(&self) -> u64 {
        self.count
    }

    /// The bytes of entry `index`, `None` behind the last.
    pub(crate) fn read_entry<const N: usize>(
        &self,
        file: &dyn ReadAt,
        index: u64,
    ) -> Result<Option<[u8; N]>, SourceError> {
        if index >= self.count {
            return Ok(None);
        }
        let start = index * self.entry_len;
        let page = self.read_page(file, start / PAGE_LEN)?;
        let within = usize::try_from(start % PAGE_LEN).expect("a page's length is a usize");
        Ok(crate::fields::array_at(&page, within))
    }

    /// The bytes of entry `index`, and how many entries from there on have the same, as far as one
    /// page tells: a sparse disk is told in few steps.
    pub(crate) fn read_run<const N: usize>(
        &self,
        file: &dyn ReadAt,
        index: u64,
    ) -> Result<Option<([u8; N], u64)>, SourceError> {
        if index >= self.count {
            return Ok(None);
        }
        let start = index * self.entry_len;
        let page = self.read_page(file, start / PAGE_LEN)?;
        let within = usize::try_from(start % PAGE_LEN).expect("a page's length is a usize");
        let (entries, _) = page.get(within..).unwrap_or_default().as_chunks::<N>();
        let Some(first) = entries.first() else {
            return Ok(None);
        };
        let alike = entries.iter().take_while(|entry| *entry == first).count();
        Ok(Some((*first, alike as u64)))
    }

    fn read_page(&self, file: &dyn ReadAt, number: u64) -> Result<Arc<Vec<u8>>, SourceError> {
        let slot = |slots: &Vec<_>| (number as usize).checked_rem(slots.len()).unwrap_or(0);
        {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Some((found, page))) = slots.get(slot(&slots))
                && *found == number
            {
                return Ok(Arc::clone(page));
            }
        }
        // Read outside the lock: two threads may read one page twice, but none waits for another.
        let start = number * PAGE_LEN;
        let len = (self.count * self.entry_len - start).min(PAGE_LEN) as usize;
        let page = Arc::new(read_up_to(file, self.offset + start, len)?);
        if let Some((claims, is_stored)) = &self.claims {
            let entries = page.chunks_exact(self.entry_len as usize);
            let count = entries.filter(|entry| is_stored(entry)).count();
            claims.claim_part(number, count as u64)?;
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let at = slot(&slots);
        if let Some(kept) = slots.get_mut(at) {
            *kept = Some((number, Arc::clone(&page)));
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_the_bytes_at_its_place_in_any_order() {
        let bytes: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
        let table = EntryTable::new(40, 4, 599_990, Vec::len(&bytes) as u64).expect("inside");
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let index = random.u64(..599_990);
            let entry: [u8; 4] = table
                .read_entry(&bytes, index)
                .expect("read")
                .expect("there");
            assert_eq!(u64::from(u32::from_le_bytes(entry)), index + 10);
            assert_eq!(
                table.read_run(&bytes, index).expect("read"),
                Some((entry, 1))
            );
        }
        assert!(
            table
                .read_entry::<4>(&bytes, 599_990)
                .expect("read")
                .is_none()
        );
    }

    #[test]
    fn a_run_ends_with_its_page_or_its_table() {
        let table = EntryTable::new(0, 4, 20_000, 80_000).expect("inside");
        let run = |index| table.read_run::<4>(&vec![0; 80_000], index).expect("read");
        assert_eq!(run(0), Some(([0; 4], 16_384)));
        assert_eq!(run(16_383), Some(([0; 4], 1)));
        assert_eq!(run(16_384), Some(([0; 4], 3616)));
        assert_eq!(run(20_000), None);
    }

    #[test]
    fn a_table_that_leaves_its_file_is_none_whatever_its_numbers() {
        for (offset, entry_len, count) in [
            (0, 4, 26),
            (97, 4, 1),
            (u64::MAX, 8, 1),
            (0, 8, u64::MAX),
            (101, 4, 0),
        ] {
            assert!(EntryTable::new(offset, entry_len, count, 100).is_none());
        }
        assert!(EntryTable::new(0, 4, 25, 100).is_some());
    }
}
