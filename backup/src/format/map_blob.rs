//! A blob of a map: some pages of a content's map, relative to its parent; several blobs make a
//! maps object (a bundle of `seal`).
//!
//! A blob states its content, its parent, and its pages. So a blob in another's place is detected,
//! and one that is older than its place shows the same bytes.
//!
//! ```text
//! Content of a blob, version 1.
//!
//! size    meaning                                        guards against
//! 1       version                                        a newer program's map
//! 16      content                                        another content's map in this one's place
//! 1       0: no parent; 1: a parent follows              a map read over another parent
//!   16    parent
//! 8       how many positions of the parent can be seen (LE)
//! varint  number of segments, at most 2^20, then 16 bytes each; rising
//! varint  number of pages, each:
//!   varint  page index minus the one after the last page's (the first: minus 0)
//!   varint  length of the page's body
//!   …     body: what a store's page holds before its checksum (core/src/page.rs), where a chunk id
//!         is the segment's place in the list above, shifted left by 32, plus the ordinal
//! ```

use std::collections::BTreeSet;

use vellum_core::identity::{ContentId, SegmentId};
use vellum_core::page::{Page, PageEntry, Run};
use vellum_core::units::{ChunkId, LayerId, PageIndex};
use vellum_core::wire::{DecodeError, WireReader, put_varint};

use super::SEGMENT_LEN_MAX;
use crate::seal::{Bundle, SealError, SealedKind, SealedObject, Sealer};

/// A writer begins another blob when one has become this long: bounds what a reader of one page
/// fetches and holds.
pub const MAP_BLOB_LEN_TARGET: usize = 4 << 20;

const VERSION: u8 = 1;
const SEGMENT_COUNT_MAX: u64 = 1 << 20;
/// A page's checksum as the store writes it, which blobs do without.
const PAGE_CHECKSUM_LEN: usize = 8;

/// Some pages of a content's map, relative to its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapBlob {
    /// The content whose map it is.
    pub content: ContentId,
    /// The content that shows where it has no entry.
    pub parent: Option<ContentId>,
    /// The number of positions at which the parent is visible.
    pub parent_visible: u64,
    /// The segments that it names chunks of: addresses of chunks in `pages` are [`address`] of a
    /// place in this list.
    pub segments: Vec<SegmentId>,
    /// The pages, in order.
    pub pages: Vec<(PageIndex, Page)>,
}

/// The number under which a page names a chunk: of a segment that this process, or this blob,
/// numbered `segment`.
#[must_use]
pub fn address(segment: u32, ordinal: u32) -> ChunkId {
    ChunkId(u64::from(segment) << 32 | u64::from(ordinal))
}

/// Segment number and ordinal of an address.
#[must_use]
pub fn split_address(address: ChunkId) -> (u32, u32) {
    ((address.0 >> 32) as u32, address.0 as u32)
}

impl MapBlob {
    /// A blob of pages whose addresses are this process's: `segment_of` gives the segment of a
    /// number.
    #[must_use]
    pub fn from_pages(
        content: ContentId,
        parent: Option<(ContentId, u64)>,
        pages: &[(PageIndex, Page)],
        segment_of: impl Fn(u32) -> SegmentId,
    ) -> Self {
        let used: BTreeSet<u32> = pages
            .iter()
            .flat_map(|(_, page)| page.runs())
            .filter_map(segment_number)
            .collect();
        let segments: BTreeSet<SegmentId> = used.iter().map(|number| segment_of(*number)).collect();
        let segments: Vec<SegmentId> = segments.into_iter().collect();
        let place = |number| {
            segments
                .binary_search(&segment_of(number))
                .expect("it was collected") as u32
        };
        let pages = pages
            .iter()
            .map(|(index, page)| (*index, renumbered(page, place)))
            .collect();
        Self {
            content,
            parent: parent.map(|(id, _)| id),
            parent_visible: parent.map_or(0, |(_, visible)| visible),
            segments,
            pages,
        }
    }

    /// The pages with this process's addresses: `number_of` numbers a segment.
    pub fn into_pages(
        self,
        mut number_of: impl FnMut(SegmentId) -> u32,
    ) -> impl Iterator<Item = (PageIndex, Page)> {
        let numbers: Vec<u32> = self.segments.iter().map(|id| number_of(*id)).collect();
        self.pages
            .into_iter()
            .map(move |(index, page)| (index, renumbered(&page, |place| numbers[place as usize])))
    }

    /// True if it is the part of a map that a record says it is.
    #[must_use]
    pub fn is_of(
        &self,
        content: ContentId,
        parent: Option<ContentId>,
        parent_visible: u64,
        pages: (u64, u64),
    ) -> bool {
        let range = self
            .pages
            .first()
            .zip(self.pages.last())
            .map(|((first, _), (last, _))| (first.0, last.0));
        let parent_fits =
            self.parent == parent && (parent.is_none() || self.parent_visible == parent_visible);
        self.content == content && parent_fits && range == Some(pages)
    }

    /// Its bytes, to be sealed as a [`SealedKind::Maps`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.content.0);
        bytes.push(u8::from(self.parent.is_some()));
        self.parent
            .iter()
            .for_each(|parent| bytes.extend_from_slice(&parent.0));
        bytes.extend_from_slice(&self.parent_visible.to_le_bytes());
        put_varint(&mut bytes, self.segments.len() as u64);
        self.segments
            .iter()
            .for_each(|segment| bytes.extend_from_slice(&segment.0));
        put_varint(&mut bytes, self.pages.len() as u64);
        let mut next = 0;
        for (index, page) in &self.pages {
            put_varint(&mut bytes, index.0 - next);
            let body = page.encode(LayerId(0), *index);
            let body = &body[..body.len() - PAGE_CHECKSUM_LEN];
            put_varint(&mut bytes, body.len() as u64);
            bytes.extend_from_slice(body);
            next = index.0 + 1;
        }
        bytes
    }

    /// The blob that `bytes` are.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(bytes);
        reader.read_version(VERSION)?;
        let content = ContentId(identity(&mut reader)?);
        let parent = match reader.read_u8()? {
            0 => None,
            1 => Some(ContentId(identity(&mut reader)?)),
            _ => return Err(DecodeError::Invalid("parent")),
        };
        let parent_visible = u64::from_le_bytes(
            reader
                .read_bytes(8)?
                .try_into()
                .expect("eight bytes were taken"),
        );
        let segments = decode_segments(&mut reader)?;
        let (mut pages, mut next) = (Vec::new(), 0_u64);
        for _ in 0..reader.read_varint()? {
            let index = next
                .checked_add(reader.read_varint()?)
                .filter(|index| *index < u64::MAX)
                .ok_or(DecodeError::Invalid("page index"))?;
            let len = usize::try_from(reader.read_varint()?).map_err(|_| DecodeError::Truncated)?;
            pages.push((
                PageIndex(index),
                decode_page(reader.read_bytes(len)?, segments.len())?,
            ));
            next = index + 1;
        }
        reader.expect_end()?;
        Ok(Self {
            content,
            parent,
            parent_visible,
            segments,
            pages,
        })
    }
}

fn identity(reader: &mut WireReader<'_>) -> Result<[u8; 16], DecodeError> {
    Ok(reader
        .read_bytes(16)?
        .try_into()
        .expect("sixteen bytes were taken"))
}

fn decode_segments(reader: &mut WireReader<'_>) -> Result<Vec<SegmentId>, DecodeError> {
    let count = reader.read_varint()?;
    if count > SEGMENT_COUNT_MAX {
        return Err(DecodeError::Invalid("number of segments"));
    }
    let (ids, _) = reader.read_bytes(count as usize * 16)?.as_chunks::<16>();
    let ids: Vec<SegmentId> = ids.iter().copied().map(SegmentId).collect();
    if ids.is_sorted_by(|a, b| a < b) {
        Ok(ids)
    } else {
        Err(DecodeError::Invalid("order of segments"))
    }
}

/// A page whose every run names chunks inside one of the segments.
fn decode_page(body: &[u8], segment_count: usize) -> Result<Page, DecodeError> {
    let page = Page::decode_body(body)?;
    let is_inside = |run: &Run| match run.slot {
        PageEntry::Chunk(first) => {
            let (segment, ordinal) = split_address(first);
            (segment as usize) < segment_count
                && u64::from(ordinal) + u64::from(run.len) <= u64::from(SEGMENT_LEN_MAX)
        }
        PageEntry::Zero | PageEntry::Absent => true,
    };
    if page.runs().iter().all(is_inside) {
        Ok(page)
    } else {
        Err(DecodeError::Invalid("address of a chunk"))
    }
}

fn segment_number(run: &Run) -> Option<u32> {
    match run.slot {
        PageEntry::Chunk(first) => Some(split_address(first).0),
        PageEntry::Zero | PageEntry::Absent => None,
    }
}

fn renumbered(page: &Page, number: impl Fn(u32) -> u32) -> Page {
    let mut result = Page::new();
    for run in page.runs() {
        let slot = match run.slot {
            PageEntry::Chunk(first) => {
                let (segment, ordinal) = split_address(first);
                PageEntry::Chunk(address(number(segment), ordinal))
            }
            other => other,
        };
        result.push_run(Run { slot, ..*run });
    }
    result
}

/// Collects blobs until a maps object is full.
#[derive(Debug)]
pub struct MapsWriter {
    bundle: Bundle,
}

/// A maps object ready to be put, and where each of its blobs is: offset and length, in the order
/// in which they were added.
#[derive(Clone, Debug)]
pub struct SealedMaps {
    /// Name and bytes.
    pub object: SealedObject,
    /// The offset and length of each blob, in bytes.
    pub ranges: Vec<(u64, u64)>,
}

impl Default for MapsWriter {
    fn default() -> Self {
        Self {
            bundle: Bundle::new(SealedKind::Maps),
        }
    }
}

impl MapsWriter {
    /// Adds a blob; returns its place among those of the object.
    pub fn add(&mut self, sealer: &Sealer, blob: &MapBlob) -> Result<usize, SealError> {
        self.bundle
            .push(sealer.seal_blob(SealedKind::Maps, &blob.encode())?);
        Ok(self.bundle.part_count() - 1)
    }

    /// The length of the object so far, about, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bundle.len_with(0)
    }

    /// True if there is no blob.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bundle.part_count() == 0
    }

    /// The object.
    pub fn finish(self, sealer: &Sealer) -> Result<SealedMaps, SealError> {
        let bundle = self.bundle.finish(sealer)?;
        Ok(SealedMaps {
            object: bundle.object,
            ranges: bundle.ranges,
        })
    }
}
