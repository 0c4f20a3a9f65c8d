//! The descriptor inside a VMDK that is written: a text of a fixed shape.

use std::fmt::Write as _;

use super::{FORMAT, SECTOR_LEN};
use crate::identity::DiskIdentity;
use crate::write::{HeaderBytes, ImageWriteError, WriteJob, impossible_image};

/// Sectors kept for it, as in qemu's and `VMware`'s files.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
const NO_PARENT: u32 = 0xffff_ffff;
const FILE_NAME: &str = "disk.vmdk";
/// The geometry that guests of SCSI disks are told: 255 heads, 63 sectors.
const CYLINDER_SECTORS: u64 = 255 * 63;

/// A descriptor's sectors.
pub(super) struct DescriptorText(HeaderBytes);

impl DescriptorText {
    /// The descriptor of the job's disk as a `create_type` of one extent.
    pub(super) fn for_job(job: &WriteJob, create_type: &str) -> Result<Self, ImageWriteError> {
        let options = job.options;
        options.verify_names(FORMAT)?;
        let parent_id = match options.parent.as_ref().map(|parent| parent.identity) {
            None => NO_PARENT,
            Some(Some(DiskIdentity::ContentId(id))) => id,
            Some(_) => {
                return Err(impossible_image(
                    FORMAT,
                    "it names its parent by content id, and that one's is not given",
                ));
            }
        };
        let hint = options
            .parent
            .as_ref()
            .map(|parent| format!("parentFileNameHint=\"{}\"\n", parent.path));
        let sectors = job.sector_len() / SECTOR_LEN;
        let mut text = String::new();
        let done = write!(
            text,
            "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={parent_id:08x}\n\
             createType=\"{create_type}\"\n{}\n\
             # Extent description\nRW {sectors} SPARSE \"{}\"\n\n\
             # The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"4\"\n\
             ddb.geometry.cylinders = \"{}\"\n\
             ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n\
             ddb.adapterType = \"lsilogic\"\n",
            options.content_id(),
            hint.unwrap_or_default(),
            options.file_name.as_deref().unwrap_or(FILE_NAME),
            sectors.div_ceil(CYLINDER_SECTORS),
        );
        done.expect("a text in memory takes all that is written");
        let len = (DESCRIPTOR_SECTORS * SECTOR_LEN) as usize;
        if text.len() >= len {
            return Err(impossible_image(
                FORMAT,
                "its names leave no room in the descriptor",
            ));
        }
        let mut sectors = HeaderBytes::new(len);
        sectors.put_field(0, text.as_bytes());
        Ok(Self(sectors))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}
