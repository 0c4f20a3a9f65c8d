//! All that the headers of a disk's file tell: what `vellum info FILE` shows.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use vellum_core::source::{ReadAt, SourceError};
use vellum_formats::input::{InputChoice, InputFormat};
use vellum_formats::{Format, ImageFacts, ParentReference, dirty_bitmaps, internal_snapshots};
use vellum_store::{FileSource, StoreError};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::source_format::{self, FileArgs};

/// Facts about a file.
#[derive(Serialize)]
pub(crate) struct FileFacts {
    file: String,
    format: &'static str,
    variant: String,
    /// The disk's length; of an archive with several disks the sum.
    size: u64,
    file_bytes: u64,
    /// Bytes that the file takes on its disk.
    disk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ShownParent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<ShownDisk>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<ShownSnapshot>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bitmaps: Vec<ShownBitmap>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ShownParent {
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(skip)]
    sentence: String,
}

#[derive(Serialize)]
struct ShownDisk {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'static str>,
    size: u64,
}

#[derive(Serialize)]
struct ShownSnapshot {
    id: String,
    name: String,
    seconds: u32,
    size: u64,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct ShownBitmap {
    name: String,
    granularity: u64,
    enabled: bool,
}

impl FileFacts {
    /// The facts about `file`, opened as `args` say. Reads headers only, of this file only.
    pub(crate) fn read_facts(
        file: &Path,
        args: &FileArgs,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        let path = session.caller.resolve_path(file);
        let name = file.display().to_string();
        let format = source_format::of_file(&path, &name, &args.expected_file(), session)?;
        let on_disk = std::fs::metadata(&path)
            .map_err(|error| CommandFailure::io_error(format!("look at {name}"), error))?;
        let source: Arc<dyn ReadAt> = Arc::new(FileSource::open_file(&path)?);
        let fail = |error: SourceError| StoreError::of_source(&name, error);
        let disks = format.list_disks(&source).map_err(fail)?;
        let choice = InputChoice {
            disk: args.disk.as_deref(),
            is_over_parent: true,
        };
        let facts = if format.is_archive() && args.disk.is_none() {
            let lens = disks.iter().map(|disk| disk.len);
            ImageFacts {
                len: lens.fold(0, u64::saturating_add),
                variant: "archive",
                identity: None,
                parent: None,
                notes: Vec::new(),
            }
        } else {
            format
                .read_facts(Arc::clone(&source), choice)
                .map_err(fail)?
        };
        let mut shown = Self {
            file: name.clone(),
            format: format.format_name(),
            variant: facts.variant.to_owned(),
            size: facts.len,
            file_bytes: source.len(),
            disk_bytes: std::os::unix::fs::MetadataExt::blocks(&on_disk) * 512,
            identity: facts.identity.map(|identity| identity.to_string()),
            parent: facts.parent.map(ShownParent::new),
            disks: disks.into_iter().map(ShownDisk::new).collect(),
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            warnings: facts.notes,
        };
        if format == InputFormat::Image(Format::Qcow2) {
            shown.add_qcow2(&*source);
        }
        Ok(shown)
    }

    /// Adds what a qcow2 file keeps beside the disk: its snapshots and bitmaps. A fault in there is
    /// reported, and hides nothing else.
    fn add_qcow2(&mut self, file: &dyn ReadAt) {
        match internal_snapshots(file) {
            Ok(found) => self.snapshots = found.into_iter().map(ShownSnapshot::new).collect(),
            Err(error) => self.warnings.push(format!("its snapshots: {error}")),
        }
        match dirty_bitmaps(file) {
            Ok(found) => self.bitmaps = found.into_iter().map(ShownBitmap::new).collect(),
            Err(error) => self.warnings.push(format!("its bitmaps: {error}")),
        }
    }
}

impl ShownParent {
    fn new(parent: ParentReference) -> Self {
        Self {
            sentence: parent.to_string(),
            identity: parent.identity.map(|identity| identity.to_string()),
            names: parent.hints,
            format: parent.format,
        }
    }
}

impl ShownDisk {
    fn new(disk: vellum_formats::input::ContainedDisk) -> Self {
        Self {
            name: disk.name,
            format: disk.format.map(Format::format_name),
            size: disk.len,
        }
    }
}

impl ShownSnapshot {
    fn new(snapshot: vellum_formats::InternalSnapshot) -> Self {
        Self {
            id: snapshot.id,
            name: snapshot.name,
            seconds: snapshot.seconds,
            size: snapshot.len,
            memory_bytes: snapshot.memory_len,
        }
    }
}

impl ShownBitmap {
    fn new(bitmap: vellum_formats::DirtyBitmap) -> Self {
        Self {
            granularity: bitmap.granularity_len,
            enabled: bitmap.is_enabled,
            name: bitmap.name,
        }
    }
}

impl Render for FileFacts {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_field("file", &self.file)?;
        let is_plain = self.variant == self.format;
        let variant = (!is_plain).then(|| format!(" ({})", self.variant));
        page.write_field(
            "format",
            format!("{}{}", self.format, variant.unwrap_or_default()),
        )?;
        let size = page.format_size(self.size);
        page.write_field("size", format!("{size} ({} bytes)", self.size))?;
        let (len, taken) = (
            page.format_size(self.file_bytes),
            page.format_size(self.disk_bytes),
        );
        page.write_field("file size", format!("{len}, {taken} on its disk"))?;
        if let Some(identity) = &self.identity {
            page.write_field("identity", identity)?;
        }
        if let Some(parent) = &self.parent {
            let format = parent.format.as_ref();
            let format = format.map_or(String::new(), |format| format!(", {format}"));
            page.write_field("stands on", format!("{}{format}", parent.sentence))?;
        }
        for disk in &self.disks {
            let size = page.format_size(disk.size);
            let format = disk
                .format
                .map_or(String::new(), |name| format!(", {name}"));
            page.write_field("disk", format!("{}, {size}{format}", disk.name))?;
        }
        for snapshot in &self.snapshots {
            let size = page.format_size(snapshot.size);
            page.write_field(
                "snapshot",
                format!("{} ({}), {size}", snapshot.name, snapshot.id),
            )?;
        }
        for bitmap in &self.bitmaps {
            let granularity = page.format_size(bitmap.granularity);
            let state = if bitmap.enabled { "" } else { ", disabled" };
            page.write_field("bitmap", format!("{}, {granularity}{state}", bitmap.name))?;
        }
        let mut warnings = self.warnings.iter();
        warnings.try_for_each(|warning| page.write_field("warning", warning))
    }
}
