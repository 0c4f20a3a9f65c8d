//! `--skip-free`: what a guest does not use is left out of an import, and the answer lists it.

use std::io;

use serde::Serialize;
use vellum_core::guest::{DiskPart, FreeSpace, FreeVerdict};
use vellum_core::source::SourceError;
use vellum_store::{ImageInput, StoreError, Watch};

use crate::failure::CommandFailure;
use crate::output::page::TextPage;

/// Space that was left out.
#[derive(Serialize)]
pub(crate) struct SkippedSpace {
    /// Bytes that nothing on the disk uses.
    bytes: u64,
    /// Of those, the bytes that the file had as data.
    data_bytes: u64,
    parts: Vec<SkippedPart>,
}

/// A part of a disk, and how much of it was left out.
#[derive(Serialize)]
struct SkippedPart {
    name: String,
    kind: &'static str,
    size: u64,
    bytes: u64,
    /// The reason why all of it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// The input without what its file systems do not use. Refused if one of them is mounted, or was
/// not unmounted.
pub(crate) fn skip_free(
    input: ImageInput,
    watch: &dyn Watch,
) -> Result<(ImageInput, Option<SkippedSpace>), CommandFailure> {
    let found = input.free_space(watch).map_err(without_parent)?;
    let Some(space) = found else {
        return Ok((input, None));
    };
    refuse_unclean(input.name(), &space)?;
    let (input, data_bytes) = input.without_free_space(&space)?;
    let parts = space.parts().iter().map(SkippedPart::new).collect();
    let skipped = SkippedSpace {
        bytes: space.free_len(),
        data_bytes,
        parts,
    };
    Ok((input, Some(skipped)))
}

fn refuse_unclean(name: &str, space: &FreeSpace) -> Result<(), CommandFailure> {
    let reasons: Vec<String> = space
        .unclean_parts()
        .map(|part| match &part.verdict {
            FreeVerdict::Unclean(reason) => format!("{} ({}): {reason}", part.name, part.kind),
            _ => part.name.clone(),
        })
        .collect();
    if reasons.is_empty() {
        return Ok(());
    }
    Err(CommandFailure::with_hint(
        format!(
            "what {name} does not use is not certain: {}",
            reasons.join("; ")
        ),
        "shut its guest down and import again, or leave out --skip-free: then it is stored as it \
         is",
    ))
}

fn without_parent(error: StoreError) -> CommandFailure {
    match error {
        StoreError::Source {
            source: SourceError::Refused { .. },
            ..
        } => CommandFailure::from(error)
            .replace_hint("leave out --skip-free, or import a file that is whole"),
        other => other.into(),
    }
}

impl SkippedPart {
    fn new(part: &DiskPart) -> Self {
        Self {
            name: part.name.clone(),
            kind: part.kind,
            size: part.len,
            bytes: part.free,
            kept: match &part.verdict {
                FreeVerdict::Free => None,
                FreeVerdict::Kept(reason) | FreeVerdict::Unclean(reason) => Some(reason.clone()),
            },
        }
    }
}

impl SkippedSpace {
    /// The lines below those of the import.
    pub(crate) fn render_lines(&self, page: &mut TextPage) -> io::Result<()> {
        let (bytes, data) = (
            page.format_size(self.bytes),
            page.format_size(self.data_bytes),
        );
        page.write_line(format!(
            "left out {bytes} that the guest does not use, {data} of it data"
        ))?;
        for part in &self.parts {
            let about = match &part.kept {
                None => format!("{} left out", page.format_size(part.bytes)),
                Some(reason) => format!("stored whole: {reason}"),
            };
            page.write_line(format!("{} ({}): {about}", part.name, part.kind))?;
        }
        Ok(())
    }
}
