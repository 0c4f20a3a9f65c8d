//! A Proxmox VMA archive as its content: the disks of a guest, interleaved in one stream.
//!
//! ```text
//! All numbers are big-endian. Source: Proxmox, pve-qemu, vma_spec.txt.
//!
//! Header, 12,288 bytes                                      the failure its check guards
//! 0     4     "VMA\0"                                       another format
//! 4     4     version, 1                                    fields that mean something else
//! 8     16    UUID of the archive                           extents of another archive
//! 48    4     offset of the texts, 52 4 their length        a name outside the header
//! 56    4     length of header and texts                    extents read from the wrong place
//! 2044  4·256 names of the configurations, places of texts
//! 3068  4·256 the configurations, places of texts
//! 4096  32·256 disks: place of the name (4), length at 8 (8)  sums that overflow
//!
//! A text: length (2, little-endian), bytes; place 0: none.
//!
//! Extent: a head of 512 bytes, then the blocks that its entries name, in their order
//! 0     4     "VMAE"                                        another place than an extent's
//! 6     2     blocks that follow, 4 KiB each                an archive that was cut off
//! 8     16    UUID of the archive                           as above
//! 40    8·59  entries: mask of blocks (2), –, disk (1), number of the 64 KiB (4)
//! ```
//!
//! A block whose bit is not set is zeros. Every 64 KiB of every disk must be there once. The MD5
//! sums of the heads are not looked at: they say nothing of the content.

use std::sync::Arc;

use vellum_core::source::{ImageSource, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::fields::{array_at, be_u16, be_u32, be_u64, le_u16};
use crate::indexed::ExtentIndex;
use crate::mapped::MappedImage;
use crate::{malformed, read_up_to, refused};

const FORMAT: &str = "vma";
const HEADER_LEN: usize = 12_288;
/// The texts are a guest's configuration: kilobytes.
const HEADER_LEN_MAX: u32 = 16 << 20;
const MAGIC: &[u8] = b"VMA\0";
const EXTENT_MAGIC: &[u8] = b"VMAE";
const VERSION: u32 = 1;
const EXTENT_HEAD_LEN: u64 = 512;
const EXTENT_ENTRIES: usize = 59;
const BLOCK_LEN: u64 = 4096;
const CLUSTER_LEN: u64 = 64 << 10;
const BLOCKS_PER_CLUSTER: u64 = 16;

/// A disk of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedDisk {
    /// The number under which the archive's extents know it, 1 to 255.
    pub number: u8,
    /// Its name, as `drive-scsi0`.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// An archive whose header was read.
pub struct VmaArchive {
    file: Arc<dyn ReadAt>,
    identity: [u8; 16],
    /// Offset of the first extent.
    extents_at: u64,
    disks: Vec<ArchivedDisk>,
    configurations: Vec<(String, Vec<u8>)>,
}

impl VmaArchive {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`SourceError::Malformed`] when the file is no VMA archive.
    pub fn open_archive(file: Arc<dyn ReadAt>) -> Result<Self, SourceError> {
        let fixed = read_up_to(&*file, 0, HEADER_LEN)?;
        if !fixed.starts_with(MAGIC) {
            return Err(malformed(
                FORMAT,
                "no VMA signature at byte 0: is it in another format?",
            ));
        }
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let version = be_u32(&fixed, 4).ok_or_else(cut)?;
        if version != VERSION {
            return Err(refused(
                FORMAT,
                format!("version {version} at byte 4 is unknown; known is 1"),
            ));
        }
        let header_len = be_u32(&fixed, 56).ok_or_else(cut)?;
        if !(HEADER_LEN as u32..=HEADER_LEN_MAX).contains(&header_len) {
            return Err(malformed(
                FORMAT,
                format!("the header length at byte 56 is {header_len}"),
            ));
        }
        let bytes = read_up_to(&*file, 0, header_len as usize)?;
        if bytes.len() < header_len as usize {
            return Err(cut());
        }
        let header = VmaHeaderBytes(&bytes);
        Ok(Self {
            identity: array_at(&bytes, 8).ok_or_else(cut)?,
            extents_at: u64::from(header_len),
            disks: header.parse_disks()?,
            configurations: header.parse_configurations()?,
            file,
        })
    }

    /// The disks, by number.
    #[must_use]
    pub fn disks(&self) -> &[ArchivedDisk] {
        &self.disks
    }

    /// The guest's configuration files: name and content, as `qemu-server.conf`.
    #[must_use]
    pub fn configurations(&self) -> &[(String, Vec<u8>)] {
        &self.configurations
    }

    /// One of the disks. Walks the heads of all extents once, 512 bytes for some megabytes.
    ///
    /// # Errors
    ///
    /// [`SourceError::Malformed`] when there is no such disk, or not all of it.
    pub fn open_disk(&self, number: u8) -> Result<Box<dyn ImageSource>, SourceError> {
        let disk = self.disks.iter().find(|disk| disk.number == number);
        let disk = disk.ok_or_else(|| malformed(FORMAT, format!("it has no disk {number}")))?;
        let mut index = ExtentIndex::new(FORMAT, disk.len);
        let mut at = self.extents_at;
        while at < self.file.len() {
            at = self.index_extent(at, disk, &mut index)?;
        }
        let map = index.into_map(Arc::clone(&self.file), true)?;
        Ok(Box::new(MappedImage::new(map)))
    }

    /// Adds what the extent at `at` has of the disk; tells where the next one is.
    fn index_extent(
        &self,
        at: u64,
        disk: &ArchivedDisk,
        index: &mut ExtentIndex,
    ) -> Result<u64, SourceError> {
        let head = read_up_to(&*self.file, at, EXTENT_HEAD_LEN as usize)?;
        let wrong = |what: &str| malformed(FORMAT, format!("the extent at byte {at} {what}"));
        if head.len() < EXTENT_HEAD_LEN as usize || !head.starts_with(EXTENT_MAGIC) {
            return Err(wrong("is none, or was cut off"));
        }
        if array_at(&head, 8) != Some(self.identity) {
            return Err(wrong("belongs to another archive"));
        }
        let block_count = u64::from(be_u16(&head, 6).unwrap_or_default());
        let mut place = at + EXTENT_HEAD_LEN;
        let end = place + block_count * BLOCK_LEN;
        if end > self.file.len() {
            return Err(wrong("was cut off"));
        }
        for number in 0..EXTENT_ENTRIES {
            let entry = be_u64(&head, 40 + 8 * number).unwrap_or_default();
            let (mask, owner, cluster) = ((entry >> 48) as u16, (entry >> 32) as u8, entry as u32);
            if owner == disk.number {
                push_cluster(index, cluster, mask, place, disk.len)?;
            }
            place += u64::from(mask.count_ones()) * BLOCK_LEN;
        }
        if place != end {
            return Err(wrong("does not hold the blocks that its entries name"));
        }
        Ok(end)
    }
}

/// Adds a cluster: its stored blocks one after the other at `place`, zeros between.
fn push_cluster(
    index: &mut ExtentIndex,
    cluster: u32,
    mask: u16,
    place: u64,
    image_len: u64,
) -> Result<(), SourceError> {
    let (start, mut place) = (u64::from(cluster) * CLUSTER_LEN, place);
    for block in 0..BLOCKS_PER_CLUSTER {
        let at = start + block * BLOCK_LEN;
        // Behind the disk's end a cluster is padding.
        if block > 0 && at >= image_len {
            break;
        }
        let is_stored = (mask >> block) & 1 == 1;
        index.push_extent(at, BLOCK_LEN, is_stored.then_some(place))?;
        if is_stored {
            place += BLOCK_LEN;
        }
    }
    Ok(())
}

/// The header with its texts.
struct VmaHeaderBytes<'a>(&'a [u8]);

impl VmaHeaderBytes<'_> {
    fn parse_disks(&self) -> Result<Vec<ArchivedDisk>, SourceError> {
        let mut disks = Vec::new();
        for number in 0..=u8::MAX {
            let at = 4096 + 32 * usize::from(number);
            let place = be_u32(self.0, at).unwrap_or_default();
            let len = be_u64(self.0, at + 8).unwrap_or_default();
            if place == 0 && len == 0 {
                continue;
            }
            if len > IMAGE_LEN_MAX {
                return Err(malformed(
                    FORMAT,
                    format!("disk {number} has {len} bytes, which is too much"),
                ));
            }
            let name = self.text_at(place)?;
            disks.push(ArchivedDisk {
                number,
                name: String::from_utf8_lossy(name).into_owned(),
                len,
            });
        }
        Ok(disks)
    }

    fn parse_configurations(&self) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let mut found = Vec::new();
        for number in 0..256 {
            let place_at = |table: usize| be_u32(self.0, table + 4 * number).unwrap_or_default();
            let (name, content) = (place_at(2044), place_at(3068));
            if name != 0 {
                let name = String::from_utf8_lossy(self.text_at(name)?).into_owned();
                found.push((name, self.text_at(content)?.to_vec()));
            }
        }
        Ok(found)
    }

    /// The text at a place of the texts, without the zero that ends a name.
    fn text_at(&self, place: u32) -> Result<&[u8], SourceError> {
        let texts_at = be_u32(self.0, 48).unwrap_or_default();
        let start = u64::from(texts_at) + u64::from(place);
        let start = usize::try_from(start).ok();
        let text = start.and_then(|start| {
            let len = usize::from(le_u16(self.0, start)?);
            self.0.get(start + 2..start + 2 + len)
        });
        let text = text
            .ok_or_else(|| malformed(FORMAT, format!("the text at {place} leaves the header")))?;
        Ok(text.strip_suffix(&[0]).unwrap_or(text))
    }
}

#[cfg(test)]
mod tests;
