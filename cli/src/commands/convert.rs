//! `vellum convert`: a disk goes from one file to another, in another format. No store is needed.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_store::{StoreError, content_identity};

use crate::command_context::CommandContext;
use crate::disk_target::{DiskOutput, DiskTarget, OutputArgs, with_remedy};
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::TextPage;
use crate::output::{Render, time};
use crate::source_format::{self, FileArgs};

/// Write a disk from a file of any format to another file, a block device, or standard output; no
/// store is needed
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum convert web.qcow2 web.vdi
  vellum convert appliance.ova web.raw --disk web-disk1.vmdk
  vellum convert web.qcow2 - -O vmdk -o subformat=streamOptimized | ssh host 'cat > web.vmdk'

The file is read as its signature says, or as -f does; no other file is opened but a VMDK's \
extents beside it. The same disk gives the same bytes on every machine. A file gets its name when \
it is whole and nothing wrote to the source meanwhile; nobody else may read it.")]
pub(crate) struct Args {
    /// The file that is read
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// The file that is written; - is standard output
    #[arg(value_name = "OUT")]
    to: PathBuf,
    #[command(flatten)]
    input: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct ConvertSummary {
    action: &'static str,
    from: String,
    from_format: &'static str,
    to: String,
    format: &'static str,
    size: u64,
    file_bytes: u64,
    seconds: f64,
    #[serde(skip)]
    remark: String,
}

pub(super) fn run_convert(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let name = args.from.display().to_string();
    let file = source_format::open_disk_file(
        &args.from,
        &args.input,
        &args.input.expected_file(),
        session,
    )?;
    for sentence in file.source().left_behind() {
        session.print_warning(&format!("{name} {sentence}"));
    }
    let (target, chosen) = DiskTarget::resolve_target(&args.to, &args.output, session)?;
    let meter = session.watch_bytes(&format!("converting {name}"));
    let output = DiskOutput {
        source: &**file.source(),
        name: &name,
        format: chosen.format,
        identity: &|| content_identity(&**file.source(), &name, &meter),
        verify: &|| file.verify_unchanged(),
    };
    let written = output.write_to(target.into_export(args.force), &meter);
    let written = written.map_err(|error| convert_failure(error, session))?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    session.output.print_summary(&ConvertSummary {
        action: "convert",
        from: name,
        from_format: file.format().format_name(),
        to: args.to.display().to_string(),
        format: chosen.format_name(),
        size: file.source().len(),
        file_bytes: written.file_len,
        seconds,
        remark: chosen.format_remark(),
    })?;
    Ok(Outcome::Done)
}

/// The failure of a conversion, with advice that is true of one.
fn convert_failure(error: StoreError, session: &CommandContext) -> CommandFailure {
    if session.signals.is_stopped() {
        return CommandFailure::from(StoreError::Interrupted)
            .replace_hint("no file was written; run the command again");
    }
    match &error {
        StoreError::Source { .. } => CommandFailure::from(error)
            .replace_hint("nothing was written; mend the source, or take another copy"),
        StoreError::SourceChanged { .. } => CommandFailure::from(error)
            .replace_hint("nothing was written; convert again when nothing writes to the source"),
        StoreError::Io { source, .. } => {
            let said = Some(source.kind());
            with_remedy(error.into(), said)
        }
        _ => error.into(),
    }
}

impl Render for ConvertSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (size, len) = (
            page.format_size(self.size),
            page.format_size(self.file_bytes),
        );
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "converted {} from {} to {}{}, {size}: a file of {len} in {took}",
            self.from, self.from_format, self.to, self.remark
        ))
    }
}
