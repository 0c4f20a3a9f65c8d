//! A table of a new image file, written entry by entry in order, page by page. It holds one page,
//! however long the table is.

use super::target::put_bytes;
use super::{ImageTarget, ImageWriteError};

/// Bytes of a page, as readers have it.
const PAGE_LEN: usize = 64 << 10;

/// A table of entries of `N` bytes.
pub(crate) struct OrderedTable<const N: usize> {
    /// Offset of the page.
    page_offset: u64,
    page: Vec<u8>,
    /// The entry that comes next.
    next: u64,
    count: u64,
    /// Value of entries that are never written.
    fill: [u8; N],
}

impl<const N: usize> OrderedTable<N> {
    /// A table of `count` entries at `offset`, each `fill` unless it is written.
    pub(crate) fn new(offset: u64, count: u64, fill: [u8; N]) -> Self {
        Self {
            page_offset: offset,
            page: Vec::with_capacity(PAGE_LEN),
            next: 0,
            count,
            fill,
        }
    }

    /// Writes entry `index`, which comes after all that were written.
    pub(crate) fn write_entry(
        &mut self,
        target: &mut dyn ImageTarget,
        index: u64,
        entry: [u8; N],
    ) -> Result<(), ImageWriteError> {
        assert!(
            (self.next..self.count).contains(&index),
            "entry {index} of {} comes after {}",
            self.count,
            self.next
        );
        self.fill_to(target, index)?;
        self.push_entry(target, entry)
    }

    /// Writes what is left.
    pub(crate) fn finish_entries(
        mut self,
        target: &mut dyn ImageTarget,
    ) -> Result<(), ImageWriteError> {
        self.fill_to(target, self.count)?;
        self.flush_page(target)
    }

    fn fill_to(&mut self, target: &mut dyn ImageTarget, index: u64) -> Result<(), ImageWriteError> {
        while self.next < index {
            let is_hole = self.fill == [0; N] && self.page.is_empty();
            let page_entries = (PAGE_LEN / N) as u64;
            if is_hole && index - self.next >= page_entries {
                self.next += page_entries;
                self.page_offset += page_entries * N as u64;
            } else {
                self.push_entry(target, self.fill)?;
            }
        }
        Ok(())
    }

    fn push_entry(
        &mut self,
        target: &mut dyn ImageTarget,
        entry: [u8; N],
    ) -> Result<(), ImageWriteError> {
        self.page.extend_from_slice(&entry);
        self.next += 1;
        if self.page.len() + N > PAGE_LEN {
            self.flush_page(target)?;
        }
        Ok(())
    }

    fn flush_page(&mut self, target: &mut dyn ImageTarget) -> Result<(), ImageWriteError> {
        let is_hole = self.page.iter().all(|byte| *byte == 0);
        if !is_hole {
            put_bytes(target, &self.page, self.page_offset)?;
        }
        self.page_offset += self.page.len() as u64;
        self.page.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_where_its_index_says_and_the_rest_is_filled() {
        for fill in [[0; 4], [0xff; 4]] {
            let mut file = Vec::new();
            let mut table = OrderedTable::new(100, 200_000, fill);
            for index in [0, 1, 16_383, 16_384, 50_000, 199_998] {
                let entry = (index as u32 + 1).to_le_bytes();
                table.write_entry(&mut file, index, entry).expect("written");
            }
            table.finish_entries(&mut file).expect("written");
            file.finish_file(100 + 800_000).expect("long enough");
            let entry = |index: usize| *file[100 + 4 * index..].first_chunk::<4>().expect("there");
            for index in [0, 1, 16_383, 16_384, 50_000, 199_998] {
                assert_eq!(entry(index), (index as u32 + 1).to_le_bytes());
            }
            for index in [2, 16_382, 16_385, 49_999, 50_001, 199_999] {
                assert_eq!(entry(index), fill);
            }
        }
    }
}
