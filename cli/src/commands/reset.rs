//! `vellum reset`: what was written to an immutable image goes.

use vellum_core::tree::NodeRef;

use super::confirm;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;

/// Forget what was written to an immutable image
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum modify kiosk --type immutable --autoreset off
  vellum reset kiosk")]
pub(crate) struct Args {
    /// The image
    image: String,
}

pub(super) fn run_reset(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let image = lookup::find_image(&store, &args.image)?;
    store.reset_scratch(image)?;
    confirm::confirm_change(
        session,
        &store,
        "reset",
        NodeRef::Image(image),
        |name, _| format!("reset {name}: what was written to it is gone"),
    )
}
