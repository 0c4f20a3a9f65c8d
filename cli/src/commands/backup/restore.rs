//! `vellum backup restore`: a point of a repository becomes a file, without a store.

use std::io;
use std::path::Path;

use serde::Serialize;
use vellum_backup::reader::Reader;
use vellum_backup::restore::{RestoreTarget, restore};
use vellum_core::identity::ContentId;

use crate::failure::{Failure, Outcome};
use crate::output::page::Page;
use crate::output::{Answer, time};
use crate::repository::{self, KeyArgs, address, words};
use crate::session::Session;
use crate::zone;

/// Write a point to a file or to standard output; no store is needed
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup restore /mnt/backup web@monday monday.raw
  vellum backup restore s3://bucket/images web - | ssh host 'cat > /dev/vdb'

A file gets its name when it is whole and on disk; its zeros are holes. Devices and links are refused. Standard output gets every byte.")]
pub(crate) struct Args {
    /// The repository, the point, and the file; - is standard output
    #[arg(value_names = ["REPO", "POINT", "FILE"], num_args = 0..=3)]
    words: Vec<String>,
    /// Replace a file that is there
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
    let target = target(file, args.force, session)?;
    let repository = repository::open(&named.place, &args.key, session)?;
    let state = repository.state();
    let points = address::sorted(state.points().map(AsRef::as_ref));
    let point = address::find(&points, point, &zone::of(&session.caller))?;
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

fn target(file: &str, overwrite: bool, session: &mut Session) -> Result<RestoreTarget, Failure> {
    if file != "-" {
        return Ok(RestoreTarget::File {
            path: session.caller.path(Path::new(file)),
            overwrite,
        });
    }
    Ok(RestoreTarget::Stream(Box::new(session.disk_output()?)))
}

pub(super) fn no_content(point: &str) -> Failure {
    Failure::failed(
        format!("point {point} names no content"),
        "`vellum backup verify` tells what else is damaged",
    )
}

/// Damage says which point it hit.
fn explain(failure: Failure, name: &str) -> Failure {
    match failure {
        Failure::Backup(vellum_backup::error::BackupError::Damaged {
            object,
            reason,
            mut points,
        }) => {
            points.push(name.to_owned());
            points.dedup();
            Failure::Backup(vellum_backup::error::BackupError::Damaged {
                object,
                reason,
                points,
            })
        }
        // Gone, or too short: whether it is damage or the place, the point is hit.
        Failure::Backup(error @ vellum_backup::error::BackupError::Objects { .. }) => {
            Failure::failed(
                format!("{error} (needed by {name})"),
                "run `backup verify` to see what else is hit; other points can be restored",
            )
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
