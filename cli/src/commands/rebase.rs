//! `vellum rebase`: an image onto another parent.

use vellum_core::tree::NodeRef;
use vellum_store::RebaseMode;

use super::{confirm, flatten};
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Put an image onto another parent; its content stays, unless -u
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  vellum rebase web-test -b web@tuesday\n  vellum rebase web-test -b ''"
)]
pub(crate) struct Args {
    /// The image
    image: String,
    /// The new parent; an empty text for none
    #[arg(
        short = 'b',
        long,
        visible_alias = "backing",
        value_name = "IMAGE[@SNAPSHOT]"
    )]
    parent: String,
    /// Keep the image's own data instead of its content, which then changes where the parents
    /// differ
    #[arg(short = 'u', long = "unsafe")]
    keep_map: bool,
}

pub(super) fn run_rebase(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.parent.is_empty() {
        if args.keep_map {
            return Err(CommandFailure::usage_error(
                "without a parent there is nothing to keep the map on",
                "leave out -u",
            ));
        }
        return flatten::flatten_image(session, &args.image);
    }
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, &args.image)?;
    let parent = store.find_whole(&args.parent)?;
    let mode = if args.keep_map {
        RebaseMode::KeepMap
    } else {
        RebaseMode::KeepContent
    };
    let meter = session.watch_records(&format!("rebasing {}", args.image));
    store.rebase(image, parent, mode, &meter)?;
    drop(meter);
    let parent = store.tree().display_name(parent);
    confirm::confirm_change(
        session,
        &store,
        "rebase",
        NodeRef::Image(image),
        |name, _| format!("{name} stands on {parent} now"),
    )
}
