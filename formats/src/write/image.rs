//! The door to every format's writer: whoever writes an image file calls it.

use super::{
    ClusterEncoder, ImageTarget, ImageWriteError, TargetFormat, VmdkKind, WriteJob, WriteOptions,
    WrittenImage, impossible_image,
};
use vellum_core::source::ImageSource;
use vellum_core::units::IMAGE_LEN_MAX;

/// Writes the disk `source` as `format` into `target`, which is empty.
///
/// ```
/// use vellum_formats::write::{NoEncoder, TargetFormat, WriteOptions, write_image};
/// # use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
/// # struct Disk(Vec<u8>);
/// # impl ImageSource for Disk {
/// #     fn len(&self) -> u64 { self.0.len() as u64 }
/// #     fn extent_at(&self, start: u64) -> Result<Extent, SourceError> {
/// #         Ok(Extent { start, len: self.len() - start, kind: ExtentKind::Data })
/// #     }
/// #     fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
/// #         buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
/// #         Ok(())
/// #     }
/// # }
/// let disk = Disk(vec![7; 1 << 20]);
/// let format: TargetFormat = "qcow2".parse().expect("a format");
/// let options = WriteOptions::new([1; 32]);
/// let mut file = Vec::new();
/// let written = write_image(format, &disk, &options, &NoEncoder, &mut file).expect("written");
/// assert_eq!(written.image_len, 1 << 20);
/// assert_eq!(&file[..4], b"QFI\xfb");
/// ```
///
/// # Errors
///
/// [`ImageWriteError::Impossible`] before the first byte is written (but for a VMDK whose content
/// takes more than 2 TiB); the others in between: then the target holds no image.
pub fn write_image(
    format: TargetFormat,
    source: &dyn ImageSource,
    options: &WriteOptions,
    encoder: &dyn ClusterEncoder,
    target: &mut dyn ImageTarget,
) -> Result<WrittenImage, ImageWriteError> {
    let job = &mut WriteJob {
        source,
        options,
        encoder,
        target,
    };
    if source.len() > IMAGE_LEN_MAX {
        return Err(impossible_image(
            format.image_format().format_name(),
            format!("{} bytes are too much", source.len()),
        ));
    }
    match format {
        TargetFormat::Raw => crate::raw::writer::write_image(job),
        TargetFormat::Qcow2(kind) => crate::qcow2::writer::write_image(kind, job),
        TargetFormat::Vdi(allocation) => crate::vdi::writer::write_image(allocation, job),
        TargetFormat::Vmdk(VmdkKind::MonolithicSparse) => {
            crate::vmdk::sparse_writer::write_image(job)
        }
        TargetFormat::Vmdk(VmdkKind::StreamOptimized) => {
            crate::vmdk::stream_writer::write_image(job)
        }
        TargetFormat::Vhd(allocation) => crate::vhd::writer::write_image(allocation, job),
        TargetFormat::Vhdx => crate::vhdx::writer::write_image(job),
    }
}
