//! The chunk tables: the frame and the pack of each chunk. Pure, from index objects.
//!
//! About 50 bytes a frame, so 1.5 bytes a chunk where frames hold 32. Names are not here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use vellum_core::identity::SegmentId;
use vellum_core::units::ChunkId;

use super::{Place, Stretch};
use crate::format::{FrameEntry, IndexObject, PackEntry, Presence, split_address};
use crate::objects::ObjectId;

/// Places of chunks, and the numbers of segments.
#[derive(Debug, Default)]
pub(super) struct Tables {
    numbers: HashMap<SegmentId, u32>,
    segments: Vec<Segment>,
    packs: Vec<Pack>,
    pack_numbers: HashMap<ObjectId, u32>,
    indexes: BTreeSet<ObjectId>,
    condemned: HashSet<ObjectId>,
}

/// A segment, by its number.
#[derive(Debug)]
struct Segment {
    id: SegmentId,
    /// Index objects that name chunks of it.
    sources: Vec<ObjectId>,
    /// The frames by their first ordinal. A collection lets two hold the same chunk for a while.
    frames: Vec<Located>,
    /// The span of the longest frame: ordinals from its first to behind its last.
    span_max: u32,
}

#[derive(Debug)]
struct Pack {
    id: ObjectId,
    /// Its length in bytes.
    len: u64,
    /// Index objects that name its frames; none any more if it is gone.
    sources: Vec<ObjectId>,
}

#[derive(Debug)]
struct Located {
    first: u32,
    presence: Presence,
    pack: u32,
    offset: u32,
    len: u32,
}

impl Segment {
    fn add(&mut self, pack: u32, frame: &FrameEntry) {
        self.span_max = self.span_max.max(frame.presence.span());
        self.frames.push(Located {
            first: frame.first,
            presence: frame.presence.clone(),
            pack,
            offset: frame.offset as u32,
            len: frame.len,
        });
    }
}

/// True if `frame` stands behind `range`, with a gap of at most `gap_len` bytes.
fn is_near(range: &Range<u64>, frame: &Located, gap_len: u64) -> bool {
    u64::from(frame.offset)
        .checked_sub(range.end)
        .is_some_and(|gap| gap <= gap_len)
}

impl Tables {
    /// The number of a segment: the next one if it has none.
    pub(super) fn number_of(&mut self, id: SegmentId) -> u32 {
        *self.numbers.entry(id).or_insert_with(|| {
            self.segments.push(Segment {
                id,
                sources: Vec::new(),
                frames: Vec::new(),
                span_max: 0,
            });
            u32::try_from(self.segments.len() - 1)
                .expect("memory ends before four billion segments")
        })
    }

    pub(super) fn known_number(&self, id: SegmentId) -> Option<u32> {
        self.numbers.get(&id).copied()
    }

    pub(super) fn segment_of(&self, number: u32) -> Option<SegmentId> {
        self.segments.get(number as usize).map(|segment| segment.id)
    }

    /// Index objects that name chunks of a segment.
    pub(super) fn sources(&self, number: u32) -> &[ObjectId] {
        self.segments
            .get(number as usize)
            .map_or(&[], |segment| &segment.sources)
    }

    pub(super) fn indexes(&self) -> &BTreeSet<ObjectId> {
        &self.indexes
    }

    /// The index objects of which anything was loaded.
    pub(super) fn sources_of_all(&self) -> BTreeSet<ObjectId> {
        let sources = self.segments.iter().flat_map(|segment| &segment.sources);
        self.indexes.iter().chain(sources).copied().collect()
    }

    pub(super) fn set_condemned(&mut self, condemned: HashSet<ObjectId>) {
        self.condemned = condemned;
    }

    /// Adds the entries of an index object. Returns the numbers of its segments.
    pub(super) fn add(&mut self, id: ObjectId, index: &IndexObject) -> Vec<u32> {
        if self.indexes.insert(id) {
            self.add_part(id, index)
        } else {
            Vec::new()
        }
    }

    /// Adds the entries of a part of the index object `id`, as far as they are not there. Returns
    /// the numbers of the segments of which there is more now.
    pub(super) fn add_part(&mut self, id: ObjectId, part: &IndexObject) -> Vec<u32> {
        let segments = part.segments.keys();
        let mut numbers: Vec<u32> = segments.map(|segment| self.number_of(*segment)).collect();
        numbers.retain(|number| !self.sources(*number).contains(&id));
        let new: HashSet<u32> = numbers.iter().copied().collect();
        // Another index says the same of a pack: an object's bytes are what its name says.
        let told: HashSet<(u32, u32)> = numbers
            .iter()
            .flat_map(|number| {
                let frames = self.segments[*number as usize].frames.iter();
                frames.map(|frame| (*number, frame.pack))
            })
            .collect();
        for pack in &part.packs {
            let pack_number = self.pack_number(pack);
            let sources = &mut self.packs[pack_number as usize].sources;
            if !sources.contains(&id) {
                sources.push(id);
            }
            for frame in &pack.frames {
                let number = self.numbers[&frame.segment];
                if new.contains(&number) && !told.contains(&(number, pack_number)) {
                    self.segments[number as usize].add(pack_number, frame);
                }
            }
        }
        for number in &numbers {
            self.segments[*number as usize].sources.push(id);
        }
        self.sort(&numbers);
        numbers
    }

    /// Removes the entries that only these index objects had. Returns the numbers of their
    /// segments.
    pub(super) fn remove(&mut self, gone: &BTreeSet<ObjectId>) -> Vec<u32> {
        self.indexes.retain(|id| !gone.contains(id));
        self.packs
            .iter_mut()
            .for_each(|pack| pack.sources.retain(|id| !gone.contains(id)));
        let mut changed = Vec::new();
        for (number, segment) in (0..).zip(&mut self.segments) {
            let count = segment.sources.len();
            segment.sources.retain(|id| !gone.contains(id));
            if segment.sources.len() != count {
                segment
                    .frames
                    .retain(|frame| !self.packs[frame.pack as usize].sources.is_empty());
                changed.push(number);
            }
        }
        changed
    }

    fn pack_number(&mut self, pack: &PackEntry) -> u32 {
        *self.pack_numbers.entry(pack.id).or_insert_with(|| {
            self.packs.push(Pack {
                id: pack.id,
                len: pack.len,
                sources: Vec::new(),
            });
            u32::try_from(self.packs.len() - 1).expect("memory ends before four billion packs")
        })
    }

    fn sort(&mut self, numbers: &[u32]) {
        for number in numbers {
            let frames = &mut self.segments[*number as usize].frames;
            frames.sort_unstable_by_key(|frame| frame.first);
            frames.shrink_to_fit();
        }
    }

    /// The place of a chunk: in a pack that is not condemned, if there is one.
    pub(super) fn locate(&self, address: ChunkId) -> Option<Place> {
        let (number, ordinal) = split_address(address);
        let segment = self.segments.get(number as usize)?;
        let end = segment
            .frames
            .partition_point(|frame| frame.first <= ordinal);
        let near = segment.frames[..end]
            .iter()
            .rev()
            .take_while(|frame| ordinal - frame.first < segment.span_max);
        let mut last_choice = None;
        for frame in near.filter(|frame| frame.presence.has(ordinal - frame.first)) {
            let place = self.place(number, frame);
            if !place.is_condemned {
                return Some(place);
            }
            last_choice = Some(place);
        }
        last_choice
    }

    /// The bytes of a pack to fetch for a reader that wants the frame at `place` and probably the
    /// following ones: about `window_len` of them.
    ///
    /// A plain pack has its frames in order, so the bytes behind the frame are chosen. An encrypted
    /// pack has not, so the pack is divided into blocks of that length, and the block of the frame
    /// is chosen: a sequential reader will want all of them, in any order.
    pub(super) fn around(&self, place: &Place, window_len: u64, gap_len: u64) -> Stretch {
        let mut stretch = Stretch {
            range: place.offset..place.end(),
            behind: place.behind(),
        };
        let frames = self
            .segments
            .get(place.segment as usize)
            .map_or(&[][..], |segment| &segment.frames);
        let later = &frames[frames.partition_point(|frame| frame.first <= place.first)..];
        let mut same_pack = later
            .iter()
            .take_while(|frame| self.packs[frame.pack as usize].id == place.pack)
            .peekable();
        if same_pack
            .peek()
            .is_some_and(|next| !is_near(&stretch.range, next, gap_len))
        {
            stretch.range = self.block(place, window_len);
            return stretch;
        }
        for frame in same_pack {
            let end = u64::from(frame.offset) + u64::from(frame.len);
            if !is_near(&stretch.range, frame, gap_len) || end - place.offset > window_len {
                break;
            }
            stretch = Stretch {
                range: place.offset..end,
                behind: self.place(place.segment, frame).behind(),
            };
        }
        stretch
    }

    /// The block of `window_len` bytes of its pack that `place` begins in, with all of `place`.
    fn block(&self, place: &Place, window_len: u64) -> Range<u64> {
        let pack_len = self
            .pack_numbers
            .get(&place.pack)
            .map_or(0, |number| self.packs[*number as usize].len);
        let start = place.offset - place.offset.checked_rem(window_len).unwrap_or(0);
        start..(start + window_len).min(pack_len).max(place.end())
    }

    fn place(&self, segment: u32, frame: &Located) -> Place {
        let pack = self.packs[frame.pack as usize].id;
        Place {
            pack,
            offset: frame.offset.into(),
            len: frame.len,
            segment,
            first: frame.first,
            presence: frame.presence.clone(),
            is_condemned: self.condemned.contains(&pack),
        }
    }
}
