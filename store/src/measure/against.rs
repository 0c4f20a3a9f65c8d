//! Answers a measurement's questions to a store: the names that it has, and a node of it as an
//! input.

use vellum_core::hash::ChunkHash;
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::{Node, PageSet, page_of, page_start};
use vellum_core::units::PageIndex;

use crate::database::Family;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::pieces::Input;
use crate::store::Store;

impl Store {
    /// Tells for each of `hashes`, in order, whether it seems to be the name of a stored chunk.
    /// Asks the index alone, which knows 8 bytes of each name: good for counting, not for skipping
    /// a chunk as "already there". Cost: one look-up in the database for each.
    pub fn seem_stored(&self, hashes: &[ChunkHash]) -> Result<Vec<bool>, StoreError> {
        let prefixes: Vec<[u8; 8]> = hashes.iter().map(ChunkHash::prefix).collect();
        let found = self
            .inner
            .database
            .get_many(Family::Index, prefixes.iter().map(<[u8; 8]>::as_slice))?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// The content of an image or snapshot, as something that can be measured or imported.
    pub fn input(&self, node: Node) -> Result<Input, StoreError> {
        let disk = self.still_disk(node)?;
        let name = disk.name().to_owned();
        Ok(Input::source(
            Box::new(NodeSource {
                mapped: disk.mapped_pages(),
                disk,
            }),
            name,
        ))
    }
}

/// A node's disk as an image.
struct NodeSource {
    disk: Disk,
    mapped: PageSet,
}

impl ImageSource for NodeSource {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let chunk_len = self.disk.chunk_len();
        let begin_of = |page: PageIndex| chunk_len.offset_of(page_start(page));
        let (page, _) = page_of(chunk_len.index_at(offset));
        let next = self.mapped.next_from(page);
        let (end, kind) = match next {
            Some(next) if next == page => (begin_of(PageIndex(page.0 + 1)), ExtentKind::Data),
            Some(next) => (begin_of(next), ExtentKind::Zero),
            None => (u64::MAX, ExtentKind::Zero),
        };
        Ok(Extent {
            start: offset,
            len: end.min(self.len()) - offset,
            kind,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let read = self.disk.read_at(buffer, offset);
        read.map_err(|error| SourceError::Io {
            offset,
            source: std::io::Error::other(error),
        })
    }
}
