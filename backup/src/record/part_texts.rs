//! The parts of an index object in a record's JSON: hexadecimal, in few bytes. Read one by one into
//! the table that stays.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use vellum_core::identity::{IDENTITY_LEN, SegmentId};

use crate::format::{IndexPart, PartTable};
use crate::hexadecimal;

/// The longest part of an index object that is fetched by itself, in bytes: a segment of which each
/// chunk has a frame of its own fills less.
const INDEX_PART_LEN_MAX: u64 = 16 << 20;

/// A part, as it is written.
#[derive(Serialize, Deserialize)]
struct PartText {
    /// The identities of its segments, one behind the other.
    segments: String,
    /// Its offset and length in the object, in bytes.
    range: (u64, u64),
    /// The first eight bytes of each name of its sample, one behind the other.
    sample: String,
}

struct PartTexts;

pub(super) fn serialize<S: Serializer>(
    parts: &PartTable,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(parts.iter().map(PartText::of))
}

/// The parts; none if one of them makes no sense.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<PartTable>, D::Error> {
    deserializer.deserialize_seq(PartTexts).map(Arc::new)
}

impl<'de> Visitor<'de> for PartTexts {
    type Value = PartTable;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the parts of an index object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<PartTable, A::Error> {
        let (mut table, mut makes_sense) = (PartTable::default(), true);
        while let Some(text) = texts.next_element::<PartText>()? {
            makes_sense &= text.add_to(&mut table).is_some();
        }
        table.shrink();
        Ok(if makes_sense {
            table
        } else {
            PartTable::default()
        })
    }
}

impl PartText {
    fn of(part: IndexPart<'_>) -> Self {
        let segments: Vec<u8> = part.segments.iter().flat_map(|id| id.0).collect();
        let sample = part.sample.iter().flat_map(|name| name.to_be_bytes());
        Self {
            segments: hexadecimal::write(&segments),
            range: (part.offset, part.len),
            sample: hexadecimal::write(&sample.collect::<Vec<_>>()),
        }
    }

    /// Adds the part to `table`; none if it makes no sense.
    fn add_to(&self, table: &mut PartTable) -> Option<()> {
        let (segments, sample) = (
            hexadecimal::read(&self.segments)?,
            hexadecimal::read(&self.sample)?,
        );
        let (segments, no_more) = segments.as_chunks::<IDENTITY_LEN>();
        let (sample, rest) = sample.as_chunks::<8>();
        let (offset, len) = self.range;
        let is_whole = no_more.is_empty() && rest.is_empty() && len <= INDEX_PART_LEN_MAX;
        let is_rising = segments.is_sorted() && !segments.is_empty();
        (is_whole && is_rising && offset.checked_add(len).is_some()).then(|| {
            let segments: Vec<SegmentId> = segments.iter().copied().map(SegmentId).collect();
            let sample: Vec<u64> = sample.iter().copied().map(u64::from_be_bytes).collect();
            table.push(IndexPart {
                segments: &segments,
                offset,
                len,
                sample: &sample,
            });
        })
    }
}
