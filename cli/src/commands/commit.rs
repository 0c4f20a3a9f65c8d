//! `vellum commit`: an image's state becomes that of the image it was made from.

use vellum_core::tree::NodeRef;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Make the image that this one was created from as this one is now
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum create trial -b web
  vellum import upgraded.raw trial --update
  vellum commit trial")]
pub(crate) struct Args {
    /// The image whose state is wanted
    image: String,
}

pub(super) fn run_commit(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, &args.image)?;
    let node = store.commit_image(image)?;
    let name = store.tree().display_name(NodeRef::Image(image));
    confirm::confirm_change(session, &store, "commit", node, |origin, _| {
        format!("{origin} is as {name} now")
    })
}
