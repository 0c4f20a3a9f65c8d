//! An image without what its guest does not use: those ranges are zeros, whatever is in them, and
//! whatever a parent holds there.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::source::{Extent, ExtentKind, ImageSource, ReadAt, SourceError};

/// A source whose dropped ranges are [`ExtentKind::Zero`], to the byte.
pub struct TrimmedSource {
    source: Arc<dyn ImageSource>,
    /// In order, apart from each other.
    dropped: Vec<Range<u64>>,
}

impl TrimmedSource {
    /// `source` without `dropped`, which are in order and apart from each other.
    #[must_use]
    pub fn new(source: Arc<dyn ImageSource>, dropped: Vec<Range<u64>>) -> Self {
        assert!(
            dropped.is_sorted_by(|one, next| one.end <= next.start),
            "dropped ranges are in order"
        );
        Self { source, dropped }
    }

    /// The bytes of the dropped ranges that the source has as data: of the rest it knew already
    /// that it is zero.
    ///
    /// # Errors
    ///
    /// When the source's tables cannot be read.
    pub fn dropped_data(&self) -> Result<u64, SourceError> {
        let mut found = 0;
        for range in &self.dropped {
            let (mut at, end) = (range.start, range.end.min(self.source.len()));
            while at < end {
                let extent = self.source.extent_at(at)?;
                let until = extent.end_offset().min(end);
                if extent.kind == ExtentKind::Data {
                    found += until - at;
                }
                at = until;
            }
        }
        Ok(found)
    }

    /// The dropped ranges that end after `offset`.
    fn dropped_from(&self, offset: u64) -> &[Range<u64>] {
        let first = self.dropped.partition_point(|range| range.end <= offset);
        self.dropped.get(first..).unwrap_or_default()
    }
}

impl ImageSource for TrimmedSource {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let next = self.dropped_from(offset).first();
        if let Some(range) = next.filter(|range| range.start <= offset) {
            return Ok(Extent {
                start: offset,
                len: range.end.min(self.len()) - offset,
                kind: ExtentKind::Zero,
            });
        }
        let found = self.source.extent_at(offset)?;
        let end = next.map_or(found.end_offset(), |range| {
            found.end_offset().min(range.start)
        });
        Ok(Extent {
            len: end - offset,
            ..found
        })
    }

    fn left_behind(&self) -> Vec<String> {
        self.source.left_behind()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.source.read_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        for range in self.dropped_from(offset) {
            if range.start >= end {
                break;
            }
            let inside = range.start.max(offset) - offset..range.end.min(end) - offset;
            if let Some(dropped) = buffer.get_mut(inside.start as usize..inside.end as usize) {
                dropped.fill(0);
            }
        }
        Ok(())
    }
}

/// The content of a source as a disk whose file systems are read. What it says nothing of is an
/// error: it is a parent's, and would be taken for zeros.
pub struct SourceDisk<'s> {
    source: &'s dyn ImageSource,
    is_cancelled: &'s (dyn Fn() -> bool + Sync),
}

impl<'s> SourceDisk<'s> {
    /// Reads fail from the moment on at which `is_cancelled` says so.
    #[must_use]
    pub fn new(source: &'s dyn ImageSource, is_cancelled: &'s (dyn Fn() -> bool + Sync)) -> Self {
        Self {
            source,
            is_cancelled,
        }
    }

    fn require_present(&self, range: Range<u64>) -> Result<(), SourceError> {
        let mut at = range.start;
        while at < range.end {
            let extent = self.source.extent_at(at)?;
            if extent.kind == ExtentKind::Absent {
                return Err(SourceError::Refused {
                    format: "differencing",
                    reason: format!(
                        "what its file systems use is not in it alone: byte {at} is its parent's"
                    ),
                });
            }
            at = extent.end_offset();
        }
        Ok(())
    }
}

impl ReadAt for SourceDisk<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    /// Fails with a [`SourceError`] in the system's.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if (self.is_cancelled)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let end = offset.checked_add(buffer.len() as u64);
        let end = end.filter(|end| *end <= self.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.require_present(offset..end)
            .map_err(io::Error::other)?;
        self.source
            .read_at(buffer, offset)
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes of each kind in turn: data, absent, zero. All data is ones.
    struct Turns;

    impl ImageSource for Turns {
        fn len(&self) -> u64 {
            60
        }

        fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
            let kinds = [ExtentKind::Data, ExtentKind::Absent, ExtentKind::Zero];
            Ok(Extent {
                start: offset,
                len: 10 - offset % 10,
                kind: kinds[offset as usize / 10 % 3],
            })
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
            for (at, byte) in (offset..).zip(buffer) {
                *byte = u8::from(at / 10 % 3 == 0);
            }
            Ok(())
        }
    }

    #[test]
    fn dropped_ranges_are_zero_to_the_byte_and_hide_a_parent() {
        use ExtentKind::{Data, Zero};
        let dropped = || vec![3..5, 8..12, 30..41, 59..60];
        let trimmed = TrimmedSource::new(Arc::new(Turns), dropped());
        let (mut kinds, mut at) = (Vec::new(), 0);
        while at < trimmed.len() {
            let extent = trimmed.extent_at(at).expect("told");
            assert!(extent.start == at && extent.len > 0);
            kinds.resize(extent.end_offset() as usize, extent.kind);
            at = extent.end_offset();
        }
        for start in 0..60 {
            for end in start + 1..=60 {
                let mut bytes = vec![9; end - start];
                trimmed.read_at(&mut bytes, start as u64).expect("read");
                for (at, byte) in (start..).zip(bytes) {
                    let is_dropped = dropped().iter().any(|range| range.contains(&(at as u64)));
                    let own = Turns.extent_at(at as u64).expect("told").kind;
                    assert_eq!(kinds[at], if is_dropped { Zero } else { own }, "{at}");
                    assert_eq!(byte == 1, kinds[at] == Data, "{at}");
                }
            }
        }
        assert_eq!(trimmed.dropped_data().expect("told"), 2 + 2 + 10);
    }

    #[test]
    fn what_is_a_parents_is_not_taken_for_zeros() {
        let mut bytes = [9; 10];
        let go_on = || false;
        let disk = SourceDisk::new(&Turns, &go_on);
        assert!(disk.read_exact_at(&mut bytes, 0).is_ok());
        assert!(disk.read_exact_at(&mut bytes, 20).is_ok());
        let refused = disk
            .read_exact_at(&mut bytes, 1)
            .expect_err("a byte is absent");
        let told = refused.to_string();
        assert!(told.contains("byte 10 is its parent's"), "{told}");
        assert!(disk.read_exact_at(&mut bytes, 51).is_err(), "past the end");
        let stopped = SourceDisk::new(&Turns, &|| true);
        assert!(stopped.read_exact_at(&mut bytes, 0).is_err());
    }
}
