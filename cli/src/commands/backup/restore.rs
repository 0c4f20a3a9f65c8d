//! `vellum backup restore`: a point of a repository becomes a file, without a store.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_backup::device::RepositoryExports;
use vellum_backup::error::BackupError;
use vellum_backup::reader::{CacheLimits, Reader};
use vellum_backup::repository::Repository;
use vellum_backup::restore::{RestoreTarget, restore};
use vellum_core::device::{Exports, Intent, OpenError};
use vellum_core::hash::ChunkHash;
use vellum_core::identity::ContentId;
use vellum_core::source::ImageSource;
use vellum_formats::write::TargetFormat;
use vellum_store::{ExportTarget, StoreError, Watch};

use crate::command_context::CommandContext;
use crate::disk_target::{ChosenFormat, DiskOutput, DiskTarget, OutputArgs, with_remedy};
use crate::failure::{CommandFailure, Outcome};
use crate::file_exports::DeviceSource;
use crate::output::page::TextPage;
use crate::output::{Render, time};
use crate::repository::point_filter::PointFilterArgs;
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Write a point to a file of any format or to standard output; no store is needed
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup restore /mnt/backup web@monday monday.raw
  vellum backup restore /mnt/backup web@monday monday.vdi
  vellum backup restore s3://bucket/images web - | ssh host 'cat > /dev/vdb'

A file gets its name when it is whole and on disk; its zeros are holes, and nobody else may read it.
One that is replaced (--force) stays whose it was. A link is followed. Standard output gets every
byte.")]
pub(crate) struct Args {
    /// The repository, the point, and the file; - is standard output
    #[arg(value_names = ["REPO", "POINT", "FILE"], num_args = 0..=3)]
    words: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    /// Replace a file that is there, or write over a block device
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    filter: PointFilterArgs,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct PointRestoreSummary {
    action: &'static str,
    point: String,
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
    #[serde(skip)]
    remark: String,
}

/// The disk's length; and bytes of data, or of the file that was written.
type Restoration = (u64, Option<u64>, Option<u64>);

pub(super) fn run_backup_restore(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::repository_and_words(&args.words, &["POINT", "FILE"], &session.caller)?;
    let [point, file] = named.rest else {
        unreachable!("as many words were asked for")
    };
    let (target, chosen) = DiskTarget::resolve_target(Path::new(file), &args.output, session)?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    let state = repository.state();
    let points = args.filter.choose(address::sort_points(&state))?;
    let point = address::find_point(&points, point, session.time_zone())?;
    let content = ContentId::parse(&point.content).ok_or_else(|| no_content(&point.id))?;
    let name = address::point_title(point);
    let meter = session.watch_bytes(&format!("restoring {name}"));
    let id = point.id.clone();
    let restored = if chosen.format == TargetFormat::Raw {
        let target = raw_target(target, args.force);
        let report = restore(&Reader::new(&repository), content, target, &meter);
        report.map(|report| (report.len, Some(report.data_bytes), None))
    } else {
        let target = target.into_export(args.force);
        restore_as(repository, &id, content, chosen, target, &meter)
    };
    let (size, data_bytes, file_bytes) =
        restored.map_err(|error| restore_failure(error.into(), &name))?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    session.output.print_summary(&PointRestoreSummary {
        action: "restore",
        point: id,
        name,
        file: file.clone(),
        format: chosen.format_name(),
        size,
        data_bytes,
        file_bytes,
        seconds,
        remark: chosen.format_remark(),
    })?;
    Ok(Outcome::Done)
}

fn raw_target(target: DiskTarget, overwrite: bool) -> RestoreTarget {
    match target {
        DiskTarget::Stream(stream) => RestoreTarget::Stream(stream),
        DiskTarget::Path(path) => RestoreTarget::File { path, overwrite },
    }
}

/// Writes the point as an image file, which is read as a guest would read it.
fn restore_as(
    repository: Repository,
    point: &str,
    content: ContentId,
    chosen: ChosenFormat,
    target: ExportTarget,
    watch: &dyn Watch,
) -> Result<Restoration, BackupError> {
    let exports = RepositoryExports::new(repository, CacheLimits::default())?;
    let device = exports.open_export(point, Intent::Read);
    let device = device.map_err(|error: OpenError| {
        BackupError::Store(StoreError::Parameter(format!("{point}: {error}")))
    })?;
    let source = DeviceSource(device);
    let output = DiskOutput {
        source: &source,
        name: point,
        format: chosen.format,
        // The same in every repository that has the content.
        identity: &|| Ok(ChunkHash::of_chunk(content.to_string().as_bytes()).0),
        verify: &|| Ok(()),
    };
    let written = output.write_to(target, watch)?;
    Ok((source.len(), None, Some(written.file_len)))
}

pub(super) fn no_content(point: &str) -> CommandFailure {
    CommandFailure::with_hint(
        format!("point {point} names no content"),
        "`vellum backup verify` tells what else is damaged",
    )
}

/// Damage is reported with the point that it hit.
fn restore_failure(failure: CommandFailure, name: &str) -> CommandFailure {
    match failure {
        CommandFailure::Backup(BackupError::Damaged {
            object,
            reason,
            mut points,
        }) => {
            points.push(name.to_owned());
            points.dedup();
            CommandFailure::Backup(BackupError::Damaged {
                object,
                reason,
                points,
            })
        }
        // Gone, or too short: whether it is damage or the place, the point is hit.
        CommandFailure::Backup(error @ BackupError::Objects { .. }) => CommandFailure::with_hint(
            format!("{error} (needed by {name})"),
            "run `backup verify` to see what else is hit; other points can be restored",
        ),
        CommandFailure::Store(StoreError::Io { what, source }) => {
            let said = Some(source.kind());
            with_remedy(StoreError::Io { what, source }.into(), said)
        }
        CommandFailure::Backup(BackupError::Io { what, source }) => {
            let said = Some(source.kind());
            with_remedy(BackupError::Io { what, source }.into(), said)
        }
        other => other,
    }
}

impl Render for PointRestoreSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let took = time::format_duration(self.seconds);
        let size = page.format_size(self.size);
        let what = match (self.data_bytes, self.file_bytes) {
            (Some(data), _) => format!("{} of data", page.format_size(data)),
            (None, file) => format!("a file of {}", page.format_size(file.unwrap_or_default())),
        };
        page.write_line(format!(
            "restored {} to {}{}, {size}: {what} in {took}",
            self.name, self.file, self.remark
        ))
    }
}
