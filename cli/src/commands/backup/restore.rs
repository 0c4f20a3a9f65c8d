//! `vellum backup restore`: a point of a repository becomes a file, without a store.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_backup::error::BackupError;
use vellum_backup::reader::Reader;
use vellum_backup::restore::{RestoreTarget, restore};
use vellum_core::identity::ContentId;

use crate::disk_target::{DiskTarget, OutputFormat, with_remedy};
use crate::failure::{Failure, Outcome};
use crate::output::page::Page;
use crate::output::{Answer, time};
use crate::repository::{self, KeyArgs, address, words};
use crate::session::Session;

/// Write a point to a file or to standard output; no store is needed
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup restore /mnt/backup web@monday monday.raw
  vellum backup restore s3://bucket/images web - | ssh host 'cat > /dev/vdb'

A file gets its name when it is whole and on disk; its zeros are holes, and nobody else may read it.
One that is replaced (--force) stays whose it was. A link is followed. Standard output gets every
byte.")]
pub(crate) struct Args {
    /// The repository, the point, and the file; - is standard output
    #[arg(value_names = ["REPO", "POINT", "FILE"], num_args = 0..=3)]
    words: Vec<String>,
    /// The file's format [default: raw, unless the file's name says another]
    #[arg(short = 'O', long, value_enum, value_name = "FORMAT")]
    output_as: Option<OutputFormat>,
    /// Replace a file that is there, or write over a block device
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Restored {
    action: &'static str,
    point: String,
    name: String,
    file: String,
    size: u64,
    data_bytes: u64,
    seconds: f64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::exactly(&args.words, &["POINT", "FILE"], &session.caller)?;
    let [point, file] = named.rest else {
        unreachable!("as many words were asked for")
    };
    let target = target(file, args, session)?;
    let repository = repository::open(&named.place, &args.key, session)?;
    let state = repository.state();
    let points = address::sorted(state.points().map(AsRef::as_ref));
    let point = address::find(&points, point, session.zone())?;
    let content = ContentId::parse(&point.content).ok_or_else(|| no_content(&point.id))?;
    let name = address::title(point);
    let meter = session.watch_bytes(&format!("restoring {name}"));
    let report = restore(&Reader::new(&repository), content, target, &meter)
        .map_err(|error| explain(error.into(), &name))?;
    let seconds = meter.elapsed().as_secs_f64();
    drop(meter);
    session.output.summary(&Restored {
        action: "restore",
        point: point.id.clone(),
        name,
        file: file.clone(),
        size: report.len,
        data_bytes: report.data_bytes,
        seconds,
    })?;
    Ok(Outcome::Done)
}

fn target(file: &str, args: &Args, session: &mut Session) -> Result<RestoreTarget, Failure> {
    Ok(
        match DiskTarget::of(Path::new(file), args.output_as, session)? {
            DiskTarget::Stream(stream) => RestoreTarget::Stream(stream),
            DiskTarget::Path(path) => RestoreTarget::File {
                path,
                overwrite: args.force,
            },
        },
    )
}

pub(super) fn no_content(point: &str) -> Failure {
    Failure::failed(
        format!("point {point} names no content"),
        "`vellum backup verify` tells what else is damaged",
    )
}

/// Damage is reported with the point that it hit.
fn explain(failure: Failure, name: &str) -> Failure {
    match failure {
        Failure::Backup(BackupError::Damaged {
            object,
            reason,
            mut points,
        }) => {
            points.push(name.to_owned());
            points.dedup();
            Failure::Backup(BackupError::Damaged {
                object,
                reason,
                points,
            })
        }
        // Gone, or too short: whether it is damage or the place, the point is hit.
        Failure::Backup(error @ BackupError::Objects { .. }) => Failure::failed(
            format!("{error} (needed by {name})"),
            "run `backup verify` to see what else is hit; other points can be restored",
        ),
        Failure::Backup(BackupError::Io { what, source }) => {
            let said = Some(source.kind());
            with_remedy(BackupError::Io { what, source }.into(), said)
        }
        other => other,
    }
}

impl Answer for Restored {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let (size, data, took) = (
            page.size(self.size),
            page.size(self.data_bytes),
            time::span(self.seconds),
        );
        page.line(format!(
            "restored {} to {}, {size}: {data} of data in {took}",
            self.name, self.file
        ))
    }
}
