//! `vellum flatten`: an image that stands on nothing.

use vellum_core::tree::NodeRef;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Make an image independent of all others; its content stays, no data is copied
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum flatten web-test")]
pub(crate) struct Args {
    /// The image
    image: String,
}

pub(super) fn run_flatten(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    flatten_image(session, &args.image)
}

/// Flattens the image that `text` means.
pub(super) fn flatten_image(
    session: &mut CommandContext,
    text: &str,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, text)?;
    let meter = session.watch_records(&format!("flattening {text}"));
    store.flatten(image, &meter)?;
    drop(meter);
    confirm::confirm_change(
        session,
        &store,
        "flatten",
        NodeRef::Image(image),
        |name, _| format!("{name} stands on nothing now"),
    )
}
