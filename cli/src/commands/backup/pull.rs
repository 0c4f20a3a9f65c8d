//! `vellum backup pull`: points of a repository become images of the store again.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;
use vellum_backup::pull::{PullReport, PullRequest, pull};
use vellum_backup::reader::Reader;
use vellum_backup::record::Point;
use vellum_backup::repository::Repository;
use vellum_core::name::Name;
use vellum_store::Store;

use crate::command_context::CommandContext;
use crate::commands::render_healed_count;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Take images with their snapshots, and machines, back into the store: only what is not there
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup pull /mnt/backup --all
  vellum backup pull /mnt/backup web@monday --as web-then

Names that are taken are refused; --as and --prefix give others. All of it appears at once, or \
nothing.")]
pub(crate) struct Args {
    /// The repository, and images (with all their snapshots) or points
    #[arg(value_name = "REPO] [IMAGE[@SNAPSHOT]")]
    pub(super) words: Vec<String>,
    /// All images and machines
    #[arg(long)]
    all: bool,
    /// What to call the one image that is pulled
    #[arg(
        long = "as",
        value_name = "NAME",
        value_parser = lookup::parse_name,
        conflicts_with_all = ["all", "prefix"]
    )]
    rename: Option<Name>,
    /// What to put before all names
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Read what the store seems to have before it is believed, each frame once: what is damaged is
    /// fetched again, for every image that has it
    #[arg(long)]
    verify: bool,
    /// Let images that are here follow: they get the new snapshots and the new state. What was
    /// changed here since it came stops that
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    pub(super) access: AccessArgs,
}

#[derive(Serialize)]
struct PullSummary {
    action: &'static str,
    repository: String,
    images: Vec<String>,
    contents_new: u64,
    contents_known: u64,
    chunks_fetched: u64,
    chunks_known: u64,
    /// Chunks that were there, damaged, and are whole again for every image that has them.
    chunks_healed: u64,
    /// Machine snapshots that the repository has not all of.
    lost_machine_snapshots: Vec<String>,
    seconds: f64,
}

pub(super) fn run_backup_pull(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&args.words, &session.caller)?;
    if named.rest.is_empty() != args.all {
        return Err(CommandFailure::usage_error(
            "what is to be pulled is not clear",
            "name images or points, or add --all, but not both",
        ));
    }
    let store = session.open_to_write()?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    let reader = Reader::new(&repository);
    let request = pull_request(args, named.rest, &reader, session)?;
    let meter = session.watch_bytes(&format!("pulling from {}", repository.place()));
    let report = pull(&reader, &store, &request, &meter)?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    let pulled = PullSummary::new(&store, &repository, report, seconds);
    session.output.print_summary(&pulled)?;
    for lost in &pulled.lost_machine_snapshots {
        session.print_warning(&format!(
            "machine snapshot {lost} was left out: the repository has not all of its disks"
        ));
    }
    Ok(if pulled.lost_machine_snapshots.is_empty() {
        Outcome::Done
    } else {
        Outcome::Losses
    })
}

fn pull_request(
    args: &Args,
    wanted: &[String],
    reader: &Reader<'_>,
    session: &CommandContext,
) -> Result<PullRequest, CommandFailure> {
    let state = reader.repository().state();
    let points = address::sort_points(&state);
    let ids = chosen_points(&points, wanted, session)?;
    let is_wanted = |point: &Point| args.all || ids.contains(point.id.as_str());
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let renamed = |name: &str| {
        args.rename
            .as_ref()
            .map_or_else(|| format!("{prefix}{name}"), ToString::to_string)
    };
    let request = PullRequest {
        verify: args.verify,
        update: args.update,
        ..PullRequest::of(reader, is_wanted, args.all, renamed)?
    };
    match (request.images.len(), &args.rename) {
        (0, _) => Err(CommandFailure::with_hint(
            "the repository has no points",
            "`vellum backup push` brings some",
        )),
        (count, Some(_)) if count > 1 => Err(CommandFailure::usage_error(
            format!("--as names one image, and these are {count}"),
            "use --prefix",
        )),
        _ => Ok(request),
    }
}

/// The ids of what `wanted` means by whole names: an image's means all points of it.
pub(super) fn chosen_points<'a>(
    points: &[&'a Point],
    wanted: &[String],
    session: &CommandContext,
) -> Result<BTreeSet<&'a str>, CommandFailure> {
    let mut ids = BTreeSet::new();
    for text in wanted {
        let image = points.iter().filter(|point| point.name == *text);
        let image: Vec<&str> = image.map(|point| point.id.as_str()).collect();
        if image.is_empty() {
            ids.insert(
                address::find_whole(points, text, session.time_zone())?
                    .id
                    .as_str(),
            );
        } else {
            ids.extend(image);
        }
    }
    Ok(ids)
}

impl PullSummary {
    fn new(store: &Store, repository: &Repository, report: PullReport, seconds: f64) -> Self {
        let tree = store.tree();
        Self {
            action: "pull",
            repository: repository.place(),
            images: report
                .nodes
                .iter()
                .map(|node| tree.display_name(*node))
                .collect(),
            contents_new: report.contents.0,
            contents_known: report.contents.1,
            chunks_fetched: report.chunks.0,
            chunks_known: report.chunks.1,
            chunks_healed: report.chunks_healed,
            lost_machine_snapshots: report.lost_machine_snapshots,
            seconds,
        }
    }
}

impl Render for PullSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (images, chunks) = (
            format_count(self.images.len() as u64, "image"),
            format_count(self.chunks_fetched, "chunk"),
        );
        let took = time::format_duration(self.seconds);
        page.write_line(format!(
            "pulled {images}: {chunks} fetched ({} known) in {took}",
            self.chunks_known
        ))?;
        render_healed_count(page, self.chunks_healed)?;
        self.images
            .iter()
            .try_for_each(|image| page.write_line(image))
    }
}
