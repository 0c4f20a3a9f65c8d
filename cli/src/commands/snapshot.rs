//! `vellum snapshot`: states of an image that keep still.

use clap::Subcommand;
use vellum_core::name::Name;
use vellum_core::tree::Node;

use super::{done, list, remove};
use crate::failure::{Failure, Outcome};
use crate::lookup;
use crate::session::Session;

/// Take, list, restore and delete snapshots
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  vellum snapshot take web@monday\n  vellum snapshot restore web@monday --save-current-as broken"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Take(TakeArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Restore(RestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Keep an image's present state under a name, at once
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum snapshot take web@monday")]
struct TakeArgs {
    /// The image and the new snapshot's name
    #[arg(value_name = "IMAGE@SNAPSHOT")]
    snapshot: String,
}

/// List the snapshots of an image, or of all
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum snapshot list web")]
struct ListArgs {
    /// The image
    image: Option<String>,
}

/// Make an image as a snapshot of it is. All snapshots stay
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum snapshot restore web@monday --save-current-as broken")]
struct RestoreArgs {
    /// The snapshot
    #[arg(value_name = "IMAGE@SNAPSHOT")]
    snapshot: String,
    /// Keep the image's present state as a snapshot of this name; without it that state goes
    #[arg(long, value_name = "SNAPSHOT", value_parser = lookup::name)]
    save_current_as: Option<Name>,
}

/// Delete snapshots, wherever they stand; what stands on them stays as it is
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum snapshot delete web@monday")]
struct DeleteArgs {
    /// The snapshots
    #[arg(value_name = "IMAGE@SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    /// Only say what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Take(args) => take(args, session),
        Verb::List(args) => list::list_snapshots(session, args.image.as_deref()),
        Verb::Restore(args) => restore(args, session),
        Verb::Delete(args) => delete(args, session),
    }
}

fn take(args: &TakeArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (image, name) = lookup::new_snapshot(&store, &args.snapshot)?;
    let node = store.snapshot(image, &name)?;
    done::tell(session, &store, "snapshot", node, |name, size| {
        format!("took {name}, {size}")
    })
}

fn restore(args: &RestoreArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    let (image, serial) = lookup::snapshot(&store, &args.snapshot)?;
    let snapshot = store.tree().display(Node::Snapshot(image, serial));
    let node = store.restore(image, serial, args.save_current_as.as_ref())?;
    let saved = args
        .save_current_as
        .as_ref()
        .map(|name| format!("; what it was is {}@{name}", store.tree().display(node)));
    done::tell(session, &store, "restore", node, |name, _| {
        format!("{name} is as {snapshot} now{}", saved.unwrap_or_default())
    })
}

fn delete(args: &DeleteArgs, session: &mut Session) -> Result<Outcome, Failure> {
    if let Some(image) = args.snapshots.iter().find(|text| !text.contains('@')) {
        return Err(Failure::usage(
            format!("{image:?} names no snapshot"),
            format!("write {image}@SNAPSHOT; `vellum rm` deletes images"),
        ));
    }
    remove::remove(session, &args.snapshots, false, args.dry_run)
}
