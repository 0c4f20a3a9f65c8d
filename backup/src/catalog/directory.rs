//! The directory of a repository's segments: the parts of index objects that name chunks of each.
//! Pure, from what records tell ([`IndexPart`]). With it a reader fetches what it needs of the
//! index, and no more: about 100 bytes a segment are in memory, of 65,536 chunks at most.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vellum_core::identity::SegmentId;

use crate::format::IndexPart;
use crate::objects::ObjectId;

/// An index object that counts, as a reader that loads on demand knows it.
#[derive(Clone, Debug)]
pub struct ListedIndex {
    /// Its parts.
    pub parts: Arc<Vec<IndexPart>>,
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
    pub(super) fn of(index: ObjectId, part: &IndexPart) -> Self {
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
    indexes: BTreeMap<ObjectId, ListedIndex>,
    parts: HashMap<SegmentId, Vec<PartPlace>>,
}

impl Directory {
    pub(super) fn new(indexes: BTreeMap<ObjectId, ListedIndex>) -> Self {
        let mut parts = HashMap::<SegmentId, Vec<PartPlace>>::new();
        for (index, listed) in &indexes {
            for part in listed.parts.iter() {
                let place = PartPlace::of(*index, part);
                for segment in &part.segments {
                    parts.entry(*segment).or_default().push(place);
                }
            }
        }
        Self { indexes, parts }
    }

    /// The parts that name chunks of a segment.
    pub(super) fn parts_of(&self, segment: SegmentId) -> &[PartPlace] {
        self.parts.get(&segment).map_or(&[], Vec::as_slice)
    }

    /// The index objects.
    pub(super) fn indexes(&self) -> impl Iterator<Item = &ObjectId> {
        self.indexes.keys()
    }

    pub(super) fn has(&self, index: &ObjectId) -> bool {
        self.indexes.contains_key(index)
    }

    pub(super) fn is_condemned(&self, index: &ObjectId) -> bool {
        let listed = self.indexes.get(index);
        listed.is_some_and(|listed| listed.is_condemned)
    }

    /// The segments of an index object.
    pub(super) fn segments_of(&self, index: &ObjectId) -> impl Iterator<Item = SegmentId> {
        let parts = self.indexes.get(index).map(|listed| &listed.parts);
        let parts = parts.into_iter().flat_map(|parts| parts.iter());
        parts.flat_map(|part| part.segments.iter().copied())
    }
}
