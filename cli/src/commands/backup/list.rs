//! `vellum backup list`: the points of a repository, one a line.

use std::io;

use serde::Serialize;
use vellum_backup::record::Point;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::output::table::Column;
use crate::output::time::Moment;
use crate::repository::{self, KeyArgs, address, words};
use crate::session::Session;

/// List what can be restored: the points of all images, or of some
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup list /mnt/backup
  vellum backup list s3://bucket/images web --host alpha

JSON of each point: id, name, kind (image or snapshot), host (that pushed it), image (its identity, through renames), snapshot and serial (null for an image's own \
state), content, origin (the image it was created from), size, mode, time (when the snapshot was taken, or the state pushed), tags, pinned.")]
pub(crate) struct Args {
    /// The repository, and images if not all are wanted
    #[arg(value_name = "REPO] [IMAGE")]
    words: Vec<String>,
    /// Only points of this machine
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
}

/// A point as answers describe it.
#[derive(Serialize)]
pub(super) struct Described {
    pub(super) id: String,
    /// `image` or `image@snapshot`.
    pub(super) name: String,
    kind: &'static str,
    /// The machine that it was pushed from; null if nobody said.
    pub(super) host: Option<String>,
    /// The image, through renames.
    pub(super) image: String,
    snapshot: Option<String>,
    serial: Option<u64>,
    /// The identity of what it shows.
    pub(super) content: String,
    /// The image that this image was created from.
    origin: Option<String>,
    pub(super) size: u64,
    pub(super) mode: String,
    /// The time when the snapshot was taken, or the state pushed.
    pub(super) time: Moment,
    tags: Vec<String>,
    pinned: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Listing {
    points: Vec<Described>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::at_least(&args.words, &session.caller)?;
    let repository = repository::open(&named.place, &args.key, session)?;
    let state = repository.state();
    let points = address::of_host(address::sorted(&state), args.host.as_deref())?;
    let mut wanted = points.clone();
    if !named.rest.is_empty() {
        wanted.clear();
        for image in named.rest {
            wanted.extend(address::of_known_image(&points, image)?);
        }
    }
    let points = wanted.into_iter().map(Described::of).collect();
    session.output.answer(&Listing { points })?;
    Ok(Outcome::Done)
}

impl Described {
    pub(super) fn of(point: &Point) -> Self {
        Self {
            id: point.id.clone(),
            name: address::title(point),
            kind: if point.snapshot.is_some() {
                "snapshot"
            } else {
                "image"
            },
            host: point.host.clone(),
            image: point.image.clone(),
            snapshot: point
                .snapshot
                .as_ref()
                .map(|snapshot| snapshot.name.clone()),
            serial: point.snapshot.as_ref().map(|snapshot| snapshot.serial),
            content: point.content.clone(),
            origin: point.origin.clone(),
            size: point.len,
            mode: point.mode.clone(),
            time: Moment::new(point.time_ms),
            tags: point.tags.clone(),
            pinned: point.pinned,
        }
    }

    pub(super) fn is_snapshot(&self) -> bool {
        self.kind == "snapshot"
    }

    pub(super) fn short_id(&self) -> String {
        address::short(&self.id).to_owned()
    }

    /// Pin and tags, in one cell.
    pub(super) fn marks(&self) -> String {
        let pin = self.pinned.then_some("pinned".to_owned());
        pin.into_iter()
            .chain(self.tags.iter().map(|tag| format!("+{tag}")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Answer for Listing {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let columns = [
            Column::text("ID"),
            Column::text("NAME"),
            Column::text("HOST"),
            Column::number("SIZE"),
            Column::text("TIME"),
            Column::text("MARKS"),
        ];
        let row = |point: &Described| {
            vec![
                point.short_id(),
                point.name.clone(),
                point.host.clone().unwrap_or_default(),
                page.size(point.size),
                page.moment(point.time),
                point.marks(),
            ]
        };
        let rows: Vec<_> = self.points.iter().map(row).collect();
        page.table(&columns, &rows)
    }
}
