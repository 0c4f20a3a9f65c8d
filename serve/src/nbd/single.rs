//! One export out of many, under a name of its own: what `qemu-nbd` serves.

use std::sync::Arc;

use vellum_core::device::{
    Device, DeviceError, ExportInfo, ExportSpace, Exports, Intent, OpenError,
};

/// One export of another list, as the only one. A client that names no export gets it.
pub struct SingleExport {
    inner: Arc<dyn Exports>,
    target: String,
    name: String,
}

impl SingleExport {
    /// Offers the export `target` of `inner` as `name`, and nothing else. An empty `name` is the
    /// default export.
    #[must_use]
    pub fn new(inner: Arc<dyn Exports>, target: &str, name: &str) -> Self {
        Self {
            inner,
            target: target.to_owned(),
            name: name.to_owned(),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), OpenError> {
        if name.is_empty() || name == self.name {
            Ok(())
        } else {
            Err(OpenError::Unknown(name.to_owned()))
        }
    }
}

impl Exports for SingleExport {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        match self.export_info("") {
            Ok(info) => Ok(vec![info]),
            Err(OpenError::Device(error)) => Err(error),
            Err(OpenError::Unknown(_) | OpenError::Refused(_)) => Ok(Vec::new()),
        }
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.check_name(name)?;
        Ok(ExportInfo {
            name: self.name.clone(),
            ..self.inner.export_info(&self.target)?
        })
    }

    fn open_export(&self, name: &str, intent: Intent) -> Result<Arc<dyn Device>, OpenError> {
        self.check_name(name)?;
        self.inner.open_export(&self.target, intent)
    }

    fn space_info(&self) -> Result<ExportSpace, DeviceError> {
        self.inner.space_info()
    }

    fn revision(&self) -> u64 {
        self.inner.revision()
    }
}
