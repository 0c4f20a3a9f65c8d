//! Disks in files as devices that are only read, for `nbd` and `serve`; and any device as the
//! content of an image, for whoever writes it to a file.

use std::io;
use std::sync::Arc;

use vellum_core::device::{
    AllocationStatus, Device, DeviceError, ExportInfo, Exports, Intent, OpenError, TypedRange,
};
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::stretches::RangeCollector;
use vellum_store::ImageFile;

/// Requests on this grid decode no cluster of the usual formats twice.
const PREFERRED_LEN: u32 = 64 << 10;
/// Stretches that are asked of a device at once.
const STRETCHES_MAX: usize = 64;

/// Files that are offered, each under its name.
pub(crate) struct FileExports(Vec<FileExport>);

struct FileExport {
    info: ExportInfo,
    device: Arc<FileDevice>,
}

/// A file's disk as a device.
struct FileDevice {
    file: ImageFile,
}

impl FileExports {
    /// Of `files`, each with the name under which it is offered, and when it was last changed, in
    /// nanoseconds since 1970.
    pub(crate) fn new(files: Vec<(String, ImageFile, u64)>) -> Self {
        let exports = files
            .into_iter()
            .map(|(name, file, changed_ns)| FileExport {
                info: ExportInfo {
                    name,
                    len: file.source().len(),
                    read_only: true,
                    changed_ns,
                    description: format!("{} file", file.format()),
                },
                device: Arc::new(FileDevice { file }),
            });
        Self(exports.collect())
    }

    fn find_export(&self, name: &str) -> Result<&FileExport, OpenError> {
        let found = match (name, self.0.as_slice()) {
            ("", [only]) => Some(only),
            _ => self.0.iter().find(|export| export.info.name == name),
        };
        found.ok_or_else(|| OpenError::Unknown(name.to_owned()))
    }
}

impl Exports for FileExports {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        Ok(self.0.iter().map(|export| export.info.clone()).collect())
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.find_export(name).map(|export| export.info.clone())
    }

    fn open_export(&self, name: &str, _: Intent) -> Result<Arc<dyn Device>, OpenError> {
        let export = self.find_export(name)?;
        Ok(Arc::clone(&export.device) as Arc<dyn Device>)
    }

    fn revision(&self) -> u64 {
        0
    }
}

impl Device for FileDevice {
    fn len(&self) -> u64 {
        self.file.source().len()
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn preferred_len(&self) -> u32 {
        PREFERRED_LEN
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, buffer.len() as u64)?;
        let read = self.file.source().read_at(buffer, offset);
        read.map_err(|error| DeviceError::Io(format!("{}: {error}", self.file.name())))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        let range = self.checked_range(offset, len)?;
        let (mut out, mut at) = (RangeCollector::new(count_max), range.start);
        while at < range.end && !out.is_full() {
            let extent = self.file.source().extent_at(at);
            let extent = extent
                .map_err(|error| DeviceError::Io(format!("{}: {error}", self.file.name())))?;
            let end = extent.end_offset().min(range.end);
            let kind = match extent.kind {
                ExtentKind::Data => AllocationStatus::Data,
                ExtentKind::Zero => AllocationStatus::Zero,
                ExtentKind::Absent => AllocationStatus::Hole,
            };
            out.push_range(at..end, kind);
            at = end;
        }
        Ok(out.into_ranges())
    }

    fn comparable(&self) -> Vec<String> {
        Vec::new()
    }

    fn changes(
        &self,
        since: &str,
        _: u64,
        _: u64,
        _: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Err(DeviceError::Io(format!("a file has no snapshot {since:?}")))
    }
}

/// A device as the content of an image.
pub(crate) struct DeviceSource(pub(crate) Arc<dyn Device>);

impl ImageSource for DeviceSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let len = self.0.len() - offset;
        let stretches = self.0.allocation(offset, len, STRETCHES_MAX);
        let stretches = stretches.map_err(|error| source_error(offset, error))?;
        let is_data =
            |stretch: &TypedRange<AllocationStatus>| stretch.kind == AllocationStatus::Data;
        let first_is_data = stretches.first().is_none_or(is_data);
        let alike = stretches
            .iter()
            .take_while(|stretch| is_data(stretch) == first_is_data);
        let alike_len: u64 = alike.map(|stretch| stretch.len).sum();
        Ok(Extent {
            start: offset,
            len: if alike_len == 0 { len } else { alike_len },
            kind: if first_is_data {
                ExtentKind::Data
            } else {
                ExtentKind::Zero
            },
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let read = self.0.read_at(buffer, offset);
        read.map_err(|error| source_error(offset, error))
    }
}

fn source_error(offset: u64, error: DeviceError) -> SourceError {
    SourceError::Io {
        offset,
        source: io::Error::other(error),
    }
}
