//! Disks for these tests: any length, content made from where it is, so that nothing is stored.

use std::sync::Arc;

use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};

/// A disk of stretches of one kind each.
#[derive(Clone)]
pub(crate) struct MadeDisk {
    /// The end of each stretch.
    stretches: Vec<(u64, ExtentKind)>,
    seed: u64,
}

impl MadeDisk {
    /// A disk of `len` bytes that is absent but for `patches`: start, length, kind; in order.
    pub(crate) fn new(seed: u64, len: u64, patches: &[(u64, u64, ExtentKind)]) -> Self {
        let mut stretches = Vec::new();
        let mut at = 0;
        for (start, patch_len, kind) in patches {
            if *start > at {
                stretches.push((*start, ExtentKind::Absent));
            }
            at = start + patch_len;
            stretches.push((at, *kind));
        }
        if at < len {
            stretches.push((len, ExtentKind::Absent));
        }
        Self { stretches, seed }
    }
}

impl ImageSource for MadeDisk {
    fn len(&self) -> u64 {
        self.stretches.last().map_or(0, |(end, _)| *end)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let index = self.stretches.partition_point(|(end, _)| *end <= offset);
        let (end, kind) = self.stretches[index];
        Ok(Extent {
            start: offset,
            len: end - offset,
            kind,
        })
    }

    /// Half of each 4 KiB compresses; now and then a page of zeros is called data.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let mut at = 0;
        while at < buffer.len() {
            let extent = self.extent_at(offset + at as u64)?;
            let len = (buffer.len() - at).min(extent.len as usize);
            let part = &mut buffer[at..at + len];
            if extent.kind == ExtentKind::Data {
                for (byte, place) in part.iter_mut().zip(extent.start..) {
                    *byte = byte_at(self.seed, place);
                }
            } else {
                part.fill(0);
            }
            at += len;
        }
        Ok(())
    }
}

fn byte_at(seed: u64, place: u64) -> u8 {
    let page = place / 4096;
    let mixed = (page ^ (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if mixed >> 60 == 0 {
        return 0;
    }
    if place % 4096 < 2048 {
        return (mixed >> 33) as u8 | 1;
    }
    let word = (mixed ^ (place / 8)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (word >> (8 * (place % 8))) as u8
}

/// Where two disks differ first, holes of both left out. Behind its end a disk has zeros.
pub(crate) fn first_difference(
    left: &dyn ImageSource,
    right: &dyn ImageSource,
) -> Result<Option<u64>, SourceError> {
    const PIECE_LEN: u64 = 1 << 20;
    let len = left.len().max(right.len());
    let (mut left_bytes, mut right_bytes) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < len {
        let hole = hole_at(left, at, len)?.min(hole_at(right, at, len)?);
        if hole > 0 {
            at += hole;
            continue;
        }
        let piece_len = PIECE_LEN.min(len - at) as usize;
        for (source, bytes) in [(left, &mut left_bytes), (right, &mut right_bytes)] {
            bytes.clear();
            bytes.resize(piece_len, 0);
            let there = source.len().saturating_sub(at).min(piece_len as u64) as usize;
            if there > 0 {
                source.read_at(&mut bytes[..there], at)?;
            }
        }
        if left_bytes != right_bytes {
            let mut pairs = left_bytes.iter().zip(&right_bytes);
            let within = pairs.position(|(left, right)| left != right);
            return Ok(within.map(|within| at + within as u64));
        }
        at += piece_len as u64;
    }
    Ok(None)
}

/// How many bytes from `at` on are no data.
fn hole_at(source: &dyn ImageSource, at: u64, len: u64) -> Result<u64, SourceError> {
    if at >= source.len() {
        return Ok(len - at);
    }
    let extent = source.extent_at(at)?;
    Ok(if extent.kind == ExtentKind::Data {
        0
    } else if extent.end_offset() == source.len() {
        len - at
    } else {
        extent.len
    })
}

/// Layers, top first.
pub(crate) fn layers<const N: usize>(disks: [MadeDisk; N]) -> Vec<Arc<dyn ImageSource>> {
    disks
        .map(|disk| Arc::new(disk) as Arc<dyn ImageSource>)
        .into()
}
