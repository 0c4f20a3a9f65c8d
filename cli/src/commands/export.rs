//! `vellum export`: an image or snapshot becomes a file again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use vellum_store::{ExportTarget, Hole, StoreError, Unreadable};

use crate::failure::{Failure, Outcome};
use crate::output::page::Page;
use crate::output::{Answer, time};
use crate::patience::{PATIENCE, Patient};
use crate::session::Session;

/// Write an image or snapshot to a file, a block device, or standard output
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum export web@monday monday.raw
  vellum export web - | ssh host 'cat > /dev/vdb'
  vellum export web rest.raw --holes

A file gets its name when it is whole; its zeros are holes. Standard output gets every byte. \
What is damaged ends an export without a file, unless --holes is there: exit code 3 then says that something was left out.")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The file; - is standard output
    file: PathBuf,
    /// The file's format
    #[arg(
        short = 'O',
        long,
        value_enum,
        default_value = "raw",
        value_name = "FORMAT"
    )]
    output_as: OutputFormat,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Write all that can be read, zeros in place of the rest, and list what was left out
    #[arg(long)]
    holes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputFormat {
    /// The disk's bytes as they are
    Raw,
}

#[derive(Serialize)]
struct Exported {
    action: &'static str,
    name: String,
    file: String,
    size: u64,
    data_bytes: u64,
    seconds: f64,
    /// What could not be read and is zeros in the file.
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
    let OutputFormat::Raw = args.output_as;
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
    if args.file.as_os_str() != "-" {
        let path = session.caller.path(&args.file);
        let is_pipe = std::fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        return Ok(if is_pipe {
            ExportTarget::Stream(Box::new(open_pipe(&path, session)?))
        } else {
            ExportTarget::File {
                path,
                overwrite: args.force,
            }
        });
    }
    Ok(ExportTarget::Stream(Box::new(session.disk_output()?)))
}

/// A pipe with a name, once somebody reads it: its opening would wait for that, deaf to Ctrl-C.
fn open_pipe(path: &Path, session: &Session) -> Result<Patient<File>, Failure> {
    loop {
        match File::options()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
        {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                session.signals.await_stop(PATIENCE);
                session.signals.check()?;
            }
            Err(error) => return Err(Failure::io(format!("open {}", path.display()), error)),
            Ok(file) => return Ok(Patient::new(file, session.signals.clone())),
        }
    }
}

/// A file that is there, and damage, have remedies of our own. An interruption may end a wait
/// for the output first.
fn explain(error: StoreError, session: &Session) -> Failure {
    if session.signals.is_stopped() {
        return StoreError::Interrupted.into();
    }
    let exists = matches!(&error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists);
    let is_damage = matches!(&error, StoreError::Damaged(_));
    let failure = Failure::from(error);
    if exists {
        failure.hinted("add --force to replace it, or name another file")
    } else if is_damage {
        failure.hinted(
            "--holes writes all that can be read; `vellum check --read-data` lists all that is hit, `vellum repair` what can be mended",
        )
    } else {
        failure
    }
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
