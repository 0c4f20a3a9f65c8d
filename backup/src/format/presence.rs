//! The encoding of the ordinals in a range that are present.
//!
//! ```text
//! Presence of the ordinals [0, span), counted from where its owner says. Span is known to the
//! reader.
//!
//! size            meaning
//! 1               0: all are there, and nothing follows; 1: a bitmap follows
//! ceil(span/8)    bit 0 of byte 0 = the first; first and last are there, not all are, spare bits
//!                 are zero
//! ```

use vellum_core::wire::{DecodeError, WireReader};

/// The present ones of the ordinals `[first, first + span)`. The first and the last are present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    span: u32,
    /// One bit an ordinal; none if all are present.
    bitmap: Option<Box<[u8]>>,
}

impl Presence {
    /// All of `span` ordinals. Panics if they are none.
    #[must_use]
    pub fn all(span: u32) -> Self {
        assert!(span > 0, "something is there");
        Self { span, bitmap: None }
    }

    /// The set of these ordinals, counted from the first, which is zero. Panics if they are none or
    /// not rising.
    #[must_use]
    pub fn of(offsets: &[u32]) -> Self {
        assert!(
            offsets.first() == Some(&0) && offsets.is_sorted_by(|a, b| a < b),
            "ordinals rise from the first"
        );
        let span = offsets[offsets.len() - 1] + 1;
        if offsets.len() == span as usize {
            return Self::all(span);
        }
        let mut bitmap = vec![0; span.div_ceil(8) as usize].into_boxed_slice();
        offsets
            .iter()
            .for_each(|at| bitmap[*at as usize / 8] |= 1 << (at % 8));
        Self {
            span,
            bitmap: Some(bitmap),
        }
    }

    /// The number of ordinals from the first to the last, both included.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.span
    }

    /// The number of ordinals that are present.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.bitmap.as_ref().map_or(self.span, |bitmap| {
            bitmap.iter().map(|byte| byte.count_ones()).sum()
        })
    }

    /// True if the ordinal `at` after the first is present.
    #[must_use]
    pub fn has(&self, at: u32) -> bool {
        at < self.span
            && self
                .bitmap
                .as_ref()
                .is_none_or(|bitmap| bitmap[at as usize / 8] >> (at % 8) & 1 == 1)
    }

    /// The number of ordinals present before the one `at` after the first.
    #[must_use]
    pub fn rank(&self, at: u32) -> u32 {
        let Some(bitmap) = &self.bitmap else {
            return at.min(self.span);
        };
        let at = at.min(self.span);
        let whole: u32 = bitmap[..at as usize / 8]
            .iter()
            .map(|byte| byte.count_ones())
            .sum();
        let part = bitmap
            .get(at as usize / 8)
            .map_or(0, |byte| byte & ((1 << (at % 8)) - 1));
        whole + part.count_ones()
    }

    /// The ordinals that are present, counted from the first.
    pub fn offsets(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.span).filter(|at| self.has(*at))
    }

    /// Bytes that it takes beside its own.
    #[must_use]
    pub fn heap_len(&self) -> usize {
        self.bitmap.as_ref().map_or(0, |bitmap| bitmap.len())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.bitmap.is_some()));
        self.bitmap
            .iter()
            .for_each(|bitmap| out.extend_from_slice(bitmap));
    }

    pub(super) fn decode(reader: &mut WireReader<'_>, span: u32) -> Result<Self, DecodeError> {
        if span == 0 {
            return Err(DecodeError::Invalid("span"));
        }
        match reader.read_u8()? {
            0 => return Ok(Self::all(span)),
            1 => {}
            _ => return Err(DecodeError::Invalid("presence")),
        }
        let bitmap: Box<[u8]> = reader.read_bytes(span.div_ceil(8) as usize)?.into();
        let is_set = |at: u32| bitmap[at as usize / 8] >> (at % 8) & 1 == 1;
        let has_spare = (span..span.next_multiple_of(8)).any(is_set);
        let count: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
        if has_spare || !is_set(0) || !is_set(span - 1) || count == span {
            return Err(DecodeError::Invalid("presence"));
        }
        Ok(Self {
            span,
            bitmap: Some(bitmap),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_and_full_ones_count_and_come_back() {
        for offsets in [
            &[0][..],
            &[0, 1, 2],
            &[0, 2],
            &[0, 7],
            &[0, 8, 9],
            &[0, 63, 64, 65_535],
        ] {
            let presence = Presence::of(offsets);
            let mut bytes = Vec::new();
            presence.encode(&mut bytes);
            let mut reader = WireReader::new(&bytes);
            assert_eq!(
                Presence::decode(&mut reader, presence.span()),
                Ok(presence.clone())
            );
            assert_eq!(reader.expect_end(), Ok(()));
            assert_eq!(presence.offsets().collect::<Vec<_>>(), offsets);
            assert_eq!(presence.count() as usize, offsets.len());
            for (rank, at) in offsets.iter().enumerate() {
                assert_eq!(presence.rank(*at) as usize, rank);
                assert_eq!(presence.rank(*at + 1) as usize, rank + 1);
            }
        }
    }

    #[test]
    fn a_second_form_of_the_same_is_refused() {
        for (span, bytes) in [
            (8, &[1, 0xff][..]),
            (3, &[1, 0b1101]),
            (3, &[1, 0b110]),
            (3, &[1, 0b011]),
            (3, &[2]),
            (0, &[0]),
            (9, &[1, 1]),
        ] {
            assert!(
                Presence::decode(&mut WireReader::new(bytes), span).is_err(),
                "{span} {bytes:?}"
            );
        }
    }
}
