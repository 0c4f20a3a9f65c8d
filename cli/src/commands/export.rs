//! `vellum export`: an image or snapshot becomes a file again.

mod chain;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vellum_core::tree::NodeRef;
use vellum_formats::Format;
use vellum_formats::write::TargetFormat;
use vellum_store::{
    DiskSource, ExportReport, ExportTarget, Hole, Store, StoreError, Unreadable, Watch,
    content_identity,
};

use crate::command_context::CommandContext;
use crate::disk_target::{ChosenFormat, DiskOutput, DiskTarget, OutputArgs, with_remedy};
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::TextPage;
use crate::output::{Render, time};

/// Write an image or snapshot to a file of any format, a block device, or standard output
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum export web@monday monday.raw
  vellum export web@monday monday.vdi
  vellum export web web.qcow2 -o compression_type=zstd
  vellum export web - | ssh host 'cat > /dev/vdb'
  vellum export web rest.raw --holes
  vellum export web --chain web-files -O vdi

A file gets its name when it is whole; its zeros are holes, and nobody else may read it. One that \
is replaced (--force) stays whose it was. A link is followed. Standard output gets every byte, or \
a format that goes forward: vmdk -o subformat=streamOptimized, vdi or vhd -o subformat=fixed. What \
is damaged ends an export without a file, unless --holes is there: exit code 3 then says that \
something was left out. The same image gives the same bytes on every machine.")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The file; - is standard output
    #[arg(required_unless_present = "chain")]
    file: Option<PathBuf>,
    /// Write the image and all its snapshots to this new folder, as files that stand on each other
    /// and name each other without a folder: -O qcow2 (the default), vdi, vhd or vhdx
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "force", "holes"])]
    chain: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Write all that can be read, zeros in place of the rest, and list what was left out
    #[arg(long)]
    holes: bool,
}

#[derive(Serialize)]
struct ExportSummary {
    action: &'static str,
    name: String,
    file: String,
    format: &'static str,
    size: u64,
    /// Bytes of a raw disk that are not zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes: Option<u64>,
    /// The file's length, if it is no raw disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    seconds: f64,
    /// The ranges that could not be read and are zeros in the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<OmittedRange>,
    #[serde(skip)]
    remark: String,
}

/// Totals of an export.
struct ExportTotals {
    size: u64,
    data_bytes: Option<u64>,
    file_bytes: Option<u64>,
    holes: Vec<Hole>,
}

#[derive(Serialize)]
struct OmittedRange {
    start: u64,
    length: u64,
    reason: String,
}

pub(super) fn run_export(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if let Some(folder) = &args.chain {
        let format = args
            .output
            .format_or(TargetFormat::default_variant(Format::Qcow2))?;
        return chain::run_chain_export(args, folder, format, session);
    }
    let store = session.open_to_read()?;
    let node = store.find_node(&args.node)?;
    let name = store.tree().display_name(node);
    let (target, chosen) = DiskTarget::resolve_target(args.target_file(), &args.output, session)?;
    let target = target.into_export(args.force);
    let meter = session.watch_bytes(&format!("exporting {name}"));
    let unreadable = if args.holes {
        Unreadable::Skip
    } else {
        Unreadable::Fail
    };
    let written = write_export(&store, node, chosen, target, unreadable, &meter)
        .map_err(|error| export_failure(error, session))?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let has_holes = !written.holes.is_empty();
    session.output.print_summary(&ExportSummary {
        action: "export",
        name,
        file: args.target_file().display().to_string(),
        format: chosen.format_name(),
        size: written.size,
        data_bytes: written.data_bytes,
        file_bytes: written.file_bytes,
        seconds,
        left_out: written.holes.into_iter().map(OmittedRange::new).collect(),
        remark: chosen.format_remark(),
    })?;
    Ok(if has_holes {
        Outcome::Losses
    } else {
        Outcome::Done
    })
}

impl Args {
    /// The file, which clap requires without --chain.
    fn target_file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("-"))
    }
}

fn write_export(
    store: &Store,
    node: NodeRef,
    chosen: ChosenFormat,
    target: ExportTarget,
    unreadable: Unreadable,
    watch: &dyn Watch,
) -> Result<ExportTotals, StoreError> {
    if chosen.format == TargetFormat::Raw {
        let report = store.export_as_far(node, target, unreadable, watch)?;
        return Ok(ExportTotals::from_raw_report(report));
    }
    let disk = store.still_disk(node)?;
    let name = disk.name().to_owned();
    let source = DiskSource::new(disk, unreadable);
    let identity = || match unreadable {
        Unreadable::Fail => source.disk().content_identity(),
        // Names may be among what is lost.
        Unreadable::Skip => content_identity(&source, &name, watch),
    };
    let output = DiskOutput {
        source: &source,
        name: &name,
        format: chosen.format,
        identity: &identity,
        verify: &|| Ok(()),
    };
    let image = output.write_to(target, watch)?;
    Ok(ExportTotals {
        size: source.disk().len(),
        data_bytes: None,
        file_bytes: Some(image.file_len),
        holes: source.unreadable_holes(),
    })
}

/// A file that is there, and damage, have remedies of our own. An interruption may end a wait
/// for the output first.
fn export_failure(error: StoreError, session: &CommandContext) -> CommandFailure {
    if session.signals.is_stopped() {
        return StoreError::Interrupted.into();
    }
    if matches!(&error, StoreError::Damaged(_)) {
        return CommandFailure::from(error).replace_hint(
            "--holes writes all that can be read; `vellum check --read-data` lists all that is \
             hit, `vellum repair` what can be mended",
        );
    }
    let said = if let StoreError::Io { source, .. } = &error {
        Some(source.kind())
    } else {
        None
    };
    with_remedy(error.into(), said)
}

impl ExportTotals {
    fn from_raw_report(report: ExportReport) -> Self {
        Self {
            size: report.len,
            data_bytes: Some(report.data_bytes),
            file_bytes: None,
            holes: report.holes,
        }
    }
}

impl OmittedRange {
    fn new(hole: Hole) -> Self {
        Self {
            start: hole.range.start,
            length: hole.range.end - hole.range.start,
            reason: hole.reason,
        }
    }
}

impl Render for ExportSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let took = time::format_duration(self.seconds);
        let size = page.format_size(self.size);
        let what = match (self.data_bytes, self.file_bytes) {
            (Some(data), _) => format!("{} of data", page.format_size(data)),
            (None, file) => format!("a file of {}", page.format_size(file.unwrap_or_default())),
        };
        page.write_line(format!(
            "exported {} to {}{}, {size}: {what} in {took}",
            self.name, self.file, self.remark
        ))?;
        for left in &self.left_out {
            page.write_line(format!(
                "left out: bytes {} to {} ({})",
                left.start,
                left.start + left.length,
                left.reason
            ))?;
        }
        let left_len: u64 = self.left_out.iter().map(|left| left.length).sum();
        if left_len == 0 {
            return Ok(());
        }
        let left = page.format_size(left_len);
        page.write_line(format!("{left} could not be read and are zeros there"))
    }
}
