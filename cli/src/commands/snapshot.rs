//! `vellum snapshot`: states of an image that keep still.

use std::io;

use clap::Subcommand;
use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::tree::{Annotation, NodeRef, PresentState};

use super::list_shape::ListShapeArgs;
use super::{confirm, describe, list, remove};
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;

/// Take, list, restore and delete snapshots
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum snapshot take web@monday
  vellum snapshot restore web@monday --save-current-as broken")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: SnapshotVerb,
}

#[derive(Subcommand)]
enum SnapshotVerb {
    Take(SnapshotTakeArgs),
    #[command(visible_alias = "ls")]
    List(SnapshotListArgs),
    Restore(SnapshotRestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(SnapshotDeleteArgs),
}

/// Keep an image's present state under a name, at once
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum snapshot take web@monday
  vellum snapshot take web@monday --description 'before the upgrade to 13'")]
struct SnapshotTakeArgs {
    /// The image and the new snapshot's name
    #[arg(value_name = "IMAGE@SNAPSHOT")]
    snapshot: String,
    /// The words to find it by; see `vellum describe`
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// List the snapshots of an image, or of all
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum snapshot list web")]
struct SnapshotListArgs {
    /// The image
    image: Option<String>,
    #[command(flatten)]
    shape: ListShapeArgs,
}

/// Make an image as a snapshot of it is. All snapshots stay, and what it was becomes one
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum snapshot restore web@monday
  vellum snapshot restore web@monday --save-current-as broken

The present state is kept as a snapshot: before-restore-1, before-restore-2 and so on, unless a
snapshot shows it already.")]
struct SnapshotRestoreArgs {
    /// The snapshot
    #[arg(value_name = "IMAGE@SNAPSHOT")]
    snapshot: String,
    /// Keep the image's present state as a snapshot of this name
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::parse_name)]
    save_current_as: Option<Name>,
    /// Let the image's present state go
    #[arg(long, conflicts_with = "save_current_as")]
    discard: bool,
}

/// Delete snapshots, wherever they stand; what stands on them stays as it is
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum snapshot delete web@monday
  vellum snapshot delete -n web@monday..@friday

IMAGE@FIRST..@LAST is all snapshots from one to the other, those two included.")]
struct SnapshotDeleteArgs {
    /// The snapshots
    #[arg(value_name = "IMAGE@SNAPSHOT[..@LAST]", required = true)]
    snapshots: Vec<String>,
    /// Only say what would go, what would stay, and how much `vellum gc` would give back
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run_snapshot(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        SnapshotVerb::Take(args) => take_snapshot(args, session),
        SnapshotVerb::List(args) => {
            list::list_snapshots(session, args.image.as_deref(), &args.shape)
        }
        SnapshotVerb::Restore(args) => restore_snapshot(args, session),
        SnapshotVerb::Delete(args) => delete_snapshots(args, session),
    }
}

fn take_snapshot(
    args: &SnapshotTakeArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let mut annotation = Annotation::default();
    if let Some(text) = &args.description {
        annotation.set_description(text).map_err(describe::refuse)?;
    }
    let store = session.open_to_write()?;
    let (image, name) = lookup::new_snapshot(&store, &args.snapshot)?;
    let node = store.take_snapshot(image, &name)?;
    if !annotation.is_empty() {
        store.annotate_node(node, annotation)?;
    }
    confirm::confirm_change(session, &store, "snapshot", node, |name, size| {
        format!("took {name}, {size}")
    })
}

fn restore_snapshot(
    args: &SnapshotRestoreArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let (image, serial) = lookup::find_snapshot(&store, &args.snapshot)?;
    let snapshot = store.tree().display_name(NodeRef::Snapshot(image, serial));
    let saving = args.save_current_as.as_ref();
    let state = if args.discard || saving.is_some() {
        store.restore_snapshot(image, serial, saving)?;
        saving.cloned().map(PresentState::Unnamed)
    } else {
        Some(store.restore_keeping(image, serial)?)
    };
    let name = store.tree().display_name(NodeRef::Image(image));
    let (saved, kept) = match state {
        Some(PresentState::Unnamed(snapshot)) => (true, Some(format!("{name}@{snapshot}"))),
        Some(PresentState::Shown(node)) => (false, Some(store.tree().display_name(node))),
        None => (false, None),
    };
    let text = format!("{name} is as {snapshot} now");
    let size = store
        .tree()
        .layer_of(NodeRef::Image(image))
        .map_or(0, |layer| layer.len);
    session.output.print_confirmation(&SnapshotRestoreSummary {
        action: "restore",
        name,
        size: Some(size),
        kept,
        saved,
        text,
    })?;
    Ok(Outcome::Done)
}

/// The result of a restore, and the place of the present state.
#[derive(Serialize)]
pub(super) struct SnapshotRestoreSummary {
    pub(super) action: &'static str,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    /// The snapshot that shows what it was; none if that is gone.
    pub(super) kept: Option<String>,
    /// True if that snapshot was taken for it.
    pub(super) saved: bool,
    /// The beginning of the sentence for people.
    #[serde(skip)]
    pub(super) text: String,
}

impl Render for SnapshotRestoreSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let text = &self.text;
        page.write_line(match &self.kept {
            Some(kept) if self.saved => format!("{text}; what it was is {kept}"),
            Some(kept) => format!("{text}; it was as {kept}, so nothing had to be kept"),
            None => format!("{text}; what it was is gone"),
        })
    }
}

fn delete_snapshots(
    args: &SnapshotDeleteArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if let Some(image) = args.snapshots.iter().find(|text| !text.contains('@')) {
        return Err(CommandFailure::usage_error(
            format!("{image:?} names no snapshot"),
            format!("write {image}@SNAPSHOT; `vellum rm` deletes images"),
        ));
    }
    remove::remove_nodes(session, &args.snapshots, false, args.dry_run)
}
