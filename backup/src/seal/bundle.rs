//! Bundles: several parts in one object, with no visible boundaries between them; used for packs
//! and maps.
//!
//! ```text
//! Bundle, behind the object's head (offset 8).
//!
//! offset  size    meaning                                            guards against
//! 8       44      part whose body is the number n of parts, 4 bytes
//!                 (LE)
//! 52      40+4n   part whose body is the stored length of each part, (an object can be read
//!                 4 bytes each (LE)                                  without what points into it)
//! …       …       the parts, one after the other
//! …       …       random bytes up to the padded length (`pad`), if   the length telling what is
//!                 encrypted                                          inside
//! ```
//!
//! In an encrypted repository the parts stand in a random order: the position of a part tells
//! nothing about when it was added.

use super::{HEAD_LEN, PART_OVERHEAD, SealError, SealedKind, SealedObject, Sealer, padded_len};
use crate::objects::ObjectId;

/// Parts that one object has at most: frames of a single small chunk, filling a pack. Bounds its
/// table.
pub(crate) const PART_COUNT_MAX: usize = 1 << 18;

const COUNT_LEN: usize = PART_OVERHEAD + 4;

/// Parts that wait to become one object.
#[derive(Debug)]
pub struct Bundle {
    kind: SealedKind,
    parts: Vec<Vec<u8>>,
    parts_len: usize,
}

/// An object of several parts, ready to be put.
#[derive(Clone, Debug)]
pub struct SealedBundle {
    /// Name and bytes.
    pub object: SealedObject,
    /// The location of each part, in the order in which they were added: offset and length in
    /// bytes.
    pub ranges: Vec<(u64, u64)>,
}

impl Bundle {
    /// One without parts.
    #[must_use]
    pub fn new(kind: SealedKind) -> Self {
        Self {
            kind,
            parts: Vec::new(),
            parts_len: 0,
        }
    }

    /// The number of parts.
    #[must_use]
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// The length of the object with one more part of `part_len` bytes, before padding.
    #[must_use]
    pub fn len_with(&self, part_len: usize) -> usize {
        table_end(self.parts.len() + 1) + self.parts_len + part_len
    }

    /// Adds a part that was sealed as one of this kind.
    pub fn push(&mut self, part: Vec<u8>) {
        assert!(
            self.parts.len() < PART_COUNT_MAX,
            "who fills a bundle asks how full it is"
        );
        self.parts_len += part.len();
        self.parts.push(part);
    }

    /// The object.
    pub fn finish(self, sealer: &Sealer) -> Result<SealedBundle, SealError> {
        self.finish_in(sealer, Vec::new())
    }

    /// The object, in the memory of `bytes`, whatever that held, so that making many needs no new
    /// memory for each.
    pub fn finish_in(
        mut self,
        sealer: &Sealer,
        mut bytes: Vec<u8>,
    ) -> Result<SealedBundle, SealError> {
        let mut order: Vec<usize> = (0..self.parts.len()).collect();
        if sealer.is_encrypted() {
            shuffle(&mut order)?;
        }
        let lengths: Vec<u8> = order
            .iter()
            .flat_map(|nth| (self.parts[*nth].len() as u32).to_le_bytes())
            .collect();
        let len = table_end(order.len()) + self.parts_len;
        bytes.clear();
        bytes.reserve_exact(padded_len(len));
        bytes.extend_from_slice(&sealer.head(self.kind));
        bytes.extend_from_slice(&sealer.seal_part(self.kind, &(order.len() as u32).to_le_bytes())?);
        bytes.extend_from_slice(&sealer.seal_part(self.kind, &lengths)?);
        let mut ranges = vec![(0, 0); order.len()];
        for nth in order {
            let part = std::mem::take(&mut self.parts[nth]);
            ranges[nth] = (bytes.len() as u64, part.len() as u64);
            bytes.extend_from_slice(&part);
        }
        if sealer.is_encrypted() {
            bytes.resize(padded_len(len), 0);
            getrandom::fill(&mut bytes[len..])
                .map_err(|error| SealError::Random(error.to_string()))?;
        }
        Ok(SealedBundle {
            object: SealedObject {
                id: ObjectId::of(&bytes),
                bytes,
            },
            ranges,
        })
    }
}

/// The length of an object that holds `count` parts of `parts_len` bytes together.
#[must_use]
pub fn bundle_len(count: usize, parts_len: usize, is_encrypted: bool) -> usize {
    let len = table_end(count) + parts_len;
    if is_encrypted { padded_len(len) } else { len }
}

/// Locates the parts of the object `stored`: offset and length of each, in the order in which they
/// stand. The object is checked against its name. For a repository that has lost what points into
/// it, or for checks.
pub fn bundle_parts(
    sealer: &Sealer,
    kind: SealedKind,
    id: &ObjectId,
    stored: &[u8],
) -> Result<Vec<(u64, u64)>, SealError> {
    if ObjectId::of(stored) != *id {
        return Err(SealError::Name);
    }
    let rest = sealer.headless(kind, stored)?;
    let truncated = || SealError::Content("truncated".to_owned());
    let count = sealer.open_part(kind, rest.get(..COUNT_LEN).ok_or_else(truncated)?)?;
    let count = u32::from_le_bytes(count.as_slice().try_into().map_err(|_| truncated())?) as usize;
    if count > PART_COUNT_MAX {
        return Err(SealError::Content("too many parts".to_owned()));
    }
    let table = rest
        .get(COUNT_LEN..table_end(count) - HEAD_LEN)
        .ok_or_else(truncated)?;
    let table = sealer.open_part(kind, table)?;
    let mut end = table_end(count) as u64;
    let mut parts = Vec::with_capacity(count);
    for len in table.as_chunks::<4>().0 {
        let len = u64::from(u32::from_le_bytes(*len));
        parts.push((end, len));
        end += len;
    }
    if end <= stored.len() as u64 {
        Ok(parts)
    } else {
        Err(truncated())
    }
}

fn table_end(count: usize) -> usize {
    HEAD_LEN + COUNT_LEN + PART_OVERHEAD + 4 * count
}

/// A random order, each equally likely but for what 64 bits leave (less than one in 2^45).
fn shuffle(order: &mut [usize]) -> Result<(), SealError> {
    let mut random = vec![0; order.len() * 8];
    getrandom::fill(&mut random).map_err(|error| SealError::Random(error.to_string()))?;
    for (nth, bytes) in random.as_chunks::<8>().0.iter().enumerate().skip(1) {
        order.swap(
            nth,
            (u64::from_le_bytes(*bytes) % (nth as u64 + 1)) as usize,
        );
    }
    Ok(())
}
