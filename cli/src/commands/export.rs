//! `vellum export`: an image or snapshot becomes a file again.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_store::{ExportTarget, StoreError};

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

A file gets its name when it is whole; its zeros are holes, and nobody else may read it. One that is
replaced (--force) stays whose it was. A link is followed. Standard output gets every byte.")]
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
}

#[derive(Serialize)]
struct Exported {
    action: &'static str,
    name: String,
    file: String,
    size: u64,
    data_bytes: u64,
    seconds: f64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let node = store.find(&args.node)?;
    let name = store.tree().display(node);
    let target = target(args, session)?;
    let meter = session.watch_bytes(&format!("exporting {name}"));
    let report = store
        .export(node, target, &meter)
        .map_err(|error| explain(error, session))?;
    let seconds = meter.elapsed().as_secs_f64();
    drop(meter);
    let file = args.file.display().to_string();
    session.output.summary(&Exported {
        action: "export",
        name,
        file,
        size: report.len,
        data_bytes: report.data_bytes,
        seconds,
    })?;
    Ok(Outcome::Done)
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

/// A file that is there is the one error with a remedy of our own. An interruption may end a wait
/// for the output first.
fn explain(error: StoreError, session: &Session) -> Failure {
    if session.signals.is_stopped() {
        return StoreError::Interrupted.into();
    }
    if let StoreError::Io { what, source } = error {
        let kind = io::Error::from(source.kind());
        return with_remedy(StoreError::Io { what, source }.into(), Some(&kind));
    }
    error.into()
}

impl Answer for Exported {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (size, data) = (page.size(self.size), page.size(self.data_bytes));
        let took = time::span(self.seconds);
        page.line(format!(
            "exported {} to {}, {size}: {data} of data in {took}",
            self.name, self.file
        ))
    }
}
