//! The parts of an index object, as records tell of them. A client holds those of the whole
//! repository, so they are kept side by side: 24 bytes a part, 16 a segment, 8 a name of a sample.

use vellum_core::identity::SegmentId;

/// A part of an index object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPart<'a> {
    /// The segments that it is of, rising.
    pub segments: &'a [SegmentId],
    /// The offset of the part in the object, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The least of its chunks' names, [`SAMPLE_COUNT`](super::SAMPLE_COUNT) at most, rising: of
    /// each the first eight bytes, big-endian. Who has one of these chunks probably has others of
    /// the part.
    pub sample: &'a [u64],
}

/// The parts of one index object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartTable {
    rows: Vec<Row>,
    segments: Vec<SegmentId>,
    samples: Vec<u64>,
}

/// A part; what it has of both lists begins where the row before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    offset: u64,
    len: u64,
    segments_end: u32,
    sample_end: u32,
}

impl PartTable {
    /// Adds a part. Panics beyond 2³² segments or names in all.
    pub fn push(&mut self, part: IndexPart<'_>) {
        self.segments.extend_from_slice(part.segments);
        self.samples.extend_from_slice(part.sample);
        let end = |len: usize| u32::try_from(len).expect("a record is no longer");
        self.rows.push(Row {
            offset: part.offset,
            len: part.len,
            segments_end: end(self.segments.len()),
            sample_end: end(self.samples.len()),
        });
    }

    /// The number of parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The part of this number. Panics if there is none.
    #[must_use]
    pub fn part(&self, number: usize) -> IndexPart<'_> {
        let row = self.rows[number];
        let (segments, sample) = match number.checked_sub(1).map(|before| self.rows[before]) {
            None => (0, 0),
            Some(before) => (before.segments_end, before.sample_end),
        };
        IndexPart {
            segments: &self.segments[segments as usize..row.segments_end as usize],
            offset: row.offset,
            len: row.len,
            sample: &self.samples[sample as usize..row.sample_end as usize],
        }
    }

    /// All parts.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IndexPart<'_>> {
        (0..self.len()).map(|number| self.part(number))
    }

    /// The segments of all parts.
    #[must_use]
    pub fn segments(&self) -> &[SegmentId] {
        &self.segments
    }

    /// Gives back what growing took beyond its need.
    pub(crate) fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.segments.shrink_to_fit();
        self.samples.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were_put_in() {
        let segments: Vec<SegmentId> = (0..5).map(|nth| SegmentId([nth; 16])).collect();
        let part = |first: usize, end: usize, sample: &'static [u64]| IndexPart {
            segments: &segments[first..end],
            offset: first as u64 * 100,
            len: 99,
            sample,
        };
        let parts = [part(0, 1, &[]), part(1, 4, &[3, 9]), part(4, 5, &[1])];
        let mut table = PartTable::default();
        assert!(table.is_empty());
        parts.iter().for_each(|part| table.push(*part));
        table.shrink();
        assert_eq!(table.iter().collect::<Vec<_>>(), parts);
        assert_eq!(table.segments(), segments);
    }
}
