//! `vellum forget`: deletes the snapshots of a store that no rule keeps.

use std::io;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::tree::NodeRef;

use super::report;
use super::report::policy::{self, ShownRetention};
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::retention_args::KeepArgs;

/// Delete the snapshots that no rule keeps, of all images or of some
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum forget -n --keep-daily 7 --keep-weekly 4
  vellum forget web --keep-last 3 --tag nightly

The rules look at each image by itself. What is pinned, or belongs to a machine's snapshot, stays; \
so does everything that the snapshots stand on, and all images. With --tag, snapshots without the \
tag are not looked at. Points of a repository are forgotten by `vellum backup forget`.")]
pub(crate) struct Args {
    /// Only the snapshots of these images
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Only snapshots with this tag; of several, all of them
    #[arg(long, value_name = "TAG", value_parser = lookup::parse_name)]
    tag: Vec<Name>,
    #[command(flatten)]
    keep: KeepArgs,
    /// Only say what would go, what would stay, and how much `vellum gc` would give back
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct ForgetSummary {
    action: &'static str,
    dry_run: bool,
    snapshots: Vec<ShownRetention>,
    /// Of a dry run: the bytes on disk that a collection would then give back, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_bytes: Option<u64>,
}

pub(super) fn run_forget(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let rules = policy::given_rules(&args.keep)?.ok_or_else(|| {
        CommandFailure::usage_error(
            "nothing says which snapshots to keep",
            "`vellum forget -n --keep-daily 7 --keep-weekly 4` tells what would go",
        )
    })?;
    let store = if args.dry_run {
        session.open_to_read()?
    } else {
        session.open_to_write()?
    };
    let named = args
        .images
        .iter()
        .map(|text| match store.find_whole(text)? {
            NodeRef::Image(image) => Ok(image),
            NodeRef::Snapshot(..) => Err(CommandFailure::usage_error(
                format!("{text} is a snapshot"),
                "name images; `vellum snapshot delete` takes snapshots",
            )),
        });
    let mut images = named.collect::<Result<Vec<_>, CommandFailure>>()?;
    if images.is_empty() {
        images = store.tree().images().map(|image| image.id).collect();
    }
    let (goes, snapshots) =
        policy::judge_snapshots(&store, &rules, &images, &args.tag, session.time_zone());
    let mut summary = ForgetSummary {
        action: "forget",
        dry_run: args.dry_run,
        snapshots,
        freed_bytes: None,
    };
    if args.dry_run {
        summary.freed_bytes = report::freed_by(&store, &goes, session)?;
    } else {
        for node in goes {
            if let NodeRef::Snapshot(image, serial) = node {
                store.delete_snapshot(image, serial)?;
            }
        }
    }
    session.output.print_confirmation(&summary)?;
    Ok(Outcome::Done)
}

impl Render for ForgetSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let kept = policy::render_verdicts(&self.snapshots, page)?;
        let gone = self.snapshots.len() as u64 - kept;
        let counted = format_count(kept, "snapshot");
        if !self.dry_run {
            page.write_line(format!("kept {counted}, deleted {gone}"))?;
            return if gone > 0 {
                page.write_line("next: vellum gc gives the space back")
            } else {
                Ok(())
            };
        }
        page.write_line(format!("{counted} would stay, {gone} would go"))?;
        let Some(freed) = self.freed_bytes else {
            return Ok(());
        };
        let freed = page.format_size(freed);
        page.write_line(format!("vellum gc would then give back {freed}"))
    }
}
