//! A VMDK image as its content: `VMware`'s format, which is a family.
//!
//! A disk is one or several *extents*: plain bytes, sparse grains under two levels of tables
//! (`sparse`: hosted, ESX's COWD and seSparse), or zeros. A *descriptor*, a text, lists them; it
//! lies in a file of its own or in its only extent. Extents in other files are opened through
//! [`Companions`], by plain names beside the descriptor; whoever opens the image decides which
//! those are.
//!
//! A delta link names its parent by content id: what it does not have is absent.
//!
//! Sources: `VMware` Virtual Disk Format 5.0; for seSparse and COWD, which have no public text, the
//! comments of QEMU's `block/vmdk.c`.

mod adler32;
mod description;
mod descriptor;
mod hosted;
mod sparse;
pub(crate) mod sparse_writer;
pub(crate) mod stream_writer;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use vellum_core::source::{ClusterDecoder, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::mapped::{BlockMap, MappedImage, MappedPiece, PieceLocation};
use crate::{Companions, ImageFacts, lies_inside, malformed, read_up_to, refused};
use descriptor::{ExtentLine, VmdkDescriptor};
use sparse::SparseExtent;

const FORMAT: &str = "vmdk";
const SECTOR_LEN: u64 = 512;
/// A descriptor is a page of text.
const DESCRIPTOR_LEN_MAX: u64 = 64 << 10;
/// A disk of 62 TiB in files of 2 GiB has 31,744.
const EXTENTS_MAX: usize = 32_768;

/// One extent of a disk.
struct VmdkExtent {
    /// The byte of the disk at which it begins.
    start: u64,
    len: u64,
    /// Number of its file among the image's files.
    file: usize,
    content: ExtentContent,
}

enum ExtentContent {
    Zero,
    /// The bytes as they are, from this offset of the file on.
    Flat(u64),
    Sparse(Box<SparseExtent>),
}

struct VmdkMap {
    files: Vec<Arc<dyn ReadAt>>,
    /// By start, without gaps.
    extents: Vec<VmdkExtent>,
    image_len: u64,
    decoder: Arc<dyn ClusterDecoder>,
}

/// Opens a VMDK. What it does not allocate is absent.
pub(super) fn open_image(
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    companions: &dyn Companions,
) -> Result<MappedImage<impl BlockMap + use<>>, SourceError> {
    let mut map = VmdkMap {
        files: Vec::new(),
        extents: Vec::new(),
        image_len: 0,
        decoder,
    };
    if sparse::kind_of(&*file)?.is_some() {
        map.add_sparse(file, None)?;
    } else {
        let descriptor = VmdkDescriptor::read_from(&*file, 0, DESCRIPTOR_LEN_MAX)?;
        for line in &descriptor.extents {
            map.add_extent(line, companions)?;
        }
    }
    Ok(MappedImage::new(map))
}

/// Tells an image's identity and its parent's.
pub(super) fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    let embedded = match sparse::kind_of(file)? {
        Some(kind) => {
            let header = sparse::SparseHeader::read_from(file, kind)?;
            let variant = header.variant_name();
            let Some((offset, len)) = header.descriptor else {
                return Ok(ImageFacts::whole_image(header.capacity, variant));
            };
            Some((offset, len, header.capacity, variant))
        }
        None => None,
    };
    let (offset, len) = embedded.map_or((0, DESCRIPTOR_LEN_MAX), |(offset, len, ..)| (offset, len));
    let descriptor = VmdkDescriptor::read_from(file, offset, len)?;
    let total = descriptor
        .extents
        .iter()
        .map(|line| line.len)
        .fold(0, u64::saturating_add);
    Ok(ImageFacts {
        len: embedded.map_or(total, |(_, _, capacity, _)| capacity),
        variant: descriptor.variant_name(embedded.map_or("extents", |(.., variant)| variant)),
        identity: descriptor.identity,
        parent: descriptor.parent,
        notes: Vec::new(),
    })
}

impl VmdkMap {
    fn add_extent(
        &mut self,
        line: &ExtentLine,
        companions: &dyn Companions,
    ) -> Result<(), SourceError> {
        if self.extents.len() >= EXTENTS_MAX {
            return Err(malformed(
                FORMAT,
                format!("more than {EXTENTS_MAX} extents"),
            ));
        }
        let Some(name) = &line.file_name else {
            return self.push_extent(line.len, 0, ExtentContent::Zero);
        };
        let file = companions.open_companion(FORMAT, name)?;
        if line.is_flat {
            let is_inside = lies_inside(line.offset, line.len, file.len());
            if !is_inside {
                return Err(malformed(
                    FORMAT,
                    format!("the extent {name:?} of {} bytes leaves its file", line.len),
                ));
            }
            self.files.push(file);
            let content = ExtentContent::Flat(line.offset);
            return self.push_extent(line.len, self.files.len() - 1, content);
        }
        self.add_sparse(file, Some(line))
    }

    fn add_sparse(
        &mut self,
        file: Arc<dyn ReadAt>,
        line: Option<&ExtentLine>,
    ) -> Result<(), SourceError> {
        let kind = sparse::kind_of(&*file)?;
        let kind = kind.ok_or_else(|| malformed(FORMAT, "an extent without a known signature"))?;
        let extent = SparseExtent::open_extent(&*file, kind)?;
        // The descriptor says how much of an extent belongs to the disk.
        let len = line.map_or(extent.capacity(), |line| line.len);
        if len > extent.capacity() {
            return Err(malformed(
                FORMAT,
                format!(
                    "an extent of {} bytes where its descriptor says {len}",
                    extent.capacity()
                ),
            ));
        }
        self.files.push(file);
        self.push_extent(
            len,
            self.files.len() - 1,
            ExtentContent::Sparse(Box::new(extent)),
        )
    }

    fn push_extent(
        &mut self,
        len: u64,
        file: usize,
        content: ExtentContent,
    ) -> Result<(), SourceError> {
        let start = self.image_len;
        let end = start.checked_add(len).filter(|end| *end <= IMAGE_LEN_MAX);
        self.image_len = end.ok_or_else(|| malformed(FORMAT, "its extents are too long"))?;
        if len > 0 {
            self.extents.push(VmdkExtent {
                start,
                len,
                file,
                content,
            });
        }
        Ok(())
    }
}

impl BlockMap for VmdkMap {
    fn image_len(&self) -> u64 {
        self.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let index = self
            .extents
            .partition_point(|extent| extent.start <= offset);
        let extent = index
            .checked_sub(1)
            .and_then(|index| self.extents.get(index));
        let extent = extent.expect("extents cover the disk without gaps");
        let within = offset - extent.start;
        let rest = extent.len - within;
        let (len, location) = match &extent.content {
            ExtentContent::Zero => (rest, PieceLocation::Zero),
            ExtentContent::Flat(start) => {
                let location = PieceLocation::Stored {
                    file: extent.file,
                    offset: start + within,
                };
                (rest, location)
            }
            ExtentContent::Sparse(sparse) => {
                let (len, location) =
                    sparse.piece_at(self.source_file(extent.file), extent.file, within)?;
                (len.min(rest), location)
            }
        };
        Ok(MappedPiece { len, location })
    }

    fn source_file(&self, number: usize) -> &dyn ReadAt {
        &**self
            .files
            .get(number)
            .expect("an extent's file is one of the image's")
    }

    fn unpack_grain(&self, file: usize, offset: u64) -> Result<Vec<u8>, SourceError> {
        let extent = self.extents.iter().find(|extent| extent.file == file);
        match extent.map(|extent| &extent.content) {
            Some(ExtentContent::Sparse(sparse)) => {
                sparse.unpack_grain(self.source_file(file), offset, &*self.decoder)
            }
            _ => Err(malformed(FORMAT, "a compressed grain in a plain extent")),
        }
    }
}

/// The text at `offset`, up to the first zero byte.
fn text_at(file: &dyn ReadAt, offset: u64, len: u64) -> Result<String, SourceError> {
    let bytes = read_up_to(file, offset, len.min(DESCRIPTOR_LEN_MAX) as usize)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn unknown_kind(what: &str) -> SourceError {
    refused(FORMAT, format!("{what} is not read"))
}
