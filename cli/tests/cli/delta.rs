//! A disk that stands on another, as its bytes and what of them is its own: the source of image
//! files that tests make.

use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_formats::DiskIdentity;
use vellum_formats::write::{NoEncoder, ParentLink, TargetFormat, WriteOptions, write_image};

/// Ranges in which a state differs from the one below, in units that fall across blocks and chunks.
const UNIT: usize = 1536;

/// A disk over another: what changed, and what was zeroed.
pub(crate) struct Delta {
    pub(crate) bytes: Vec<u8>,
    pub(crate) kinds: Vec<(usize, ExtentKind)>,
}

impl Delta {
    /// All of a disk, nothing below it.
    pub(crate) fn whole(bytes: Vec<u8>) -> Self {
        Self {
            kinds: vec![(bytes.len(), ExtentKind::Data)],
            bytes,
        }
    }

    /// A state after some writes and zeros over `below`.
    pub(crate) fn over(below: &[u8], seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut bytes, mut kinds, mut at) = (below.to_vec(), Vec::new(), 0);
        while at < bytes.len() {
            let end = (at + UNIT * random.usize(1..400)).min(bytes.len());
            let kind = match random.u8(..4) {
                0 => ExtentKind::Data,
                1 => ExtentKind::Zero,
                _ => ExtentKind::Absent,
            };
            match kind {
                ExtentKind::Data => random.fill(&mut bytes[at..end]),
                ExtentKind::Zero => bytes[at..end].fill(0),
                ExtentKind::Absent => {}
            }
            kinds.push((end, kind));
            at = end;
        }
        Self { bytes, kinds }
    }

    /// The file of this disk, standing on `parent`.
    pub(crate) fn file(
        &self,
        format: TargetFormat,
        identity: Option<DiskIdentity>,
        parent: Option<ParentLink>,
    ) -> Vec<u8> {
        self.identified_file(format, identity, parent).0
    }

    /// The file, and the identity by which a child names it.
    pub(crate) fn identified_file(
        &self,
        format: TargetFormat,
        identity: Option<DiskIdentity>,
        parent: Option<ParentLink>,
    ) -> (Vec<u8>, Option<DiskIdentity>) {
        let options = WriteOptions {
            identity,
            parent,
            ..WriteOptions::new([9; 32])
        };
        let mut file = Vec::new();
        let written = write_image(format, self, &options, &NoEncoder, &mut file);
        let written = written.expect("memory takes it");
        (file, written.identity)
    }
}

impl ImageSource for Delta {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let found = self.kinds.iter().find(|(end, _)| *end as u64 > offset);
        let (end, kind) = *found.expect("it is asked inside");
        Ok(Extent {
            start: offset,
            len: end as u64 - offset,
            kind,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        Ok(())
    }
}
