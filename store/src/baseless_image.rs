//! Images without a parent: their unallocated ranges are zeros, whatever they are imported over.

use std::sync::Arc;

use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};

/// An image without a parent: unallocated ranges read as zeros.
pub(crate) struct BaselessImage(pub(crate) Arc<dyn ImageSource>);

impl ImageSource for BaselessImage {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let extent = self.0.extent_at(offset)?;
        let kind = match extent.kind {
            ExtentKind::Absent => ExtentKind::Zero,
            kind => kind,
        };
        Ok(Extent { kind, ..extent })
    }

    fn left_behind(&self) -> Vec<String> {
        self.0.left_behind()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.0.read_at(buffer, offset)
    }
}
