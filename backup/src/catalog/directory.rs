//! The directory of a repository's segments: the parts of index objects that name chunks of each.
//! Pure, from what records tell ([`IndexPart`]). With it a reader fetches what it needs of the
//! index, and no more: 24 bytes a segment beside what records told, of 65,536 chunks at most.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::identity::SegmentId;

use crate::format::{IndexPart, PartTable};
use crate::objects::ObjectId;

/// An index object that counts, as a reader that loads on demand knows it.
#[derive(Clone, Debug)]
pub struct ListedIndex {
    /// Its parts.
    pub parts: Arc<PartTable>,
    /// True if a collection has condemned it: it may be gone, and its content be elsewhere.
    pub is_condemned: bool,
}

/// The place of a part of an index object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PartPlace {
    pub(super) index: ObjectId,
    /// The offset of the part in the object, in bytes.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) len: u64,
}

impl PartPlace {
    pub(super) fn of(index: ObjectId, part: &IndexPart<'_>) -> Self {
        Self {
            index,
            offset: part.offset,
            len: part.len,
        }
    }
}

/// The parts that name chunks of each segment.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// In the order of their ids.
    indexes: Vec<(ObjectId, ListedIndex)>,
    /// Rising.
    parts: Box<[Entry]>,
}

/// A segment, and a part that names chunks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    segment: SegmentId,
    /// The place of the index object among all.
    index: u32,
    /// The number of the part there.
    part: u32,
}

impl Directory {
    pub(super) fn new(indexes: BTreeMap<ObjectId, ListedIndex>) -> Self {
        let indexes: Vec<(ObjectId, ListedIndex)> = indexes.into_iter().collect();
        let count = indexes
            .iter()
            .map(|(_, listed)| listed.parts.segments().len());
        let mut parts = Vec::with_capacity(count.sum());
        for (index, (_, listed)) in (0..).zip(&indexes) {
            for (number, part) in (0..).zip(listed.parts.iter()) {
                parts.extend(part.segments.iter().map(|segment| Entry {
                    segment: *segment,
                    index,
                    part: number,
                }));
            }
        }
        parts.sort_unstable();
        Self {
            indexes,
            parts: parts.into(),
        }
    }

    /// The parts that name chunks of a segment.
    pub(super) fn parts_of(&self, segment: SegmentId) -> impl Iterator<Item = PartPlace> {
        let first = self.parts.partition_point(|entry| entry.segment < segment);
        let of_it = self.parts[first..].iter();
        let of_it = of_it.take_while(move |entry| entry.segment == segment);
        of_it.map(|entry| {
            let (index, listed) = &self.indexes[entry.index as usize];
            PartPlace::of(*index, &listed.parts.part(entry.part as usize))
        })
    }

    /// The index objects.
    pub(super) fn indexes(&self) -> impl Iterator<Item = &ObjectId> {
        self.indexes.iter().map(|(index, _)| index)
    }

    pub(super) fn has(&self, index: &ObjectId) -> bool {
        self.listed(index).is_some()
    }

    pub(super) fn is_condemned(&self, index: &ObjectId) -> bool {
        self.listed(index).is_some_and(|listed| listed.is_condemned)
    }

    /// The segments of an index object.
    pub(super) fn segments_of(&self, index: &ObjectId) -> impl Iterator<Item = SegmentId> {
        let listed = self.listed(index).into_iter();
        listed.flat_map(|listed| listed.parts.segments().iter().copied())
    }

    fn listed(&self, index: &ObjectId) -> Option<&ListedIndex> {
        let place = self.indexes.binary_search_by_key(index, |(id, _)| *id);
        Some(&self.indexes[place.ok()?].1)
    }
}
