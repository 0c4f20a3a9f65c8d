//! `vellum export`: an image or snapshot becomes a file again.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_store::{ExportTarget, Hole, StoreError, Unreadable};

use crate::disk_target::{DiskTarget, OutputFormat, with_remedy};
use crate::failure::{Failure, Outcome};
use crate::output::page::Page;
use crate::output::{Answer, time};
use crate::session::Session;

/// Write an image or snapshot to a file, a block device, or standard output
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum export web@monday monday.raw
  vellum export web - | ssh host 'cat > /dev/vdb'
  vellum export web rest.raw --holes

A file gets its name when it is whole; its zeros are holes, and nobody else may read it. One that is
replaced (--force) stays whose it was. A link is followed. Standard output gets every byte. What is
damaged ends an export without a file, unless --holes is there: exit code 3 then says that something
was left out.")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The file; - is standard output
    file: PathBuf,
    /// The file's format [default: raw, unless the file's name says another]
    #[arg(short = 'O', long, value_enum, value_name = "FORMAT")]
    output_as: Option<OutputFormat>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Write all that can be read, zeros in place of the rest, and list what was left out
    #[arg(long)]
    holes: bool,
}

#[derive(Serialize)]
struct Exported {
    action: &'static str,
    name: String,
    file: String,
    size: u64,
    data_bytes: u64,
    seconds: f64,
    /// The ranges that could not be read and are zeros in the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    start: u64,
    length: u64,
    reason: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let node = store.find(&args.node)?;
    let name = store.tree().display(node);
    let target = target(args, session)?;
    let meter = session.watch_bytes(&format!("exporting {name}"));
    let unreadable = if args.holes {
        Unreadable::Skip
    } else {
        Unreadable::Fail
    };
    let report = store
        .export_as_far(node, target, unreadable, &meter)
        .map_err(|error| explain(error, session))?;
    let seconds = meter.elapsed().as_secs_f64();
    drop(meter);
    let has_holes = !report.holes.is_empty();
    let file = args.file.display().to_string();
    session.output.summary(&Exported {
        action: "export",
        name,
        file,
        size: report.len,
        data_bytes: report.data_bytes,
        seconds,
        left_out: report.holes.into_iter().map(LeftOut::new).collect(),
    })?;
    Ok(if has_holes {
        Outcome::Losses
    } else {
        Outcome::Done
    })
}

fn target(args: &Args, session: &mut Session) -> Result<ExportTarget, Failure> {
    Ok(match DiskTarget::of(&args.file, args.output_as, session)? {
        DiskTarget::Stream(stream) => ExportTarget::Stream(stream),
        DiskTarget::Path(path) => ExportTarget::File {
            path,
            overwrite: args.force,
        },
    })
}

/// A file that is there, and damage, have remedies of our own. An interruption may end a wait
/// for the output first.
fn explain(error: StoreError, session: &Session) -> Failure {
    if session.signals.is_stopped() {
        return StoreError::Interrupted.into();
    }
    if matches!(&error, StoreError::Damaged(_)) {
        return Failure::from(error).hinted(
            "--holes writes all that can be read; `vellum check --read-data` lists all that is hit, `vellum repair` what can be mended",
        );
    }
    let said = if let StoreError::Io { source, .. } = &error {
        Some(source.kind())
    } else {
        None
    };
    with_remedy(error.into(), said)
}

impl LeftOut {
    fn new(hole: Hole) -> Self {
        Self {
            start: hole.range.start,
            length: hole.range.end - hole.range.start,
            reason: hole.reason,
        }
    }
}

impl Answer for Exported {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (size, data) = (page.size(self.size), page.size(self.data_bytes));
        let took = time::span(self.seconds);
        page.line(format!(
            "exported {} to {}, {size}: {data} of data in {took}",
            self.name, self.file
        ))?;
        for left in &self.left_out {
            page.line(format!(
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
        let left = page.size(left_len);
        page.line(format!("{left} could not be read and are zeros there"))
    }
}
