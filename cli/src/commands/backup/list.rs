//! `vellum backup list`: the points of a repository, one a line.

use std::io;

use serde::Serialize;
use vellum_backup::record::Point;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::output::time::Rfc3339Time;
use crate::repository::point_filter::PointFilterArgs;
use crate::repository::{AccessArgs, address, opening, repo_args};

/// List what can be restored: the points of all images, or of some
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup list /mnt/backup
  vellum backup list s3://bucket/images web --host alpha

JSON of each point: id, name, kind (image or snapshot), host (that pushed it), image (its \
identity, through renames), snapshot and serial (null for an image's own \
state), content, origin (the image it was created from), size, mode, time (when the snapshot was \
taken, or the state pushed), tags, pinned.")]
pub(crate) struct Args {
    /// The repository, and images if not all are wanted
    #[arg(value_name = "REPO] [IMAGE")]
    words: Vec<String>,
    #[command(flatten)]
    filter: PointFilterArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// A point as answers describe it.
#[derive(Serialize)]
pub(super) struct PointDescription {
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
    pub(super) time: Rfc3339Time,
    tags: Vec<String>,
    pinned: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct PointListing {
    points: Vec<PointDescription>,
}

pub(super) fn run_backup_list(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&args.words, &session.caller)?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    let state = repository.state();
    let points = args.filter.choose(address::sort_points(&state))?;
    let mut wanted = points.clone();
    if !named.rest.is_empty() {
        wanted.clear();
        for image in named.rest {
            wanted.extend(address::of_known_image(&points, image)?);
        }
    }
    let points = wanted
        .into_iter()
        .map(PointDescription::from_point)
        .collect();
    session.output.print_answer(&PointListing { points })?;
    Ok(Outcome::Done)
}

impl PointDescription {
    pub(super) fn from_point(point: &Point) -> Self {
        Self {
            id: point.id.clone(),
            name: address::point_title(point),
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
            time: Rfc3339Time::new(point.time_ms),
            tags: point.tags.clone(),
            pinned: point.pinned,
        }
    }

    pub(super) fn short_id(&self) -> String {
        address::short_id(&self.id).to_owned()
    }

    /// Pin and tags, in one cell.
    pub(super) fn pin_and_tags(&self) -> String {
        let pin = self.pinned.then_some("pinned".to_owned());
        pin.into_iter()
            .chain(self.tags.iter().map(|tag| format!("+{tag}")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Render for PointListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("ID").as_whole(),
            Column::text_column("NAME"),
            Column::text_column("HOST").giving_way(2),
            Column::number_column("SIZE").giving_way(1),
            Column::text_column("TIME").as_time().giving_way(3),
            Column::text_column("MARKS").as_prose(),
        ];
        let row = |point: &PointDescription| {
            vec![
                point.short_id(),
                point.name.clone(),
                point.host.clone().unwrap_or_default(),
                page.format_size(point.size),
                page.format_minute(point.time),
                point.pin_and_tags(),
            ]
        };
        let rows: Vec<_> = self.points.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}
